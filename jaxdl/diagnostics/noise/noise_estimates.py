"""Unbiased estimates from the gradients of small batches: the gradient's square, and the noise."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxdl.intervals import LEVEL

FEWEST = 4
"""Examples below which the estimate of a ratio has no finite mean."""


class Shares(NamedTuple):
    """How small batches make up the whole batch.

    Attributes:
        weight: the share of each in the whole, (units,); their sum is 1.
        spread: of each, the sum of the squared shares of its examples in it: 1 / examples, where
            all weigh the same.
    """

    weight: Float[Array, " units"]
    spread: Float[Array, " units"]


class NoiseEstimates(NamedTuple):
    """Estimates, and jackknife errors; in the units of the norms.

    Attributes:
        squared_gradient: of |E[g]|^2, unbiased, so it may be negative.
        covariance_trace: of tr Cov(g), unbiased.
        squared_gradient_error: its standard error.
        covariance_trace_error: its standard error.
        noise_scale: the ratio of the two; NaN where the gradient's square is not positive.
        low: the lower end of the ratio's interval, at 95 %.
        high: the upper end; inf where the gradient's square may be 0.
    """

    squared_gradient: Array
    covariance_trace: Array
    squared_gradient_error: Array
    covariance_trace_error: Array
    noise_scale: Array
    low: Array
    high: Array


def estimate_noise(
    norms: Float[Array, " units"],
    projections: Float[Array, " units"],
    total: Array,
    shares: Shares,
) -> NoiseEstimates:
    r"""The square of the mean gradient and the trace of the gradients' covariance.

    $$S = \frac{\sum_k p_k \lvert g_k\rvert^2 - \lvert G\rvert^2}{\sum_k p_k q_k - \sum_k p_k^2
      q_k}, \qquad \mathcal{G}^2 = \lvert G\rvert^2 - S \sum_k p_k^2 q_k, \qquad
      B_{simple} = S / \mathcal{G}^2$$

    with G the sum of p_k g_k. A small batch's gradient has the covariance q_k Cov(g), so both are
    unbiased. If all examples weigh the same, the denominator is 1/B_small - 1/B_big, and S that of
    two batch sizes.

    A small batch without weight counts in nothing. With one alone all is NaN, with two the errors.

    The errors are the jackknife's: each small batch is left out once. The ratio's interval is
    Fieller's: the b for which S - b G^2 is 0 within t standard errors of it.

    Arguments:
        norms: of the small batches' gradients g_k.
        projections: of these on the whole batch's gradient, g_k . G / |G|.
        total: the norm of G.
        shares: see `Shares`.

    Source: McCandlish, Kaplan and Amodei (2018), appendix A.1; Fieller (1954) for the interval.

    Example:
        >>> gradients = jnp.array([[1.0, 2.0], [1.0, -2.0], [1.0, 0.0]])
        >>> total = gradients.mean(0)
        >>> found = estimate_noise(
        ...     jnp.linalg.norm(gradients, axis=1), gradients @ total / total[0],
        ...     total[0], Shares(jnp.full(3, 1 / 3), jnp.ones(3)))
        >>> round(found.covariance_trace.item(), 4), round(found.squared_gradient.item(), 4)
        (4.0, -0.3333)
    """
    # In the unit of the largest, so that no square that counts overflows or vanishes.
    unit = jnp.max(norms)
    unit = jnp.where(unit > 0, unit, 1)
    products = projections / unit * (total / unit)
    squares, total = (norms / unit) ** 2, (total / unit) ** 2
    p, q = shares
    mean, within, between = jnp.sum(p * squares), jnp.sum(p * q), jnp.sum(p * p * q)
    count = jnp.sum(p > 0)
    trace = jnp.where(count > 1, jnp.maximum(mean - total, 0) / (within - between), jnp.nan)
    signal = total - trace * between

    # What leaving one out changes, without differences of nearly equal numbers.
    rest = 1 - p
    of_mean = p * (mean - squares) / rest
    of_total = (2 * p * (total - products) + p * p * (squares - total)) / rest**2
    of_within = p * (within - q) / rest
    of_between = (2 * p * between - p * p * (between + q)) / rest**2
    of_trace = (of_mean - of_total - trace * (of_within - of_between)) / (
        within - between + of_within - of_between
    )
    of_signal = of_total - of_trace * (between + of_between) - trace * of_between
    freedom = count - 1

    def covariance(one: Array, other: Array) -> Array:
        means = [jnp.sum(jnp.where(p > 0, each, 0)) / count for each in (one, other)]
        apart = jnp.where(p > 0, (one - means[0]) * (other - means[1]), 0)
        return (count - 1) / count * jnp.sum(apart)

    of_signals, of_traces = covariance(of_signal, of_signal), covariance(of_trace, of_trace)
    t = jnp.where(freedom > 1, t_of_level(freedom, len(p) - 1), jnp.nan).astype(p.dtype)
    low, high = _fieller(
        trace, signal, of_traces * t**2, of_signals * t**2, covariance(of_trace, of_signal) * t**2
    )
    return NoiseEstimates(
        squared_gradient=signal * unit * unit,
        covariance_trace=trace * unit * unit,
        squared_gradient_error=_known(jnp.sqrt(of_signals), freedom) * unit * unit,
        covariance_trace_error=_known(jnp.sqrt(of_traces), freedom) * unit * unit,
        noise_scale=jnp.where(signal > 0, trace / signal, jnp.nan),
        low=low,
        high=high,
    )


def t_of_level(freedom: Array, most: int) -> Array:
    """The half width of a 95 % interval in standard errors, by Student's t; NaN for no freedom.

    Arguments:
        freedom: the degrees of freedom, an integer that may be traced.
        most: an upper bound of them.
    """
    from scipy.stats import t

    known = t.ppf(1 - (1 - LEVEL) / 2, np.arange(1, most + 1))
    return jnp.asarray(np.append(np.nan, known))[jnp.maximum(freedom, 0)]


def _known(error: Array, freedom: Array) -> Array:
    """NaN if there are but two small batches: with one left out there is no estimate."""
    return jnp.where(freedom > 1, error, jnp.nan)


def _fieller(
    top: Array, bottom: Array, of_top: Array, of_bottom: Array, both: Array
) -> tuple[Array, Array]:
    """The b >= 0 with (top - b bottom)^2 <= of_top - 2 b both + b^2 of_bottom."""
    a, b, c = bottom**2 - of_bottom, top * bottom - both, top**2 - of_top
    root = jnp.sqrt(jnp.maximum(b * b - a * c, 0))
    bounded = (a > 0) & (bottom > 0)
    low = jnp.where(bounded, (b - root) / a, c / (b + root))
    # With no bound above, and c <= 0, even 0 is not excluded.
    low = jnp.where((c <= 0) | ~((b + root > 0) | bounded), 0.0, low)
    unknown = jnp.isnan(of_top)
    high = jnp.where(bounded, (b + root) / a, jnp.inf)
    low, high = (jnp.where(unknown, jnp.nan, jnp.maximum(end, 0)) for end in (low, high))
    return low, high
