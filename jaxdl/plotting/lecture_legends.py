"""Legends of a figure with large text: one for several panels, where each would cover its own."""

import itertools
from collections import Counter
from collections.abc import Sequence
from typing import Any

from jaxdl.extras import import_extra

_MARKS = " ,;:=("
MOST_COVERED = 0.2
"""A legend may cover this share of its axes."""


def look(artist: Any) -> Any:
    """What tells lines, areas and points of a figure apart: kind, colour, line, marker."""
    colors = import_extra("matplotlib.colors", "a figure")
    if isinstance(artist, tuple):  # bars, or a line with error bars: its first part that is there
        artist = next((part for part in artist if part), None)
    if hasattr(artist, "get_marker"):
        shown = colors.to_hex(artist.get_color())
        return "line", shown, artist.get_linestyle(), str(artist.get_marker())
    if not hasattr(artist, "get_facecolor"):
        return "other", id(artist)
    faces, edges = artist.get_facecolor(), artist.get_edgecolor()
    rows = [face for face in (*_rows(faces), *_rows(edges)) if len(face)]
    return "area", colors.to_hex(rows[0]) if rows else None


def _rows(shown: Any) -> list[Any]:
    return list(shown) if getattr(shown, "ndim", 1) == 2 else [shown]


def entries_of(axes: Any) -> list[tuple[Any, str]]:
    """The (handle, label) pairs of the legend of axes."""
    legend = axes.get_legend()
    handles, labels = axes.get_legend_handles_labels()
    # What a legend draws of an error bar is less than the error bar.
    whole = dict(zip(labels, handles, strict=True))
    texts = [text.get_text() for text in legend.get_texts()]
    shown = zip(legend.legend_handles, texts, strict=True)
    return [(whole.get(text, handle), text) for handle, text in shown]


def merge_large_legends(part: Any) -> None:
    """Put the legends that cover too much of their axes into one, beside all axes of a part.

    Entries of different legends that look alike become one. Their label is what their labels begin
    with alike.

    Arguments:
        part: a figure, or a part of it (a SubFigure), with its layout done.
    """
    large = [axes for axes in part.axes if axes.get_legend() is not None and _is_large(axes)]
    if not large:
        return
    labels: dict[Any, list[str]] = {}
    handles: dict[Any, Any] = {}
    titles = [axes.get_legend().get_title().get_text() for axes in large]
    differ = len({*titles}) > 1
    for axes, title in zip(large, titles, strict=True):
        here: Counter[Any] = Counter()
        for handle, label in entries_of(axes):
            key = look(handle), here[look(handle)]
            here[look(handle)] += 1
            handles.setdefault(key, handle)
            labels.setdefault(key, []).append(f"{title}: {label}" if title and differ else label)
        axes.get_legend().remove()
    taken = [legend._outside_loc for legend in part.legends]
    size = large[0].xaxis.get_tick_params()["labelsize"]
    part.legend(
        list(handles.values()),
        [_common(each) for each in labels.values()],
        loc=f"outside {'upper' if 'lower' in taken else 'lower'} center",
        ncols=len(handles),
        fontsize=size,
        title_fontsize=size,
        title=None if differ else titles[0] or None,
        labelspacing=0.2,
        borderpad=0.2,
        frameon=False,
    )


def _is_large(axes: Any) -> bool:
    legend, box = axes.get_legend().get_window_extent(), axes.get_window_extent()
    return bool(legend.width * legend.height > MOST_COVERED * box.width * box.height)


def _common(labels: Sequence[str]) -> str:
    """The words with which all labels begin; all of the labels, if these are none."""
    distinct = list(dict.fromkeys(labels))
    if len(distinct) == 1:
        return distinct[0]
    together = zip(*(label.split() for label in distinct), strict=False)
    alike = itertools.takewhile(lambda words: len({w.rstrip(_MARKS) for w in words}) == 1, together)
    words = [each[0] for each in alike]
    return " ".join(words).rstrip(_MARKS) or " / ".join(distinct)


def fit_legend(legend: Any, across: float) -> None:
    """Use fewer columns until a legend is at most so many pixels wide."""
    columns = legend._ncols
    while columns > 1 and legend.get_window_extent().width > across:
        columns -= 1
        _set_columns(legend, columns)


def _set_columns(legend: Any, columns: int) -> None:
    title = legend.get_title()
    said, size = title.get_text(), title.get_fontsize()
    texts = [text.get_text() for text in legend.get_texts()]
    sizes = [text.get_fontsize() for text in legend.get_texts()]
    legend._ncols = columns
    legend._init_legend_box(legend.legend_handles, texts)
    legend._legend_box.set_offset(legend._findoffset)
    legend.set_title(said or None)
    legend.get_title().set_fontsize(size)
    for text, points in zip(legend.get_texts(), sizes, strict=True):
        text.set_fontsize(points)


def borrow_legend(figure: Any, axes: Any) -> None:
    """Give axes the legend of another panel with the same lines, if they have none and need one."""
    if axes.get_legend() is not None or axes.figure.legends or figure.legends:
        return
    pairs = list(zip(*axes.get_legend_handles_labels(), strict=True))
    there = {look(artist) for artist in (*axes.lines, *axes.collections, *axes.patches)}
    for other in figure.axes:
        if other.get_legend() is not None and not pairs:
            fitting = [pair for pair in entries_of(other) if look(pair[0]) in there]
            # One entry alone is like another's by chance, and there is nothing to tell apart.
            pairs = fitting if len(fitting) > 1 else []
    written = {text.get_text() for text in axes.texts}
    if not all(label in written for _, label in pairs):
        handles, labels = zip(*pairs, strict=True)
        axes.legend(handles, labels)
