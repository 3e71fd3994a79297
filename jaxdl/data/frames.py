"""Tables of numbers and categories, from pandas or a CSV file."""

import inspect
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxdl.checks import require_choice
from jaxdl.data.column_kinds import classes_of, fitted, kind_of, rules_of, scaler_of
from jaxdl.data.columns import Column, TableEncoder, require_columns, require_present
from jaxdl.data.preprocessing import Scaler
from jaxdl.data.splits import split
from jaxdl.data.types import Arrays, Dataset
from jaxdl.extras import import_extra
from jaxdl.files import as_path

# What says how a file is cut into lines and fields, in the options of pandas.read_csv.
_FORMAT = ("sep", "delimiter", "encoding", "compression", "skiprows", "comment", "quotechar")


def from_frame(
    frame: Any,
    target: Any,
    *,
    key: Any = None,
    fractions: Any = None,
    stratify: Any = None,
    groups: Any = None,
    validation: Any = None,
    test: Any = None,
    features: Any = None,
    leave_out: Any = (),
    categorical: Any = (),
    weights: Any = None,
    missing: Any = "refuse",
    unknown: Any = "refuse",
    standardize: bool = True,
    name: str = "frame",
) -> Dataset:
    r"""Cut a frame of pandas into splits, and make float32 inputs of its columns.

    $$z = \frac{x - \mu}{\sigma}$$ for a column of numbers, with the mean and the standard deviation
    over the training split, which divides by n. A boolean is 0 or 1. A column of categories has an
    input for each category, named `colour=red`: 1 for the rows of this category, else 0. The
    categories, and what fills missing values, come from the training split alone, too.

    Arguments:
        frame: a `pandas.DataFrame`; its index does not matter.
        target: the column to predict. Text, booleans and columns of `categorical` are classes:
            int32 labels (n,). Numbers are for regression: float32 (n, 1), not scaled. A list of k
            columns of numbers gives (n, k).
        key: a `jax.random.key`, to cut the frame as `split` does. None if all rows are for
            training.
        fractions: of the splits, as for `split`.
        stratify: a column of classes of which each split gets its share; often the target.
        groups: a column; rows with one value stay in one split, and it is no feature.
        validation: a frame of its own for this split, in the place of `key`.
        test: a frame of its own for this split. `key` then cuts off a validation split only.
        features: the columns to learn from, in this order. By default all others.
        leave_out: columns that are no features: a column of identifiers, for instance.
        categorical: columns of numbers that are categories: a postcode, a class 0 or 1. Columns of
            text always are.
        weights: a column, how much each row counts; no feature. The statistics do not use it.
        missing: what becomes of missing features. "refuse" them; fill them with the "mean" or the
            "median" of the training split, or with a number; or tell it by column, as in
            `{"age": "median", "cabin": "category"}`. "category" makes `cabin=missing`. One word for
            all is for numbers and booleans: missing categories are refused.
        unknown: "refuse" a category that the training split has not, or give it "zeros". An unknown
            class of the target is always refused.
        standardize: whether to scale the numbers. Otherwise they stay in their units.
        name: of the data set.

    Returns:
        A `Dataset` with the `features`' names, the `classes` and the `encoder`:
        `dataset.encoder.encode(rows)` gives the inputs of new rows, `dataset.encoder.arrays(rows)`
        their `Arrays`, and `dataset.encoder.scaler` has the statistics.

    Raises:
        ValueError: columns that are not there, or twice; an unnamed column (row numbers); dates;
            numbers and words in one column; a constant column of numbers; categories that never
            repeat, or are called "missing" beside those; infinite numbers; whole numbers that
            float32 would round; missing targets; and what the arguments say. The message names the
            columns and the fix.
        TypeError: what is no frame.
        ImportError: pandas is not installed.

    Example:
        >>> import jax, pandas
        >>> frame = pandas.DataFrame({
        ...     "area": [50, 60, 70, 80, 90, 100, 110, 120],
        ...     "heating": ["gas", "oil"] * 4, "price": [1.0, 1.2, 1.5, 1.6, 1.9, 2.0, 2.2, 2.5],
        ... })
        >>> houses = from_frame(frame, "price", key=jax.random.key(0), fractions=(0.5, 0.25, 0.25))
        >>> houses
        Dataset('frame', train=4, validation=2, test=2, classes=0)
        >>> houses.features
        ('area', 'heating=gas', 'heating=oil')
        >>> houses.encoder.encode(pandas.DataFrame({"area": [75], "heating": ["oil"]})).shape
        (1, 3)
    """
    targets = tuple(_names("target", target))
    numbers = _names("categorical", categorical)
    left_out = _names("leave_out", leave_out)
    singles = {"weights": weights, "groups": groups, "stratify": stratify}
    named = [_name(what, column) for what, column in singles.items() if column is not None]
    require_columns(frame, [*targets, *named, *numbers, *left_out], "the columns that you name")
    require_choice("unknown", unknown, ("refuse", "zeros"))
    chosen = _features(frame, features, {*targets, weights, groups, *left_out} - {None})
    kinds = {column: kind_of(frame[column], named=column in numbers) for column in chosen}
    rules = rules_of(missing, kinds)
    predicted = [kind_of(frame[t], named=t in numbers, is_feature=False) for t in targets]
    _check_present({"train": frame, "validation": validation, "test": test}, rules, targets)
    frames = _cut(frame, validation, test, key, fractions, stratify, groups)
    train = frames["train"]
    columns = tuple(fitted(train, column, kinds[column], rules[column]) for column in chosen)
    width = sum(len(column.features) for column in columns)
    scaler = Scaler(np.zeros(width), np.ones(width))
    if standardize:
        scaler = scaler_of(train, columns, kinds)
    classes = classes_of(train, targets, predicted)
    encoder = TableEncoder(columns, scaler, targets, classes, weights, unknown)
    _require_own_names(encoder.features)
    splits = {part: encoder.arrays(rows) for part, rows in frames.items()}
    return Dataset(
        name,
        splits["train"],
        splits.get("validation"),
        splits.get("test"),
        classes,
        encoder.features,
        encoder,
    )


