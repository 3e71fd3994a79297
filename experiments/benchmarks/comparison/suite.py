"""Run benchmarks one after another, each in its own process, and write one table of them."""

import argparse
import ast
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from .machine import describe
from .page import page
from .table import COLUMNS, Line, Result, lines_of, markdown, result_from, short_of, summary

WIDTH = 150
"""Columns of the table where no terminal says its width."""
TRIAL = "This is a trial, of few rounds and less work: it decides nothing."
SAME = ("processor", "cores seen", "vector instructions", "jax")
"""What must be the same on two machines before their ratios may be compared."""


def run_all(scripts: Mapping[Path, str], arguments: Sequence[str]) -> int:
    """Run the scripts and write `benchmarks.json`, `.md` and `.html` below `--output`.

    The table that stood there before becomes `earlier.json`, and the new one says what changed.

    Arguments:
        scripts: by script, why it cannot run; an empty text if it can.
        arguments: `--output FOLDER` (default runs), and options for every script.

    Returns:
        The exit code: 1 where a benchmark crashed. A missed target is no failure.
    """
    parser = argparse.ArgumentParser(prog="python -m experiments run --theme benchmarks")
    parser.add_argument("--output", type=Path, default=Path("runs"))
    chosen, options = parser.parse_known_args(arguments)
    results = [_skipped(script, why) if why else _run(script, options)
               for script, why in scripts.items()]  # fmt: skip
    write(chosen.output / "benchmarks", results, TRIAL * ("--quick" in options))
    return int(any(result.crashed for result in results))


def write(folder: Path, results: Sequence[Result], trial: str = "") -> None:
    """Print the table, and write it into a folder in three forms.

    Arguments:
        trial: what is said first of a table that decides nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kept, earlier = folder / "benchmarks.json", folder / "earlier.json"
    if kept.exists():
        kept.replace(earlier)
    before = json.loads(earlier.read_text()) if earlier.exists() else {}
    machine = describe()
    comparison = f"{trial} {compared_with(machine, before.get('machine', {}))}".strip()
    lines = lines_of(results, [result_from(each) for each in before.get("results", [])])
    whole = {"machine": machine, "results": [dataclasses.asdict(each) for each in results]}
    kept.write_text(json.dumps(whole, indent=1) + "\n")
    titles = {result.name: result.title for result in results}
    (folder / "benchmarks.md").write_text(markdown(lines, machine, comparison))
    (folder / "benchmarks.html").write_text(page(lines, titles, machine, comparison))
    show_all(lines, machine, comparison)
    print(f"{folder}/benchmarks.html, .md and .json")


def compared_with(now: Mapping[str, str], before: Mapping[str, str]) -> str:
    """What is to be known of the table before, a sentence.

    Example:
        >>> compared_with({"jax": "2"}, {"jax": "1", "date": "2026-01-01"})
        'Changes are against the table of 2026-01-01, which had jax 1 (now 2).'
    """
    if not before:
        return ""
    others = [
        f"{name} {before[name]} (now {now[name]})"
        for name in SAME
        if name in before and name in now and before[name] != now[name]
    ]
    had = f", which had {', '.join(others)}" if others else ""
    return f"Changes are against the table of {before.get('date', 'an unknown date')}{had}."


def show_all(lines: Sequence[Line], machine: Mapping[str, str], comparison: str) -> None:
    """Print what fell short, all rows, and the machine."""
    console = Console(width=None if sys.stdout.isatty() else WIDTH, highlight=False)
    for title, shown in (("What fell short", short_of(lines)), ("All rows", lines)):
        table = Table(*COLUMNS.values(), title=title, title_justify="left")
        for line in shown:
            style = "bold red" if line.verdict in ("missed", "crashed") else None
            cells = [getattr(line, field) for field in COLUMNS]
            if not line.value:
                cells[1] = line.note
            table.add_row(*cells, style=style)
        if shown:
            console.print(table)
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), markup=False)
    console.print(f"{summary(lines)} {comparison}".rstrip(), style="bold", markup=False)


def _skipped(script: Path, why: str) -> Result:
    print(f"== {script.stem} is skipped: {why}", flush=True)
    return Result(script.stem, _title(script), skipped=why)


def _run(script: Path, options: Sequence[str]) -> Result:
    print(f"== {script.stem}", flush=True)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(script), *options, "--output", folder]
        done = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
        print(done.stderr, end="", file=sys.stderr, flush=True)
        rows = Path(folder) / f"{script.stem}.json"
        seconds = time.perf_counter() - started
        if not rows.exists():  # a missed target makes a script fail, too, but after its rows
            said = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
            return Result(script.stem, _title(script), seconds=seconds, crashed=said[-1])
        kept = {"name": script.stem, "title": _title(script), "seconds": seconds}
        return result_from({**kept, "rows": json.loads(rows.read_text())})


def _title(script: Path) -> str:
    """The first line of its docstring."""
    return (ast.get_docstring(ast.parse(script.read_text("utf-8"))) or "").partition("\n")[0]
