"""Independent random weights, with a stated spread or scaled by the fans."""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdl.checks import (
    require_choice,
    require_finite,
    require_non_negative,
    require_order,
    require_positive,
)
from jaxdl.factories import factory
from jaxdl.initializers.fans import compute_fans
from jaxdl.initializers.protocol import Initializer, working_dtype

_TAIL = 2.0
"""Standard deviations beyond which both bounds are in a tail."""

_MODES = ("fan_in", "fan_out", "fan_avg")
_DISTRIBUTIONS = ("normal", "truncated_normal", "uniform")


@factory
def normal(mean: ArrayLike = 0.0, stddev: ArrayLike = 1.0) -> Initializer:
    r"""Independent normal weights, not truncated.

    $$W_{ij} \sim N(\mu, \sigma^2)$$

    Arguments:
        mean: mu, finite.
        stddev: sigma, at least 0.

    Raises:
        ValueError: a negative or non-finite setting; when called, a dtype that is no float.

    Example:
        >>> w = normal(0.0, 0.1)(jax.random.key(0), (200, 300))
        >>> w.shape, round(float(w.std()), 2)
        ((200, 300), 0.1)
    """
    require_finite("mean", mean)
    require_non_negative("stddev", stddev)
    return _affine(jax.random.normal, mean, stddev)


