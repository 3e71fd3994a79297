"""Sizes of real and complex arrays, right from the smallest float to the largest."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

Axes = int | tuple[int, ...] | None

COPIED = 4**8
"""The longest rows, in numbers, that `norms` copies into a matrix with others."""


def norm(arrays: Sequence[Array], axes: Axes = None) -> Array:
    r"""The Euclidean norm of all entries together, in float32 at least.

    $$\lVert a \rVert = \frac{1}{s} \sqrt{\sum_i \lvert s\, a_i \rvert^2}$$

    with a power of two s for which the largest entry is about 1, so that no square that counts
    overflows or vanishes. Complex entries count by their modulus.

    Arguments:
        arrays: one array or more; several if `axes` is None.
        axes: the axes of one array to sum over. They are kept, with length 1.

    Example:
        >>> round(norm([jnp.array([3e30, 0.0]), jnp.array([4e30])]).item() / 1e30, 5)
        5.0
        >>> norm([jnp.array([3 + 4j])]).item(), norm([jnp.array([[3e-30], [4e-30]])], 0).shape
        (5.0, (1, 1))
    """
    parts = [part for array in arrays for part in _parts(array)]
    keep = axes is not None
    largest = _largest(parts, axes)
    unit = _unit(largest)
    squares = [jnp.sum(jnp.square(part * unit), axes, keepdims=keep) for part in parts]
    return jnp.sqrt(sum(squares, jnp.zeros_like(unit))) / unit


def norms(groups: Sequence[Sequence[Array]], over: Sequence[int] | None = None) -> Array:
    r"""The `norm` of each group's arrays together, for every index of their first axis.

    Many small arrays are reduced as the rows of a few matrices: a program that reduces each alone
    takes much longer to compile. Rows are filled up with zeros, which add nothing to a norm.

    Arguments:
        groups: arrays of shape (n, ...), one or more in a group, n that of the group.
        over: what the norms of each group are divided by; None for 1. So the norm of a mean of 128
            sums may be a number where that of the sums is too large for one.

    Returns:
        (sum of n,), group by group.

    Example:
        >>> norms([[jnp.array([[3.0, 4.0], [0.0, 2.0]])], [jnp.array([3.0]), jnp.array([4.0])]])
        Array([5., 2., 5.], dtype=float32)
    """
    bundles: dict[Any, list[tuple[Array, np.ndarray]]] = {}
    start = 0
    for group in groups:
        places = np.arange(start, start + group[0].shape[0])
        start += len(places)
        for part in (part for array in group for part in _parts(array)):
            rows = part.reshape(len(places), math.prod(part.shape[1:]))
            width = _filled_width(rows.shape[1])
            # A copy of a large array would take longer than what it saves.
            kind: Any = (rows.dtype, width) if width <= COPIED else id(part)
            bundles.setdefault(kind, []).append((rows, places))
    stacked = [_bundled([rows for rows, _ in bundle]) for bundle in bundles.values()]
    owners = [np.concatenate([places for _, places in bundle]) for bundle in bundles.values()]
    largest = _by_owner([_largest([rows], 1)[:, 0] for rows in stacked], owners, jnp.max)
    units = _unit(largest)
    squares = [
        jnp.sum(jnp.square(rows * units[places][:, None]), 1)
        for rows, places in zip(stacked, owners, strict=True)
    ]
    roots = jnp.sqrt(_by_owner(squares, owners, jnp.sum))
    if over is not None:
        sizes = [group[0].shape[0] for group in groups]
        roots /= np.repeat(np.asarray(over, roots.dtype), sizes)
    return roots / units


def _filled_width(width: int) -> int:
    """The power of four that is not below it: rows of few widths share a matrix."""
    return 1 << 2 * math.ceil((max(width, 1) - 1).bit_length() / 2)


def _bundled(parts: Sequence[Array]) -> Array:
    """The rows of all matrices, filled up to one width; of a single one as they are."""
    if len(parts) == 1:
        return parts[0]
    width = _filled_width(max(part.shape[1] for part in parts))
    flat = []
    for rows in parts:
        missing = width - rows.shape[1]
        if rows.shape[0] > 1 and missing:
            rows, missing = jnp.pad(rows, ((0, 0), (0, missing))), 0
        flat += [rows.reshape(-1), jnp.zeros(missing, rows.dtype)]
    return jnp.concatenate(flat).reshape(-1, width)


def _by_owner(
    values: Sequence[Array], owners: Sequence[np.ndarray], reduce: Callable[..., Array]
) -> Array:
    """All values of each owner, reduced; none of them is below 0."""
    owner = np.concatenate(owners)
    found = [np.flatnonzero(owner == number) for number in range(owner.max() + 1)]
    table = np.full((len(found), max(map(len, found))), len(owner))
    for row, places in zip(table, found, strict=True):
        row[: len(places)] = places
    together = jnp.concatenate([*values, jnp.zeros(1, values[0].dtype)])
    return reduce(together[table], axis=1)


def mean_and_deviation(values: Array) -> tuple[Array, Array]:
    r"""Mean and standard deviation of all entries, in float32 at least.

    Of complex entries the size of the mean, |E[z]|, and the root of E|z - E[z]|^2: as for real ones
    the second moment E|z|^2 is the sum of both squares.

    Example:
        >>> [each.item() for each in mean_and_deviation(jnp.array([1j, 3j]))]
        [2.0, 1.0]
    """
    parts = _parts(values)
    unit = _unit(_largest(parts, None))
    means = [jnp.mean(part * unit) for part in parts]
    # The product has the other sign here, so XLA does not keep it in memory for both reductions:
    # on a CPU that takes three times as long as computing it twice.
    squares = [
        jnp.mean(jnp.square(part * -unit + mean)) for part, mean in zip(parts, means, strict=True)
    ]
    mean = means[0] if len(means) == 1 else jnp.hypot(*means)
    return mean / unit, jnp.sqrt(sum(squares, jnp.zeros_like(unit))) / unit


def _parts(values: Any) -> list[Array]:
    """The array in float32 at least; of a complex one its real and its imaginary part."""
    wide = jnp.asarray(values, jnp.promote_types(jnp.result_type(values), jnp.float32))
    return [wide.real, wide.imag] if jnp.iscomplexobj(wide) else [wide]


def _largest(parts: Sequence[Array], axes: Axes) -> Array:
    keep = axes is not None
    largest = [
        # An empty array has no largest entry; only there the number costs an operation more.
        jnp.max(jnp.abs(part), axes, keepdims=keep, initial=None if part.size else 0)
        for part in parts
    ]
    kind = jnp.result_type(*largest)
    return jnp.max(jnp.stack([each.astype(kind) for each in largest]), 0)


def _unit(largest: Array) -> Array:
    """The power of two that takes the largest entry to [1/2, 1), or as near as floats allow."""
    limits = jnp.finfo(largest.dtype)
    known = jnp.isfinite(largest) & (largest > 0)
    # The bits of a positive float are its exponent, shifted by `bias`, and its digits. The entry is
    # below 2^(bits - bias + 1), whose inverse has the bits 2 bias - 1 - (bits).
    whole = jnp.dtype(f"uint{limits.bits}")
    digits, bias = whole.type(limits.nmant), limits.maxexp - 1
    of_entry = lax.bitcast_convert_type(jnp.where(known, largest, 1), whole) >> digits
    # Beyond these, the unit or its inverse would be no normal number.
    lowest = limits.minexp + 2 + bias - 1
    highest = limits.maxexp - 2 + bias - 1
    of_unit = whole.type(2 * bias - 1) - jnp.clip(of_entry, whole.type(lowest), whole.type(highest))
    return lax.bitcast_convert_type(of_unit << digits, largest.dtype)
