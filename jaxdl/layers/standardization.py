"""Values minus their mean, divided by their deviation, with the derivative in closed form."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Counted = tuple[Array | None, Any]
"""Which values count, or None where all do; and how many those are for each mean."""

SumOf = Callable[[Array, Array | None], Array]
"""(numbers, which count): a sum over some axes, kept with length 1, and over the devices that share
statistics."""


@functools.partial(jax.custom_jvp, nondiff_argnums=(5, 6))
def standardize(
    values: Float[Array, "..."],
    scale: Float[Array, "..."],
    bias: Float[Array, "..."],
    near: Float[Array, "..."],
    counted: Any,
    sum_of: SumOf,
    epsilon: float,
) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]:
    r"""Normalise `values` by their own statistics; return also their mean and variance.

    $$y = \gamma \hat x + \beta, \qquad
      \hat x = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}}, \qquad
      \frac{\partial L}{\partial x} = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}}
      \left(g - \overline{g} - \hat x\, \overline{g \hat x}\right)$$

    with g the gradient of the loss with respect to y; the means are sums by their number.

    The variance is the biased one, in two passes: the mean of (x - mu)^2. The derivative is written
    out, because its sums of g and of g x_hat are also the gradients of beta and gamma. So it takes
    two passes over the gradient; automatic differentiation takes four.

    Squares are taken in a unit that epsilon allows. At 1e-5 y is right for deviations up to 1e31 in
    float32; the variance that is returned is infinite where no float can hold it. A feature without
    spread has y = beta, and the gradient 0 if epsilon is 0.

    Arguments:
        values: x.
        scale: gamma, of a shape that broadcasts against the sums.
        bias: beta, which must broadcast in the same way.
        near: one of the values of each mean, from which the others are measured: their sum is then
            rounded less, and not at all where they are equal. It may have any value.
        counted: which values count, as `sum_of` is told, and how many those are: a number, or an
            array that broadcasts against the sums. The gradient is right for values that do not
            count only if those of y are not used.
        sum_of: a linear function.
        epsilon: 0 or more.

    Example:
        >>> x = jnp.array([[1.0], [3.0]])
        >>> sum_of = lambda x, counted: x.sum(0, keepdims=True)
        >>> y, mean, var = standardize(x, jnp.ones(1), jnp.zeros(1), x[:1], (None, 2), sum_of, 0.0)
        >>> y.ravel().tolist(), mean.item(), var.item()
        ([-1.0, 1.0], 2.0, 1.0)

    Source: Ioffe and Szegedy (2015), section 3, the chain rule carried out.
    """
    mean, var, multiplier = _moments(values, near, counted, sum_of, epsilon)
    return (values - mean) * (scale * multiplier) + bias, mean, var


def _moments(
    values: Array, near: Array, counted: Counted, sum_of: SumOf, epsilon: float
) -> tuple[Array, Array, Array]:
    """The mean, the variance, and the inverse of the deviation."""
    which, number = counted
    # So that the sum of the squares is no infinity where their mean is none, as in `_unit`.
    part = 2.0 ** -math.ceil(math.log2(values.size / near.size) / 2)
    unit = _unit(values.dtype, epsilon)
    total = sum_of(values - near, which)
    # An infinite sum is of values whose squares are infinite, too: any mean will do.
    mean = near + jnp.where(jnp.isinf(total), 0, total) / number
    deviation = (values - _apart(mean, near, 1)) * _apart(part * unit, near, 1)
    square = sum_of(jnp.square(deviation), which) / (number * part**2)
    return mean, square / unit**2, _inverse_deviation(square, unit, epsilon)


def _apart(value: Any, near: Array, use: int) -> Array:
    """The value, of the shape of the means, as a variable of its own for this use.

    XLA's CPU backend computes a sum of products in one pass over the arrays. But what two of its
    operations share, such as x - mu, or what is one number for all, it writes to memory first, in
    the size of x. So each sum gets variables of its own, which XLA does not know to be the same.
    """
    return jnp.where(jnp.isnan(near), use, value).astype(near.dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(1, 2))
def _inverse_deviation(square: Array, unit: float, epsilon: float) -> Array:
    """One by the root of variance + epsilon, where `square` is the variance times unit^2."""
    total = square + epsilon * unit**2
    return jnp.where(total == 0, 0, lax.rsqrt(total) * unit)


@_inverse_deviation.defjvp
def _slope_of_inverse(
    unit: float, epsilon: float, primals: tuple[Array], tangents: tuple[Array]
) -> tuple[Array, Array]:
    inverse = _inverse_deviation(primals[0], unit, epsilon)
    root = inverse / unit
    # Its cube, as JAX takes it, would be no float.
    return inverse, -0.5 * inverse * root * (root * tangents[0])


def _unit(dtype: Any, epsilon: float) -> float:
    """A power of two, 1 or less, in which large squares are floats, and small ones that count too.

    A deviation counts if its square changes epsilon, that is if it is at least sqrt(epsilon) times
    2^(-digits / 2). Its square is to be a normal number, just so.
    """
    limits = jnp.finfo(dtype)
    if epsilon == 0:
        return 1.0
    counts = math.log2(epsilon) / 2 - limits.nmant / 2 - 1
    return float(2.0 ** min(math.ceil(limits.minexp / 2 - counts), 0))


@standardize.defjvp
def _tangents(
    sum_of: SumOf,
    epsilon: float,
    primals: tuple[Any, ...],
    tangents: tuple[Any, ...],
) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]:
    values, scale, bias, near, counted = primals
    d_values, d_scale, d_bias, *_ = tangents
    # Moments are taken once: of sums over devices the compiler never sees that two are the same.
    mean, var, multiplier = _moments(values, near, counted, sum_of, epsilon)
    y = (values - mean) * (scale * multiplier) + bias
    (which, number), slope = counted, scale * multiplier
    standard = (values - mean) * multiplier
    d_mean = sum_of(d_values, which) / number
    covariance = sum_of(standard * d_values, which) / number
    # Group terms of one shape: transposed, each group is one sum over the gradient.
    d_slope, centred = d_scale - slope * covariance, values - _apart(mean, near, 2)
    if epsilon > 0:
        d_standard = centred * (multiplier * d_slope)
    else:  # values as small as there are, whose products may be no floats
        d_standard = centred * _apart(multiplier, near, 2) * d_slope
    d_y = slope * d_values + (d_bias - slope * d_mean) + d_standard
    flat = multiplier == 0
    deviation = jnp.where(flat, 0, 1 / jnp.where(flat, 1, multiplier))
    return (y, mean, var), (d_y, d_mean, 2 * covariance * deviation)
