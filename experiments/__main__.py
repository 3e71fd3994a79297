"""List and run the experiments, and show them on one page.

python -m experiments list
python -m experiments run NAME or THEME ...
python -m experiments run --theme benchmarks
python -m experiments gallery
"""

import argparse
import ast
import importlib.util
import os
import shutil
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from jaxdl.claims import keep_runs, write_gallery
from jaxdl.claims.experiments_list import PIPED, print_list
from jaxdl.extras import install_command

FOLDER = Path(os.path.relpath(Path(__file__).parent))
KEPT = Path(os.path.relpath(Path(__file__).parents[1] / "docs" / "gallery"))
THEMES = {
    "first_network": "Training a first network",
    "initialization": "Initialisation",
    "normalization": "Normalisation",
    "optimization": "Optimisation",
    "generalization": "Generalisation",
    "beyond": "Beyond the lectures",
}
"""The folders of scripts in the order of the lectures, and their titles."""
BENCHMARKS = "benchmarks"
"""The folder of scripts that measure the clock: no experiments, and run alone."""
APART = ("gpu",)
"""A benchmark with a table of its own, which is run by its file."""


def by_theme() -> dict[str, list[Path]]:
    """The scripts of every theme that has some; the quickstart is the first of the first."""
    found = {theme: sorted((FOLDER / theme).glob("*.py")) for theme in THEMES}
    found["first_network"].insert(0, FOLDER / "quickstart.py")
    return {theme: scripts for theme, scripts in found.items() if scripts}


def by_name() -> dict[str, Path]:
    """Every script, in the order of the lectures."""
    return {script.stem: script for scripts in by_theme().values() for script in scripts}


def titles() -> dict[str, str]:
    """The titles of the themes that have scripts, by folder."""
    return {theme: THEMES[theme] for theme in by_theme()}


def benchmarks() -> dict[str, Path]:
    """Every benchmark of the common table by its name."""
    scripts = sorted((FOLDER / BENCHMARKS).glob("*.py"))
    return {script.stem: script for script in scripts if script.stem not in APART}


def constant(script: Path, name: str) -> str | None:
    """A text that the script sets at its top, alone or beside others; read, not imported."""
    for node in ast.parse(script.read_text("utf-8")).body:
        if not isinstance(node, ast.Assign):
            continue
        target, values = node.targets[0], [node.value]
        names = target.elts if isinstance(target, ast.Tuple) else [target]
        if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
            values = node.value.elts
        for each, value in zip(names, values, strict=False):
            if getattr(each, "id", "") == name:
                return str(ast.literal_eval(value))
    return None


def needs(script: Path) -> str | None:
    """The dataset without which the script cannot run: its constant `NEEDS`."""
    return constant(script, "NEEDS")


def cannot_run(script: Path) -> str:
    """Why a benchmark cannot run here: its data, or its constant `PACKAGE`; empty if it can."""
    from jaxdl import data

    package, dataset = constant(script, "PACKAGE"), needs(script)
    if package and importlib.util.find_spec(package) is None:
        return f"{package} is not installed; {install_command(package)}"
    if dataset and dataset not in {entry.name for entry in data.available() if entry.ready}:
        return f"{dataset} is not on this machine; jaxdl data prepare {dataset}"
    return ""


def with_data(chosen: list[Path]) -> list[Path]:
    """Those whose data are on this machine; the others are named on stderr."""
    from jaxdl import data

    ready = {entry.name for entry in data.available() if entry.ready} | {None}
    for script in chosen:
        if needs(script) not in ready:
            print(
                f"{script.stem} is skipped: {needs(script)} is not on this machine; "
                f"run `jaxdl data prepare {needs(script)}`",
                file=sys.stderr,
            )
    return [script for script in chosen if needs(script) in ready]


