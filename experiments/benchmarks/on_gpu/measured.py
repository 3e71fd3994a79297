"""What a row gives, and how its calls are timed."""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class Measured(NamedTuple):
    """One number: what it is, the median with least and most over rounds, its unit, and a note."""

    what: str
    median: float
    least: float
    most: float
    rounds: int
    unit: str
    note: str = ""


class NotHereError(RuntimeError):
    """What a row needs is not on this machine; no failure."""


def of_rounds(what: str, values: Any, unit: str, note: str = "") -> Measured:
    """The number of several rounds.

    Example:
        >>> of_rounds("epoch", [2.0, 1.0, 4.0], "s")[1:5]
        (2.0, 1.0, 4.0, 3)
    """
    found = np.asarray(values, np.float64).ravel()
    middle, least, most = (float(each(found)) for each in (np.median, np.min, np.max))
    return Measured(what, middle, least, most, len(found), unit, note)


def seconds_of(call: Callable[[], Any], rounds: int) -> list[float]:
    """Seconds of so many calls, each until its arrays are there; one before them is not timed."""
    import jax  # not before a row of PyTorch, which must not share the GPU's memory

    jax.block_until_ready(call())
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        jax.block_until_ready(call())
        found.append(time.perf_counter() - started)
    return found
