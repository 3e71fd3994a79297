"""Steps against examples: the batch size at which saving steps ends."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

SMALLEST = 1e-6
"""The relative difference of steps that is none."""


class TradeOff(NamedTuple):
    """What `batch_trade_off` fits.

    Attributes:
        least_steps: S_min, the steps of a batch without end.
        least_examples: E_min, the examples of batches of one.
        critical_batch: E_min / S_min, in examples: twice the least steps, and twice the examples.
    """

    least_steps: float
    least_examples: float
    critical_batch: float

    def steps(self, batch_sizes: ArrayLike) -> np.ndarray:
        """The steps that the law has for these batch sizes."""
        sizes = np.asarray(batch_sizes, np.float64)
        return np.asarray(self.least_steps + self.least_examples / sizes)


def batch_trade_off(batch_sizes: ArrayLike, steps: ArrayLike) -> TradeOff:
    r"""Fit the law of steps and examples to runs of several batch sizes, up to one loss.

    $$\Bigl(\frac{S}{S_{min}} - 1\Bigr)\Bigl(\frac{E}{E_{min}} - 1\Bigr) = 1, \qquad E = B S, \qquad
      \text{or}\quad S = S_{min} \Bigl(1 + \frac{B_{crit}}{B}\Bigr), \qquad
      B_{crit} = \frac{E_{min}}{S_{min}}$$

    by least squares of the logarithms. The law has two limits, which the fit may reach. Steps that
    fall as fast as the batch grows, or faster, show no end of that: S_min is 0 and the critical
    batch inf. Steps that do not fall show no gain: E_min and the critical batch are 0. Each batch
    size should have its own best rate: with one rate for all, the fit is of that rate.

    Arguments:
        batch_sizes: two or more, (sizes,).
        steps: up to the same loss, (sizes,).

    Returns:
        A `TradeOff`; its numbers are NaN if a run did not arrive, so that its steps are inf or NaN.

    Raises:
        ValueError: fewer than two batch sizes, other shapes, numbers that are not positive, or
            sizes that are not finite.

    Example:
        >>> found = batch_trade_off([1, 16, 256], [1020.0, 82.5, 23.90625])
        >>> [round(each, 3) for each in found]
        [20.0, 1000.0, 50.0]

    Source: McCandlish, Kaplan and Amodei (2018), equation 2.11.
    """
    from scipy.optimize import least_squares

    sizes, taken = (np.asarray(each, np.float64) for each in (batch_sizes, steps))
    if sizes.ndim != 1 or sizes.shape != taken.shape or len(set(sizes.tolist())) < 2:
        raise ValueError(
            "batch_sizes and steps must have one number for each of two batch sizes or more, got "
            f"shapes {sizes.shape} and {taken.shape}; pass the steps of each size"
        )
    if not np.isfinite(sizes).all():
        raise ValueError(f"batch_sizes must be finite, got {sizes.tolist()}; leave such runs out")
    if (sizes <= 0).any() or (taken <= 0).any():
        raise ValueError(
            f"batch_sizes and steps must be positive, got {sizes.min():g} and {np.min(taken):g} at "
            "least; leave such runs out"
        )
    if not np.isfinite(taken).all():
        return TradeOff(np.nan, np.nan, np.nan)

    def errors(logs: np.ndarray) -> np.ndarray:
        least, critical = np.exp(logs)
        return np.asarray(np.log(least * (1 + critical / sizes)) - np.log(taken))

    start = np.log([taken.min(), np.sqrt(sizes.min() * sizes.max())])
    fit = least_squares(errors, start)
    least, critical = np.exp(fit.x)

    # The limits. The fit only creeps towards them: what it cannot tell from them is there.
    many, few = np.log(taken), np.log(taken * sizes)
    lost = 2 * fit.cost + len(sizes) * SMALLEST**2
    if np.sum((many - many.mean()) ** 2) <= lost:
        return TradeOff(float(np.exp(many.mean())), 0.0, 0.0)
    if np.sum((few - few.mean()) ** 2) <= lost:
        return TradeOff(0.0, float(np.exp(few.mean())), np.inf)
    return TradeOff(float(least), float(least * critical), float(critical))
