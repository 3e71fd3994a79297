"""How long until the first line: from the start of Python to the end of the first epoch.

784-128-10 on Fashion-MNIST, Adam at 1e-3, batches of 100, its data prepared and its programs kept
from an earlier run. Every timing is of a process of its own, in turns:

    flax, optax  the imports that no program here can do without
    training     `import jaxdl.training`
    fit          a script that calls `training.fit`, to the line of its first epoch
    experiment   the same below `claims.main`, with the imports that an experiment has

Then where the time of `fit` goes, and which parts of this library an import loads. The processes
may write bytecode, as Python does where nobody forbids it.

Run: python experiments/benchmarks/first_line.py
"""

import argparse
import contextlib
import functools
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STARTED = float(os.environ.get("STARTED", time.time()))
"""When the process was asked for, which is before Python runs."""

NEEDS = "fashion_mnist"
WITHIN = 2.0
FLOOR = "import flax, optax"
IMPORTS = {"flax, optax": FLOOR, "training": "import jaxdl.training"}
EXPERIMENT = "flax, optax, xarray, tyro"
"""What an experiment cannot do without."""
KINDS = {
    "jaxpr_trace_duration": "tracing",
    "jaxpr_to_mlir_module_duration": "lowering",
    "backend_compile_duration": "loading programs",
}
"""What JAX's own clock measures, by the end of an event's name."""
LINE = "epoch 1/"
SHOWN = 8
"""Packages, the slowest to import."""


def variables(cache: str) -> dict[str, str]:
    """The environment of a timed process: bytecode and compiled programs are kept."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "JAX_COMPILATION_CACHE_DIR": cache}


def seconds_of_import(statement: str, cache: str) -> float:
    """The seconds of a process that only imports, its end included."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", statement], env=variables(cache), check=True)
    return time.perf_counter() - started


def seconds_to_line(option: str, cache: str) -> float:
    """The seconds until a process says the line of its first epoch; it is ended then."""
    started = time.perf_counter()
    command = [sys.executable, __file__, option]
    with subprocess.Popen(
        command, env=variables(cache), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stderr is not None
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith(LINE):
                seconds = time.perf_counter() - started
                process.kill()
                return seconds
    raise RuntimeError(f"{option} must say the line of an epoch, got:\n{''.join(said[-5:])}")


def fit(dataset: Any = None, **settings: Any) -> None:
    """The run whose first line is waited for."""
    import jax

    from jaxdl import data, losses, metrics, models, optimizers, training

    training.fit(
        models.MLP([128, 10]),
        dataset or data.load(NEEDS),
        optimizers.adam(1e-3),
        loss=losses.cross_entropy,
        metrics=[metrics.accuracy],
        epochs=2,
        batch_size=100,
        key=jax.random.key(0),
        progress="lines",
        **settings,
    )


def as_script() -> None:
    """A script of a user who keeps compiled programs."""
    from jaxdl.compiling import keep_compiled

    keep_compiled()
    fit()


def as_experiment() -> int:
    """An experiment: the runner, xarray, and what draws."""
    import types
    from dataclasses import make_dataclass

    import xarray

    from jaxdl import plotting
    from jaxdl.claims import main

    def measured(config: Any) -> xarray.Dataset:
        fit()
        return xarray.Dataset({"zero": 0})

    experiment = types.ModuleType("first_line", "An epoch.")
    parts = {
        "__file__": __file__,
        "Config": make_dataclass("Config", [], frozen=True),
        "run": measured,
        "claims": lambda results: [],
        "plot": lambda results: plotting.new_figure(4, 3),
    }
    vars(experiment).update(parts)
    with tempfile.TemporaryDirectory() as folder:
        return main(experiment, ["--output", folder])


def parts() -> dict[str, float]:
    """The seconds of one script's parts, in order; those of `fit` by what JAX was doing."""
    marks = {"the interpreter": time.time()}

    def mark(name: str) -> None:
        marks[name] = time.time()

    import flax  # noqa: F401  # timed
    import optax  # noqa: F401  # timed

    mark(FLOOR)
    import jax
    from jax import monitoring

    from jaxdl import data, models, optimizers, training  # noqa: F401  # timed
    from jaxdl.compiling import keep_compiled

    keep_compiled()
    mark("the imports of jaxdl")
    jax.random.key(0).block_until_ready()
    mark("JAX's backend, and a key")
    dataset = data.load(NEEDS)
    mark("data.load")
    spans: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS.values()}

    def note(event: str, duration_secs: float, **_: Any) -> None:
        kind = KINDS.get(event.rpartition("/")[2])
        if kind is not None:
            spans[kind].append((time.time() - duration_secs, time.time()))

    monitoring.register_event_duration_secs_listener(note)

    def line(event: training.Event) -> None:
        ends.append(time.time())

    ends: list[float] = []
    fit(dataset, observers=[line])
    began, ended = marks["data.load"], ends[0]
    times = [STARTED, *marks.values()]
    found = dict(zip(marks, (b - a for a, b in itertools.pairwise(times)), strict=True))
    for kind, each in spans.items():
        found[f"fit: {kind}"] = covered([span for span in each if span[1] <= ended])
    known = sum(seconds for name, seconds in found.items() if name.startswith("fit: "))
    epoch = ends[1] - ends[0]
    found["fit: an epoch, as long as the second"] = epoch
    found["fit: the rest"] = ended - began - known - epoch
    return found


