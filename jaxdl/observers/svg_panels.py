"""Curves, bands and histograms as SVG for a page: short text, no other file, light and dark.

Colours are classes `c0` to `c5`, which the page's style sets. Every line also has its own dashes
and its label at its end, so that none is told by its colour alone.
"""

import html
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxdl.observers.svg_axes import (
    BOTTOM,
    HEIGHT,
    RIGHT,
    TOP,
    WIDTH,
    Axis,
    brief,
    frame,
    horizontal,
    vertical,
)
from jaxdl.showing import number

MOST_POINTS = 240
"""Points of a line: one for each pixel of its panel or so."""
COLOURS = 6
_DASHES = ("", "7 3", "2 2", "9 3 2 3", "4 4", "1 3")
_LONGEST_LABEL = 16
_LINE = 13
"""Pixels between two labels."""
# Beyond this ratio of the largest to the smallest, a linear axis shows only the largest.
_WIDE = 100.0


class Line(NamedTuple):
    """A curve.

    Attributes:
        label: what it is, written at its end.
        x, y: its points; where y is not finite there is a gap.
        colour: 0 to 5.
        faint: whether it is drawn thin and without a label, behind the others.
        value: whether the label has the last value too; one without may be long.
    """

    label: str
    x: Any
    y: Any
    colour: int = 0
    faint: bool = False
    value: bool = True


class Fan(NamedTuple):
    """A distribution over time: quantiles, as bands around the median.

    Attributes:
        x: (times,).
        quantiles: (times, 5), ascending; of these the middle one is the median.
        entries: the newest entries, for a histogram at the right edge.
    """

    x: Any
    quantiles: Any
    entries: Any


def panel(
    title: str,
    lines: Sequence[Line],
    *,
    note: str = "",
    x_label: str = "epoch",
    logarithmic: bool = False,
) -> str:
    """Lines over one axis as a figure; "" if no number of theirs is finite.

    The scale is also logarithmic if all values are above 0 and the largest is more than 100 times
    the smallest.

    Arguments:
        title: above the panel.
        lines: drawn in their order.
        note: a sentence below.
        x_label: the horizontal axis.
        logarithmic: whether the scale is; values that are not above 0 then leave gaps.

    Example:
        >>> drawn = panel("loss", [Line("training", [1, 2], [2.0, 1.0])])
        >>> "training: 2 to 1" in drawn, drawn.count("<polyline")
        (True, 1)
        >>> panel("loss", [Line("training", [1], [float("nan")])])
        ''
    """
    lines = [_thinned(line) for line in lines]
    values = np.concatenate([np.zeros(0), *(line.y for line in lines)])
    values = values[np.isfinite(values) & ((values > 0) | (not logarithmic))]
    if not values.size:
        return ""
    log = logarithmic or bool(values.min() > 0 and values.max() / _WIDE > values.min())
    down = vertical(values, log)
    across = horizontal([line.x for line in lines])
    marks = [frame(across, down, x_label)]
    ends = []
    for line in lines:
        marks += _curve(line, across, down)
        shown = np.flatnonzero(np.isfinite(line.y) & ((line.y > 0) | (not log)))
        if not line.faint and len(shown):
            last = shown[-1]
            text = _short(line.label)
            if line.value:
                text = f"{line.label} {brief(line.y[last])}"
            ends.append((float(down.place(line.y[last])), text, line.colour))
    marks += _labels(ends)
    told = "; ".join(_told(line) for line in lines if not line.faint)
    scale = " (logarithmic)" if log else ""
    return _figure(title + scale, f"{title}: {told}", marks, note)


def fan_panel(title: str, fan: Fan, *, note: str = "", x_label: str = "epoch") -> str:
    """A distribution over time as a figure, and its newest histogram at the right.

    Example:
        >>> fan = Fan([1, 2], [[-2, -1, 0, 1, 2], [-4, -2, 0, 2, 4]], [-1.0, 0.0, 1.0])
        >>> fan_panel("dense_0", fan).count("<polygon")
        2
    """
    quantiles = np.asarray(fan.quantiles, np.float64)
    whole = np.isfinite(quantiles).all(axis=1)
    chosen = _some(np.flatnonzero(whole))
    if not len(chosen):
        return ""
    quantiles, times = quantiles[chosen], np.asarray(fan.x, np.float64)[chosen]
    down = vertical(quantiles, False)
    across = horizontal([times])
    x, y = across.place(times), down.place(quantiles)
    if len(x) == 1:
        x, y = np.array([x[0] - 6, x[0] + 6]), np.repeat(y, 2, axis=0)
    marks = [frame(across, down, x_label)]
    for low, high, opacity in ((0, 4, 0.2), (1, 3, 0.4)):
        around = [*zip(x, y[:, low], strict=True), *zip(x[::-1], y[::-1, high], strict=True)]
        marks.append(f'<polygon class="f0" opacity="{opacity}" points="{_points(around)}"/>')
    median = _points(zip(x, y[:, 2], strict=True))
    marks.append(f'<polyline class="c0" points="{median}"/>')
    marks += _bars(np.asarray(fan.entries, np.float64), down)
    newest = quantiles[-1]
    told = (
        f"{title}: median {number(newest[2])}; half of the entries from {number(newest[1])} to "
        f"{number(newest[3])}, 95 % from {number(newest[0])} to {number(newest[4])}"
    )
    return _figure(title, told, marks, note)


