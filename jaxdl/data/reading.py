"""Read some examples of a source into one array for each part of a batch."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from numbers import Number
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np

from jaxdl.data.types import Arrays, DataError

Decode = Callable[[Any], Any]
"""(example of the source) -> {"inputs": ..., "targets": ...}, or (inputs, targets)."""

Read = Callable[[np.ndarray], dict[str, Any]]
_PARTS = ("inputs", "targets", "weights")
# Objects, strings, bytes, dates and durations.
_NO_NUMBERS = "OUSMm"


@runtime_checkable
class RandomAccess(Protocol):
    """Examples read by index: a list, a memory map, a data set of PyTorch."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: Any, /) -> Any: ...


@dataclass(frozen=True, eq=False)
class Subset:
    """Some examples of a source, in an order of their own. Making one reads nothing.

    `subset[i]` is example `rows[i]` of `source`. A message about an example has its index in
    `source`.

    Arguments:
        source: `Arrays`, or an object with `len(source)` and `source[i]`.
        rows: (n,), indices of `source`.

    Example:
        >>> subset = Subset([(0.0, 5), (1.0, 6), (2.0, 7)], np.array([2, 0]))
        >>> len(subset), subset[0]
        (2, (2.0, 7))
    """

    source: Arrays | RandomAccess
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        row = int(self.rows[index])
        return _parts_of(self.source, row) if isinstance(self.source, Arrays) else self.source[row]

    @property
    def targets(self) -> Any:
        """The targets of these examples, if the source has `targets`."""
        source: Any = self.source
        return jax.tree.map(lambda array: np.asarray(array)[self.rows], _as_arrays(source.targets))


def reader(source: Arrays | RandomAccess, decode: Decode | None) -> Read:
    """A function (indices) -> a batch of these examples, in the memory of the host.

    Raises:
        ValueError: `Arrays` of different lengths, or with a `decode`.
        DataError: from the function: an example cannot be read, or is unlike the first.
    """
    if isinstance(source, Subset):
        read, rows = reader(source.source, decode), source.rows
        return lambda indices: read(rows[indices])
    return _of_arrays(source, decode) if isinstance(source, Arrays) else _of_items(source, decode)


def _of_arrays(arrays: Arrays, decode: Decode | None) -> Read:
    if decode is not None:
        raise ValueError(
            f"decode must be None for Arrays, which hold what the step takes, got {decode}; "
            "give the step a preprocess"
        )
    counts = {
        name: sorted({len(leaf) for leaf in jax.tree.leaves(values)})
        for name, values in vars(arrays).items()
        if values is not None
    }
    if len({count for found in counts.values() for count in found}) > 1:
        got = " and ".join(f"{found[0]} {name}" for name, found in counts.items())
        raise ValueError(f"source must have as many targets as inputs, got {got}")
    return lambda rows: _parts_of(arrays, rows)


def _parts_of(arrays: Arrays, rows: Any) -> dict[str, Any]:
    fields = {name: values for name, values in vars(arrays).items() if values is not None}
    parts: dict[str, Any] = jax.tree.map(lambda array: np.asarray(array[rows]), fields)
    return parts


def _of_items(source: RandomAccess, decode: Decode | None) -> Read:
    """A function that reads examples into one array per leaf; errors name the example's index."""
    together = getattr(source, "__getitems__", None)

    def read_one(row: int) -> Any:
        try:
            return source[row]
        except DataError:
            raise
        except Exception as error:
            raise _unreadable(row, error) from error

    def read_all(rows: list[int]) -> Iterator[Any]:
        if together is None:
            return map(read_one, rows)
        try:
            return iter(together(rows))
        except Exception:
            # One of the examples failed; read them one by one to find it.
            return iter([read_one(row) for row in rows])

    def arrays_of(row: int, example: Any) -> Any:
        try:
            return _as_arrays(_parts(row, example if decode is None else decode(example)))
        except DataError:
            raise
        except Exception as error:
            raise _unreadable(row, error) from error

    def read(rows: np.ndarray) -> dict[str, Any]:
        listed = rows.tolist()
        batch: list[np.ndarray] = []
        structure: Any = None
        for position, (row, example) in enumerate(zip(listed, read_all(listed), strict=True)):
            values, found = jax.tree_util.tree_flatten_with_path(arrays_of(row, example))
            if structure is None:
                structure = found
                batch = [np.empty((len(listed), *leaf.shape), leaf.dtype) for _, leaf in values]
            if found != structure:
                raise DataError(
                    f"examples must be alike, {structure} as example {listed[0]}, got {found} "
                    f"from example {row}; make them so in decode"
                )
            for expected, (path, leaf) in zip(batch, values, strict=True):
                _require_alike(path, expected, leaf, listed[0], row)
                expected[position] = leaf
        stacked: dict[str, Any] = jax.tree.unflatten(structure, batch)
        return stacked

    return read


def _parts(row: int, example: Any) -> dict[str, Any]:
    """Inputs, targets and perhaps weights of an example, by name."""
    if isinstance(example, Arrays):
        example = vars(example)
    if isinstance(example, Mapping):
        if not {"inputs", "targets"} <= set(example):
            raise DataError(
                f"example {row} must have inputs and targets, got the names "
                f"{', '.join(map(str, example))}; name its parts in decode"
            )
        parts = {name: example[name] for name in _PARTS if name in example}
    elif isinstance(example, list | tuple) and len(example) in (2, 3):
        parts = dict(zip(_PARTS, example, strict=False))
    else:
        size = f" of {len(example)}" if isinstance(example, list | tuple) else ""
        raise DataError(
            f"example {row} must be a pair (inputs, targets) or have these names, got "
            f"{type(example).__name__}{size}; make a pair in decode"
        )
    return {name: part for name, part in parts.items() if name != "weights" or part is not None}


def _as_arrays(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree, is_leaf=_is_numbers)


def _is_numbers(value: Any) -> bool:
    """Whether this is a list or tuple of numbers, which is one array; of arrays, it is a pytree."""
    return type(value) in (list, tuple) and all(
        isinstance(part, Number | np.generic) or _is_numbers(part) for part in value
    )


def _require_alike(path: Any, expected: np.ndarray, leaf: np.ndarray, first: int, row: int) -> None:
    name = path[0].key + jax.tree_util.keystr(path[1:])
    if leaf.dtype.kind in _NO_NUMBERS:
        raise DataError(
            f"{name} must be numbers, got {leaf.dtype} from example {row}; convert them in decode"
        )
    if (leaf.shape, leaf.dtype) != (expected.shape[1:], expected.dtype):
        raise DataError(
            f"{name} must be alike, {expected.dtype} of shape {expected.shape[1:]} "
            f"as those of example {first}, got {leaf.dtype} of shape "
            f"{leaf.shape} from example {row}; make them so in decode"
        )


def _unreadable(row: int, error: Exception) -> DataError:
    return DataError(
        f"example {row} of the source must be readable, got {type(error).__name__}: {error}; "
        "repair it, or leave it out of order"
    )
