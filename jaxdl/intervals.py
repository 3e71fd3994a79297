"""The mean over independent runs, and the interval that holds the true one."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

LEVEL = 0.95


class Estimate(NamedTuple):
    """A number from random runs, and how far the true one may be from it; arrays of one shape.

    Attributes:
        mean: what the runs found.
        half_width: half the width of the interval around it, in the same units.

    Example:
        >>> Estimate(2.0, 0.5).low, Estimate(2.0, 0.5).high
        (1.5, 2.5)
    """

    mean: Any
    half_width: Any

    @property
    def low(self) -> Any:
        """The lower end of the interval."""
        return self.mean - self.half_width

    @property
    def high(self) -> Any:
        """The upper end of the interval."""
        return self.mean + self.half_width


def interval(values: ArrayLike, axis: int = 0, *, level: float = LEVEL) -> Estimate:
    r"""The mean over runs, and how far the true mean may be from it, by Student's t.

    $$\bar{x} \pm t_{n-1}\, s / \sqrt{n}$$

    Arguments:
        values: one number per run along `axis`; at least 2 runs.
        axis: the axis of the runs.
        level: the probability that the interval contains the true mean.

    Raises:
        ValueError: fewer than 2 runs, which show no spread.

    Example:
        >>> mean, half_width = interval([1.0, 2.0, 3.0])
        >>> float(mean), round(float(half_width), 2)
        (2.0, 2.48)
    """
    values = np.asarray(values, np.float64)
    count = values.shape[axis] if values.ndim else 1
    if count < 2:
        raise ValueError(f"an interval needs at least 2 runs, got {count}; run more seeds")
    error = values.std(axis=axis, ddof=1) / np.sqrt(count)
    return Estimate(values.mean(axis=axis), students_t(1 - (1 - level) / 2, count - 1) * error)


def students_t(quantile: float, freedom: int) -> float:
    """The quantile of Student's t.

    Example:
        >>> round(students_t(0.975, 4), 3)
        2.776
    """
    from scipy.stats import t

    return float(t.ppf(quantile, freedom))
