"""Axes of a small SVG panel: scales from values to pixels, and their ticks."""

import html
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 50, 102, 10, 34
_TICKS = 5


class Axis(NamedTuple):
    """A scale from values to pixels."""

    low: float
    high: float
    log: bool
    start: float
    end: float

    def place(self, values: Any) -> Any:
        """The pixels of a value, or of an array of them."""
        array = np.asarray(values, np.float64)
        ends = np.array([self.low, self.high])
        if self.log:
            with np.errstate(divide="ignore", invalid="ignore"):
                array, ends = np.log10(array), np.log10(ends)
        # Halved, so that the difference of two large numbers is finite.
        share = (array / 2 - ends[0] / 2) / (ends[1] / 2 - ends[0] / 2)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values on it."""
        return _log_ticks(self.low, self.high) if self.log else _ticks(self.low, self.high)


def vertical(values: np.ndarray, log: bool) -> Axis:
    """The axis on which these values lie."""
    start, end = float(HEIGHT - BOTTOM), float(TOP)
    low, high = float(values.min()), float(values.max())
    if log:
        # A little room, so that no line runs along the frame.
        room = max(10 ** (0.04 * (math.log10(high) - math.log10(low))), 1.2)
        limits = np.finfo(float)
        return Axis(
            max(low / room, float(limits.tiny)),
            min(high * room, float(limits.max)),
            True,
            start,
            end,
        )
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        half = abs(low) / 2 or 0.5
        return Axis(low - half, high + half, False, start, end)
    room = 0.04 * (high / 2 - low / 2) * 2
    most = np.finfo(float).max
    return Axis(max(low - room, -most), min(high + room, most), False, start, end)


def horizontal(x: Sequence[Any]) -> Axis:
    """The axis on which all of these lie, epochs or layers."""
    every = np.concatenate([np.asarray(each, np.float64) for each in x])
    low, high = float(every.min()), float(every.max())
    if low == high:
        low, high = low - 1, high + 1
    return Axis(low, high, False, LEFT, WIDTH - RIGHT)


def frame(across: Axis, down: Axis, x_label: str) -> str:
    """Both axes with their ticks."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    marks = [f'<path class="axis" d="M{LEFT},{TOP}V{bottom}H{right}"/>']
    for tick in down.ticks():
        y = float(down.place(tick))
        marks.append(f'<path class="grid" d="M{LEFT},{y:.1f}H{right}"/>')
        marks.append(f'<text class="end" x="{LEFT - 5}" y="{y + 4:.1f}">{brief(tick)}</text>')
    for tick in across.ticks():
        if tick == int(tick):  # epochs and layers are whole
            x = float(across.place(tick))
            marks.append(f'<path class="axis" d="M{x:.1f},{bottom}v4"/>')
            text = f'<text class="middle" x="{x:.1f}" y="{bottom + 16}">{tick:,.0f}</text>'
            marks.append(text)
    middle = (LEFT + right) / 2
    marks.append(
        f'<text class="middle" x="{middle}" y="{HEIGHT - 4}">{html.escape(x_label)}</text>'
    )
    return "".join(marks)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers, 1, 2 or 5 times a power of ten apart.

    Example:
        >>> _ticks(0.0, 1.0)
        [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]
    """
    rough = (high / _TICKS) - (low / _TICKS)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * each for each in (1, 2, 5, 10) if power * each >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [step * count for count in range(first, last + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Powers of ten, so many apart that there are few; in a short range other round numbers too.

    Example:
        >>> _log_ticks(0.5, 2e4), _log_ticks(0.3, 6.0)
        ([1.0, 10.0, 100.0, 1000.0, 10000.0], [0.5, 1.0, 2.0, 5.0])
    """
    first, last = math.floor(math.log10(low)), math.floor(math.log10(high))
    apart = max(1, -(-(last - first) // _TICKS))
    powers = [10.0**power for power in range(first, last + 1, apart)]
    finer = [power * each for power in powers for each in (1, 2, 5)]
    for chosen in (powers, finer):
        inside = [tick for tick in chosen if low <= tick <= high]
        if len(inside) > 2:
            return inside
    return inside if len(inside) > 1 else _ticks(low, high)


def brief(value: float) -> str:
    """Three digits, for a label.

    Example:
        >>> brief(0.040021), brief(61958.0), brief(0.25), brief(0.0)
        ('0.04', '61,958', '0.25', '0')
    """
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"
