"""Contours of a surface with the paths of optimizers over it, as a figure."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Array, Float

from jaxdl.plotting.figure import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Each combination occurs once among twelve paths. In a grey print the markers and dashes remain.
# The colours follow Wong (2011), made darker on grey; colour-blind readers can tell them apart.
COLOURS = ("#d55e00", "#0072b2", "#000000", "#008a63", "#b0407f", "#7a4a00", "#2a93d5", "#b8860b")
DASHES = ("-", "--", "-.", (0, (1, 1)), (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)))
MARKERS = "osD^vXP<>phd"

LEGEND_ENTRY_INCHES = 1.6

LOG_LEVELS_FROM = 100.0
"""A surface that spans this many times its lowest hundredth gets logarithmic levels."""


@dataclass(frozen=True)
class Landscape:
    """One panel: a surface over a rectangle, and paths over it.

    Attributes:
        x: coordinates of the first axis, ascending.
        y: coordinates of the second.
        heights: s_ij at x_i and y_j, as `diagnostics.surface` returns it; heights that are not
            finite are left blank.
        paths: coordinates (points, 2) by name. They may differ in length and leave the rectangle.
        minima: points to mark with a star.
        title: the panel's title.
        x_label: the label of the first axis, with the unit if there is one.
        y_label: the label of the second axis.
        labels: what a legend below this panel says of paths, by their names ("SGD, rate 0.1");
            without them, paths are named in the legend below all panels.
    """

    x: Float[Array | np.ndarray, " x"]
    y: Float[Array | np.ndarray, " y"]
    heights: Float[Array | np.ndarray, "..."]
    paths: Mapping[str, Float[Array | np.ndarray, "..."]] = field(default_factory=dict)
    minima: Sequence[tuple[float, float]] = ()
    title: str = ""
    x_label: str = "x"
    y_label: str = "y"
    labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = np.shape(self.heights)
        if shape != (len(self.x), len(self.y)):
            raise ValueError(
                f"heights must be (x, y) = {(len(self.x), len(self.y))}, got {shape}; index the "
                "first axis by x (np.meshgrid needs indexing='ij')"
            )
        for name, path in self.paths.items():
            if np.ndim(path) != 2 or np.shape(path)[1] != 2 or not len(path):
                raise ValueError(
                    f"paths must be (points, 2), got {np.shape(path)} for {name!r}; "
                    "project them with diagnostics.project"
                )
        if stray := sorted(set(self.labels) - set(self.paths)):
            raise ValueError(
                f"labels must be of paths, got labels of {stray} for the paths "
                f"{sorted(self.paths)}; use the paths' names"
            )

    def __repr__(self) -> str:
        points = f"{len(self.x)} x {len(self.y)} heights"
        return f"Landscape({', '.join([repr(self.title), points, *map(repr, self.paths)])})"


def contour_levels(
    heights: Float[Array | np.ndarray, "..."], *, count: int = 16
) -> Float[np.ndarray, " levels"]:
    """Ascending heights for contours: evenly spaced, or logarithmically above the lowest.

    Let d be the distance of the highest height from the lowest, and e that of the lowest hundredth
    of the points. The levels are logarithmic if d is at least 100 e. Evenly spaced contours would
    then crowd the steep walls.

    Arguments:
        heights: the heights of a surface; those that are not finite do not count.
        count: the number of levels, at least 2.

    Raises:
        ValueError: fewer than two levels; no two different finite heights.

    Example:
        >>> contour_levels(np.linspace(0.0, 8.0, 51), count=5).tolist()
        [0.0, 2.0, 4.0, 6.0, 8.0]
        >>> contour_levels(np.array([1.0, 11.0, 100_001.0]), count=3).round(6).tolist()
        [11.0, 1001.0, 100001.0]
    """
    if count < 2:
        raise ValueError(f"count must be at least 2 levels, got {count}; pass 2 or more")
    finite = np.asarray(heights, np.float64)
    finite = finite[np.isfinite(finite)]
    if not finite.size or finite.min() == finite.max():
        raise ValueError(
            f"heights must hold two different finite values, got {finite[:1].tolist()} alone; "
            "widen the coordinates"
        )
    lowest, highest = finite.min(), finite.max()
    above = finite[finite > lowest] - lowest
    foot = np.quantile(above, 0.01, method="lower")
    if highest - lowest < LOG_LEVELS_FROM * foot:
        return np.linspace(lowest, highest, count)
    levels: np.ndarray = lowest + np.geomspace(foot, highest - lowest, count)
    return levels


def contours(
    *landscapes: Landscape,
    columns: int | None = None,
    size: tuple[float, float] | None = None,
    figure: Any = None,
) -> "Figure":
    """Contours with the paths, the start (a ring) and the minima (stars); a legend below.

    A path has one colour, dash and marker in all panels, by its name. Markers stand at ten places
    along the path's length, so that a path of many short steps still looks like a line.

    Arguments:
        landscapes: the panels, at least one.
        columns: panels side by side; None for all.
        size: width and height in inches; None for what the panels need, at most 12 x 7.5.
        figure: a Figure or SubFigure of matplotlib to draw in; None for a new Figure.

    Raises:
        ValueError: no panel, or heights that `contour_levels` refuses.

    Example:
        >>> x = np.linspace(-1.0, 1.0, 21)
        >>> bowl = x[:, None] ** 2 + x**2
        >>> path = np.array([[0.9, 0.4], [0.3, 0.1], [0.1, 0.0]])
        >>> figure = contours(Landscape(x, x, bowl, {"sgd": path}, minima=[(0.0, 0.0)]))
        >>> figure.axes[0].get_xlim() == (-1.0, 1.0)
        True
    """
    drawn, all_axes = backdrop(landscapes, columns, size, figure)
    styles = path_styles(landscapes)
    for axes, landscape in zip(all_axes, landscapes, strict=True):
        for name, path in landscape.paths.items():
            points = np.asarray(path, np.float64)
            axes.plot(*points.T, **styles[name], lw=1.6, markevery=_along(points), zorder=3)
    add_legends(all_axes, landscapes, styles)
    return drawn


def path_styles(landscapes: Sequence[Landscape]) -> dict[str, dict[str, Any]]:
    """matplotlib's colour, dash and marker of each path's name, in order of first appearance."""
    names = dict.fromkeys(name for landscape in landscapes for name in landscape.paths)
    cycles = zip(
        names,
        itertools.cycle(COLOURS),
        itertools.cycle(DASHES),
        itertools.cycle(MARKERS),
        strict=False,
    )
    return {
        name: {
            "color": colour,
            "linestyle": dash,
            "marker": marker,
            "ms": 6,
            "mec": "w",
            "mew": 0.5,
        }
        for name, colour, dash, marker in cycles
    }


def backdrop(
    landscapes: Sequence[Landscape],
    columns: int | None,
    size: tuple[float, float] | None,
    figure: Any = None,
) -> tuple["Figure", list[Any]]:
    """The panels without their paths."""
    if not landscapes:
        raise ValueError("landscapes must be at least one panel, got none; pass a Landscape")
    columns = columns or len(landscapes)
    rows = -(-len(landscapes) // columns)
    if figure is None:
        figure = new_figure(*(size or (min(12.0, 5.0 * columns), min(7.5, 4.0 * rows + 1.0))))
    grid = list(np.atleast_1d(figure.subplots(rows, columns)).ravel())
    for empty in grid[len(landscapes) :]:
        empty.remove()
    for axes, landscape in zip(grid, landscapes, strict=False):
        heights = np.ma.masked_invalid(np.asarray(landscape.heights, np.float64).T)
        levels = contour_levels(heights.filled(np.nan))
        bands = np.linspace(0.82, 1.0, len(levels) + 1)
        x, y = np.asarray(landscape.x), np.asarray(landscape.y)
        axes.contourf(
            x, y, heights, levels=levels, colors=[str(g) for g in bands], extend="both", zorder=0
        )
        axes.contour(
            x,
            y,
            heights,
            levels=levels,
            colors="0.55",
            linewidths=0.5,
            linestyles="solid",
            zorder=1,
        )
        for start in {tuple(np.asarray(path[0]).tolist()) for path in landscape.paths.values()}:
            axes.plot(*start, "o", ms=11, mfc="none", mec="k", mew=1.5, zorder=5)
        for minimum in landscape.minima:
            axes.plot(*minimum, "*", ms=13, mfc="w", mec="k", zorder=4)
        axes.set(
            xlim=(x[0], x[-1]),
            ylim=(y[0], y[-1]),
            xlabel=landscape.x_label,
            ylabel=landscape.y_label,
            title=landscape.title,
        )
    return figure, grid[: len(landscapes)]


def add_legends(
    all_axes: Sequence[Any],
    landscapes: Sequence[Landscape],
    styles: Mapping[str, Mapping[str, Any]],
) -> None:
    """Explain labelled paths below their panel; below all, other paths, start and minimum."""
    from matplotlib.lines import Line2D

    def sample(name: str, label: str) -> Line2D:
        return Line2D([], [], label=label, lw=1.6, **styles[name])

    for axes, landscape in zip(all_axes, landscapes, strict=True):
        if landscape.labels:
            axes.legend(
                handles=[sample(*each) for each in landscape.labels.items()],
                loc="upper center",
                bbox_to_anchor=(0.5, -0.16),
                ncols=2,
                frameon=False,
                fontsize=9,
                handlelength=2.5,
                handletextpad=0.5,
                columnspacing=0.8,
            )
    figure = all_axes[0].figure
    common = {name for each in landscapes for name in each.paths if name not in each.labels}
    handles = [sample(name, name) for name in styles if name in common]
    handles += [
        Line2D([], [], ls="", marker="o", ms=11, mfc="none", mec="k", mew=1.5, label="start"),
        Line2D([], [], ls="", marker="*", ms=13, mfc="w", mec="k", label="minimum"),
    ]
    at_once = max(1, int(figure.bbox.width / figure.dpi / LEGEND_ENTRY_INCHES))
    rows = -(-len(handles) // at_once)
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=-(-len(handles) // rows),
        frameon=False,
        handlelength=3.5,
    )


def _along(points: np.ndarray, places: int = 10) -> list[int]:
    """Indices of the points nearest to equal parts of the path's length, the last one included."""
    finite = np.nan_to_num(np.diff(points, axis=0), posinf=0.0, neginf=0.0)
    length = np.concatenate([[0.0], np.cumsum(np.hypot(*finite.T))])
    wanted = np.linspace(0.0, length[-1], places + 1)[1:]
    return sorted({int(index) for index in np.searchsorted(length, wanted)} - {len(points)})
