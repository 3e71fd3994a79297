"""Signals and gradients that vanish or explode, and the layer where they do."""

from typing import Any

import numpy as np

from jaxdl.diagnostics.signal.findings import Advice
from jaxdl.diagnostics.signal.propagation import Propagation
from jaxdl.diagnostics.signal.remedies import (
    is_activated,
    resized,
    source_of_gradient,
    source_of_signal,
)
from jaxdl.diagnostics.signal.trunk import readers_of, trunk

# One learning rate serves layers whose gradients differ by a factor of 10 or 100. At 1,000 the
# layers with small gradients hardly learn.
GRADIENT_RANGE = 1e3
# The same holds for the signal: a bias or a norm's epsilon that suits one layer is too large or too
# small for another.
SIGNAL_RANGE = 1e3


def signal_drift(measured: Propagation) -> Advice | None:
    """The advice if the signal vanishes or explodes along the trunk, its outputs left out."""
    readers = readers_of(measured.feeds)
    inner = trunk(measured.feeds, measured.has_weights)[:-1]
    rows = np.array([row for row in inner if readers[row]], int)
    sizes = root_mean_square(measured.mean, measured.stddev)
    if len(rows) < 2 or not sizes[rows[0]] > 0:
        return None
    return _drift(measured, rows, sizes, "signal", SIGNAL_RANGE)


def gradient_drift(measured: Propagation) -> Advice | None:
    """The advice if the gradient does."""
    rows = trunk(measured.feeds, measured.has_weights)[::-1]
    units = np.array([np.prod(shape[1:]) for shape in measured.shapes])
    sizes = root_mean_square(measured.gradient_mean, measured.gradient_stddev) * np.sqrt(units)
    rows = rows[sizes[rows] > 0]  # a gradient of exactly 0 has its own advice
    return None if len(rows) < 2 else _drift(measured, rows, sizes, "gradient", GRADIENT_RANGE)


def root_mean_square(mean: Any, stddev: Any) -> np.ndarray:
    """Without the squares, of which those of 1e-200 vanish."""
    size: np.ndarray = np.hypot(np.asarray(mean, np.float64), np.asarray(stddev, np.float64))
    return size


def _drift(
    measured: Propagation, rows: np.ndarray, sizes: np.ndarray, what: str, limit: float
) -> Advice | None:
    """The advice if a size departs, along `rows`, from its value at the first row."""
    if not np.all(np.isfinite(sizes[rows])):
        return None
    departure = np.log(np.maximum(sizes[rows] / sizes[rows[0]], np.finfo(float).tiny))
    worst = int(np.argmax(np.abs(departure)))
    if abs(departure[worst]) < np.log(limit):
        return None
    steps = np.diff(departure[: worst + 1]) * np.sign(departure[worst])
    at = int(np.argmax(steps))
    vanishes = bool(departure[worst] < 0)
    source = _source(measured, sizes, what, int(rows[at]), int(rows[at + 1]))
    is_sudden = steps[at] > abs(departure[worst]) / 2
    first, second = sizes[rows[:2]]
    if is_sudden and at == 0 and what == "signal" and _is_off(first, second):
        # All others agree: it is the first row, or the inputs.
        row, ratio, vanishes = int(rows[0]), first / second, bool(first < second)
        where = f"The signal of {measured.names[row]} is {ratio:.1e} times that after it"
        size = "larger" if vanishes else "smaller"
        change = f"{resized(measured, row, size)}, or standardise the inputs"
    elif is_sudden:
        row, ratio = source, sizes[rows[at + 1]] / sizes[rows[at]]
        where = f"The {what} changes by a factor of {ratio:.1e} at {measured.names[row]} alone"
        change = _against(measured, source, what, vanishes)
    else:
        row, ratio = int(rows[worst]), sizes[rows[worst]] / sizes[rows[0]]
        where = (
            f"The {what} at {measured.names[row]} is {ratio:.1e} times that at "
            f"{measured.names[rows[0]]}, a factor of {np.exp(departure[worst] / worst):.2g} a layer"
        )
        change = _against(measured, source, what, vanishes)
    return Advice(
        f"{'vanishing' if vanishes else 'exploding'} {what}",
        measured.names[row],
        float(ratio),
        f"{where}: {change}.",
    )


def _is_off(first: float, second: float) -> bool:
    """Whether the first size is further from 1, in factors, than the second."""
    return bool(second > 0 and abs(np.log(first)) > abs(np.log(second)))


def _source(measured: Propagation, sizes: np.ndarray, what: str, one: int, other: int) -> int:
    """The row at which the size changes between two rows of the trunk."""
    if what == "signal":
        return source_of_signal(measured, sizes, one, other)
    return source_of_gradient(measured, sizes, one, other)


def _against(measured: Propagation, source: int, what: str, vanishes: bool) -> str:
    """What to change at the row from which most of a drift comes."""
    flattens = is_activated(measured, source) or measured.is_activation[source]
    if vanishes and what == "gradient":
        if "Norm" in measured.kinds[source]:
            return "its inputs are large: start the layers before it from smaller weights"
        if flattens:
            change = "use ReLU with he_normal in place of a function that flattens"
            return f"{change}, or add a norm or residual connections"
    size = "larger" if vanishes else "smaller"
    return f"{resized(measured, source, size)}, or add a norm or residual connections"
