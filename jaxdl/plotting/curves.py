"""The curves of one run: each measured value by step and by epoch."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxdl.plotting.figure import new_figure

Curves = Mapping[str, Any]


def learning_curves(steps: Curves, train: Curves, validation: Curves) -> Any:
    """A figure of a run, a panel for each value that it measured, by epoch.

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
    figure = new_figure(4.5 * len(names), 3.5)
    epochs = max((len(values) for values in [*train.values(), *validation.values()]), default=0)
    taken = max((len(values) for values in steps.values()), default=0)
    # The steps of an epoch that was not finished push the others a little to the left.
    a_step = epochs / taken if epochs else 1.0
    for axes, name in zip(np.ravel(figure.subplots(1, len(names))), names, strict=True):
        if name in steps:
            moments = a_step * np.arange(1, len(steps[name]) + 1)
            axes.plot(moments, steps[name], color="0.75", lw=0.7, label="each step")
        for curves, style, label in ((train, "k-", "training"), (validation, "C3o-", "validation")):
            if name in curves:
                ends = np.arange(1, len(curves[name]) + 1)
                axes.plot(ends, curves[name], style, ms=4, label=label)
        axes.set(xlabel="epoch" if epochs else "step", ylabel=name)
        axes.legend()
    return figure
