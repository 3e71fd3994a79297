"""The signal that goes through a network, and the gradient that comes back."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxdl.plotting.figure import new_figure

MOST_LABELS = 40
"""Rows beyond which only some are named."""


def signal_figure(
    names: Sequence[str],
    forward: ArrayLike,
    backward: ArrayLike,
    weighted: Sequence[bool],
    *,
    expected: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
) -> Any:
    """A figure of two panels that share their rows: spread of the values, spread of the gradients.

    A straight flat line is a signal that neither grows nor fades. A row of zeros has no point.

    Arguments:
        names: of the rows, in the order of execution; (rows,).
        forward: standard deviation of each row's entries; of several runs, (runs, rows), the mean
            is drawn.
        backward: standard deviation of the entries of the gradient by them.
        weighted: which rows have parameters.
        expected: a theory by its label: (forward, backward), each (rows,), NaN where it is silent.

    Example:
        >>> figure = signal_figure(["dense_0", "dense_1"], [1.0, 0.5], [1e-3, 1e-2], [True, True])
        >>> [axes.get_yscale() for axes in figure.axes]
        ['log', 'log']
    """
    figure = new_figure(max(6, min(0.3 * len(names), 14)), 6)
    rows, heavy = np.arange(len(names)), np.asarray(weighted)
    panels = figure.subplots(2, 1, sharex=True)
    for place, (axes, measured, label) in enumerate(
        zip(
            panels,
            (forward, backward),
            ("s.d. of the values", "s.d. of the gradient by them"),
            strict=True,
        )
    ):
        runs = np.array(measured, np.float64).reshape(-1, len(names))
        values = _above_zero(runs.mean(axis=0))
        axes.plot(rows, values, "-", color="0.6", lw=1)
        for chosen, style, kind in ((heavy, "ks", "with weights"), (~heavy, "wo", "without")):
            axes.plot(rows[chosen], values[chosen], style, mec="k", ms=5, label=kind)
        for number, (theory, lines) in enumerate((expected or {}).items()):
            axes.plot(rows, np.asarray(lines[place]), f"C{number + 3}--", label=theory)
        axes.set(yscale="log", ylabel=label)
        axes.grid(lw=0.3)
    every = -(-len(names) // MOST_LABELS)
    panels[-1].set_xticks(rows[::every], list(names)[::every], rotation=90, fontsize=8)
    panels[0].legend()
    return figure


def attention_figure(
    names: Sequence[str], logits: ArrayLike, entropy: ArrayLike, on_one_key: ArrayLike
) -> Any:
    """A figure of two panels that share their attentions: the largest logits, the weights' spread.

    Arguments:
        names: of the attentions, in the order of execution; (attentions,).
        logits: the largest |logit| of each; (attentions,), or (runs, attentions), as the next two.
            Of runs their mean is drawn, and each as a thin line.
        entropy: of the weights over that of even weights, 0 to 1.
        on_one_key: the share of queries that look at one key, 0 to 1.

    Example:
        >>> figure = attention_figure(["first", "second"], [3.0, 40.0], [0.9, 0.1], [0.0, 0.8])
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['largest |logit|', 'share']
    """
    figure = new_figure(max(6, min(0.3 * len(names), 14)), 6)
    rows = np.arange(len(names))
    largest, shares = figure.subplots(2, 1, sharex=True)
    for axes, given, style, label in (
        (largest, logits, "ks-", "largest |logit|"),
        (shares, entropy, "C0o-", "entropy over that of even weights"),
        (shares, on_one_key, "C3^--", "queries on one key"),
    ):
        runs = np.array(given, np.float64).reshape(-1, len(names))
        if len(runs) > 1:
            axes.plot(rows, _above_zero(runs, axes is largest).T, color="0.8", lw=0.8, zorder=1)
            label = f"{label}, mean of {len(runs):,} runs"
        mean = _above_zero(runs.mean(axis=0), axes is largest)
        axes.plot(rows, mean, style, ms=5, label=label)
    largest.set(yscale="log", ylabel="largest |logit|")
    shares.set(ylabel="share", ylim=(-0.03, 1.03))
    for axes in (largest, shares):
        axes.grid(lw=0.3)
    every = -(-len(names) // MOST_LABELS)
    shares.set_xticks(rows[::every], list(names)[::every], rotation=90, fontsize=8)
    shares.legend(fontsize=8)
    return figure


def _above_zero(values: np.ndarray, is_log: bool = True) -> np.ndarray:
    """What a logarithmic axis can show."""
    return np.where(values > 0, values, np.nan) if is_log else values