def _figure(title: str, told: str, marks: Sequence[str], note: str) -> str:
    below = f"<p class=note>{html.escape(note)}</p>" if note else ""
    return (
        f"<figure><figcaption>{html.escape(title)}</figcaption>"
        f'<svg role="img" viewBox="0 0 {WIDTH} {HEIGHT}" aria-label="{html.escape(told)}">'
        f"{''.join(marks)}</svg>{below}</figure>"
    )


def _curve(line: Line, across: Axis, down: Axis) -> list[str]:
    """Its pieces between gaps; a piece of one point is a dot."""
    whole = np.isfinite(line.y) & ((line.y > 0) | (not down.log))
    starts = np.flatnonzero(np.diff(whole, prepend=False, append=False)).reshape(-1, 2)
    x, y = across.place(line.x), down.place(np.where(whole, line.y, down.low))
    kind = f"c{line.colour}" + (" faint" if line.faint else "")
    dashes = f' stroke-dasharray="{_DASHES[line.colour]}"' if line.colour and not line.faint else ""
    marks = []
    for start, stop in starts:
        if stop - start == 1:
            place = f'cx="{x[start]:.1f}" cy="{y[start]:.1f}"'
            marks.append(f'<circle class="{kind.replace("c", "f", 1)}" {place} r="2.5"/>')
        else:
            points = _points(zip(x[start:stop], y[start:stop], strict=True))
            marks.append(f'<polyline class="{kind}"{dashes} points="{points}"/>')
    return marks


def _labels(ends: list[tuple[float, str, int]]) -> list[str]:
    """Labels at the ends of lines, pushed apart where they would lie over one another."""
    ends = sorted(ends)
    places: list[float] = []
    for place, _, _ in ends:
        places.append(max(place, places[-1] + _LINE) if places else max(place, TOP + 4))
    beyond = max(places, default=0.0) - (HEIGHT - BOTTOM)
    for index in range(len(places) - 1, -1, -1):
        if beyond <= 0:
            break
        limit = HEIGHT - BOTTOM - _LINE * (len(places) - 1 - index)
        places[index] = min(places[index], limit)
    return [
        f'<text class="t{colour}" x="{WIDTH - RIGHT + 5}" y="{place + 4:.1f}">'
        f"{html.escape(text)}</text>"
        for place, (_, text, colour) in zip(places, ends, strict=True)
    ]


def _bars(entries: np.ndarray, down: Axis) -> list[str]:
    """A histogram that lies on its side, right of the panel, on the same vertical axis."""
    counts, edges = np.histogram(entries[np.isfinite(entries)], 24, (down.low, down.high))
    if not counts.any():
        return []
    left, most = WIDTH - RIGHT + 4, RIGHT - 12
    parts = [f"M{left},{float(down.place(edges[0])):.1f}"]
    for count, edge in zip(counts, edges[1:], strict=True):
        parts.append(f"H{left + most * count / counts.max():.1f}V{float(down.place(edge)):.1f}")
    return [f'<path class="f0" opacity="0.6" d="{"".join(parts)}H{left}Z"/>']


def _told(line: Line) -> str:
    finite = line.y[np.isfinite(line.y)]
    if not finite.size:
        return f"{line.label}: nothing finite"
    if len(finite) == 1:
        return f"{line.label}: {number(finite[0])}"
    ends = f"{number(finite[0])} to {number(finite[-1])}"
    return f"{line.label}: {ends}, between {number(finite.min())} and {number(finite.max())}"


def _thinned(line: Line) -> Line:
    x, y = np.asarray(line.x, np.float64), np.asarray(line.y, np.float64)
    chosen = _some(np.arange(len(y)))
    return line._replace(x=x[chosen], y=y[chosen])


def _some(places: np.ndarray) -> np.ndarray:
    """Some of them, at equal distances, the first and the last among them."""
    if len(places) <= MOST_POINTS:
        return places
    some: np.ndarray = places[np.linspace(0, len(places) - 1, MOST_POINTS).round().astype(int)]
    return some


def _points(points: Any) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _short(label: str) -> str:
    return label if len(label) <= _LONGEST_LABEL else f"…{label[1 - _LONGEST_LABEL :]}"
