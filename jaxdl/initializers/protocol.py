"""The protocol of every initializer: its signature, its working precision, what it refuses."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
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
    if not jax.config.jax_enable_x64:  # type: ignore[attr-defined]
        raise ValueError(
            f"dtype {requested} must be enabled in JAX before it is used, got it disabled; "
            "call jax.config.update('jax_enable_x64', True), or pass float32"
        )
    return requested


def require_finite(name: str, value: ArrayLike) -> None:
    """Refuse a NaN or infinite setting; a traced one passes, its value being unknown."""
    _require(name, value, "finite", math.isfinite)


def require_positive(name: str, value: ArrayLike) -> None:
    """Refuse a setting that is not finite and above zero; a traced one passes."""
    _require(name, value, "finite and positive", lambda x: math.isfinite(x) and x > 0)


def require_non_negative(name: str, value: ArrayLike) -> None:
    """Refuse a setting that is not finite and at least zero; a traced one passes."""
    _require(name, value, "finite and at least 0", lambda x: math.isfinite(x) and x >= 0)


def require_order(
    owner: str, low_name: str, low: ArrayLike, high_name: str, high: ArrayLike
) -> None:
    """Refuse bounds that are not in order; traced ones pass."""
    try:
        ordered = float(low) < float(high)  # type: ignore[arg-type]
    except jax.errors.ConcretizationTypeError:
        return
    if not ordered:
        raise ValueError(
            f"{owner} needs {low_name} < {high_name}, got {low_name}={low}, {high_name}={high}; "
            "swap or widen the bounds"
        )


def require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Refuse a word that is not one of the choices, and list them."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}; pass one")


def _require(name: str, value: ArrayLike, rule: str, holds: Callable[[float], bool]) -> None:
    try:
        number = float(value)  # type: ignore[arg-type]
    except jax.errors.ConcretizationTypeError:
        return
    if not holds(number):
        raise ValueError(f"{name} must be {rule}, got {number}; pass another {name}")