@factory
def uniform(low: ArrayLike, high: ArrayLike) -> Initializer:
    r"""Independent uniform weights.

    $$W_{ij} \sim U[low, high)$$

    A draw that rounding would put on `high` is the number below it. The last rounding, to a
    half-precision dtype, may reach `high` itself.

    Arguments:
        low: the smallest value, finite.
        high: the upper bound, above `low`.

    Raises:
        ValueError: bounds that are not finite or not in order; a dtype that is no float.

    Example:
        >>> w = uniform(-1.0, 1.0)(jax.random.key(0), (200, 300))
        >>> bool((w >= -1).all() and (w < 1).all())
        True
    """
    require_finite("low", low)
    require_finite("high", high)
    require_order("uniform", "low", low, "high", high)

    def draw(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        least, above = jnp.asarray(low, dtype), jnp.asarray(high, dtype)
        drawn = jax.random.uniform(key, shape, dtype, least, above)
        # Bounds that are one number in this dtype leave that number alone.
        return jnp.maximum(jnp.minimum(drawn, jnp.nextafter(above, -jnp.inf)), least)

    return _initializer(draw)


@factory
def truncated_normal(
    mean: ArrayLike = 0.0,
    stddev: ArrayLike = 1.0,
    lower: ArrayLike = -2.0,
    upper: ArrayLike = 2.0,
) -> Initializer:
    r"""Independent normal weights, drawn again when beyond the bounds.

    $$W_{ij} = \mu + \sigma z, \qquad z \sim N(0, 1) \mid lower \le z \le upper$$

    `stddev` is that of the parent normal. With the default bounds, that of the weights is 0.88 of
    it. Bounds far out in a tail keep its distribution.

    PyTorch: `lower=(a - mean) / stddev, upper=(b - mean) / stddev`, for its `trunc_normal_(a=, b=)`
    are bounds of the weights themselves, -2 and 2 by default.

    Arguments:
        mean: mu, finite.
        stddev: sigma of the normal before truncation, at least 0.
        lower: the lower bound, in standard deviations from the mean.
        upper: the upper bound in the same units, above `lower`.

    Raises:
        ValueError: a non-finite setting, a negative stddev, bounds not in order.

    Example:
        >>> w = truncated_normal(0.0, 0.1)(jax.random.key(0), (200, 300))
        >>> round(float(w.std()), 3), bool(abs(w).max() <= 0.2)
        (0.088, True)
    """
    for name, value in (("mean", mean), ("lower", lower), ("upper", upper)):
        require_finite(name, value)
    require_non_negative("stddev", stddev)
    require_order("truncated_normal", "lower", lower, "upper", upper)

    def draw(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        bounds = jnp.asarray(lower, dtype), jnp.asarray(upper, dtype)
        in_tail = (bounds[0] > _TAIL) | (bounds[1] < -_TAIL)

        def central(key: PRNGKeyArray) -> Array:
            return jax.random.truncated_normal(key, *bounds, shape, dtype)

        def outer(key: PRNGKeyArray) -> Array:
            return _tail_of_normal(jax.random.uniform(key, shape, dtype), *bounds)

        drawn: Array = jax.lax.cond(in_tail, outer, central, key)
        return drawn

    return _affine(draw, mean, stddev)


@factory
def variance_scaling(
    scale: ArrayLike,
    mode: Literal["fan_in", "fan_out", "fan_avg"] = "fan_in",
    distribution: Literal["normal", "truncated_normal", "uniform"] = "normal",
    *,
    groups: int = 1,
    transposed: bool = False,
) -> Initializer:
    r"""Zero-mean weights whose variance is exact for the fans, whatever the distribution.

    $$\mathrm{Var}(W_{ij}) = \frac{scale}{n}, \qquad
      n \in \{n_{in},\ n_{out},\ (n_{in} + n_{out}) / 2\}$$

    The truncated normal is cut at two standard deviations of its parent. The parent is widened, so
    that the variance after truncation is the stated one.

    Arguments:
        scale: fan times variance, positive.
        mode: the fan n that divides it.
        distribution: "normal" is not truncated.
        groups, transposed: of a convolution, as in `compute_fans`.

    Raises:
        ValueError: a scale that is not positive, an unknown mode or distribution; when called, a
            shape without fans.

    Example:
        >>> w = variance_scaling(2.0, "fan_in", "uniform")(jax.random.key(0), (400, 100))
        >>> round(float(w.var() * 400), 1)
        2.0
    """
    require_positive("scale", scale)
    require_choice("mode", mode, _MODES)
    require_choice("distribution", distribution, _DISTRIBUTIONS)

    def init(
        key: PRNGKeyArray, shape: Sequence[int], dtype: DTypeLike = jnp.float32
    ) -> Float[Array, "..."]:
        fan_in, fan_out = compute_fans(shape, groups=groups, transposed=transposed)
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[mode]
        stddev = _sqrt(scale) / math.sqrt(fan)
        if distribution == "normal":
            return normal(0.0, stddev)(key, shape, dtype)
        if distribution == "truncated_normal":
            return truncated_normal(0.0, stddev / _STDDEV_CUT_AT_TWO)(key, shape, dtype)
        bound = math.sqrt(3) * stddev
        return uniform(-bound, bound)(key, shape, dtype)

    return init


@factory
def lecun_normal() -> Initializer:
    r"""Normal weights that keep the variance of a linear layer's signal, Var(W) = 1 / fan_in.

    Example:
        >>> w = lecun_normal()(jax.random.key(0), (400, 100))
        >>> round(float(w.var() * 400), 1)
        1.0

    Source: LeCun, Bottou, Orr and Müller (1998), equation 16.
    """
    return variance_scaling(1.0, "fan_in", "normal")


@factory
def lecun_uniform() -> Initializer:
    """Uniform weights with Var(W) = 1 / fan_in; otherwise as `lecun_normal`."""
    return variance_scaling(1.0, "fan_in", "uniform")


@factory
def glorot_normal(gain: ArrayLike = 1.0) -> Initializer:
    r"""Normal weights between keeping the signal's variance and keeping the gradient's.

    $$\mathrm{Var}(W_{ij}) = \frac{2 \, gain^2}{n_{in} + n_{out}}$$

    PyTorch: the defaults, its `xavier_normal_`. Flax's own `glorot_normal` is truncated.

    Arguments:
        gain: the activation's gain, positive; see `gain`.

    Raises:
        ValueError: a gain that is not positive; when called, a shape without fans.

    Example:
        >>> w = glorot_normal()(jax.random.key(0), (400, 100))
        >>> round(float(w.var() * 250), 1)
        1.0

    Source: Glorot and Bengio (2010), equation 12.
    """
    require_positive("gain", gain)
    return variance_scaling(gain * gain, "fan_avg", "normal")


@factory
def glorot_uniform(gain: ArrayLike = 1.0) -> Initializer:
    """Uniform weights of the same variance as `glorot_normal`; Glorot and Bengio's equation 16."""
    require_positive("gain", gain)
    return variance_scaling(gain * gain, "fan_avg", "uniform")


@factory
def he_normal(
    negative_slope: ArrayLike = 0.0, mode: Literal["fan_in", "fan_out", "fan_avg"] = "fan_in"
) -> Initializer:
    r"""Normal weights that keep the second moment through ReLU or leaky ReLU.

    $$\mathrm{Var}(W_{ij}) = \frac{2}{(1 + a^2) \, n}$$

    PyTorch: the defaults, its `kaiming_normal_`. Flax's own `he_normal` is truncated.

    Arguments:
        negative_slope: a, the slope below zero, finite; 0 is ReLU.
        mode: "fan_in" keeps the signal's variance, "fan_out" the gradient's.

    Raises:
        ValueError: a non-finite slope, an unknown mode; when called, a shape without fans.

    Example:
        >>> w = he_normal()(jax.random.key(0), (400, 100))
        >>> round(float(w.var() * 400), 1)
        2.0

    Source: He, Zhang, Ren and Sun (2015), equations 10, 14 and 15.
    """
    return variance_scaling(_he_scale(negative_slope), mode, "normal")


@factory
def he_uniform(
    negative_slope: ArrayLike = 0.0, mode: Literal["fan_in", "fan_out", "fan_avg"] = "fan_in"
) -> Initializer:
    """Uniform weights of the same variance as `he_normal`."""
    return variance_scaling(_he_scale(negative_slope), mode, "uniform")


@factory
def torch_kernel() -> Initializer:
    r"""PyTorch's default kernel of Linear and Conv layers, a third of LeCun's variance.

    $$W_{ij} \sim U[-1/\sqrt{n_{in}},\ 1/\sqrt{n_{in}})$$

    Example:
        >>> w = torch_kernel()(jax.random.key(0), (400, 100))
        >>> bool(abs(w).max() <= 0.05)
        True

    Source: `torch.nn.Linear.reset_parameters`, `kaiming_uniform_(a=sqrt(5))`.
    """
    return variance_scaling(1 / 3, "fan_in", "uniform")


@factory
def torch_bias(fan_in: int) -> Initializer:
    r"""PyTorch's default bias: uniform on +-1/sqrt(fan_in), with the kernel's fan_in.

    Arguments:
        fan_in: values each unit of the layer reads; see `compute_fans`.

    Raises:
        ValueError: a fan_in below one.

    Example:
        >>> b = torch_bias(400)(jax.random.key(0), (100,))
        >>> bool(abs(b).max() <= 0.05)
        True

    Source: `torch.nn.Linear.reset_parameters`.
    """
    if fan_in < 1:
        raise ValueError(f"fan_in must be at least 1, got {fan_in}; pass the kernel's fan_in")
    bound = 1 / math.sqrt(fan_in)
    return uniform(-bound, bound)


xavier_normal, xavier_uniform = glorot_normal, glorot_uniform
kaiming_normal, kaiming_uniform = he_normal, he_uniform


def _stddev_between(bound: float) -> float:
    """Standard deviation of a standard normal cut at +-bound."""
    density = math.exp(-bound * bound / 2) / math.sqrt(2 * math.pi)
    return math.sqrt(1 - 2 * bound * density / math.erf(bound / math.sqrt(2)))


_STDDEV_CUT_AT_TWO = _stddev_between(2.0)


def _tail_of_normal(share: Array, lower: Array, upper: Array) -> Array:
    r"""The normal quantiles of shares of the mass between two bounds of one sign.

    In float32 the mass up to 6 is 1 - 1e-9, which is 1. So the mass beyond, Q, is taken, and its
    logarithm: $\log Q(z) = \log Q(a) + \log(1 - s\,(1 - Q(b) / Q(a)))$ for a share s, is solved for
    z by Newton's steps, which converge from below because log Q is concave.
    """
    near, far = (
        jnp.minimum(jnp.abs(lower), jnp.abs(upper)),
        jnp.maximum(jnp.abs(lower), jnp.abs(upper)),
    )
    at_near, at_far = (jax.scipy.special.log_ndtr(-bound) for bound in (near, far))
    # How much less log Q is than at the nearer bound; 0 there.
    lost = jnp.log1p(share * jnp.expm1(at_far - at_near))
    z = jnp.sqrt(jnp.square(near) - 2 * lost)
    for _ in range(6):
        log_mass = jax.scipy.special.log_ndtr(-z)
        hazard = jnp.exp(-jnp.square(z) / 2 - math.log(2 * math.pi) / 2 - log_mass)
        z = z + (log_mass - at_near - lost) / hazard
    return jnp.sign(lower) * jnp.clip(z, near, far)


def _initializer(draw: Callable[[PRNGKeyArray, tuple[int, ...], DTypeLike], Array]) -> Initializer:
    """`draw` in its working precision, rounded once to the requested dtype."""

    def init(
        key: PRNGKeyArray, shape: Sequence[int], dtype: DTypeLike = jnp.float32
    ) -> Float[Array, "..."]:
        return draw(key, tuple(shape), working_dtype(dtype)).astype(dtype)

    return init


def _affine(draw: Callable[..., Array], mean: ArrayLike, stddev: ArrayLike) -> Initializer:
    def draw_scaled(key: PRNGKeyArray, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
        return draw(key, shape=shape, dtype=dtype) * jnp.asarray(stddev, dtype) + jnp.asarray(
            mean, dtype
        )

    return _initializer(draw_scaled)


def _he_scale(negative_slope: ArrayLike) -> ArrayLike:
    require_finite("negative_slope", negative_slope)
    return 2 / (1 + negative_slope * negative_slope)


def _sqrt(value: ArrayLike) -> ArrayLike:
    """The root: in float64 if the value is known, for float64 weights; else traced."""
    if isinstance(value, jax.Array):
        return jnp.sqrt(value)
    return math.sqrt(float(value))  # type: ignore[arg-type]  # a number by now
