"""Arrays of what people have: frames, series, lists of numbers, tensors, and pytrees of them."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxdl.data.types import PARTS, Arrays

_ARRAYS = (np.ndarray, jax.Array, jax.ShapeDtypeStruct)


def fields_of(given: Any) -> dict[str, Any]:
    """Inputs, targets and weights, by name, as they were given; empty for what has none.

    Example:
        >>> sorted(fields_of((np.ones((2, 3)), [0, 1])))
        ['inputs', 'targets']
    """
    if isinstance(given, Arrays):
        named: Mapping[str, Any] = vars(given)
    elif isinstance(given, Mapping):
        named = given
    elif isinstance(given, tuple | list) and len(given) in (2, 3) and _are_fields(given):
        named = dict(zip(PARTS, given, strict=False))
    else:
        named = {}
    return {name: named[name] for name in PARTS if named.get(name) is not None}


def _are_fields(given: tuple[Any, ...] | list[Any]) -> bool:
    """Whether these are inputs and targets, and no list of examples."""
    if isinstance(given, tuple):
        return not hasattr(given, "_fields")  # a named tuple is a pytree
    return not any(isinstance(each, list | tuple) or not is_one_array(each) for each in given)


def as_arrays(values: Any, name: str) -> Any:
    """A field as a pytree of arrays. What cannot be one is left, to be refused where it is used.

    Arguments:
        values: an array, frame, series, tensor or list of numbers; or a pytree of them.
        name: what it is, for the message, e.g. "the inputs of the train split".

    Raises:
        TypeError: a frame with a column of words or objects, a ragged list.
        ValueError: a frame or series with missing values.

    Example:
        >>> as_arrays({"pair": [[1, 2], [3, 4]]}, "the inputs")["pair"].shape
        (2, 2)
    """
    if isinstance(values, _ARRAYS):
        return values
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: _as_array(leaf, name + jax.tree_util.keystr(path)),
        values,
        is_leaf=is_one_array,
    )


def columns_in(fields: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """The names of the columns of each frame, by its place: `inputs`, `inputs['left']`."""
    found = {}
    for field, values in fields.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(values, is_leaf=is_one_array):
            if is_frame(leaf):
                place = field + jax.tree_util.keystr(path)
                found[place] = tuple(map(str, leaf.columns))
    return found


def check_columns(
    found: Mapping[str, tuple[str, ...]], known: Mapping[str, tuple[str, ...]], where: str
) -> None:
    """Refuse frames whose columns are not those of the same place in training."""
    for place, columns in found.items():
        if columns != known.get(place, columns):
            raise ValueError(
                f"the columns of the {place} of {where} must be {list(known[place])}, got "
                f"{list(columns)}; pass frame[[...]] with these names, in this order"
            )


def is_source(values: Any) -> bool:
    """Whether these are examples that are read by index: a data set of PyTorch, for instance."""
    indexed = hasattr(values, "__len__") and hasattr(values, "__getitem__")
    return indexed and not (
        isinstance(values, Mapping | tuple | list | str | bytes | Arrays) or is_one_array(values)
    )


def is_frame(values: Any) -> bool:
    """Whether this is a table with named columns, as of pandas or polars."""
    return hasattr(values, "columns") and hasattr(values, "to_numpy")


def _is_series(values: Any) -> bool:
    return hasattr(values, "to_numpy") and not hasattr(values, "columns")


def _is_tensor(values: Any) -> bool:
    return type(values).__module__.split(".")[0] == "torch" and hasattr(values, "detach")


def is_one_array(values: Any) -> bool:
    """Whether this stands for one array, and is no tree of several."""
    if isinstance(values, list | tuple):
        return len(values) > 0 and all(map(_is_plain, values))
    return isinstance(values, _ARRAYS) or is_frame(values) or hasattr(values, "__array__")


def _is_plain(value: Any) -> bool:
    """Whether this is a number, a word or a gap, or a list of such."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str | np.generic)


def _as_array(leaf: Any, name: str) -> Any:
    if isinstance(leaf, _ARRAYS) or np.isscalar(leaf):
        return leaf
    if is_frame(leaf):
        return _of_frame(leaf, name)
    if _is_tensor(leaf):
        held = leaf.detach().cpu()
        # NumPy has no bfloat16 of its own; float32 holds each of its numbers.
        return (held.float() if str(held.dtype) == "torch.bfloat16" else held).numpy()
    if _is_series(leaf):
        return _of_column(leaf, name)
    if isinstance(leaf, list | tuple):
        words = [isinstance(value, str) for value in leaf]
        if any(words) and not all(words):
            wrong = leaf[words.index(False)]
            raise TypeError(
                f"{name} must be words or numbers, and all of them, got {wrong!r} at place "
                f"{words.index(False)} among words; leave such examples out, or give them a word"
            )
        try:
            return np.asarray(leaf)
        except ValueError:
            raise TypeError(
                f"{name} must be lists of equal length, got a ragged list of {len(leaf)}; cut or "
                "pad its rows to one length"
            ) from None
    return np.asarray(leaf) if hasattr(leaf, "__array__") else leaf


def _of_frame(frame: Any, name: str) -> np.ndarray:
    names = list(frame.columns)
    if len(set(names)) < len(names):
        raise ValueError(f"the columns of {name} must have different names, got {names}; rename")
    columns = []
    for each in names:
        column = _of_column(frame[each], f"column {each!r} of {name}")
        if column.dtype.kind not in "biuf":
            raise TypeError(
                f"column {each!r} of {name} must hold numbers, got {frame[each].dtype}; leave it "
                "out, or encode it: data.from_frame(frame, target=...)"
            )
        columns.append(column)
    return np.column_stack(columns)


def _of_column(series: Any, name: str) -> np.ndarray:
    values = np.asarray(series.to_numpy())
    missing = np.asarray(series.isna() if hasattr(series, "isna") else series.is_null())
    if values.dtype.kind == "f":
        missing = missing | np.isnan(values)
    if missing.any():
        raise ValueError(
            f"{name} must have no missing values, got {missing.sum()}; fill them, or leave these "
            "examples out"
        )
    return values


def kind_of(value: Any) -> str:
    """What a value is, in two words, for a message."""
    if isinstance(value, Mapping):
        return f"a mapping of {sorted(map(str, value))}"
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{type(value).__module__.split('.')[0]}.{type(value).__name__}"
