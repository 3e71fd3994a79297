"""How noisy a gradient is, by layer, and how its examples point."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxdl.plotting.figure import new_figure

BINS = 40
"""Of the histogram of cosines."""
MOST_LINES = 8
"""Groups whose cosines are drawn: the first ones."""


def noise_figure(
    names: Sequence[str],
    noise_scale: ArrayLike,
    low: ArrayLike,
    high: ArrayLike,
    alignment: ArrayLike,
    *,
    unit: str = "single examples",
) -> Any:
    """A figure of two panels: the noise scale of each group, and the cosines of its gradients.

    A group without a noise scale has an arrow from the interval's lower end.

    Arguments:
        names: of the groups, (groups,).
        noise_scale: in examples, (groups,); NaN where the gradient does not stand out.
        low: the lower ends of its intervals, (groups,).
        high: the upper ends, inf where there is none.
        alignment: cosines between the gradients of the units and their mean, (groups, units).
        unit: what has one gradient.

    Example:
        >>> figure = noise_figure(["a"], [8.0], [4.0], [np.inf], [[0.5, -0.25, 0.75]])
        >>> [axes.get_xscale() for axes in figure.axes]
        ['log', 'linear']
    """
    figure = new_figure(11, max(3.2, min(1.6 + 0.32 * len(names), 12)))
    scales, turns = figure.subplots(1, 2)
    middle, bottom, top = (np.asarray(each, np.float64) for each in (noise_scale, low, high))
    rows = np.arange(len(names))
    known = np.isfinite(middle)
    ends = np.concatenate([middle[known], bottom[bottom > 0], top[np.isfinite(top) & (top > 0)]])
    if ends.size:
        edges = 10 ** np.floor(np.log10(ends.min())), 10 ** np.ceil(np.log10(ends.max()))
        scales.set_xlim(edges[0], max(edges[1], 10 * edges[0]))
    left, right = scales.get_xlim() if ends.size else (0.1, 10.0)
    scales.set_xscale("log")
    for row in rows:
        if np.isnan(bottom[row]) and not known[row]:
            continue
        start = max(bottom[row], left) if bottom[row] > 0 else left
        stop = min(top[row], right) if np.isfinite(top[row]) else right
        scales.plot([start, stop], [row, row], "-", color="0.6", lw=2, zorder=1)
        if not np.isfinite(top[row]):
            scales.plot(right, row, ">", color="0.6", ms=6, clip_on=False)
    scales.plot(middle[known], rows[known], "ks", ms=5)
    scales.set_yticks(rows, list(names), fontsize=8)
    scales.set_ylim(len(names) - 0.5, -0.5)
    scales.grid(lw=0.3)
    scales.set(xlabel="noise scale (examples), 95 % interval", title="Gradient noise")
    cosines = np.asarray(alignment, np.float64)
    for name, values in list(zip(names, cosines, strict=True))[:MOST_LINES]:
        turns.hist(values, np.linspace(-1, 1, BINS + 1), histtype="step", label=name)
    turns.axvline(0, color="0.6", lw=1)
    turns.set(
        xlabel="cosine with the mean gradient", ylabel="gradients", title=f"Gradients of {unit}"
    )
    turns.legend(fontsize=8)
    return figure


def ratio_figure(
    names: Sequence[str], median: ArrayLike, seen: ArrayLike, without_gradient: ArrayLike
) -> Any:
    """A figure of two panels: each group's median signal to noise, and shares of its parameters.

    Arguments:
        names: of the groups, (groups,).
        median: of |mean| / s.d. over a group's parameters, (groups,). One that is NaN has no bar;
            of one that is inf only the word is drawn.
        seen: the share whose mean gradient is not 0, at 95 %, (groups,).
        without_gradient: the share that gets no gradient, (groups,).

    Example:
        >>> figure = ratio_figure(["a", "b"], [0.3, np.inf], [0.5, 1.0], [0.25, 0.0])
        >>> [len(axes.patches) for axes in figure.axes]
        [2, 4]
    """
    figure = new_figure(9, max(3.2, min(1.6 + 0.32 * len(names), 12)))
    medians, shares = figure.subplots(1, 2)
    rows, values = np.arange(len(names)), np.asarray(median, np.float64)
    medians.barh(rows, np.where(np.isfinite(values), values, 0), height=0.6, color="C0")
    for row in rows[~np.isfinite(values)]:
        word = "inf" if np.isinf(values[row]) else "none"
        across = medians.get_yaxis_transform()  # x is a share of the width, y a row
        medians.text(0.02, row, word, va="center", fontsize=8, transform=across)
    medians.set_yticks(rows, list(names), fontsize=8)
    medians.set(xlabel="median |mean| / s.d. of examples", title="Signal to noise", xlim=(0, None))
    bars = ((seen, "seen at 95 %", "C0"), (without_gradient, "without gradient", "0.6"))
    for place, (share, label, color) in zip((-0.2, 0.2), bars, strict=True):
        heights = np.nan_to_num(np.asarray(share, np.float64))
        shares.barh(rows + place, heights, height=0.35, label=label, color=color)
    shares.axvline(0.05, color="k", ls=":", lw=1, label="seen if all is noise")
    shares.set_yticks(rows, [])
    shares.set(xlabel="share of the parameters", title="Which are seen", xlim=(0, 1))
    figure.legend(
        *shares.get_legend_handles_labels(), loc="outside lower right", ncols=3, fontsize=8
    )
    for axes in (medians, shares):
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(axis="x", lw=0.3)
        axes.set_axisbelow(True)
    return figure
