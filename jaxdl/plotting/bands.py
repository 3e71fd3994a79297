"""A line with a band: many runs of one curve."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxdl.intervals import interval


def band(
    axes: Any,
    x: ArrayLike,
    runs: ArrayLike,
    style: str = "-",
    *,
    spread: Any = "interval",
    alpha: float = 0.2,
    **line: Any,
) -> Any:
    r"""Draw the middle of several runs as a line, and how they spread as a band in its colour.

    | `spread` | line | band |
    | --- | --- | --- |
    | `"interval"` | mean | 95 % interval of the mean, $\bar{x} \pm t_{n-1} s / \sqrt{n}$ |
    | `"range"` | mean | from the least run to the greatest |
    | `(0.1, 0.9)` | median | from one quantile to the other |

    Arguments:
        axes: matplotlib's.
        x: (points,).
        runs: (runs, points); 2 runs or more for an interval.
        style: of the line, as matplotlib's `plot` takes it: "C0--".
        spread: what the band shows; say it in the figure.
        alpha: how much the band covers.
        line: further settings of the line: `label`, `lw`, `color`.

    Returns:
        The line.

    Raises:
        ValueError: `runs` is no table of runs by points, or the spread is none of the above.

    Example:
        >>> from jaxdl.plotting import new_figure
        >>> axes = new_figure(4, 3).subplots()
        >>> line = band(axes, [1, 2], [[0.0, 2.0], [2.0, 4.0]], "C1-", spread="range")
        >>> line.get_ydata().tolist()
        [1.0, 3.0]
    """
    values = np.asarray(runs, np.float64)
    if values.ndim != 2 or values.shape[1] != len(np.asarray(x)):
        raise ValueError(
            f"runs must be a table of (runs, points) with {len(np.asarray(x))} points, got the "
            f"shape {values.shape}; put the runs first, one row each"
        )
    middle, low, high = _middle_and_ends(values, spread)
    (drawn,) = axes.plot(x, middle, style, **line)
    axes.fill_between(x, low, high, color=drawn.get_color(), alpha=alpha, lw=0)
    return drawn


def _middle_and_ends(values: np.ndarray, spread: Any) -> tuple[Any, Any, Any]:
    if spread == "interval":
        estimate = interval(values)
        return estimate.mean, estimate.low, estimate.high
    if spread == "range":
        return values.mean(0), values.min(0), values.max(0)
    if isinstance(spread, tuple) and len(spread) == 2 and 0 <= spread[0] <= spread[1] <= 1:
        low, middle, high = np.quantile(values, (spread[0], 0.5, spread[1]), axis=0)
        return middle, low, high
    raise ValueError(
        f'spread must be "interval", "range" or two quantiles such as (0.1, 0.9), got {spread!r}; '
        "pass one of them"
    )
