"""How the columns of a table become the arrays of a network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any

import numpy as np

from jaxdl.data.preprocessing import Scaler
from jaxdl.data.types import Arrays
from jaxdl.extras import import_extra

# Whole numbers up to here, and no further, are all exact in float32.
_EXACT = 2**24
_NUMBERS = ("integer", "floating", "mixed-integer-float", "decimal", "boolean", "empty")
_MISSING = "missing"


@dataclass(frozen=True)
class Column:
    """What is kept of a column of the training split.

    Arguments:
        name: the column's name in the frame.
        categories: its categories as text, sorted; None for numbers and booleans.
        fill: the number in the place of a missing one; None to refuse it.
        keeps_missing: whether missing values are a category.
    """

    name: Any
    categories: tuple[str, ...] | None = None
    fill: float | None = None
    keeps_missing: bool = False

    @property
    def features(self) -> tuple[str, ...]:
        """The names of its inputs: `age`, or `colour=blue`, `colour=red`."""
        if self.categories is None:
            return (str(self.name),)
        missing = (_MISSING,) if self.keeps_missing else ()
        return tuple(f"{self.name}={category}" for category in (*self.categories, *missing))


@dataclass(frozen=True, eq=False)
class TableEncoder:
    r"""Turns frames into inputs as `from_frame` did, by what it learned of the training split.

    A column of numbers gives $(x - \mu) / \sigma$, one of categories an input for each category,
    1 for its own and 0 for the others. It can be pickled, and needs no training data.

    Arguments:
        columns: the features, in order of the inputs.
        scaler: mu and sigma of each input, float64; 0 and 1 for what is not scaled.
        targets: the columns to predict.
        classes: the classes of the target; empty for regression.
        weights: the column of weights, or None.
        unknown: "refuse" or "zeros", for a category that the training split has not.
    """

    columns: tuple[Column, ...]
    scaler: Scaler
    targets: tuple[Any, ...]
    classes: tuple[str, ...]
    weights: Any = None
    unknown: str = "refuse"

    @property
    def features(self) -> tuple[str, ...]:
        """The names of the inputs."""
        return tuple(name for column in self.columns for name in column.features)

    def to_json(self) -> dict[str, Any]:
        """All that it learned, as JSON values."""
        scaler = {"mean": self.scaler.mean.tolist(), "std": self.scaler.std.tolist()}
        columns = [vars(column) for column in self.columns]
        return {**vars(self), "columns": columns, "scaler": scaler}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "TableEncoder":
        """The encoder that `to_json` wrote."""
        columns = tuple(
            Column(**column | {"categories": _tuple(column["categories"])})
            for column in values["columns"]
        )
        scaler = Scaler(*(np.array(values["scaler"][part]) for part in ("mean", "std")))
        tuples = {name: tuple(values[name]) for name in ("targets", "classes")}
        return cls(**{**values, **tuples, "columns": columns, "scaler": scaler})

    def encode(self, frame: Any) -> np.ndarray:
        """The inputs of these rows, (rows, features) float32; other columns do not matter.

        Raises:
            ValueError: a column that is not there, a missing value or a category for which nothing
                was told, a number that is infinite or too large for float32.
            TypeError: what is no frame; other values than numbers in a column of numbers.
        """
        require_columns(frame, [column.name for column in self.columns], "the features")
        require_present(frame, self.columns)
        unknown: dict[Any, list[str]] = {}
        plain = not self.scaler.mean.any() and (self.scaler.std == 1).all()
        blocks = [
            numbers_of(frame[column.name], column.fill, exact=bool(plain))[:, None]
            if column.categories is None
            else _one_hot(frame[column.name], column, unknown)
            for column in self.columns
        ]
        if unknown and self.unknown == "refuse":
            told = "; ".join(f"{name}: {', '.join(some[:5])}" for name, some in unknown.items())
            raise ValueError(
                f"categories must be in the training split too, got others in {told}; pass "
                'unknown="zeros" to give them no input, or leave the column out'
            )
        return _float32(self.scaler.transform(np.concatenate(blocks, axis=1)), self.features)

    def arrays(self, frame: Any) -> Arrays:
        """Inputs, targets and weights of these rows, for `result.evaluate` or a split of your own.

        Raises:
            ValueError, TypeError: as for `encode`; a missing target, a class that the training
                split has not, a weight that is missing, infinite or negative.
        """
        named = [*self.targets, *([] if self.weights is None else [self.weights])]
        require_columns(frame, named, "target and weights")
        require_present(frame, [Column(name) for name in named], "the target and the weights")
        weights = None
        if self.weights is not None:
            weights = _float32(numbers_of(frame[self.weights]), (self.weights,))
            if (weights < 0).any():
                raise ValueError(
                    f"weights must be at least 0, got {weights.min()} in {self.weights}; "
                    "leave these rows out"
                )
        return Arrays(self.encode(frame), self._targets_of(frame), weights)

    def _targets_of(self, frame: Any) -> np.ndarray:
        if self.classes:
            (name,) = self.targets
            unknown: dict[Any, list[str]] = {}
            ones = _one_hot(frame[name], Column(name, self.classes), unknown)
            if unknown:
                raise ValueError(
                    f"classes must be in the training split too, got {', '.join(unknown[name])} of "
                    f"{name}; pass stratify={name!r}, or leave these rows out"
                )
            labels: np.ndarray = ones.argmax(axis=1).astype(np.int32)
            return labels
        columns = [numbers_of(frame[name], exact=True) for name in self.targets]
        return _float32(np.stack(columns, axis=1), self.targets)


def _tuple(values: Any) -> tuple[str, ...] | None:
    return None if values is None else tuple(values)


def numbers_of(series: Any, fill: float | None = None, *, exact: bool = False) -> np.ndarray:
    """A column as float64, missing values as `fill`, or as NaN.

    Arguments:
        fill: a number, or None.
        exact: whether whole numbers that float32 rounds are refused.
    """
    pandas: Any = import_extra("pandas", "a table")
    kind = pandas.api.types.infer_dtype(series, skipna=True)
    if kind not in _NUMBERS:
        raise TypeError(
            f"column {series.name} must hold numbers, as it did for training, got {kind} values, "
            f"e.g. {series.dropna().iloc[0]!r}; convert them, with pandas.to_numeric for instance"
        )
    values: np.ndarray = series.to_numpy(np.float64, na_value=np.nan)
    if np.isinf(values).any():
        raise ValueError(
            f"numbers must be finite, got infinity in column {series.name}; leave these rows out, "
            "or make it a missing value"
        )
    if exact and kind == "integer":
        large = values[np.abs(values) > _EXACT]
        rounded = large[large != large.astype(np.float32)]
        if len(rounded):
            raise ValueError(
                f"whole numbers must be exact in float32, got {rounded[0]:.0f} in column "
                f"{series.name}; give them another unit, leave out an identifier, or convert to "
                "float if rounding is meant"
            )
    return values if fill is None else np.where(np.isnan(values), fill, values)


def categories_of(series: Any) -> tuple[str, ...]:
    """The values of a column as text, numbers in order of size and others of the alphabet."""
    values = series.dropna().unique().tolist()
    ordered = sorted(values) if all(isinstance(value, Number) for value in values) else values
    texts = dict.fromkeys(_text(value) for value in ordered)
    return tuple(texts if ordered is not values else sorted(texts))


def require_columns(frame: Any, names: Sequence[Any], what: str) -> None:
    """Refuse what is no frame of pandas, and columns that it has not or has twice."""
    pandas: Any = import_extra("pandas", "a table")
    if not isinstance(frame, pandas.DataFrame):
        fix = "its .to_pandas()" if hasattr(frame, "to_pandas") else "pandas.DataFrame(...) of it"
        raise TypeError(f"frame must be a pandas.DataFrame, got {type(frame).__name__}; pass {fix}")
    twice = frame.columns[frame.columns.duplicated()].unique().tolist()
    if twice or frame.columns.nlevels > 1:
        raise ValueError(
            f"columns must have names of their own, got {twice or 'names of several levels'}; "
            "rename them"
        )
    unknown = [name for name in names if name not in frame.columns]
    if unknown:
        raise ValueError(
            f"{what} must be columns of the frame, got {unknown}; its columns are "
            f"{frame.columns.tolist()}"
        )


def require_present(frame: Any, columns: Sequence[Column], what: str = "") -> None:
    """Refuse missing values where nothing was told of them."""
    counts = {
        column.name: int(frame[column.name].isna().sum())
        for column in columns
        if column.fill is None and not column.keeps_missing
    }
    found = {name: count for name, count in counts.items() if count}
    if found:
        told = ", ".join(f"{count} in {name}" for name, count in found.items())
        if what:
            fix = f"leave these rows out: frame.dropna(subset={list(found)})"
        else:
            fix = (
                'pass missing={column: "mean", "median" or a number; "category" for categories}, '
                "or leave these rows or columns out"
            )
        raise ValueError(f"{what or 'features'} must have no missing values, got {told}; {fix}")


def _one_hot(series: Any, column: Column, unknown: dict[Any, list[str]]) -> np.ndarray:
    """1 at the place of each row's category, (rows, inputs); new categories go to `unknown`."""
    categories = column.categories or ()
    pandas: Any = import_extra("pandas", "a table")
    codes, values = pandas.factorize(series)
    places = {category: place for place, category in enumerate(categories)}
    texts = [_text(value) for value in values.tolist()]
    new = [text for text in texts if text not in places]
    if new:
        unknown[column.name] = new
    # The last place stands for missing values, which factorize numbers -1.
    size = len(column.features)
    table = np.array([*(places.get(text, -1) for text in texts), size - 1])
    ones = np.zeros((len(series), size))
    rows = np.flatnonzero(table[codes] >= 0)
    ones[rows, table[codes][rows]] = 1
    return ones


def _text(value: Any) -> str:
    """A category's name: a whole number is the same one as a float, after a missing value."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _float32(values: np.ndarray, names: Sequence[Any]) -> np.ndarray:
    with np.errstate(over="ignore", under="ignore"):
        narrow: np.ndarray = values.astype(np.float32)
    if not np.isfinite(narrow).all():
        place = np.argwhere(~np.isfinite(narrow))[0]
        raise ValueError(
            f"values must be within float32, got {values[tuple(place)]} of {names[place[-1]]}; "
            "give it another unit"
        )
    return narrow
