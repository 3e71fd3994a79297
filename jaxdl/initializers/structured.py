"""Weights with a structure: constants, and matrices that hold more than independent draws."""

from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdl.initializers.protocol import Initializer, require_finite, working_dtype


def constant(value: ArrayLike) -> Initializer:
    """Every weight the same finite `value`; the key is not used.

    Every unit of a layer then computes the same function and receives the same gradient, and
    training cannot tell them apart.

    Raises:
        ValueError: a value that is not finite; when called, a dtype that is no float.

    Example:
        >>> import jax
        >>> constant(0.5)(jax.random.key(0), (2,)).tolist()
        [0.5, 0.5]
    """
    require_finite("value", value)

    def init(
        key: PRNGKeyArray, shape: Sequence[int], dtype: DTypeLike = jnp.float32
    ) -> Float[Array, "..."]:
        return jnp.full(tuple(shape), value, working_dtype(dtype)).astype(dtype)

    return init


def zeros() -> Initializer:
    """Every weight 0, the usual start of a bias; see `constant`."""
    return constant(0.0)


def ones() -> Initializer:
    """Every weight 1, the usual start of a norm's scale; see `constant`."""
    return constant(1.0)
