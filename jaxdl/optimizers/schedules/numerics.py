"""The arithmetic of the schedules, exact at large steps, and their checks."""

import math
import operator
from collections.abc import Callable, Sequence
from itertools import pairwise

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from jaxdl.checks import require_non_negative

Schedule = Callable[[ArrayLike], Float[Array, "*steps"]]
"""step -> rate, elementwise."""

LAST_STEP = int(np.iinfo(np.int32).max)


def as_count(step: ArrayLike) -> Int[Array, "*steps"]:
    """The steps as integers that can be subtracted."""
    count = jnp.asarray(step)
    if not jnp.issubdtype(count.dtype, jnp.integer):
        raise ValueError(
            f"a schedule's step must be an integer, got {count.dtype}; pass a count of updates"
        )
    return count.astype(jnp.result_type(count, jnp.int32))


def float32(value: ArrayLike | Sequence[float] | Sequence[int]) -> Float[Array, "..."]:
    """Convert to float32, in which schedules compute whatever JAX's default is."""
    return jnp.asarray(value, jnp.float32)


def boundaries_passed(
    boundaries: Sequence[int], count: Int[Array, "*steps"]
) -> Int[Array, "*steps"]:
    """The number of boundaries at or before the step."""
    return jnp.searchsorted(jnp.asarray(boundaries, count.dtype), count, side="right")


def to_power(log_base: float, exponent: Int[Array, "*steps"]) -> Float[Array, "*steps"]:
    """A power of a number given by its logarithm: a rounded base would raise its error too."""
    return jnp.exp(float32(log_base) * float32(exponent))


def line(begin: ArrayLike, end: ArrayLike, passed: Array, remaining: Array) -> Array:
    """A line from `begin` to `end`, without a subtraction that could cancel."""
    total = passed + remaining
    return float32(begin) * (remaining / total) + float32(end) * (passed / total)


def half_cosine(begin: ArrayLike, end: ArrayLike, passed: Array, remaining: Array) -> Array:
    """Half a cosine from `begin` to `end`: (1 + cos(pi x)) / 2 is the square of a sine."""
    quarter = float32(math.pi / 2) / (passed + remaining)
    to_begin = jnp.square(jnp.sin(quarter * remaining))
    return float32(begin) * to_begin + float32(end) * jnp.square(jnp.sin(quarter * passed))


def require_rate(name: str, value: ArrayLike) -> None:
    """Refuse a rate that is negative, not finite or no scalar."""
    if jnp.ndim(value) != 0:
        raise ValueError(
            f"{name} must be a scalar, got an array of shape {jnp.shape(value)}; "
            "vmap over the array instead"
        )
    require_non_negative(name, value)


def require_steps(name: str, value: int) -> None:
    """Refuse anything but a whole number of steps, 1 or more."""
    try:
        valid = 1 <= operator.index(value) <= LAST_STEP
    except TypeError:
        valid = False
    if not valid:
        raise ValueError(
            f"{name} must be a whole number from 1 to {LAST_STEP}, got {value}; "
            "count in steps, not in epochs"
        )


def require_boundaries(boundaries: Sequence[int]) -> list[int]:
    """The boundaries as a list; refuse them unless they increase from 1."""
    for boundary in boundaries:
        require_steps("each of the boundaries", boundary)
    if not all(first < second for first, second in pairwise(boundaries)):
        raise ValueError(
            f"boundaries must increase, got {list(boundaries)}; sort them and drop the doubles"
        )
    return list(boundaries)
