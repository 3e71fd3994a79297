"""XLA's convolution, told on a CPU to keep its inputs in memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


def convolve(inputs: Array, kernel: Array, *settings: Any, **named: Any) -> Array:
    """`jax.lax.conv_general_dilated`, with its arguments, to the bit; a tenth faster to train.

    XLA's CPU backend makes the gradient for the kernel from a transposed copy of the inputs. It
    would compute what leads to them (the norm, the activation, residual sums of several blocks)
    a second time inside that copy, element by element in the worst order of memory. What it never
    computes twice is a division: so here is one, by one.

    Example:
        >>> import flax.linen as nn
        >>> conv = nn.Conv(8, (3, 3), conv_general_dilated=convolve)
        >>> conv.init_with_output(jax.random.key(0), jnp.ones((1, 5, 5, 3)))[0].shape
        (1, 5, 5, 8)
    """
    if jax.default_backend() == "cpu":
        # A one that only the running program knows to be one: a constant would be simplified away.
        unknown = jnp.isnan(lax.stop_gradient(kernel).ravel()[0])
        inputs = inputs / jnp.where(unknown, 2, 1).astype(inputs.dtype)
    return lax.conv_general_dilated(inputs, kernel, *settings, **named)
