"""A row of a benchmark: one arm beside another, their ratio round by round, and the target."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
PLACES = {3: 2.0, 2: 10.0, 1: 100.0}
"""Figures behind the point below these sizes; none above."""


@dataclass(frozen=True)
class Row:
    """What one arm takes, as a ratio to another arm's time or as a number with a unit."""

    row: str
    """What both arms do."""
    arm: str
    against: str = ""
    """The arm beside it; empty where a number is measured, no ratio."""
    value: float = float("nan")
    """The ratio of the medians over the rounds; or the number."""
    by_round: tuple[float, ...] = ()
    """The ratio of each round."""
    unit: str = ""
    """Of a number; a ratio has none."""
    at_most: float | None = None
    at_least: float | None = None
    medians: tuple[float, ...] = ()
    """Seconds of the arm and of the one beside it."""
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the value is within its target; None without a target.

        Example:
            >>> Row("step", "ours", value=1.2, at_most=1.1).met
            False
        """
        if self.at_most is None and self.at_least is None:
            return None
        above = self.at_most is None or self.value <= self.at_most
        return above and (self.at_least is None or self.value >= self.at_least)

    @property
    def target(self) -> str:
        """The target in words.

        Example:
            >>> Row("step", "ours", at_most=1.1).target, Row("run", "torch", at_least=3.0).target
            ('at most 1.1', 'at least 3')
        """
        if self.at_most is not None:
            return f"at most {self.at_most:g} {self.unit}".rstrip()
        return "" if self.at_least is None else f"at least {self.at_least:g} {self.unit}".rstrip()

    @property
    def spread(self) -> str:
        """The least and the greatest ratio of a round."""
        if not self.by_round:
            return ""
        return f"{as_ratio(min(self.by_round))} to {as_ratio(max(self.by_round))}"

    @property
    def shown(self) -> str:
        """The value as it is read."""
        return f"{as_ratio(self.value)} {self.unit}".rstrip()


def as_ratio(value: float) -> str:
    """Three figures behind the point below 2, where targets of some per cent lie; fewer above.

    What this would round to nothing is written with its power of ten.

    Example:
        >>> as_ratio(1.0312), as_ratio(9.187), as_ratio(214.6)
        ('1.031', '9.19', '215')
        >>> as_ratio(4.1e-7)
        '4.1e-07'
    """
    size = abs(value)
    if 0 < size < 0.01:
        return f"{value:.1e}"
    places = next((places for places, below in PLACES.items() if size < below), 0)
    return f"{value:.{places}f}"


def show(
    title: str,
    seconds: Mapping[str, np.ndarray],
    against: str,
    *,
    at_most: Mapping[str, float] | None = None,
    at_least: Mapping[str, float] | None = None,
    note: str = "",
) -> list[Row]:
    """Print a table of the arms beside the one named `against`, and give their rows.

    Arguments:
        title: what the arms do.
        seconds: by arm, the seconds of each round, from `measure`.
        against: the arm whose ratio is 1.
        at_most: by arm, the target of the ratio.
        at_least: the same, where more is better.
        note: a sentence for the rows.

    Example:
        >>> seconds = {"theirs": np.array([1.0, 2.0]), "ours": np.array([1.1, 2.1])}
        >>> (row,) = show("step", seconds, "theirs", at_most={"ours": 1.1})  # doctest: +ELLIPSIS
        ┏━...
        >>> round(row.value, 3), row.met, row.spread
        (1.067, True, '1.050 to 1.100')
    """
    beside = np.asarray(seconds[against])
    unit = next((name for name, size in UNITS.items() if np.median(beside) >= size), "ns")
    table = Table(title, f"median ({unit})", "least", f"/ {against}", "by round", "target")
    rows = []
    for name, values in seconds.items():
        row = Row(
            title,
            name,
            against,
            float(np.median(values) / np.median(beside)),
            tuple((values / beside).tolist()),
            at_most=(at_most or {}).get(name),
            at_least=(at_least or {}).get(name),
            medians=(float(np.median(values)), float(np.median(beside))),
            note=note,
        )
        taken = [f"{f(values) / UNITS[unit]:.4g}" for f in (np.median, np.min)]
        compared = ("", "", "") if name == against else (row.shown, row.spread, row.target)
        table.add_row(name, *taken, *compared, style="bold red" if row.met is False else None)
        rows += [row] * (name != against)
    Console(width=110).print(table)
    return rows


def amount(
    row: str,
    arm: str,
    value: float,
    unit: str,
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    note: str = "",
) -> Row:
    """Print and give a row that is no ratio.

    Example:
        >>> amount("memory", "fit", 87.0, "MB", at_most=100.0).met
        memory, fit: 87.0 MB (target: at most 100 MB)
        True
    """
    made = Row(row, arm, value=value, unit=unit, at_most=at_most, at_least=at_least, note=note)
    target = f" (target: {made.target})" if made.target else ""
    print(f"{row}, {arm}: {made.shown}{target}{f'; {note}' if note else ''}")
    return made