def run(chosen: list[Path], options: list[str], jobs: int = 1) -> int:
    """Run the chosen experiments, each in a process of its own, `jobs` at a time.

    One at a time prints as it goes; several print each when it has ended. Returns 0 if every one
    of them ended with 0; 2 if one could not start, for want of its data or by a wrong option;
    else 1.
    """

    def one(script: Path) -> int:
        command = [sys.executable, str(script), *options]
        if jobs == 1:
            print(f"== {script.stem}", flush=True)
            return subprocess.run(command, check=False).returncode
        done = subprocess.run(
            command, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        print(f"== {script.stem}\n{done.stdout}", end="", flush=True)
        return done.returncode

    with ThreadPoolExecutor(jobs) as pool:
        codes = list(pool.map(one, chosen))
    failed = [script.stem for script, code in zip(chosen, codes, strict=True) if code]
    if failed:
        print(f"failed, or with a refuted claim: {', '.join(failed)}", file=sys.stderr)
    # A script that a signal ended has a negative code.
    return 2 if 2 in codes else int(bool(failed))


def run_benchmarks(names: list[str], options: list[str]) -> int:
    """Run benchmarks and write one table of them."""
    from experiments.benchmarks.comparison.suite import run_all

    every = benchmarks()
    return run_all({every[name]: cannot_run(every[name]) for name in names}, options)


def names_and_options(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The names that stand first, and from the first option on what is the scripts' own."""
    first = next((i for i, each in enumerate(arguments) if each.startswith("-")), len(arguments))
    return arguments[:first], arguments[first:]


def main() -> int:
    """The command line; options that `run` does not know are the experiments' own."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    lister = commands.add_parser("list", help="what there is, by theme")
    lister.add_argument("--names", action="store_true", help="the names alone, one a line")
    runner = commands.add_parser(
        "run",
        help="run some, or all; other options go to each script",
        usage="python -m experiments run [NAME or THEME ...] [--theme THEME] [--skip-missing] "
        "[--jobs N] [OPTIONS OF EACH]",
    )
    runner.add_argument(
        "--theme", action="append", default=[], choices=(*THEMES, BENCHMARKS),
        help="all of a theme; benchmarks run alone, and write one table to OUTPUT/benchmarks",
    )  # fmt: skip
    runner.add_argument(
        "--skip-missing", action="store_true", help="skip those whose data are not on this machine"
    )
    runner.add_argument("--jobs", type=int, default=1, help="how many at a time (default 1)")
    gallery = commands.add_parser(
        "gallery", help="write one page of all that were run, here or for the project"
    )
    gallery.add_argument(
        "--output", type=Path, default=Path("runs"), help="where they were written (default runs)"
    )
    gallery.add_argument(
        "--keep", action="store_true", help=f"copy the runs of default presets into {KEPT} first"
    )
    arguments, others = parser.parse_known_args()
    if arguments.command != "run" and others:
        parser.error(f"{arguments.command} takes no {' '.join(others)}")
    if arguments.command == "list":
        if arguments.names:
            print("\n".join(by_name()))
        else:
            print_list({f"{title} ({name})": by_theme()[name] for name, title in titles().items()})
            said = f"\nBenchmarks (run --theme {BENCHMARKS}): {', '.join(benchmarks())}"
            print(textwrap.fill(said, shutil.get_terminal_size((PIPED, 0)).columns))
        return 0
    if arguments.command == "gallery":
        scripts = {title: by_theme()[name] for name, title in titles().items()}
        if arguments.keep:
            for name, why in keep_runs(scripts, arguments.output, KEPT).items():
                print(f"{name} is not copied: {why}", file=sys.stderr)
        print(write_gallery(scripts, arguments.output, KEPT))
        return 0
    if arguments.jobs < 1:
        parser.error(f"--jobs must be at least 1, got {arguments.jobs}")
    named, options = names_and_options(others)
    wanted = arguments.theme + named
    timed = [each for each in wanted if each == BENCHMARKS or each in benchmarks()]
    if timed:
        if timed != wanted or arguments.jobs > 1:
            parser.error("benchmarks run alone, one at a time: they measure the clock")
        return run_benchmarks(
            list(benchmarks()) if BENCHMARKS in timed else list(dict.fromkeys(timed)), options
        )
    of_name, of_theme = by_name(), by_theme()
    unknown = [each for each in wanted if each not in of_name and each not in of_theme]
    if unknown:
        parser.error(
            f"no experiment {', '.join(unknown)}; there are {', '.join(of_name)}; and the themes "
            + ", ".join((*of_theme, BENCHMARKS))
        )
    found = [script for each in wanted for script in of_theme.get(each) or [of_name[each]]]
    chosen = list(dict.fromkeys(found or of_name.values()))
    if arguments.skip_missing:
        chosen = with_data(chosen)
    return run(chosen, options, arguments.jobs)


if __name__ == "__main__":
    sys.exit(main())
