"""Elementwise activations; at a kink each takes PyTorch's one-sided derivative."""

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def identity(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The linear activation, f(x) = x."""
    return x


def sigmoid(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The logistic function.

    $$f(x) = \frac{1}{1 + e^{-x}}$$
    """
    return lax.logistic(x)


def tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The hyperbolic tangent.

    $$f(x) = \frac{e^x - e^{-x}}{e^x + e^{-x}}$$
    """
    return jnp.tanh(x)


def relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The rectifier, f(x) = max(0, x); f'(0) = 0.

    Example:
        >>> relu(jnp.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]

    Source: Nair and Hinton (2010).
    """
    return jax.nn.relu(x)
