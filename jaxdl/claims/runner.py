"""Run an experiment from the command line: choose the knobs, measure, judge, write, report.

An experiment is a module:

    Config                             a frozen dataclass: the knobs, each with a default
    PRESETS                            optional; settings by name, "default" among them
    run(config) -> arrays by name      measures, writes no file; or an `xarray.Dataset`
    claims(results) -> list[Claim]     what a lecture or a paper says of these numbers
    plot(results) -> Figure            optional; what to look at
    animate(results, folder) -> files  optional; writes them; GIFs are shown on the page

Its docstring says what it shows, in a line, and more in paragraphs; then, in paragraphs that begin
with `Meaning:`, `Data:`, `Source:`, `Run:`, `Expected:` and `Time:`, what the figure means, and
where all of it comes from. Formulas stand in dollars. Its last line is

    if __name__ == "__main__":
        sys.exit(main(sys.modules[__name__]))
"""

import argparse
import dataclasses
import json
import reprlib
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxdl.claims.claim import Claim
from jaxdl.claims.descriptions import parts_of
from jaxdl.claims.drawings import TALK, draw, remove_pictures
from jaxdl.claims.past_runs import CONFIG, find_run
from jaxdl.claims.redrawing import NothingStoredError, stored_results
from jaxdl.claims.report import report, write_claims
from jaxdl.claims.run_page import write_page
from jaxdl.claims.runs_index import write_index
from jaxdl.claims.stored_results import write_results
from jaxdl.data.types import DataError
from jaxdl.environment import machine
from jaxdl.extras import import_extra
from jaxdl.files import as_path

_PARTS = {
    "Config": "Config, a frozen dataclass of the knobs, each with a default",
    "run": "run(config), which returns arrays by name",
    "claims": "claims(results), which returns a list of jaxdl.claims.Claim",
}
_OWN_OPTIONS = ("preset", "output", "style", "redraw", "coordinator", "processes", "process")


def main(experiment: Any, arguments: Sequence[str] | None = None) -> int:
    """Run an experiment from the command line; 1 if a claim is refuted, else 0.

    Every field of `Config` is an option. `--preset NAME` chooses the other knobs: "default", if it
    is left out. `--output DIR` says where the folder NAME of the script is written (default
    `runs`): config.json, results.npz (see `write_results`), claims.json,
    figure.png and figure.svg, index.html, and made.json, which has the knobs that were changed, the
    versions, the machine and the time. `DIR/index.html` links the pages of all runs there.

    `--style talk` draws the figure for a lecture room, too: talk.svg, talk.png, and each panel
    alone in `panels`. `--redraw` measures nothing: it takes the results of the last run with the
    same knobs, and writes claims, pictures and page anew. Several processes run as one with
    `--coordinator HOST:PORT --processes N --process I`, the same command but for I; the first of
    them writes.

    Arguments:
        experiment: a module with what `jaxdl.claims.runner` lists.
        arguments: the command line; default `sys.argv[1:]`.

    Returns:
        2 if data that it needs are not there or are damaged, or there is nothing to draw again;
        stderr has a sentence that says how to mend it.

    Raises:
        TypeError: a part of the experiment is missing, or is not what it should be.
        ImportError: tyro, psutil or matplotlib is not installed.
        SystemExit: 2 for an unknown option or preset, 0 after `--help`.

    Example:
        >>> import tempfile, types
        >>> from dataclasses import dataclass
        >>> @dataclass(frozen=True)
        ... class Config:
        ...     number: float = 1.5
        >>> toy = types.ModuleType("toy", "Is the number positive?")
        >>> toy.__file__, toy.Config = "toy.py", Config
        >>> toy.run = lambda config: {"number": config.number}
        >>> toy.claims = lambda results: [Claim("positive", results["number"], 0, float("inf"))]
        >>> main(toy, ["--number", "-2", "--output", tempfile.mkdtemp()])
        ┏━...
        1
    """
    name = Path(experiment.__file__).stem
    presets = _presets(experiment, name)
    chosen, config = _command_line(experiment, name, presets, arguments)
    folder = chosen.output / name
    settings = {"preset": chosen.preset, **dataclasses.asdict(config)}
    try:
        if chosen.redraw:
            results = stored_results(folder, settings)
        else:
            _start(chosen)
            results = experiment.run(config)
    except (DataError, NothingStoredError) as error:
        print(f"{name}: {_with_name(error, experiment)}", file=sys.stderr)
        return 2
    if chosen.process:
        return _code(_checked(experiment.claims(results)))
    made = _made(config, presets[chosen.preset])
    if not chosen.redraw:
        _begin(folder, settings, results)
    claims = _checked(experiment.claims(results))
    _finish(folder, experiment, results, claims, made, chosen)
    return _code(claims)


