"""Text that stays readable on a small sheet: wrapped lines, ticks that keep off each other."""

import itertools
import re
import warnings
from collections.abc import Iterator
from typing import Any

from jaxdl.extras import import_extra
from jaxdl.plotting.lecture_legends import fit_legend, merge_large_legends

LEAST_LINES = 2.5
"""An axes that is lower than so many lines of text shows nothing."""
ROOMY_LINES = 7.0
"""An axes of so many lines has room for a title, numbers and a label too."""
LEAST_LENGTH = 9.0
"""A title's line, in widths of a letter, over a narrow axes."""
_WORDS = re.compile(r"(?:[^\s$]|\$[^$]*\$)+")
"""Words between spaces; the spaces of a formula divide nothing."""


def set_sizes(figure: Any, least: float, most: float) -> None:
    """Give every text of a figure a size from `least` to `most`, in points."""
    text_class = import_extra("matplotlib.text", "a figure").Text
    for axes in figure.findobj(import_extra("matplotlib.axes", "a figure").Axes):
        for axis in (axes.xaxis, axes.yaxis):
            for which in ("major", "minor"):
                # Ticks that are made later take their size from here.
                axis.set_tick_params(which=which, labelsize=least)
        for table in axes.tables:
            table.auto_set_font_size(False)
    for text in figure.findobj(text_class):
        text.set_fontsize(min(max(text.get_fontsize(), least), most))


def fit_text(figure: Any) -> bool:
    """Wrap titles and labels that are longer than their axes, and thin out ticks that collide.

    Where text leaves no room to an axes, its title keeps its first line, and it goes without
    numbers and labels: the shapes of the curves are left.

    Returns:
        Whether there was room for all text.
    """
    _make_room_for_tables(figure)
    crowded = _crowded(figure)
    if crowded:
        _shorten(figure, crowded)
        _drop_numbers(crowded)
    _lay_out(figure)
    said: dict[Any, str] = {}
    for part in _parts(figure):
        merge_large_legends(part)
        across = 0.98 * part.bbox.width
        for text in (part._suptitle, part._supxlabel):
            if text is not None:
                wrap(text, across)
        for axes in part.axes:
            _fit_axes(axes, said)
        for legend in part.legends:
            fit_legend(legend, across)
    _lay_out(figure)
    for axes in figure.axes:
        _fit_axes(axes, said)  # a legend of all may have made it lower
    now_crowded = _crowded(figure)
    _drop_numbers(now_crowded)
    _lay_out(figure)
    for axes in figure.axes:
        _part_ticks(axes)
    return not crowded and not now_crowded


def _parts(figure: Any) -> Iterator[Any]:
    """The figure, its parts, and theirs."""
    yield figure
    for part in figure.subfigs:
        yield from _parts(part)


def _crowded(figure: Any) -> list[Any]:
    """The axes that are too low, in lines of text."""
    found_place = _lay_out(figure)
    drawn = [axes for axes in figure.axes if axes.axison and axes.has_data()]
    # If the layout finds no place, the axes stand where they would without their text.
    least = LEAST_LINES if found_place else ROOMY_LINES
    points = 72 / figure.dpi
    return [
        axes
        for axes in drawn
        if points * axes.get_window_extent().height < least * axes.title.get_fontsize()
    ]


