"""The command line of a benchmark, and the file in which its rows are kept."""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .rows import Row

QUICK_ROUNDS = 2


def options_of(text: str, *, rounds: int) -> argparse.ArgumentParser:
    """The options that every benchmark has; a script may add its own.

    Arguments:
        text: the script's docstring.
        rounds: timings of each arm where nothing else is said.
    """
    parser = argparse.ArgumentParser(
        description=text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, help=f"timings of each arm, in turns ({rounds})")
    parser.add_argument(
        "--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds and less work: a trial"
    )
    parser.add_argument("--output", type=Path, help="a folder for the rows as JSON")
    parser.set_defaults(default_rounds=rounds)
    return parser


def run(
    benchmark: Callable[[argparse.Namespace], Iterable[Row]],
    parser: argparse.ArgumentParser,
    script: str,
) -> int:
    """Run a script's benchmark, keep its rows, and say which targets were missed.

    Arguments:
        benchmark: takes the parsed options, gives the rows.
        parser: from `options_of`.
        script: the script's `__file__`; the rows of `x.py` are kept as `x.json`.

    Returns:
        The exit code: 1 where a target was missed.
    """
    arguments = parser.parse_args()
    if arguments.rounds is None:
        arguments.rounds = QUICK_ROUNDS if arguments.quick else arguments.default_rounds
    if arguments.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {arguments.rounds}")
    rows = list(benchmark(arguments))
    if arguments.output is not None:
        arguments.output.mkdir(parents=True, exist_ok=True)
        kept = json.dumps([dataclasses.asdict(row) for row in rows], indent=1)
        (arguments.output / f"{Path(script).stem}.json").write_text(f"{kept}\n")
    missed = [
        f"{row.row}, {row.arm}: {row.shown} ({row.target})" for row in rows if row.met is False
    ]
    if missed:
        print("target missed:\n  " + "\n  ".join(missed), file=sys.stderr)
    return int(bool(missed))


def result_of(script: str, *options: str, **changed: str | None) -> Any:
    """What a fresh process of the script prints last, read as JSON.

    Arguments:
        script: its `__file__`.
        options: its options.
        changed: environment variables; None takes one away.

    Raises:
        RuntimeError: the process failed; the message has the end of what it said.
    """
    variables = {**os.environ, **changed}
    made = subprocess.run(
        [sys.executable, script, *options],
        env={name: value for name, value in variables.items() if value is not None},
        capture_output=True,
        text=True,
        check=False,
    )
    if made.returncode:
        said = "\n".join(made.stderr.splitlines()[-5:])
        raise RuntimeError(f"{Path(script).stem} {' '.join(options)} must end with 0:\n{said}")
    return json.loads(made.stdout.splitlines()[-1])
