"""The curves of one run: each measured value by step and by epoch."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdl.plotting.figure import new_figure

Curves = Mapping[str, Any]

PANELS_IN_A_ROW = 3


def learning_curves(steps: Curves, train: Curves, validation: Curves) -> Any:
    """A figure of a run, a panel for each value that it measured, by epoch; three in a row.

    Thin: each step's batch. Thick: the mean over an epoch's steps, and over the validation split
    after it.

    Arguments:
        steps: (steps,) by name.
        train: (epochs,) by name.
        validation: (epochs,) by name; empty without a split.

    Raises:
        ValueError: nothing was measured.

    Example:
        >>> figure = learning_curves({"loss": np.ones(6)}, {"loss": np.ones(2)}, {})
        >>> [axes.get_ylabel() for axes in figure.axes]
        ['loss']
    """
    names = sorted(dict.fromkeys([*steps, *validation]), key=lambda name: name != "loss")
    if not names:
        raise ValueError("a run must have measured something to be drawn, got no step; run some")
    across = min(len(names), PANELS_IN_A_ROW)
    down = -(-len(names) // across)
    figure = new_figure(4.5 * across, 3.5 * down)
    panels = np.ravel(figure.subplots(down, across, squeeze=False))
    for panel in panels[len(names) :]:
        panel.remove()
    epochs = max((len(values) for values in [*train.values(), *validation.values()]), default=0)
    taken = max((len(values) for values in steps.values()), default=0)
    # The steps of an epoch that was not finished push the others a little to the left.
    a_step, last = (epochs / taken if taken else 1.0, epochs) if epochs else (1.0, taken)
    for axes, name in zip(panels, names, strict=False):
        if name in steps:
            moments = a_step * np.arange(1, len(steps[name]) + 1)
            axes.plot(moments, steps[name], color="0.75", lw=0.7, label="each step")
        # Dots, because one epoch between others that are not finite has no line.
        for curves, style, label in (
            (train, "k.-", "training"),
            (validation, "C3.-", "validation"),
        ):
            if name in curves:
                ends = np.arange(1, len(curves[name]) + 1)
                axes.plot(ends, curves[name], style, ms=6, label=label)
        if not any(np.isfinite(line.get_ydata()).any() for line in axes.get_lines()):
            axes.text(0.5, 0.5, "nothing finite", ha="center", transform=axes.transAxes)
        axes.xaxis.get_major_locator().set_params(integer=True)
        # One axis for all, so that values which are not finite show as a gap.
        axes.set(xlabel="epoch" if epochs else "step", ylabel=name, xlim=(0, 1.04 * max(last, 1)))
        axes.legend()
    return figure