def _lay_out(figure: Any) -> bool:
    """Let matplotlib place the axes, and say whether it found a place for all their text."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        figure.draw_without_rendering()
    failed = [each for each in told if "collapsed to zero" in str(each.message)]
    for other in told:
        if other not in failed:
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    return not failed


def _shorten(figure: Any, crowded: list[Any]) -> None:
    """Keep the first line of titles, and no remarks that stand in axes of their own."""
    for axes in crowded:
        least = axes.xaxis.get_tick_params()["labelsize"]
        axes.set_title(axes.get_title().partition("\n")[0], fontsize=least)
    for axes in figure.axes:
        if not axes.axison and not axes.images and not axes.tables:
            for remark in list(axes.texts):
                remark.remove()


def _drop_numbers(crowded: list[Any]) -> None:
    for axes in crowded:
        axes.tick_params(which="both", labelbottom=False, labelleft=False)
        axes.set(xlabel="", ylabel="")
        if (legend := axes.get_legend()) is not None:
            legend.remove()


def wrap(text: Any, length: float) -> None:
    """Break a text's lines between words so that none is longer than `length`, in pixels.

    Formulas between dollars stay whole. A text that runs upwards is measured upwards.
    """
    lines = [line for given in text.get_text().split("\n") for line in _broken(text, given, length)]
    text.set_text("\n".join(lines))


def _broken(text: Any, line: str, length: float) -> list[str]:
    upright = text.get_rotation() % 180 > 45

    def too_long(trial: str) -> bool:
        text.set_text(trial)
        extent = text.get_window_extent()
        return bool((extent.height if upright else extent.width) > length)

    lines: list[str] = []
    for word in _WORDS.findall(line):
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and not too_long(longer):
            lines[-1] = longer
        else:
            lines.append(word)
    return lines or [""]


def _fit_axes(axes: Any, said: dict[Any, str]) -> None:
    """Wrap the titles and labels of axes; `said` remembers them as they were before."""
    box = axes.get_window_extent()
    middle = (box.x0 + box.x1) / 2
    # Over its axes by a little, but not over the sheet's edge.
    em = axes.title.get_fontsize() * axes.figure.dpi / 72
    least = LEAST_LENGTH * em
    wide = min(max(1.05 * box.width, least), 2 * middle, 2 * (axes.figure.bbox.x1 - middle))
    lengths = {
        axes.title: wide,
        axes._left_title: wide,
        axes._right_title: wide,
        axes.xaxis.label: wide,
        axes.yaxis.label: box.height + 2 * em,  # there is a title above, and numbers below
    }
    for text, length in lengths.items():
        text.set_text(said.setdefault(text, text.get_text()))
        wrap(text, length)
    legend = axes.get_legend()
    if legend is not None:
        for text in legend.get_texts():
            wrap(text, 0.6 * box.width)


def _make_room_for_tables(figure: Any) -> None:
    """Give a table a line and a half a row, beside panels that have `ROOMY_LINES` each."""
    for axes in figure.axes:
        for table in axes.tables:
            cells = table.get_celld()
            rows = len({row for row, _ in cells})
            for cell in cells.values():
                cell.set_height(1 / rows)
            table.auto_set_column_width(sorted({column for _, column in cells}))
            place = axes.get_subplotspec()
            grid = place.get_gridspec()
            lines = [ROOMY_LINES] * grid.nrows
            lines[place.rowspan.start] = 1.5 * rows
            grid.set_height_ratios(lines)


def _part_ticks(axes: Any) -> None:
    if not axes.axison:
        return
    formatter = import_extra("matplotlib.ticker", "a figure").NullFormatter
    for axis, side in ((axes.xaxis, "width"), (axes.yaxis, "height")):
        # The numbers between the powers of ten go first.
        if _collide(axis, side, "both"):
            axis.set_minor_formatter(formatter())
        if not _collide(axis, side):
            continue
        if side == "width" and _are_words(axis):
            for label in axis.get_ticklabels():
                label.set(rotation=30, ha="right", rotation_mode="anchor")
        else:
            _thin_out(axis, side)


def _collide(axis: Any, side: str, which: str = "major") -> bool:
    boxes = [
        (box.x0, box.x1) if side == "width" else (box.y0, box.y1)
        for label in axis.get_ticklabels(which=which)
        if label.get_visible() and label.get_text()
        for box in [label.get_window_extent()]
    ]
    return any(after[0] < before[1] for before, after in itertools.pairwise(sorted(boxes)))


def _are_words(axis: Any) -> bool:
    texts = [label.get_text() for label in axis.get_ticklabels() if label.get_text()]
    return any(re.search(r"[A-Za-z]{2}", text.replace("mathdefault", "")) for text in texts)


def _thin_out(axis: Any, side: str) -> None:
    """Show every second, third, ... label until they are apart; the ticks stay."""
    labels = axis.get_ticklabels()
    for every in range(2, len(labels)):
        for number, label in enumerate(labels):
            label.set_visible(number % every == 0)
        if not _collide(axis, side):
            return
