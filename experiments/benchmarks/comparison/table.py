"""All benchmarks in one table: what fell short first, and what changed since the table before."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .rows import Row


@dataclass(frozen=True)
class Result:
    """One benchmark that ran, crashed, or could not run."""

    name: str
    title: str
    rows: tuple[Row, ...] = ()
    seconds: float = 0.0
    crashed: str = ""
    """The last line that a crashed benchmark said."""
    skipped: str = ""
    """Why it could not run."""


@dataclass(frozen=True)
class Line:
    """A row as it is read."""

    benchmark: str
    row: str
    arms: str
    value: str
    spread: str
    rounds: str
    target: str
    verdict: str
    """One word: met, missed, crashed, skipped; or empty."""
    change: str
    note: str


COLUMNS = {
    "benchmark": "benchmark",
    "row": "what",
    "arms": "arm / beside it",
    "value": "ratio",
    "spread": "range over rounds",
    "rounds": "rounds",
    "target": "target",
    "verdict": "",
    "change": "since the table before",
}
"""The columns of a table by the field of a line."""


def lines_of(results: Iterable[Result], before: Iterable[Result] = ()) -> list[Line]:
    """The table's lines, in the order of the results.

    Arguments:
        results: of this table.
        before: of the table with which it is compared.

    Example:
        >>> now = Result("step", "A step.", (Row("step", "ours", "theirs", 1.2, at_most=1.1),))
        >>> then = Result("step", "A step.", (Row("step", "ours", "theirs", 1.0, at_most=1.1),))
        >>> (line,) = lines_of([now], [then])
        >>> line.arms, line.value, line.target, line.verdict, line.change
        ('ours / theirs', '1.200', 'at most 1.1', 'missed', '+20 % (was 1.000)')
    """
    earlier = {key_of(result, row): row for result in before for row in result.rows}
    lines = []
    for result in results:
        why = result.crashed or result.skipped
        if why:
            verdict = "crashed" if result.crashed else "skipped"
            lines.append(Line(result.name, result.title, "", "", "", "", "", verdict, "", why))
        for row in result.rows:
            verdict = {None: "", True: "met", False: "missed"}[row.met]
            arms = f"{row.arm} / {row.against}" if row.against else row.arm
            rounds = str(len(row.by_round) or "")
            change = change_since(row, earlier.get(key_of(result, row)))
            lines.append(
                Line(
                    result.name, row.row, arms, row.shown, row.spread, rounds, row.target, verdict,
                    change, row.note,
                )
            )  # fmt: skip
    return lines


def key_of(result: Result, row: Row) -> tuple[str, str, str, str]:
    """What names a row in every table."""
    return result.name, row.row, row.arm, row.against


def change_since(row: Row, before: Row | None) -> str:
    """The change of a value, and whether the rounds of both tables hold it to be one.

    A ratio whose range over the rounds meets the range before has not changed as far as the rounds
    can tell.

    Example:
        >>> now = Row("step", "ours", "theirs", 1.2, by_round=(1.1, 1.3))
        >>> change_since(now, Row("step", "ours", "theirs", 1.0, by_round=(0.9, 1.15)))
        '+20 %, within the ranges (was 1.000)'
    """
    if before is None or not before.value:
        return ""
    change = f"{100 * (row.value / before.value - 1):+.0f} %"
    if row.by_round and before.by_round:
        apart = min(row.by_round) > max(before.by_round) or max(row.by_round) < min(before.by_round)
        change += "" if apart else ", within the ranges"
    return f"{change} (was {before.shown})"


def short_of(lines: Iterable[Line]) -> list[Line]:
    """Those that missed a target, crashed, or could not run."""
    found = [line for line in lines if line.verdict in ("crashed", "missed", "skipped")]
    return sorted(found, key=lambda line: ("crashed", "missed", "skipped").index(line.verdict))


def summary(lines: Iterable[Line]) -> str:
    """What came of the table, in a sentence.

    Example:
        >>> rows = (Row("a", "x", value=2.0, at_most=1.0), Row("b", "x", value=0.5, at_most=1.0))
        >>> summary(lines_of([Result("step", "", rows)]))
        '1 of 2 targets is missed.'
    """
    verdicts = [line.verdict for line in lines]
    missed, with_target = verdicts.count("missed"), verdicts.count("missed") + verdicts.count("met")
    said = [f"{missed} of {with_target} targets {'is' if missed == 1 else 'are'} missed."]
    for verdict, done in (("crashed", "crashed"), ("skipped", "could not run")):
        if count := verdicts.count(verdict):
            said.append(f"{count} benchmark{'s' * (count > 1)} {done}.")
    return " ".join(said)


def markdown(lines: list[Line], machine: Mapping[str, str], comparison: str) -> str:
    """The whole as Markdown."""
    parts = ["# Benchmarks", summary(lines), comparison]
    if short := short_of(lines):
        parts += ["## What fell short", _pipes(short)]
    parts += ["## All rows", _pipes(lines)]
    if notes := [f"- {line.row}, {line.arms}: {line.note}" for line in lines if line.note]:
        parts += ["## Notes", "\n".join(dict.fromkeys(notes))]
    parts += ["## The machine", "\n".join(f"- {name}: {value}" for name, value in machine.items())]
    return "\n\n".join(part for part in parts if part) + "\n"


def _pipes(lines: list[Line]) -> str:
    table = [list(COLUMNS.values()), ["---"] * len(COLUMNS)]
    table += [[getattr(line, field).replace("|", "\\|") for field in COLUMNS] for line in lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)


def result_from(kept: Mapping[str, object]) -> Result:
    """A result that was kept as JSON."""
    rows = kept.get("rows") or ()
    assert isinstance(rows, list | tuple)
    made = tuple(row_from(row) for row in rows)
    return Result(**{**kept, "rows": made})  # type: ignore[arg-type]  # as it was written


def row_from(kept: Mapping[str, object]) -> Row:
    """A row that was kept as JSON; what a later version adds is left out.

    Example:
        >>> row_from({"row": "step", "arm": "ours", "by_round": [1.0], "new": 3}).by_round
        (1.0,)
    """
    names = {field.name for field in dataclasses.fields(Row)}
    values = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in kept.items()
        if name in names
    }
    return Row(**values)  # type: ignore[arg-type]  # as it was written