def from_csv(
    path: Any,
    target: Any,
    *,
    validation: Any = None,
    test: Any = None,
    read_options: Any = None,
    **settings: Any,
) -> Dataset:
    """Read a CSV file with pandas, and make a data set of it as `from_frame` does.

    Arguments:
        path: the file, or what else `pandas.read_csv` takes.
        target: the column to predict, or several.
        validation: a file of its own for this split.
        test: a file of its own for this split.
        read_options: keyword arguments of `pandas.read_csv`, e.g. `{"sep": ";", "na_values": "?"}`.
        **settings: the other arguments of `from_frame`, `key` above all. The file's name without
            its ending is the default `name`.

    Raises:
        ValueError: as for `from_frame`; a file of one column, or with a column twice.
        TypeError: a setting that `from_frame` does not know.
        FileNotFoundError: no such file.

    Example:
        >>> import tempfile, jax
        >>> path = Path(tempfile.mkdtemp()) / "flowers.csv"
        >>> _ = path.write_text("length,colour,kind\\n" + "1,red,rose\\n2,blue,poppy\\n" * 9)
        >>> flowers = from_csv(path, "kind", key=jax.random.key(0))
        >>> flowers
        Dataset('flowers', train=12, validation=3, test=3, classes=2)
        >>> flowers.classes, flowers.features
        (('poppy', 'rose'), ('length', 'colour=blue', 'colour=red'))
    """
    known = inspect.signature(from_frame).parameters
    strange = [setting for setting in settings if setting not in known]
    if strange:
        raise TypeError(
            f"from_csv must get settings of from_frame, got {', '.join(strange)}; pass options of "
            f"pandas.read_csv as read_options={{{strange[0]!r}: ...}}"
        )
    options = dict(read_options or {})
    frames = [None if file is None else _read(file, options) for file in (path, validation, test)]
    if isinstance(path, str | os.PathLike):
        settings.setdefault("name", Path(os.fspath(path)).stem)
    return from_frame(frames[0], target, validation=frames[1], test=frames[2], **settings)


