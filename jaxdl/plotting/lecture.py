"""A figure for a lecture room: on a small sheet, so that its text is large when it is shown.

The sheet is as high as thirty lines of text in matplotlib's usual size, and 16:9. Shown on a wall,
everything that is measured in points, text and lines and markers, is large.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxdl.extras import import_extra
from jaxdl.plotting.figure import save_figure
from jaxdl.plotting.lecture_panels import keep_panel, panel_name, panels_in
from jaxdl.plotting.lecture_text import fit_text, set_sizes

LINES = 30
"""A text is at least this part of the picture's height: readable from the last row."""
TEXT = 10.0
"""Points: the usual size of matplotlib's text."""
HEIGHT = LINES * TEXT / 72
WIDTH = HEIGHT * 16 / 9
"""Inches."""
MOST_IN_A_ROW = 4
"""So many panels in a row are put into two."""
PIXELS = 1080
"""The height of the PNG."""
THICKER = 1.3
"""Lines and markers are so many times as large a part of the picture as in the usual figure."""
ALONE = 1.5
"""In a panel alone they are so many times as thick, in points."""

Plot = Callable[[], Any]


def lecture_figure(plot: Plot) -> Any:
    """Draw a figure, readable from the last row of a lecture room, 16:9.

    No text is smaller than a thirtieth of the picture's height; lines and markers are thicker.
    Titles and labels are wrapped, legends stand where they cover least.

    Arguments:
        plot: () -> a matplotlib Figure, made anew at each call; it is changed.

    Returns:
        The figure; None if it has so many panels that their text leaves them no room. Then show its
        `lecture_panels`.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> from jaxdl.plotting import learning_curves
        >>> made = lecture_figure(lambda: learning_curves({"loss": [2.0, 1.0]}, {}, {}))
        >>> bool(made.axes[0].title.get_fontsize() / (72 * made.get_figheight()) >= 1 / 30)
        True
    """
    figure = plot()
    _break_row(figure)
    has_room = _enlarge(figure, TEXT, THICKER * HEIGHT / figure.get_figheight())
    return figure if has_room else None


def lecture_panels(plot: Plot) -> Iterator[tuple[str, Any]]:
    """Draw every panel of a figure alone, 16:9, readable from the last row of a lecture room.

    A panel has its title, its labels and the legend, its own or that of the figure. Pictures in a
    part of the figure stay together with what stands in that part.

    Arguments:
        plot: () -> a matplotlib Figure, made anew at each call.

    Returns:
        For each panel a name, made of its title, and a figure.

    Example:
        >>> from jaxdl.plotting import learning_curves
        >>> curves = {"loss": [2.0, 1.0], "accuracy": [0.1, 0.2]}
        >>> [name for name, _ in lecture_panels(lambda: learning_curves(curves, {}, {}))]
        ['loss', 'accuracy']
    """
    for number in range(len(panels_in(plot()))):
        figure = plot()
        panel = panels_in(figure)[number]
        keep_panel(figure, panel)
        name = panel_name(panel)
        _enlarge(figure, 1.2 * TEXT, ALONE)
        yield name, figure


def save_lecture_figure(figure: Any, file: str | os.PathLike[str]) -> Path:
    """Write a figure of `lecture_figure` or `lecture_panels`: SVG, or PNG of 1920 x 1080 pixels."""
    return save_figure(figure, file, dpi=PIXELS / HEIGHT)


def _enlarge(figure: Any, text: float, thicker: float) -> bool:
    """Make text and lines large, and say whether there was room for all text."""
    figure.set_size_inches(WIDTH, HEIGHT)
    set_sizes(figure, text, 1.1 * text)
    _thicken(figure, thicker)
    for axes in figure.axes:
        _count_in_whole_numbers(axes)
        if (legend := axes.get_legend()) is not None:
            # Where there was room beside small text, there may be none now.
            legend.set_bbox_to_anchor(None)
            legend.set_loc("best")
    return fit_text(figure)


def _break_row(figure: Any) -> None:
    """Put four panels or more that stand in one row into two rows, unless they share an axis."""
    specs = [axes.get_subplotspec() for axes in figure.axes]
    if figure.subfigs or None in specs or len({spec.get_gridspec() for spec in specs}) != 1:
        return
    rows, columns = specs[0].get_gridspec().get_geometry()
    shared = any(
        len(siblings.get_siblings(axes)) > 1
        for axes in figure.axes
        for siblings in (axes.get_shared_x_axes(), axes.get_shared_y_axes())
    )
    if rows == 1 and columns >= MOST_IN_A_ROW and not shared:
        grid_spec = import_extra("matplotlib.gridspec", "a figure").GridSpec
        across = -(-columns // 2)
        grid = grid_spec(2, across, figure=figure)
        for axes, spec in zip(figure.axes, specs, strict=True):
            axes.set_subplotspec(grid[divmod(spec.num1, across)])


def _count_in_whole_numbers(axes: Any) -> None:
    """Where epochs or steps are drawn, a longer axis has no half ones."""
    ticker = import_extra("matplotlib.ticker", "a figure")
    locator = axes.xaxis.get_major_locator()
    drawn = [line.get_xdata(orig=False) for line in axes.lines if len(line.get_xdata()) > 2]
    if type(locator) is ticker.AutoLocator and drawn:
        finite = np.concatenate([values[np.isfinite(values)] for values in drawn])
        locator.set_params(integer=bool((finite == np.round(finite)).all()))


def _thicken(figure: Any, factor: float) -> None:
    lines = import_extra("matplotlib.lines", "a figure")
    collections = import_extra("matplotlib.collections", "a figure")
    patches = import_extra("matplotlib.patches", "a figure")
    for artist in figure.findobj(lines.Line2D):
        artist.set_linewidth(factor * artist.get_linewidth())
        artist.set_markersize(factor * artist.get_markersize())
        artist.set_markeredgewidth(factor * artist.get_markeredgewidth())
    for artist in figure.findobj(patches.Patch):
        artist.set_linewidth(factor * artist.get_linewidth())
    for artist in figure.findobj(collections.Collection):
        artist.set_linewidth([factor * width for width in artist.get_linewidth()])
        if hasattr(artist, "set_sizes"):
            artist.set_sizes([factor**2 * size for size in artist.get_sizes()])
