"""The protocol of every initializer: its signature, its working precision."""

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray


@runtime_checkable
class Initializer(Protocol):
    """A pure function of its key: the same key, shape and dtype give the same weights.

    It is JAX's protocol, so any initializer goes into a Linen `kernel_init`.
    """

    def __call__(
        self, key: PRNGKeyArray, shape: Sequence[int], dtype: DTypeLike = jnp.float32
    ) -> Float[Array, "..."]:
        """Weights of `shape` and `dtype`."""
        ...


def working_dtype(dtype: DTypeLike) -> Any:
    """The dtype to draw in before casting to `dtype`: float64 for float64, else float32.

    A half-precision generator has too few distinct values for its moments to be right; one
    rounding at the end keeps them.

    Raises:
        ValueError: a dtype that is no floating type, or float64 while JAX has it turned off.

    Example:
        >>> working_dtype(jnp.bfloat16)
        dtype('float32')
    """
    requested = jnp.dtype(dtype)
    if not jnp.issubdtype(requested, jnp.floating):
        raise ValueError(
            f"dtype must be a floating type, got {requested}; pass float32 and cast the result"
        )
    if jnp.finfo(requested).bits <= 32:
        return jnp.dtype(jnp.float32)
    if not jax.config.jax_enable_x64:  # type: ignore[attr-defined]  # made at run time
        raise ValueError(
            f"dtype {requested} must be enabled in JAX before it is used, got it disabled; "
            "call jax.config.update('jax_enable_x64', True), or pass float32"
        )
    return requested
