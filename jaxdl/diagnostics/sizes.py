"""Sizes of real and complex arrays, right from the smallest float to the largest."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

Axes = int | tuple[int, ...] | None


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
    scaled = [part * unit for part in parts]
    means = [jnp.mean(part) for part in scaled]
    squares = [jnp.mean(jnp.square(part - mean)) for part, mean in zip(scaled, means, strict=True)]
    mean = means[0] if len(means) == 1 else jnp.hypot(*means)
    return mean / unit, jnp.sqrt(sum(squares, jnp.zeros_like(unit))) / unit


def _parts(values: Any) -> list[Array]:
    """The array in float32 at least; of a complex one its real and its imaginary part."""
    wide = jnp.asarray(values, jnp.promote_types(jnp.result_type(values), jnp.float32))
    return [wide.real, wide.imag] if jnp.iscomplexobj(wide) else [wide]


def _largest(parts: Sequence[Array], axes: Axes) -> Array:
    keep = axes is not None
    largest = [jnp.max(jnp.abs(part), axes, keepdims=keep, initial=0) for part in parts]
    kind = jnp.result_type(*largest)
    return jnp.max(jnp.stack([each.astype(kind) for each in largest]), 0)


def _unit(largest: Array) -> Array:
    """The power of two that takes the largest entry to [1/2, 1), or as near as floats allow."""
    limits = jnp.finfo(largest.dtype)
    known = jnp.isfinite(largest) & (largest > 0)
    exponent = jnp.frexp(jnp.where(known, largest, 1))[1]
    # Beyond these, the unit or its inverse would be no normal number.
    exponent = jnp.clip(exponent, limits.minexp + 2, limits.maxexp - 2)
    return jnp.ldexp(jnp.ones_like(largest), -exponent)
