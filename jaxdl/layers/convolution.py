"""XLA's convolution, which on a CPU keeps its inputs in memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


def convolve(inputs: Array, kernel: Array, *settings: Any, **named: Any) -> Array:
    """The same as `jax.lax.conv_general_dilated`, bit for bit, but a fifth faster to train.

    XLA's CPU backend computes the kernel's gradient from transposed copies of the inputs and of the
    outputs' gradient. Inside these copies it would compute them again (the norm, the activation,
    residual sums of several blocks), element by element and in the worst order of memory. XLA never
    computes a division twice, so both are divided by one, and used twice.

    Example:
        >>> import flax.linen as nn
        >>> conv = nn.Conv(8, (3, 3), conv_general_dilated=convolve)
        >>> conv.init_with_output(jax.random.key(0), jnp.ones((1, 5, 5, 3)))[0].shape
        (1, 5, 5, 8)
    """
    divides = jnp.issubdtype(inputs.dtype, jnp.inexact) and kernel.size and inputs.size
    if jax.default_backend() != "cpu" or not divides:
        return lax.conv_general_dilated(inputs, kernel, *settings, **named)
    # A one that XLA does not know: it would simplify a constant away. No number is and is no NaN.
    first = lax.stop_gradient(kernel).ravel()[:1]
    never = (jnp.isnan(first) & (first == first)).any()
    one = jnp.where(never, 2, 1).astype(inputs.dtype)
    outputs = lax.conv_general_dilated(_in_memory(inputs, one), kernel, *settings, **named)
    return _gradient_in_memory(outputs, one, kernel.ravel()[:1])


@jax.custom_jvp
def _in_memory(x: Array, one: Array) -> Array:
    return x / one


@_in_memory.defjvp
def _tangent(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    return _in_memory(*primals), tangents[0]


@jax.custom_jvp
def _gradient_in_memory(x: Array, one: Array, part: Array) -> Array:
    """x; its gradient is divided by one, and 0 times its first number is the gradient of `part`.

    By this second use the quotient stands in memory also where its other use, the gradient of the
    inputs, is not wanted, as in a network's first layer.
    """
    return x


@_gradient_in_memory.defjvp
def _divided(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    x, one, _ = primals
    first = (0 * tangents[2]).astype(x.dtype).reshape((1,) * x.ndim)
    placed = lax.pad(first, jnp.zeros((), x.dtype), [(0, size - 1, 0) for size in x.shape])
    return x, (tangents[0] + placed) / one
