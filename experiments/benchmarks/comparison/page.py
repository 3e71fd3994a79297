"""The table of all benchmarks as a page of its own."""

import html
import re
from collections.abc import Iterable, Mapping

from jaxdl.plotting.document import document

from .table import Line, short_of, summary

STYLES = {"met": "holds", "missed": "refuted", "crashed": "refuted", "skipped": "undecided"}
"""The page's colours of the verdicts."""
LEAD = (
    "What this library takes beside the same work written by hand, in PyTorch, Flax or optax. "
    "The arms of a row are timed in turns, on one machine, after their results were compared."
)
MEANING = (
    "A ratio is that of the medians over the rounds: 0.9 means nine tenths of the time of the arm "
    "beside it. Below it stands the range of the ratio over the rounds. A target was set before it "
    "was measured."
)


def page(
    lines: list[Line], titles: Mapping[str, str], machine: Mapping[str, str], comparison: str
) -> str:
    """The page, which needs no other file.

    Arguments:
        lines: the rows, as they are read.
        titles: by benchmark, what it measures, a line.
        machine: by its name, what is known of the machine.
        comparison: a sentence about the table before; may be empty.
    """
    said = f"<b>{html.escape(summary(lines))}</b> {html.escape(comparison)}"
    parts = [
        "<h1>Benchmarks</h1>",
        f"<p class=lead>{html.escape(LEAD)}</p>",
        f"<p class=meaning>{said}</p>",
        f"<p class=note>{html.escape(MEANING)}</p>",
    ]
    if short := short_of(lines):
        parts += ["<h2>What fell short</h2>", _table(short, named=True)]
    for benchmark, title in titles.items():
        parts += [
            f"<h2>{html.escape(benchmark)}</h2>",
            f"<p>{_coded(title)}</p>",
            _table(line for line in lines if line.benchmark == benchmark),
        ]
    told = "".join(
        f"<dt>{html.escape(name)}</dt><dd>{html.escape(value)}</dd>\n"
        for name, value in machine.items()
    )
    parts += ["<h2>The machine</h2>", f"<dl>\n{told}</dl>"]
    return document("Benchmarks", parts, LEAD)


def _table(lines: Iterable[Line], *, named: bool = False) -> str:
    head = "<tr><th>what</th><th>ratio</th><th>target</th><th>verdict</th></tr>"
    return f"<table>{head}\n" + "\n".join(_row(line, named) for line in lines) + "\n</table>"


def _row(line: Line, named: bool) -> str:
    rounds = f"{line.spread} in {line.rounds} rounds" if line.rounds else ""
    row = f"{line.benchmark}: {line.row}" if named else line.row
    what = _cell(f"<b>{_coded(row)}</b>", line.arms, line.note)
    value = _cell(html.escape(line.value), rounds, line.change)
    cells = f"<td>{what}</td><td>{value}</td><td>{html.escape(line.target)}</td>"
    style = STYLES.get(line.verdict, "")
    return f'<tr class="{style}">{cells}<td>{html.escape(line.verdict)}</td></tr>'


def _cell(first: str, *below: str) -> str:
    return first + "".join(
        f" <span class=quantity>{html.escape(text)}</span>" for text in below if text
    )


def _coded(text: str) -> str:
    """Plain text as HTML; what stands in backticks is code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))
