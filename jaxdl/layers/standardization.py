"""Values minus their mean, divided by their deviation, with the derivative in closed form."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

MeanOf = Callable[[Array], Array]
"""A mean over some axes, kept with length 1, and over the devices that share statistics."""


@functools.partial(jax.custom_jvp, nondiff_argnums=(3, 4))
def standardize(
    values: Float[Array, "..."],
    scale: Float[Array, "..."],
    bias: Float[Array, "..."],
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

    Arguments:
        values: x.
        scale: gamma, of a shape that broadcasts against mean_of(x).
        bias: beta, which must broadcast in the same way.
        mean_of: a linear function; x - mean_of(x) must have the mean zero.
        epsilon: 0 or more.

    Example:
        >>> x = jnp.array([[1.0], [3.0]])
        >>> mean_of = lambda x: x.mean(0, keepdims=True)
        >>> y, mean, var = standardize(x, jnp.ones(1), jnp.zeros(1), mean_of, 0.0)
        >>> y.ravel().tolist(), mean.item(), var.item()
        ([-1.0, 1.0], 2.0, 1.0)

    Source: Ioffe and Szegedy (2015), section 3, the chain rule carried out.
    """
    mean = mean_of(values)
    var = mean_of(jnp.square(values - mean))
    return (values - mean) * (scale * lax.rsqrt(var + epsilon)) + bias, mean, var


@standardize.defjvp
def _tangents(
    mean_of: MeanOf,
    epsilon: float,
    primals: tuple[Any, Any, Any],
    tangents: tuple[Any, Any, Any],
) -> tuple[tuple[Array, Array, Array], tuple[Array, Array, Array]]:
    values, scale, bias = primals
    d_values, d_scale, d_bias = tangents
    y, mean, var = standardize(values, scale, bias, mean_of, epsilon)
    multiplier = lax.rsqrt(var + epsilon)
    standard, slope = (values - mean) * multiplier, scale * multiplier
    d_mean, covariance = mean_of(d_values), mean_of(standard * d_values)
    # Group terms of one shape: transposed, each group is one sum over the gradient.
    d_y = slope * d_values + (d_bias - slope * d_mean) + standard * (d_scale - slope * covariance)
    return (y, mean, var), (d_y, d_mean, 2 * covariance / multiplier)
