"""Eigenvalues of a curvature matrix, by layer, and their density."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxdl.plotting.figure import new_figure

MOST_PANELS = 12
"""Densities that are drawn; of more groups the first are."""


def eigenvalue_figure(
    names: Sequence[str], values: ArrayLike, errors: ArrayLike, *, label: str = "eigenvalue"
) -> Any:
    """A figure of one or several numbers for each group, with their errors.

    Arguments:
        names: of the groups, (groups,).
        values: (groups, count), after axes that are averaged over.
        errors: how far each may be off, of the same shape.
        label: what the numbers are.

    Example:
        >>> figure = eigenvalue_figure(["dense_0", "dense_1"], [[3.0], [1.0]], [[0.1], [0.1]])
        >>> figure.axes[0].get_ylabel()
        'eigenvalue'
    """
    drawn, off = (_mean(each, 2) for each in (values, errors))
    figure = new_figure(max(5, min(0.5 * len(names) + 2, 14)), 4.5)
    axes = figure.subplots()
    rows = np.arange(len(names))
    for place in range(drawn.shape[1]):
        axes.errorbar(
            rows, drawn[:, place], yerr=off[:, place], fmt="ks" if place == 0 else "wo", mec="k",
            ecolor="k", capsize=3, ms=6, label="largest" if place == 0 else None,
        )  # fmt: skip
    axes.axhline(0, color="0.6", lw=0.8)
    axes.set_xticks(rows, list(names), rotation=90 if len(names) > 4 else 0)
    axes.set(ylabel=label, xlim=(-0.6, len(names) - 0.4))
    axes.grid(lw=0.3)
    return figure


def density_figure(names: Sequence[str], grid: ArrayLike, mean: ArrayLike, error: ArrayLike) -> Any:
    """A figure of densities of eigenvalues, a panel for each group, on a logarithmic axis.

    Arguments:
        names: of the groups, (groups,).
        grid: the eigenvalues, (points,).
        mean: the densities, (groups, points).
        error: their standard errors; a band of two is drawn.

    Example:
        >>> figure = density_figure(["all"], [0.0, 1.0, 2.0], [[0.1, 1.0, 0.1]], [[0, 0.1, 0]])
        >>> figure.axes[0].get_yscale()
        'log'
    """
    points, densities, off = (np.asarray(each, np.float64) for each in (grid, mean, error))
    shown = min(len(names), MOST_PANELS)
    columns = min(shown, 3)
    lines = -(-shown // columns)
    figure = new_figure(4.2 * columns + 0.6, 3.2 * lines + 0.6)
    panels = np.atleast_1d(figure.subplots(lines, columns, squeeze=False).ravel())
    # What is below a millionth of the peak is the tail of the blur.
    floor = 1e-6 * densities.max()
    for axes, name, density, width in zip(panels, names, densities, off, strict=False):
        upper, lower = density + 2 * width, np.maximum(density - 2 * width, floor)
        axes.fill_between(points, lower, upper, color="C0", alpha=0.3, lw=0)
        axes.plot(points, np.maximum(density, floor), "C0", lw=1.4)
        axes.set(
            yscale="log", ylim=(floor, 3 * densities.max()), xlabel="eigenvalue", title=name,
            ylabel="density",
        )  # fmt: skip
        axes.grid(lw=0.3)
    for axes in panels[shown:]:
        axes.set_visible(False)
    return figure


def _mean(values: ArrayLike, axes: int) -> np.ndarray:
    array = np.asarray(values, np.float64)
    made: np.ndarray = array.reshape(-1, *array.shape[array.ndim - axes :]).mean(0)
    return made
