"""What the columns of a table are, and what is learned of each from the training split."""

import math
import re
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np

from jaxdl.data.columns import Column, categories_of, numbers_of
from jaxdl.data.preprocessing import Scaler, standardize
from jaxdl.data.types import Arrays, Dataset
from jaxdl.extras import import_extra

_NUMBERS = ("integer", "floating", "mixed-integer-float", "decimal")
_DATES = ("datetime64", "datetime", "date", "timedelta64", "timedelta", "time", "period")
# 2024-07-31, 31.7.24 or 7/31/2024, and perhaps a time.
_DATE = re.compile(r"\s*\d{1,4}([-/.])\d{1,2}\1\d{1,4}([ T].*)?")


def kind_of(series: Any, *, named: bool, is_feature: bool = True) -> str:
    """Whether a column is of "number", "boolean" or "category".

    Arguments:
        series: the column, of all rows.
        named: whether the caller says that these are categories.
        is_feature: whether each row may not have a category of its own.

    Raises:
        ValueError: dates, numbers and words in one column, no values at all, other objects.
    """
    pandas: Any = import_extra("pandas", "a table")
    name, kind = series.name, pandas.api.types.infer_dtype(series, skipna=True)
    if named:
        return "category"
    if kind in _NUMBERS:
        return "number"
    if kind == "boolean":
        return "boolean"
    texts = series.dropna().unique().tolist()
    if kind in _DATES or (
        kind == "string" and texts and all(_DATE.fullmatch(text) for text in texts)
    ):
        raise ValueError(
            f"column {name} must hold numbers or categories, got dates, e.g. {texts[0]}; make "
            "numbers of them (days since the first, the month), or leave the column out"
        )
    if kind not in ("string", "categorical"):
        raise ValueError(
            f"column {name} must hold numbers or text, got {kind} values; convert them, name it in "
            "categorical, or leave it out"
        )
    words = [text for text in texts if not _is_number(text)] if kind == "string" else texts
    if len(words) < len(texts) and words:
        raise ValueError(
            f"column {name} must hold numbers or words, got both, e.g. {words[0]!r}; make the "
            f'words missing values (from_csv: read_options={{"na_values": [{words[0]!r}]}}), or '
            "name it in categorical"
        )
    if is_feature and len(texts) == len(series) > 1:
        raise ValueError(
            f"categories must repeat, got another one in each row of column {name}; pass it in "
            "leave_out (or in categorical, if you mean it)"
        )
    return "category"


def rules_of(missing: Any, kinds: Mapping[Any, str]) -> dict[Any, Any]:
    """What becomes of the missing values of each column: a word, or a number to fill in.

    A word for all columns holds where it fits: categories cannot have a mean.

    Raises:
        ValueError: no such word, column or number; a word that does not fit its column.
    """
    for_all = not isinstance(missing, Mapping)
    told = dict.fromkeys(kinds, missing) if for_all else dict(missing)
    rules: dict[Any, Any] = dict.fromkeys(kinds, "refuse")
    for name, rule in told.items():
        if name not in kinds:
            raise ValueError(f"missing must name features, got {name}; they are {list(kinds)}")
        number = isinstance(rule, Real) and not isinstance(rule, bool) and math.isfinite(rule)
        if not number and rule not in ("refuse", "mean", "median", "category"):
            raise ValueError(
                'missing must be "refuse", "mean", "median", "category" or a finite number, got '
                f"{rule!r}; pass one of them, or a mapping of columns to them"
            )
        fits = rule == "refuse" or (rule == "category") == (kinds[name] == "category")
        if fits:
            rules[name] = rule
        elif not for_all:
            fix = '"category"' if kinds[name] == "category" else '"mean", "median" or a number'
            raise ValueError(
                f"missing must fit the column, got {rule!r} for {name}, a {kinds[name]} column; "
                f"pass {fix}"
            )
    return rules


def fitted(train: Any, name: Any, kind: str, rule: Any) -> Column:
    """What is learned of a column of the training split.

    Raises:
        ValueError: a mean of missing values only.
    """
    series = train[name]
    if kind == "category":
        return Column(name, categories_of(series), keeps_missing=rule == "category")
    if rule == "refuse":
        return Column(name)
    if isinstance(rule, Real):
        return Column(name, fill=float(rule))
    values = numbers_of(series)
    values = values[~np.isnan(values)]
    if not len(values):
        raise ValueError(
            f"column {name} must have a value in the training split to take its {rule}, got none; "
            "leave it out, or pass a number"
        )
    return Column(name, fill=float(np.mean(values) if rule == "mean" else np.median(values)))


def scaler_of(train: Any, columns: Sequence[Column], kinds: Mapping[Any, str]) -> Scaler:
    """Mean and standard deviation of the columns of numbers, 0 and 1 for every other input.

    Raises:
        ValueError: columns that are constant in the training split.
    """
    names = [column.name for column in columns for _ in column.features]
    mean, std = np.zeros(len(names)), np.ones(len(names))
    numbers = [column for column in columns if kinds[column.name] == "number"]
    if numbers:
        matrix = np.stack([numbers_of(train[c.name], c.fill) for c in numbers], axis=1)
        constant = (matrix == matrix[:1]).all(axis=0)
        if constant.any():
            found = [column.name for column, same in zip(numbers, constant, strict=True) if same]
            raise ValueError(
                f"numbers must vary over the training split, got one value in {found}; pass "
                f"leave_out={found}, or standardize=False"
            )
        labels = tuple(str(column.name) for column in numbers)
        scaled = Dataset("frame", Arrays(matrix, matrix), None, None, features=labels)
        _, scaler = standardize(scaled)
        places = [place for place, name in enumerate(names) if kinds[name] == "number"]
        mean[places], std[places] = scaler.mean, scaler.std
    return Scaler(mean, std)


def classes_of(train: Any, targets: Sequence[Any], kinds: Sequence[str]) -> tuple[str, ...]:
    """The classes of the target in the training split; none for targets that are numbers.

    Raises:
        ValueError: classes among several targets, or one class only.
    """
    if len(targets) > 1:
        if "category" in kinds:
            raise ValueError(
                "several targets must be numbers or booleans, got categories in "
                f"{targets[list(kinds).index('category')]}; pass one target, or encode it"
            )
        return ()
    if kinds[0] == "number":
        return ()
    classes = categories_of(train[targets[0]])
    if len(classes) < 2:
        raise ValueError(
            f"a target must have at least 2 classes in the training split, got {classes} of "
            f"{targets[0]}; pass another target, or more rows"
        )
    return classes


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
