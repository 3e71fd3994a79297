"""What depends on the width of a network, a line for each of its rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxdl.plotting.figure import new_figure

MOST_NAMED = 16
"""Rows that have a name in the legend; of more, they are spread over all."""


def width_curves(
    names: Sequence[str], widths: Sequence[int], panels: Mapping[str, ArrayLike], *, title: str = ""
) -> Any:
    """A figure of sizes against the width of a network, both axes logarithmic; a panel for each.

    A line is the geometric mean over seeds of one row, its colour from the first row (dark) to the
    last (light); dots are single seeds. A level line does not depend on the width.

    Arguments:
        names: of the rows, (rows,).
        widths: of the networks, (widths,).
        panels: by label, (widths, seeds, rows); a size of 0 or that is not finite has no point.
        title: of the figure.

    Example:
        >>> sizes = np.ones((3, 2, 1))
        >>> figure = width_curves(["dense_0"], [16, 64, 256], {"size": sizes, "change": sizes})
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['size', 'change']
    """
    from matplotlib import colormaps

    figure = new_figure(5 * len(panels) + 2.5, 4.5)
    drawn = np.ravel(figure.subplots(1, len(panels), squeeze=False))
    at = np.asarray(widths, np.float64)
    order = np.argsort(at)
    shades = colormaps["viridis"](np.linspace(0, 0.92, len(names)))
    chosen = {*np.linspace(0, len(names) - 1, min(len(names), MOST_NAMED)).astype(int)}
    for axes, (label, given) in zip(drawn, panels.items(), strict=True):
        values = np.array(given, np.float64)[order]
        values[~(np.isfinite(values) & (values > 0))] = np.nan
        means = np.exp(np.log(values).mean(axis=1))
        for row, shade in enumerate(shades):
            name = names[row] if row in chosen else None
            axes.plot(at[order], values[:, :, row], ".", color=shade, ms=4, alpha=0.5)
            axes.plot(at[order], means[:, row], "-", color=shade, lw=1.5, label=name)
        axes.set(xscale="log", yscale="log", xlabel="width", ylabel=label)
        axes.set_xticks(at[order], [f"{width:g}" for width in at[order]])
        axes.xaxis.minorticks_off()
        # A decade at least, so that the axis has numbers and a level line looks level.
        low, high = axes.get_ylim()
        middle, half = np.sqrt(low * high), max(np.sqrt(high / low), np.sqrt(10))
        axes.set_ylim(middle / half, middle * half)
        axes.grid(lw=0.3)
    drawn[-1].legend(fontsize=8, loc="center left", bbox_to_anchor=(1.02, 0.5))
    if title:
        figure.suptitle(title[0].upper() + title[1:])
    return figure