def _read(file: Any, options: Mapping[str, Any]) -> Any:
    pandas: Any = import_extra("pandas", "a CSV file")
    if isinstance(file, str | os.PathLike) and "://" not in os.fspath(file):
        file = as_path(file)
        if not {"header", "names", "usecols"} & set(options):
            # pandas renames the second of two columns of one name without a word.
            layout = {name: options[name] for name in _FORMAT if name in options}
            first = pandas.read_csv(file, header=None, nrows=1, dtype=str, **layout)
            heads = first.iloc[0].dropna()
            twice = heads[heads.duplicated()].tolist()
            if twice:
                raise ValueError(f"columns must have names of their own, got {twice}; rename them")
    frame = pandas.read_csv(file, **options)
    if frame.shape[1] == 1:
        raise ValueError(
            f"a table must have several columns, got one in {file}, {frame.columns[0]!r}; pass "
            'what separates them, e.g. read_options={"sep": ";"}'
        )
    return frame


def _name(what: str, given: Any) -> Any:
    if np.ndim(given):
        raise ValueError(
            f"{what} must be the name of a column, got {type(given).__name__}; put the values into "
            "a column of the frame"
        )
    return given


def _names(what: str, given: Any) -> list[Any]:
    if isinstance(given, set | frozenset):
        given = sorted(given, key=str)
    names = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    if len(set(names)) < len(names):
        raise ValueError(f"{what} must name each column once, got {names}; leave one out")
    return names


def _features(frame: Any, features: Any, others: set[Any]) -> list[Any]:
    if features is None:
        chosen = [column for column in frame.columns if column not in others]
        unnamed = [column for column in chosen if str(column).startswith("Unnamed:")]
        if unnamed:
            raise ValueError(
                f"columns must have names, got {unnamed}, likely row numbers that to_csv wrote; "
                f'pass leave_out={unnamed} (or read_options={{"index_col": 0}} to from_csv)'
            )
    else:
        chosen = _names("features", features)
        require_columns(frame, chosen, "features")
        twice = [column for column in chosen if column in others]
        if twice:
            raise ValueError(
                f"features must not be the target, weights, groups or left out, got {twice}; name "
                "them once"
            )
    if not chosen or not len(frame):
        raise ValueError(
            f"there must be rows and features, got {len(frame)} rows and {len(chosen)} features; "
            "check the frame"
        )
    return chosen


def _require_own_names(names: Sequence[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(
            f"inputs must have names of their own, got {twice} twice; rename the column, or its "
            "category"
        )


def _check_present(
    frames: Mapping[str, Any], rules: Mapping[Any, Any], targets: Sequence[Any]
) -> None:
    """Refuse missing values of which nothing is told, in any split, before anything is learned."""
    filled = [
        Column(
            name,
            fill=None if rule in ("refuse", "category") else 0.0,
            keeps_missing=rule == "category",
        )
        for name, rule in rules.items()
    ]
    for part, frame in frames.items():
        if frame is not None:
            require_columns(frame, [*rules, *targets], f"features and target of the {part} frame")
            require_present(frame, filled)
            require_present(frame, [Column(name) for name in targets], "the target")


def _cut(
    frame: Any, validation: Any, test: Any, key: Any, fractions: Any, stratify: Any, groups: Any
) -> dict[str, Any]:
    """The rows of each split."""
    given = {"validation": validation, "test": test}
    frames = {part: rows for part, rows in given.items() if rows is not None}
    if key is None:
        for setting, value in {
            "fractions": fractions,
            "stratify": stratify,
            "groups": groups,
        }.items():
            if value is not None:
                raise ValueError(
                    f"{setting} must come with a key, which cuts the frame, got none; pass "
                    "key=jax.random.key(0)"
                )
        return {"train": frame, **frames}
    if validation is not None:
        raise ValueError(
            "key must be None where a validation frame is given, as nothing is cut then; leave "
            "one of them out"
        )
    rows = np.arange(len(frame))
    whole = Arrays(rows, rows)
    parts = split(
        Dataset("frame", whole, None, None if test is None else whole),
        key=key,
        fractions=fractions,
        stratify=None if stratify is None else frame[stratify].to_numpy(),
        groups=None if groups is None else frame[groups].to_numpy(),
    )
    cut = {"train": parts.train, "validation": parts.validation, "test": parts.test}
    return {part: frame.iloc[arrays.inputs] for part, arrays in cut.items()} | frames