def covered(spans: list[tuple[float, float]]) -> float:
    """The length of the union of spans: a function that is traced traces others inside.

    Example:
        >>> covered([(1.0, 2.0), (0.0, 3.0), (4.0, 5.0)])
        4.0
    """
    total, end = 0.0, float("-inf")
    for start, stop in sorted(spans):
        total += max(0.0, stop - max(start, end))
        end = max(end, stop)
    return total


def import_milliseconds(statement: str, cache: str) -> dict[str, float]:
    """By package, and of jaxdl by sub-package, the milliseconds of imports beyond the floor."""
    said = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", f"{FLOOR}; import sys\n{statement}"],
        env=variables(cache),
        capture_output=True,
        text=True,
        check=True,
    ).stderr
    rows = re.findall(r"import time:\s+(\d+) \|\s+\d+ \| (\s*)(\S+)", said)
    last = max(at for at, (_, indent, name) in enumerate(rows) if name == "optax" and not indent)
    taken: dict[str, float] = defaultdict(float)
    for microseconds, _, name in rows[last + 1 :]:
        parts = name.split(".")
        depth = 2 if parts[0] == "jaxdl" else 1
        taken[".".join(parts[:depth])] += int(microseconds) / 1e3
    return dict(sorted(taken.items(), key=lambda item: -item[1])[:SHOWN])


def rows(arguments: argparse.Namespace) -> Iterator[Any]:
    """The imports, the first lines, and where their time goes."""
    import numpy as np
    from comparison import amount, measure, result_of, show

    with tempfile.TemporaryDirectory() as cache:
        timed = {"clock": lambda arm: arm()}
        imports = {
            name: functools.partial(seconds_of_import, statement, cache)
            for name, statement in IMPORTS.items()
        }
        taken = measure(imports, arguments.rounds, **timed)
        yield from show(
            "a process that imports", taken, "flax, optax", at_most={"training": 1.1},
            note="the end of the process included",
        )  # fmt: skip
        lines = {
            "flax, optax": imports["flax, optax"],
            "fit": functools.partial(seconds_to_line, "--script", cache),
            EXPERIMENT: functools.partial(seconds_of_import, f"import {EXPERIMENT}", cache),
            "experiment": functools.partial(seconds_to_line, "--experiment", cache),
        }
        taken = measure(lines, arguments.rounds, **timed)
        for name, floor in (("fit", "flax, optax"), ("experiment", EXPERIMENT)):
            both = {each: taken[each] for each in (floor, name)}
            yield from show("to the first epoch's line", both, floor)
            values = taken[name]
            spread = f"{values.min():.2f} to {values.max():.2f} in {len(values)} rounds"
            yield amount(
                "to the first epoch's line", name, float(np.median(values)), "s",
                at_most=WITHIN, note=spread,
            )  # fmt: skip
        kept = {"PYTHONDONTWRITEBYTECODE": None, "JAX_COMPILATION_CACHE_DIR": cache}
        several = [
            result_of(__file__, "--parts", STARTED=str(time.time()), **kept)
            for _ in range(arguments.rounds)
        ]
        for name in several[0]:
            seconds = 1e3 * np.array([each[name] for each in several])
            spread = f"{seconds.min():.0f} to {seconds.max():.0f}"
            yield amount("where it goes", name, float(np.median(seconds)), "ms", note=spread)
        for name, milliseconds in import_milliseconds(IMPORTS["training"], cache).items():
            yield amount("imports beyond flax and optax", name, milliseconds, "ms")


def main() -> int:
    """One of the timed processes, or the benchmark."""
    processes = {"--script": as_script, "--experiment": as_experiment}
    if sys.argv[1:] and sys.argv[1] in processes:
        with contextlib.suppress(BrokenPipeError):
            processes[sys.argv[1]]()
        return 0
    if sys.argv[1:] == ["--parts"]:
        print(json.dumps(parts()))
        return 0
    from comparison import options_of, run

    code: int = run(rows, options_of(__doc__, rounds=7), __file__)
    return code


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    sys.exit(main())
