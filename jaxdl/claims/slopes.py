"""Slopes of least-squares lines, by run or through points, with their intervals."""

from typing import SupportsFloat

import numpy as np
from numpy.typing import ArrayLike

from jaxdl.claims.claim import CHANCE, Claim, centred_claim
from jaxdl.intervals import LEVEL, Estimate, students_t


def slopes(x: ArrayLike, values: ArrayLike) -> np.ndarray:
    r"""The slope of the least-squares line through the points of each run.

    $$b = \sum_i (x_i - \bar{x})\, y_i \,/\, \sum_i (x_i - \bar{x})^2$$

    Of the logarithms of both it is an exponent: y ~ x^b. `about_mean` of the slopes of independent
    runs is a claim about the slope. It assumes nothing of the points of one run: they may depend on
    each other, as a learning curve's do.

    Arguments:
        x: where the points lie, (points,); at least 2 that differ.
        values: the points, (..., points), such as (runs, points).

    Returns:
        One slope a run, (...,), in units of the values per unit of x, float64.

    Raises:
        ValueError: all of x is one number, or the lengths differ.

    Example:
        >>> slopes([0, 1, 2], [[1, 3, 5], [1, 1, 1]])
        array([2., 0.])
    """
    offsets, values = _points(x, values)
    return np.asarray(values @ offsets / (offsets @ offsets))


def slope_interval(x: ArrayLike, values: ArrayLike, *, level: float = LEVEL) -> Estimate:
    r"""The slope of the line through single points, and how far the true slope may be from it.

    $$b \pm t_{n-2}\, \sqrt{\frac{\sum_i r_i^2}{(n - 2) \sum_i (x_i - \bar{x})^2}}$$

    with the residuals r of the line. The points must scatter about a line independently, normally
    and equally. Points of one run seldom do: take `slopes` of several runs then.

    Arguments:
        x: where the points lie, (points,); at least 3.
        values: the points, (points,).
        level: the probability that the interval contains the true slope.

    Raises:
        ValueError: fewer than 3 points, all of x is one number, or the lengths differ.

    Example:
        >>> slope, half_width = slope_interval([0, 1, 2, 3], [0.1, 0.9, 2.1, 2.9])
        >>> round(float(slope), 2), round(float(half_width), 2)
        (0.96, 0.24)

    Source: Draper and Smith (1998), Applied Regression Analysis, section 1.4.
    """
    slope, error, freedom = _line(x, values)
    return Estimate(slope, students_t(1 - (1 - level) / 2, freedom) * error)


def about_slope(
    text: str,
    x: ArrayLike,
    values: ArrayLike,
    low: SupportsFloat = -np.inf,
    high: SupportsFloat = np.inf,
    *,
    chance: float = CHANCE,
) -> Claim:
    """Claim that the true slope of the line through single points lies in the band.

    What the points must be, `slope_interval` says. For several runs use `about_mean` of `slopes`.

    Arguments:
        x, values: as in `slope_interval`.
        text, low, high, chance: as in `about_mean`.

    Example:
        >>> widths = np.array([10, 20, 40, 80, 160])
        >>> errors = np.array([0.0759, 0.0355, 0.0178, 0.0087, 0.0041])
        >>> about_slope("error ~ 1/width", np.log(widths), np.log(errors), -1.2, -0.9).number
        '-1.045 (-1.074 to -1.016)'
    """
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        return Claim(text, np.nan, low, high)
    slope, error, freedom = _line(x, values)
    near = students_t(1 - (1 - LEVEL) / 2, freedom) * error
    far = students_t(1 - chance, freedom) * error
    return centred_claim(text, slope, low, high, near, far, chance)


def _points(x: ArrayLike, values: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both in float64, x from its mean."""
    x, values = np.asarray(x, np.float64), np.asarray(values, np.float64)
    if x.ndim != 1 or values.ndim < 1 or values.shape[-1] != len(x):
        raise ValueError(
            "a line needs x of shape (points,) and values (..., points), got "
            f"{x.shape} and {values.shape}; give a value for every x"
        )
    if len(np.unique(x)) < 2:
        raise ValueError(f"a line needs points at 2 or more values of x, got {np.unique(x)}")
    return x - x.mean(), values


def _line(x: ArrayLike, values: ArrayLike) -> tuple[float, float, int]:
    """Slope, its standard error and the degrees of freedom."""
    offsets, points = _points(x, values)
    if points.ndim != 1:
        raise ValueError(
            f"one line needs values of shape (points,), got {points.shape}; for several runs use "
            "about_mean or interval of slopes(x, values)"
        )
    freedom = len(points) - 2
    if freedom < 1:
        raise ValueError(f"a slope's interval needs at least 3 points, got {len(points)}")
    slope = float(points @ offsets / (offsets @ offsets))
    residuals = points - points.mean() - slope * offsets
    error = np.sqrt(residuals @ residuals / freedom / (offsets @ offsets))
    return slope, float(error), freedom