def _begin(folder: Path, settings: Mapping[str, Any], results: Any) -> None:
    """Remove what an earlier run left, and write what was measured.

    Before anything that can fail: a long run is not lost by a slip in a claim or a figure.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(json.dumps(settings, indent=2, default=str) + "\n")
    for earlier in ("claims.json", "index.html", "made.json"):
        (folder / earlier).unlink(missing_ok=True)
    remove_pictures(folder)
    write_results(folder, results)


def _finish(
    folder: Path,
    experiment: Any,
    results: Any,
    claims: Sequence[Claim],
    made: Mapping[str, Any],
    chosen: argparse.Namespace,
) -> None:
    """Write claims, pictures, how it was made, and the pages; print the claims."""
    write_claims(folder, claims)
    report(claims)
    talk = chosen.style == TALK
    drawn = draw(folder, experiment, results, talk=talk)
    if not chosen.redraw:
        made = {**made, "seconds": round(seconds_since_start(), 1)}
        (folder / "made.json").write_text(json.dumps(made, indent=2, default=str) + "\n")
    run = find_run(folder)
    assert run is not None  # its claims were written above
    write_page(run, parts_of(experiment.__doc__ or ""), drawn.figure, drawn.gifs)
    write_index(chosen.output)
    print(f"{folder}/index.html: figure and claims; {round(seconds_since_start(), 1)} s in all")


def _code(claims: Sequence[Claim]) -> int:
    return 1 if any(claim.refuted for claim in claims) else 0


def _with_name(error: Exception, experiment: Any) -> str:
    """The error's sentence; where it speaks of any data set, it names the one that is needed."""
    needed = getattr(experiment, "NEEDS", "NAME")
    return str(error).replace("data prepare NAME", f"data prepare {needed}")


def seconds_since_start() -> float:
    """Seconds since this process was started, the interpreter and all imports included."""
    psutil = import_extra("psutil", "the time since the start")
    return time.time() - float(psutil.Process().create_time())


def _presets(experiment: Any, name: str) -> Mapping[str, Any]:
    missing = [text for part, text in _PARTS.items() if not hasattr(experiment, part)]
    if missing:
        raise TypeError(
            f"an experiment must have Config, run and claims, got {name} without some of them; add "
            + ", and ".join(missing)
        )
    presets: Mapping[str, Any] = getattr(experiment, "PRESETS", None) or {
        "default": experiment.Config()
    }
    if not dataclasses.is_dataclass(experiment.Config):
        raise TypeError(
            f"Config must be a dataclass, got {experiment.Config!r}; write @dataclass(frozen=True)"
        )
    taken = {field.name for field in dataclasses.fields(experiment.Config)} & {*_OWN_OPTIONS}
    if taken:
        raise TypeError(
            f"Config must leave the names {', '.join(_OWN_OPTIONS)} to the command line, got "
            f"{', '.join(sorted(taken))}; name it otherwise"
        )
    if "default" not in presets:
        raise TypeError(
            f'PRESETS must have "default", got {", ".join(presets)}; give one of them that name'
        )
    return presets


def _command_line(
    experiment: Any, name: str, presets: Mapping[str, Any], arguments: Sequence[str] | None
) -> tuple[argparse.Namespace, Any]:
    """The options that every experiment has, and its own `Config`."""
    tyro = import_extra("tyro", "the command line of an experiment")
    usage = (
        f"{name}.py [--preset {{{','.join(presets)}}}] [--output DIR] [--style {{page,talk}}] "
        "[--redraw]"
    )
    parser = argparse.ArgumentParser(f"{name}.py", add_help=False, allow_abbrev=False)
    parser.add_argument("--preset", choices=list(presets), default="default")
    parser.add_argument("--output", type=as_path, default=Path("runs"))
    parser.add_argument("--style", choices=["page", TALK], default="page")
    parser.add_argument("--redraw", action="store_true")
    parser.add_argument("--coordinator", help="HOST:PORT of process 0")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int)
    chosen, rest = parser.parse_known_args(arguments)
    config = tyro.cli(
        experiment.Config,
        prog=usage,
        description=experiment.__doc__,
        default=presets[chosen.preset],
        args=rest,
    )
    return chosen, config


def _start(chosen: argparse.Namespace) -> None:
    """Keep what is compiled and what is freed, and find the other processes."""
    from jaxdl.compiling import keep_compiled
    from jaxdl.freed_memory import keep_memory

    keep_memory()
    keep_compiled()
    if chosen.coordinator or chosen.processes or chosen.process:
        from jaxdl.training.fit.layouts import initialize

        initialize(chosen.coordinator, processes=chosen.processes, process=chosen.process)


def _made(config: Any, preset: Any) -> dict[str, Any]:
    """The knobs that differ from the preset, versions and machine, and the date."""
    given, plain = dataclasses.asdict(config), dataclasses.asdict(preset)
    return {
        "changed": {name: value for name, value in given.items() if value != plain[name]},
        **machine(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _checked(claims: Any) -> Sequence[Claim]:
    if isinstance(claims, Sequence) and all(isinstance(claim, Claim) for claim in claims):
        return claims
    raise TypeError(
        f"claims(results) must return a list of jaxdl.claims.Claim, got {reprlib.repr(claims)}; "
        "make them with Claim or about_mean"
    )
