"""The axes of a sweep: the values of its settings, and its seeds."""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdl.checks import whole_number

GIVEN_BY_SWEEP = ("key", "seed")


class Axis(NamedTuple):
    """One setting: its values as `run` takes them, and as the result names them."""

    name: str
    values: Sequence[Any] | np.ndarray
    labels: np.ndarray
    static: bool


def make_axis(name: str, given: Any, static: bool) -> Axis:
    """An axis: numbers in the device's dtype; other values, or if `static`, a static axis.

    Raises:
        ValueError: no value, a repeated value, a number that the device cannot hold, or a reserved
            name.
        TypeError: a single value in place of a list.
    """
    if name in GIVEN_BY_SWEEP:
        raise ValueError(f"over must not name {name!r}, which sweep gives; pass seeds=[...]")
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"over[{name!r}] must be a list of values, got {given!r}; put it in a list")
    labels = list(given)
    values = list(given.values()) if isinstance(given, Mapping) else labels
    if not values:
        raise ValueError(f"over[{name!r}] must hold a value, got none; leave the setting out")
    _check_different(name, labels)
    numeric = all(_is_number(value) for value in values)
    if not numeric and not isinstance(given, Mapping):
        labels = [_label(value) for value in values]
        _check_different(name, labels)
    if static or not numeric:
        return Axis(name, values, np.asarray(labels), True)
    held = _on_device(name, np.asarray(values))
    _check_different(name, held.tolist())
    return Axis(name, held, np.asarray(labels), False)


def seed_numbers(seeds: Any) -> np.ndarray:
    """The seeds 0 to n - 1, or the seeds of a list, as uint32.

    Raises:
        TypeError: neither a whole number nor a list.
        ValueError: no seed, a repeated seed, or one that is no integer from 0 to 2^32 - 1.
    """
    listed = isinstance(seeds, Iterable) and getattr(seeds, "ndim", 1) != 0
    listed = listed and not isinstance(seeds, str)
    values = list(seeds) if listed else list(range(whole_number("seeds", seeds)))
    if not values:
        raise ValueError("seeds must hold a seed, got none; pass e.g. seeds=8")
    for seed in values:
        whole = isinstance(seed, int | np.integer) and not isinstance(seed, bool)
        if not whole or not 0 <= seed < 2**32:
            raise ValueError(
                f"a seed must be an integer from 0 to 2^32 - 1, got {seed!r}; pass another"
            )
    _check_different("seed", values)
    return np.asarray(values, np.uint32)


def member_arguments(moving: Sequence[Axis], seeds: np.ndarray) -> tuple[np.ndarray, ...]:
    """The arrays (seed, each setting), one entry per member in the grid's order."""
    sizes = [len(axis.values) for axis in moving]
    positions = np.indices((*sizes, len(seeds))).reshape(len(sizes) + 1, -1)
    by_member = seeds[positions[-1]]
    settings = [np.asarray(a.values)[p] for a, p in zip(moving, positions, strict=False)]
    return (by_member, *settings)


def _is_number(value: Any) -> bool:
    if isinstance(value, jax.Array | np.ndarray):
        return value.ndim == 0
    return isinstance(value, Real | np.bool_)


def _label(value: Any) -> str:
    return value if isinstance(value, str) else getattr(value, "__name__", None) or str(value)


def _on_device(name: str, values: np.ndarray) -> np.ndarray:
    """The values in the dtype of the program's argument. Refuse values that it cannot hold."""
    with np.errstate(over="ignore"):
        held = values.astype(jax.dtypes.canonicalize_dtype(values.dtype))
    exact = np.issubdtype(held.dtype, np.floating) or np.array_equal(held, values)
    if not (np.isfinite(held).all() and exact):
        raise ValueError(
            f"over[{name!r}] must hold finite values of {held.dtype}, got {values}; leave the "
            "others out, or turn jax_enable_x64 on for those that are too large"
        )
    return held


def _check_different(name: str, values: list[Any]) -> None:
    try:
        repeats = len(set(values)) < len(values)
    except TypeError:  # values without a hash: their labels are compared
        return
    if repeats:
        raise ValueError(
            f"the values of {name!r} must differ, got {values}; pass each once, or a mapping from "
            "labels to values"
        )
