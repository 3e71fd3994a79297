"""Elementwise activations; values and derivatives are PyTorch's, at the kinks too.

Where a function has a kink its docstring names the derivative taken there. `by_name` is for a
command line; in Python, pass the function.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

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
    return jax.nn.sigmoid(x)


def log_sigmoid(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The logarithm of the logistic function, which does not underflow.

    $$f(x) = -\log(1 + e^{-x})$$
    """
    return jax.nn.log_sigmoid(x)


def hard_sigmoid(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""A sigmoid of three straight pieces, f(x) = clip(x / 6 + 1 / 2, 0, 1); f'(+-3) = 0.

    Source: Courbariaux et al. (2015), with the slope of Howard et al. (2019).
    """
    return _clip(x + 3, 0.0, 6.0) / 6


def tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The hyperbolic tangent.

    $$f(x) = \frac{e^x - e^{-x}}{e^x + e^{-x}}$$
    """
    return jnp.tanh(x)


def hard_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """A tanh of three straight pieces, f(x) = clip(x, -1, 1); f'(+-1) = 0.

    Example:
        >>> hard_tanh(jnp.array([-3.0, 0.5, 3.0])).tolist()
        [-1.0, 0.5, 1.0]

    Source: Collobert (2004).
    """
    return _clip(x, -1.0, 1.0)


def softsign(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""A sigmoid that saturates slowly.

    $$f(x) = \frac{x}{1 + |x|}$$

    Source: Glorot and Bengio (2010), section 3.
    """
    return jax.nn.soft_sign(x)


def relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The rectifier, f(x) = max(0, x); f'(0) = 0.

    Example:
        >>> relu(jnp.array([-1.0, 2.0])).tolist()
        [0.0, 2.0]

    Source: Nair and Hinton (2010).
    """
    return jax.nn.relu(x)


def relu6(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The rectifier cut at 6, f(x) = clip(x, 0, 6); f'(0) = f'(6) = 0.

    Source: Krizhevsky (2010).
    """
    return _clip(x, 0.0, 6.0)


def leaky_relu(x: Float[Array, "..."], *, negative_slope: float = 0.01) -> Float[Array, "..."]:
    r"""The rectifier with a slope a below zero; f'(0) = a.

    $$f(x) = \max(0, x) + a \min(0, x)$$

    Arguments:
        x: any shape.
        negative_slope: a.

    Source: Maas et al. (2013).
    """
    return jnp.where(x > 0, x, negative_slope * x)


def elu(x: Float[Array, "..."], *, alpha: float = 1.0) -> Float[Array, "..."]:
    r"""The exponential linear unit; f'(0) = alpha.

    $$f(x) = x \ (x > 0), \qquad \alpha (e^x - 1) \ (x \le 0)$$

    Arguments:
        x: any shape.
        alpha: minus the value at minus infinity.

    Source: Clevert et al. (2016).
    """
    return jax.nn.elu(x, alpha)


def celu(x: Float[Array, "..."], *, alpha: float = 1.0) -> Float[Array, "..."]:
    r"""The exponential linear unit with a continuous derivative for every alpha.

    $$f(x) = x \ (x > 0), \qquad \alpha (e^{x / \alpha} - 1) \ (x \le 0)$$

    Arguments:
        x: any shape.
        alpha: minus the value at minus infinity, not 0.

    Source: Barron (2017).
    """
    return jax.nn.celu(x, alpha)


def selu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The scaled exponential linear unit, which keeps mean 0 and variance 1; f'(0) = 1.758.

    $$f(x) = \lambda\, \mathrm{elu}(x, \alpha), \qquad \lambda = 1.0507, \alpha = 1.6733$$

    Source: Klambauer et al. (2017).
    """
    return jax.nn.selu(x)


def gelu(x: Float[Array, "..."], *, approximate: bool = False) -> Float[Array, "..."]:
    r"""The Gaussian error linear unit.

    $$f(x) = x\, \Phi(x) \approx
      \frac{x}{2}\left(1 + \tanh\left(\sqrt{2 / \pi}\,(x + 0.044715 x^3)\right)\right)$$

    Arguments:
        x: any shape.
        approximate: whether to take the tanh form, JAX's default; PyTorch's is the exact form.

    Source: Hendrycks and Gimpel (2016).
    """
    return jax.nn.gelu(x, approximate)


def silu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The sigmoid linear unit, also called swish.

    $$f(x) = x\, \sigma(x)$$

    Source: Elfwing et al. (2018); Ramachandran et al. (2017).
    """
    return jax.nn.silu(x)


def hard_swish(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`silu` with the sigmoid of straight pieces, f(x) = x hard_sigmoid(x); f'(-3) = 0, f'(3) = 1.

    Source: Howard et al. (2019).
    """
    return x * hard_sigmoid(x)


def mish(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""A smooth rectifier that is not monotone.

    $$f(x) = x \tanh(\log(1 + e^x))$$

    Source: Misra (2020).
    """
    return jax.nn.mish(x)


def softplus(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The smooth rectifier, whose derivative is the sigmoid.

    $$f(x) = \log(1 + e^x)$$

    Source: Dugas et al. (2001).
    """
    return jax.nn.softplus(x)


def hard_shrink(x: Float[Array, "..."], *, threshold: float = 0.5) -> Float[Array, "..."]:
    """Zero within `threshold` of zero, the identity beyond; f'(+-threshold) = 0.

    Arguments:
        x: any shape.
        threshold: at least 0.

    Example:
        >>> hard_shrink(jnp.array([-0.75, 0.25, 0.75])).tolist()
        [-0.75, 0.0, 0.75]

    Source: Donoho and Johnstone (1994).
    """
    return jnp.where(jnp.abs(x) <= threshold, 0, x)


def soft_shrink(x: Float[Array, "..."], *, threshold: float = 0.5) -> Float[Array, "..."]:
    """Zero within `threshold` of zero, moved towards it beyond; f'(+-threshold) = 0.

    Arguments:
        x: any shape.
        threshold: at least 0.

    Example:
        >>> soft_shrink(jnp.array([-0.75, 0.25, 0.75])).tolist()
        [-0.25, 0.0, 0.25]

    Source: Donoho and Johnstone (1994).
    """
    return jnp.where(jnp.abs(x) <= threshold, 0, x - jnp.sign(x) * threshold)


def softmax(x: Float[Array, "..."], *, axis: int = -1) -> Float[Array, "..."]:
    r"""Probabilities along an axis; the only function here that is not elementwise.

    $$f(x)_i = \frac{e^{x_i}}{\sum_j e^{x_j}}$$

    Arguments:
        x: any shape with at least one axis.
        axis: the axis of the classes.

    Example:
        >>> softmax(jnp.zeros(4)).tolist()
        [0.25, 0.25, 0.25, 0.25]

    Source: Bridle (1990).
    """
    return jax.nn.softmax(x, axis)


by_name: Mapping[str, Callable[..., Array]] = MappingProxyType(
    {
        f.__name__: f
        for f in (
            identity,
            sigmoid,
            log_sigmoid,
            hard_sigmoid,
            tanh,
            hard_tanh,
            softsign,
            relu,
            relu6,
            leaky_relu,
            elu,
            celu,
            selu,
            gelu,
            silu,
            hard_swish,
            mish,
            softplus,
            hard_shrink,
            soft_shrink,
            softmax,
        )
    }
)


def _clip(x: Array, low: float, high: float) -> Array:
    """A clip with derivative 0 at both bounds, where jnp.clip takes a half; a NaN passes."""
    return jnp.where((x > low) & (x < high), x, lax.stop_gradient(jnp.clip(x, low, high)))
