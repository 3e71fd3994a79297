"""What every experiment shares: claims, the command line, what is written and what is shown.

An experiment is a module with a docstring (what it shows, the source, the command, the time),
a frozen dataclass `Config`, its `PRESETS`, and three functions:

    run(config) -> dict of arrays      measures; writes no file
    claims(results) -> list[Claim]     what the lecture or the paper says of these numbers
    plot(results) -> Figure            what to look at

and, where there is something to watch, a fourth:

    animate(results, folder) -> list[Path]   writes the files; GIFs are shown on the page
"""

import argparse
import dataclasses
import io
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np
import psutil
import tyro
from rich.console import Console
from rich.table import Table

from jaxdl.claims import Claim, chance_of_all
from jaxdl.plotting.page import html_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from jaxdl import data

Results = Mapping[str, Any]
"""Arrays by name."""

EXPLAINED = (
    "A number in brackets is a 95 % interval over the runs. A claim is undecided where these runs "
    "cannot tell."
)
VERDICT_COLOURS = {"holds": "green", "undecided": "yellow", "refuted": "bold red"}


def main(experiment: Any, arguments: Sequence[str] | None = None) -> int:
    """Run `experiment` (a module) from the command line; 1 if a claim is refuted, else 0.

    `--preset NAME` chooses the knobs, `--output DIR` where `NAME/` is written (default `runs`),
    and every field of `Config` is an option. Several processes run as one with
    `--coordinator HOST:PORT --processes N --process I`, the same command but for I; the first
    writes.
    """
    name = Path(experiment.__file__).stem
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--preset", choices=sorted(experiment.PRESETS), default="default")
    parser.add_argument("--output", type=Path, default=Path("runs"))
    parser.add_argument("--coordinator", help="HOST:PORT of process 0")
    parser.add_argument("--processes", type=int)
    parser.add_argument("--process", type=int)
    chosen, rest = parser.parse_known_args(arguments)
    config = tyro.cli(
        experiment.Config,
        prog=f"{name}.py [--preset {{{','.join(experiment.PRESETS)}}}] [--output DIR]",
        description=experiment.__doc__,
        default=experiment.PRESETS[chosen.preset],
        args=rest,
    )
    keep_compiled()
    if chosen.coordinator or chosen.processes or chosen.process:
        from jaxdl.training.fit.layouts import initialize

        initialize(chosen.coordinator, processes=chosen.processes, process=chosen.process)
    results = experiment.run(config)
    claims = experiment.claims(results)
    if (chosen.process or 0) > 0:
        return 1 if any(claim.refuted for claim in claims) else 0
    folder = chosen.output / name
    folder.mkdir(parents=True, exist_ok=True)
    save(
        folder,
        config={"preset": chosen.preset, **dataclasses.asdict(config)},
        results=results,
        claims=claims,
        figure=experiment.plot(results),
        title=name,
        text=experiment.__doc__,
        animations=experiment.animate(results, folder) if hasattr(experiment, "animate") else (),
    )
    report(claims)
    print(f"{folder}/index.html: the figure and the claims; {seconds_since_start():.1f} s in all")
    return 1 if any(claim.refuted for claim in claims) else 0


def keep_compiled() -> None:
    """Keep compiled programs in the user's cache folder, so that a second start compiles nothing.

    The folder is `compiled` beside the data, $JAXDL_DATA_DIR or ~/.cache/jaxdl, unless JAX's own
    $JAX_COMPILATION_CACHE_DIR names another. Programs are kept by their content, compiler and
    options: a change of any of them compiles anew.
    """
    import jax

    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = os.environ.get("JAXDL_DATA_DIR") or "~/.cache/jaxdl"
        jax.config.update("jax_compilation_cache_dir", str(Path(folder).expanduser() / "compiled"))
    # Most programs here compile in less than the second that JAX waits for before it keeps one.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def save(
    folder: Path,
    *,
    config: Mapping[str, Any],
    results: Results,
    claims: Sequence[Claim],
    figure: "Figure",
    title: str,
    text: str,
    animations: Sequence[Path] = (),
) -> Path:
    """Write config.json, results.npz, claims.json, figure.png and index.html into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2, default=str) + "\n")
    arrays: dict[str, Any] = dict(results)
    np.savez(folder / "results.npz", **arrays)
    (folder / "claims.json").write_text(
        json.dumps([as_json(claim) for claim in claims], indent=2) + "\n"
    )
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=150)
    (folder / "figure.png").write_bytes(png.getvalue())
    gifs = [file.read_bytes() for file in animations if file.suffix == ".gif"]
    table = [(each.text, each.number, each.band, each.verdict) for each in claims]
    said = f"{EXPLAINED} {chance_in_words(claims)}"
    (folder / "index.html").write_text(
        html_page(title, text, table, said, png.getvalue(), gifs), encoding="utf-8"
    )
    return folder


def as_json(claim: Claim) -> dict[str, Any]:
    """A claim as plain values; JSON has no infinity and no NaN, so these are null."""

    def number(value: SupportsFloat) -> float | None:
        return float(value) if np.isfinite(float(value)) else None

    return {
        "text": claim.text,
        "measured": number(claim.measured),
        "low": number(claim.low),
        "high": number(claim.high),
        "interval": None if claim.interval is None else [number(end) for end in claim.interval],
        "verdict": claim.verdict,
        "chance": claim.chance,
    }


def report(claims: Sequence[Claim]) -> None:
    """Print the claims as a table, and how likely chance refutes one of them."""
    table = Table("claim", "measured", "expected", "")
    for claim in claims:
        colour = VERDICT_COLOURS[claim.verdict]
        table.add_row(claim.text, claim.number, claim.band, f"[{colour}]{claim.verdict}[/]")
    console = Console()
    console.print(table)
    console.print(f"{EXPLAINED} {chance_in_words(claims)}")


def chance_in_words(claims: Sequence[Claim]) -> str:
    """How likely chance refutes one of a script's claims, as a sentence."""
    chance = 100 * chance_of_all(claims)
    return f"Chance refutes a true one of these claims in at most {chance:.2g} % of all runs."


def load(name: str | None, usual: str, data_dir: str | None, raw_dir: str | None) -> "data.Dataset":
    """The named set; without a name the usual one where it is here, else mnist_5k, and says so."""
    from jaxdl import data

    if name is None:
        ready = {entry.name: entry.ready for entry in data.available(data_dir, raw_dir)}
        name = usual if ready[usual] else "mnist_5k"
        if name == "mnist_5k":
            print(f"{usual} is not on this machine: mnist_5k takes its place")
    return data.load(name, data_dir=data_dir, raw_dir=None if name == "mnist_5k" else raw_dir)


def new_figure(width: float, height: float) -> Any:
    """An empty matplotlib Figure without any window; width and height in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def seconds_since_start() -> float:
    """Seconds since this process was started, the interpreter and all imports included."""
    started: float = psutil.Process().create_time()
    return time.time() - started
