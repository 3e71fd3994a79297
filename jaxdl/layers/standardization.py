"""Values minus their mean, divided by their deviation, with the derivative in closed form."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

Counted = tuple[Array, Array] | None
"""Which values count, and how many those are for each mean; None where all count."""

MeanOf = Callable[[Array, Counted], Array]
"""A mean over some axes, kept with length 1, and over the devices that share statistics."""


@functools.partial(jax.custom_jvp, nondiff_argnums=(5, 6))
def standardize(
    values: Float[Array, "..."],
    scale: Float[Array, "..."],
    bias: Float[Array, "..."],
    near: Float[Array, "..."],
    counted: Any,
    mean_of: MeanOf,
    epsilon: float,
) -> tuple[Float[Array, "..."], Float[Array, "..."], Float[Array, "..."]]:
    r"""Normalise `values` by their own statistics; return also their mean and variance.

    $$y = \gamma \hat x + \beta, \qquad
      \hat x = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}}, \qquad
      \frac{\partial L}{\partial x} = \frac{\gamma}{\sqrt{\sigma^2 + \epsilon}}
      \left(g - \overline{g} - \hat x\, \overline{g \hat x}\right)$$

    with g the gradient of the loss with respect to y; the means are those of `mean_of`.

    The variance is the biased one, in two passes: mean_of((x - mu)^2). The derivative is written
    out, because its sums of g and of g x_hat are also the gradients of beta and gamma. So it takes
    two passes over the gradient; automatic differentiation takes four.

    Squares that overflow are taken in another unit, so y is right for deviations up to the largest
    float; the variance that is returned is infinite where no float can hold it. A feature without
    spread has y = beta and the gradient 0, also where epsilon is 0.

    Arguments:
        values: x.
        scale: gamma, of a shape that broadcasts against mean_of(x).
        bias: beta, which must broadcast in the same way.
        near: one of the values of each mean, from which the others are measured: their sum is then
            rounded less, and not at all where they are equal. It may have any value.
        counted: what `mean_of` is told of the values that count; None where all do. The gradient is
            right for values that do not count only if those of y are not used.
        mean_of: a linear function; x - mean_of(x) must have the mean zero.
        epsilon: 0 or more.

    Example:
        >>> x = jnp.array([[1.0], [3.0]])
        >>> mean_of = lambda x, counted: x.mean(0, keepdims=True)
        >>> y, mean, var = standardize(x, jnp.ones(1), jnp.zeros(1), x[:1], None, mean_of, 0.0)
        >>> y.ravel().tolist(), mean.item(), var.item()
        ([-1.0, 1.0], 2.0, 1.0)

    Source: Ioffe and Szegedy (2015), section 3, the chain rule carried out.
    """
    mean, unit, square, _, multiplier = _moments(values, near, counted, mean_of, epsilon)
    y = _centred(values, mean, unit) * (scale * multiplier) + bias
    return y, mean, jnp.where(unit == 1, square, jnp.square(jnp.sqrt(square) / unit))


class _Moments(NamedTuple):
    """The mean; a power of two; (the deviation times it)^2, with epsilon; the root's inverse."""

    mean: Array
    unit: Array
    square: Array
    with_epsilon: Array
    multiplier: Array


def _moments(
    values: Array, near: Array, counted: Counted, mean_of: MeanOf, epsilon: float
) -> _Moments:
    exponent = jnp.finfo(values.dtype).maxexp
    far = 2.0 ** (exponent * 5 // 8)
    mean = near + mean_of(values - near, counted)

    def squares(unit: float) -> Array:
        return mean_of(jnp.square(_centred(values, mean, unit)), counted)

    var = squares(1.0)
    chosen = [(jnp.isinf(var), 1 / far)]
    if epsilon < 1 / far:  # a larger one hides squares that vanish
        chosen.append((var < 2.0 ** -(exponent * 25 // 32), far))
    unit, square, added = jnp.ones_like(var), var, jnp.full_like(var, epsilon)
    for beyond, other in chosen:
        unit = jnp.where(beyond, other, unit)
        square = jnp.where(beyond, squares(other), square)
        added = jnp.where(beyond, epsilon * other * other, added)
    total = square + added
    multiplier = jnp.where(total == 0, 0, lax.rsqrt(total))
    return _Moments(mean, unit, square, total, multiplier)


def _centred(values: Array, mean: Array, unit: Any) -> Array:
    centred: Array = (values - mean) * unit
    return centred


@standardize.defjvp
def _tangents(
    mean_of: MeanOf,
    epsilon: float,
    primals: tuple[Any, ...],
    tangents: tuple[Any, ...],
) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]:
    values, scale, bias, near, counted = primals
    d_values, d_scale, d_bias, *_ = tangents
    y, mean, var = standardize(values, scale, bias, near, counted, mean_of, epsilon)
    _, unit, _, total, multiplier = _moments(values, near, counted, mean_of, epsilon)
    standard, slope = _centred(values, mean, unit) * multiplier, scale * multiplier * unit
    d_mean, covariance = mean_of(d_values, counted), mean_of(standard * d_values, counted)
    # Group terms of one shape: transposed, each group is one sum over the gradient.
    d_y = slope * d_values + (d_bias - slope * d_mean) + standard * (d_scale - slope * covariance)
    deviation = total * multiplier / unit
    return (y, mean, var), (d_y, d_mean, 2 * covariance * deviation)
