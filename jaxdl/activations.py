"""Activations; values and derivatives are PyTorch's, at the kinks too.

Derivatives keep their tails (see `jaxdl.tails`), and half precision is computed in float32. Where
a function has a kink its docstring names the derivative taken there. `by_name` is for a command
line; in Python, pass the function.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxdl import tails
from jaxdl.public import public_names
from jaxdl.tails import in_float32

__all__ = [
    "SELU_ALPHA",
    "SELU_SCALE",
    "by_name",
    "celu",
    "elu",
    "gelu",
    "glu",
    "hard_shrink",
    "hard_sigmoid",
    "hard_swish",
    "hard_tanh",
    "identity",
    "leaky_relu",
    "log_sigmoid",
    "log_softmax",
    "mish",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "soft_shrink",
    "softmax",
    "softmin",
    "softplus",
    "softsign",
    "tanh",
    "tanh_shrink",
    "threshold",
]

__dir__ = public_names(globals())

SELU_SCALE, SELU_ALPHA = 1.0507009873554805, 1.6732632423543772
"""The lambda and alpha for which a unit normal keeps mean 0 and variance 1."""


def identity(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The linear activation, f(x) = x."""
    return x


@in_float32
def sigmoid(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The logistic function.

    $$f(x) = \frac{1}{1 + e^{-x}}$$
    """
    return tails.sigmoid(x)


@in_float32
def log_sigmoid(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The logarithm of the logistic function, which does not underflow.

    $$f(x) = -\log(1 + e^{-x})$$
    """
    return -tails.softplus(-x)


def hard_sigmoid(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""A sigmoid of three straight pieces, f(x) = clip(x / 6 + 1 / 2, 0, 1); f'(+-3) = 0.

    Source: Courbariaux et al. (2015), with the slope of Howard et al. (2019).
    """
    return _clip(x + 3, 0.0, 6.0) / 6


@in_float32
def tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The hyperbolic tangent.

    $$f(x) = \frac{e^x - e^{-x}}{e^x + e^{-x}}$$
    """
    return tails.tanh(x)


def hard_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """A tanh of three straight pieces, f(x) = clip(x, -1, 1); f'(+-1) = 0.

    Example:
        >>> hard_tanh(jnp.array([-3.0, 0.5, 3.0])).tolist()
        [-1.0, 0.5, 1.0]

    Source: Collobert (2004).
    """
    return _clip(x, -1.0, 1.0)


@in_float32
def softsign(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""A sigmoid that saturates slowly.

    $$f(x) = \frac{x}{1 + |x|}$$

    Source: Glorot and Bengio (2010), section 3.
    """
    return tails.softsign(x)


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


@in_float32
def elu(x: Float[Array, "..."], *, alpha: float = 1.0) -> Float[Array, "..."]:
    r"""The exponential linear unit; f'(0) = alpha.

    $$f(x) = x \ (x > 0), \qquad \alpha (e^x - 1) \ (x \le 0)$$

    Arguments:
        x: any shape.
        alpha: minus the value at minus infinity.

    Source: Clevert et al. (2016).
    """
    return jnp.where(x > 0, x, alpha * tails.expm1(jnp.where(x > 0, 0, x)))


@in_float32
def celu(x: Float[Array, "..."], *, alpha: float = 1.0) -> Float[Array, "..."]:
    r"""The exponential linear unit with a continuous derivative for every alpha.

    $$f(x) = x \ (x > 0), \qquad \alpha (e^{x / \alpha} - 1) \ (x \le 0)$$

    Arguments:
        x: any shape.
        alpha: minus the value at minus infinity, not 0.

    Source: Barron (2017).
    """
    return jnp.where(x > 0, x, alpha * tails.expm1(jnp.where(x > 0, 0, x) / alpha))


@in_float32
def selu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The scaled exponential linear unit, which keeps mean 0 and variance 1; f'(0) = 1.758.

    $$f(x) = \lambda\, \mathrm{elu}(x, \alpha), \qquad \lambda = 1.0507, \alpha = 1.6733$$

    Source: Klambauer et al. (2017).
    """
    return SELU_SCALE * elu(x, alpha=SELU_ALPHA)


@in_float32
def gelu(x: Float[Array, "..."], *, approximate: bool = False) -> Float[Array, "..."]:
    r"""The Gaussian error linear unit.

    $$f(x) = x\, \Phi(x) \approx
      \frac{x}{2}\left(1 + \tanh\left(\sqrt{2 / \pi}\,(x + 0.044715 x^3)\right)\right)$$

    Arguments:
        x: any shape.
        approximate: whether to take the tanh form, JAX's default; PyTorch's is the exact form.

    Source: Hendrycks and Gimpel (2016).
    """
    if not approximate:
        return x * 0.5 * lax.erfc(-math.sqrt(0.5) * x)
    # (1 + tanh u) / 2 = sigmoid(2 u), which keeps its tail; beyond 60 it is 0 or 1 anyway.
    near = jnp.clip(x, -60, 60)
    return x * tails.sigmoid(2 * math.sqrt(2 / math.pi) * (near + 0.044715 * near**3))


@in_float32
def silu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The sigmoid linear unit, also called swish.

    $$f(x) = x\, \sigma(x)$$

    Source: Elfwing et al. (2018); Ramachandran et al. (2017).
    """
    return x * tails.sigmoid(x)


def hard_swish(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """`silu` with the sigmoid of straight pieces, f(x) = x hard_sigmoid(x); f'(-3) = 0, f'(3) = 1.

    Source: Howard et al. (2019).
    """
    return x * hard_sigmoid(x)


@in_float32
def mish(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""A smooth rectifier that is not monotone.

    $$f(x) = x \tanh(\log(1 + e^x))$$

    Source: Misra (2020).
    """
    return x * tails.tanh(tails.softplus(x))


@in_float32
def softplus(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""The smooth rectifier, whose derivative is the sigmoid.

    $$f(x) = \log(1 + e^x)$$

    Source: Dugas et al. (2001).
    """
    return tails.softplus(x)


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


@in_float32
def tanh_shrink(x: Float[Array, "..."]) -> Float[Array, "..."]:
    r"""What tanh takes away.

    $$f(x) = x - \tanh x$$
    """
    return _tanh_shrink(x)


def threshold(
    x: Float[Array, "..."], *, threshold: float = 0.0, value: float = 0.0
) -> Float[Array, "..."]:
    """The identity above a threshold, a constant at and below it; f'(threshold) = 0.

    Arguments:
        x: any shape.
        threshold: where it changes.
        value: the constant.

    Example:
        >>> threshold(jnp.array([0.5, 2.0]), threshold=1.0, value=-1.0).tolist()
        [-1.0, 2.0]
    """
    return jnp.where(x <= threshold, value, x)


@in_float32
def glu(x: Float[Array, "..."], *, axis: int = -1) -> Float[Array, "..."]:
    r"""The gated linear unit: the first half of an axis, gated by the second, a and b.

    $$f(a, b) = a\, \sigma(b)$$

    Arguments:
        x: any shape, with an even number of entries along the axis.
        axis: of the two halves.

    Raises:
        ValueError: an odd number of entries.

    Example:
        >>> glu(jnp.array([3.0, 5.0, 0.0, 0.0])).tolist()
        [1.5, 2.5]

    Source: Dauphin et al. (2017).
    """
    if x.shape[axis] % 2:
        raise ValueError(
            f"glu needs an even number of entries along axis {axis}, got shape {x.shape}; "
            "give the layer before twice the features"
        )
    first, second = jnp.split(x, 2, axis)
    return first * tails.sigmoid(second)


@in_float32
def softmin(x: Float[Array, "..."], *, axis: int = -1) -> Float[Array, "..."]:
    r"""`softmax` of -x.

    Arguments:
        x: any shape with at least one axis.
        axis: the axis of the classes.
    """
    return jax.nn.softmax(-x, axis)


@in_float32
def log_softmax(x: Float[Array, "..."], *, axis: int = -1) -> Float[Array, "..."]:
    r"""The logarithm of `softmax`, which does not underflow.

    $$f(x)_i = x_i - \log \sum_j e^{x_j}$$

    Arguments:
        x: any shape with at least one axis.
        axis: the axis of the classes.
    """
    return jax.nn.log_softmax(x, axis)


@in_float32
def softmax(x: Float[Array, "..."], *, axis: int = -1) -> Float[Array, "..."]:
    r"""Probabilities along an axis.

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
            tanh_shrink,
            threshold,
            softmin,
            log_softmax,
            softmax,
        )
    }
)
"""The activations by name. They keep the shape, so `glu`, which halves it, is not among them."""


def _clip(x: Array, low: float, high: float) -> Array:
    """A clip with derivative 0 at both bounds, where jnp.clip takes a half; a NaN passes."""
    return jnp.where((x > low) & (x < high), x, lax.stop_gradient(jnp.clip(x, low, high)))


@tails.with_derivative(lambda x: jnp.square(jnp.tanh(x)))
def _tanh_shrink(x: Array) -> Array:
    """x - tanh x; up to 1, where that cancels, by Lambert's fraction for the tangent."""
    square = jnp.square(jnp.clip(x, -1, 1))
    fraction = jnp.full_like(x, 23)
    for odd in range(21, 1, -2):
        fraction = odd + square / fraction
    rest = square / fraction
    return jnp.where(jnp.abs(x) < 1, x * rest / (1 + rest), x - jnp.tanh(x))
