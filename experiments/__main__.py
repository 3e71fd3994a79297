"""List and run the experiments: `python -m experiments list`, `... run NAME...`."""

import argparse
import ast
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Every experiment's name, which is its file's."""
    return sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__main__")


def list_experiments(names_alone: bool) -> int:
    """Print each experiment with the first line of its docstring, or the names alone."""
    if names_alone:
        print("\n".join(names()))
        return 0
    table = Table("experiment", "what it shows", box=None)
    for name in names():
        text = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text("utf-8"))) or ""
        table.add_row(name, text.partition("\n")[0])
    Console().print(table)
    return 0


def needs(name: str) -> str | None:
    """The dataset without which the script cannot run: its constant `NEEDS`, read, not imported."""
    for node in ast.parse((FOLDER / f"{name}.py").read_text("utf-8")).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "NEEDS":
            return str(ast.literal_eval(node.value))
    return None


def with_data(chosen: list[str]) -> list[str]:
    """Those whose data are on this machine; the others are named on stderr."""
    from jaxdl import data

    ready = {entry.name for entry in data.available() if entry.ready} | {None}
    for name in chosen:
        if needs(name) not in ready:
            print(f"{name} is skipped: {needs(name)} is not on this machine", file=sys.stderr)
    return [name for name in chosen if needs(name) in ready]


def run(chosen: list[str], options: list[str], jobs: int = 1) -> int:
    """Run the chosen experiments, each in a process of its own, `jobs` at a time.

    One at a time prints as it goes; several print each when it has ended. Returns 0 if every one
    of them ended with 0, else 1.
    """

    def one(name: str) -> int:
        command = [sys.executable, str(FOLDER / f"{name}.py"), *options]
        if jobs == 1:
            print(f"== {name}", flush=True)
            return subprocess.run(command, check=False).returncode
        done = subprocess.run(
            command, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        print(f"== {name}\n{done.stdout}", end="", flush=True)
        return done.returncode

    with ThreadPoolExecutor(jobs) as pool:
        codes = list(pool.map(one, chosen))
    failed = [name for name, code in zip(chosen, codes, strict=True) if code]
    if failed:
        print(f"failed, or with a refuted claim: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def names_and_options(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The names that stand first, and from the first option on what is the scripts' own."""
    first = next((i for i, each in enumerate(arguments) if each.startswith("-")), len(arguments))
    return arguments[:first], arguments[first:]


def main() -> int:
    """The command line; options that it does not know are the experiments' own."""
    parser = argparse.ArgumentParser(prog="python -m experiments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    lister = commands.add_parser("list", help="what there is")
    lister.add_argument("--names", action="store_true", help="the names alone, one a line")
    runner = commands.add_parser(
        "run",
        help="run some, or all; other options go to each script",
        usage="python -m experiments run [NAME ...] [--skip-missing] [--jobs N] [OPTIONS OF EACH]",
    )
    runner.add_argument(
        "--skip-missing", action="store_true", help="skip those whose data are not on this machine"
    )
    runner.add_argument("--jobs", type=int, default=1, help="how many at a time (default 1)")
    arguments, others = parser.parse_known_args()
    if arguments.command == "list":
        return list_experiments(arguments.names)
    if arguments.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {arguments.jobs}")
    chosen, options = names_and_options(others)
    unknown = [name for name in chosen if name not in names()]
    if unknown:
        parser.error(f"no experiment {', '.join(unknown)}; there are {', '.join(names())}")
    chosen = chosen or names()
    if arguments.skip_missing:
        chosen = with_data(chosen)
    return run(chosen, options, arguments.jobs)


if __name__ == "__main__":
    sys.exit(main())
