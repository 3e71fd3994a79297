"""What a layer may be given: real numbers in a floating dtype, masks, a rate of dropout."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool


def floating(owner: str, x: Any) -> Array:
    """The inputs of a layer in a floating dtype: integers and booleans become float32.

    Raises:
        TypeError: complex numbers, which have no order and no one variance; what holds no numbers.

    Example:
        >>> floating("PReLU", jnp.array([1, 2])).dtype, floating("PReLU", jnp.ones(2)).dtype
        (dtype('float32'), dtype('float32'))
        >>> floating("PReLU", jnp.array([1j]))
        Traceback (most recent call last):
        TypeError: PReLU needs real inputs, got complex64; pass x.real and x.imag side by side, ...
    """
    real = require_real(owner, x)
    return real if jnp.issubdtype(real.dtype, jnp.floating) else real.astype(jnp.float32)


def require_real(owner: str, x: Any) -> Array:
    """The inputs as an array, in their own dtype; refuse what has no order."""
    array: Array = jnp.asarray(x)
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(
            f"{owner} needs real inputs, got {array.dtype}; pass x.real and x.imag side by side, "
            "as features of their own"
        )
    if not (jnp.issubdtype(array.dtype, jnp.number) or array.dtype == jnp.bool_):
        raise TypeError(f"{owner} needs numbers, got {array.dtype}; pass an array of floats")
    return array


def compute_dtype(owner: str, dtype: Any) -> Any:
    """The dtype in which a layer computes, as NumPy's; None leaves it to inputs and parameters.

    Raises:
        TypeError: what is no floating dtype.

    Example:
        >>> compute_dtype("MLP", jnp.bfloat16) == compute_dtype("MLP", "bfloat16")
        True
        >>> compute_dtype("MLP", "half a float")
        Traceback (most recent call last):
        TypeError: MLP dtype must be a floating dtype, or None, got 'half a float'; pass e.g. ...
    """
    if dtype is None:
        return None
    try:
        found = jnp.dtype(dtype)
    except (TypeError, ValueError):
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise TypeError(
            f"{owner} dtype must be a floating dtype, or None, got {dtype!r}; pass e.g. "
            "jnp.bfloat16"
        )
    return found


def check_dropout_rate(owner: str, rate: Any) -> None:
    """Refuse a share of units outside [0, 1): all of them would leave nothing.

    Example:
        >>> check_dropout_rate("MLP", 1.0)
        Traceback (most recent call last):
        ValueError: MLP dropout_rate must lie in [0, 1), got 1.0; it is the share of units set ...
    """
    if not 0.0 <= rate < 1.0:
        raise ValueError(
            f"{owner} dropout_rate must lie in [0, 1), got {rate}; "
            "it is the share of units set to zero"
        )


def as_mask(mask: Any, shape: tuple[Any, ...]) -> Bool[Array, "..."]:
    """The mask with as many axes as the inputs, those that it lacks of length 1.

    Raises:
        TypeError: a mask that holds no booleans.
        ValueError: axes that are not the leading ones of the inputs, nor of length 1.

    Example:
        >>> as_mask(jnp.array([True, False]), (2, 5, 3)).shape
        (2, 1, 1)
        >>> as_mask(jnp.ones(3, bool), (2, 3))
        Traceback (most recent call last):
        ValueError: mask must have the leading axes of the inputs, (2, 3), got (3,); pass one ...
    """
    which: Array = jnp.asarray(mask)
    if which.dtype != jnp.bool_:
        raise TypeError(
            f"mask must hold booleans, True for what counts, got {which.dtype}; pass "
            "mask.astype(bool)"
        )
    pairs = zip(which.shape, shape, strict=False)
    if which.ndim > len(shape) or any(length not in (1, whole) for length, whole in pairs):
        raise ValueError(
            f"mask must have the leading axes of the inputs, {shape}, got {which.shape}; pass one "
            f"entry for each example, of shape {shape[:1]}, or 1 for an axis that is whole"
        )
    return which.reshape(*which.shape, *[1] * (len(shape) - which.ndim))
