"""Everything once on one GPU, in under ten minutes: one table with the device's name.

Rows: an epoch of `fit` beside PyTorch's eager, compiled and as CUDA graphs; a train step of
ResNet-18 in float32 and bfloat16; the CIFAR-10 record; a sweep of 1 to 4,096 members; propagation
of a transformer; a sample of the test suite. Each row is a process of its own, so that the memory
of one is not missing in the next: a row that fails says its error in the table, and the others go
on. A row for which the budget has no time left is named as skipped. The table is printed and
written as gpu.json and gpu.md.

Without a GPU it says so and ends with 0. `--rehearse` runs the same rows tiny on the CPU, to see
that they run; their times say nothing.

Run: python experiments/benchmarks/gpu.py [--output FOLDER] [--budget SECONDS] [--rows NAME ...]
"""

import argparse
import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).resolve()
ROOT = HERE.parents[2]
BUDGET = 570.0
"""Seconds for all rows; the table must be there before ten minutes are over."""
PATIENCE = 120.0
"""Seconds for JAX to find its devices."""
LEAST = 10.0
"""Seconds below which no row is begun."""
SUITE = (
    "tests/initializers/test_random.py",
    "tests/optimizers/test_formulas.py",
    "tests/layers",
    "tests/training/test_steps.py",
    "tests/training/test_run.py",
)
"""The sample of the tests, whose tolerances are float32's."""
TINY_SUITE = ("tests/initializers/test_whitening.py",)


class Job(NamedTuple):
    """A row: its function, as module:name, and the most seconds that it may take."""

    function: str
    seconds: float


JOBS = {
    "fit": Job("jaxdl_rows:fit", 90),
    "torch_eager": Job("torch_rows:eager", 90),
    "torch_compiled": Job("torch_rows:compiled", 120),
    "torch_graphs": Job("torch_rows:graphs", 60),
    "resnet_float32": Job("jaxdl_rows:resnet_float32", 120),
    "resnet_bfloat16": Job("jaxdl_rows:resnet_bfloat16", 120),
    "record": Job("jaxdl_rows:record", 200),
    "sweep": Job("jaxdl_rows:sweep", 120),
    "propagation": Job("jaxdl_rows:propagation", 90),
    "suite": Job("gpu:suite", 180),
}
"""In the order in which they run; the suite, which may be cut short, is the last."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; 0 unless a row failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, default=Path("runs/gpu"), help="for the table")
    parser.add_argument("--budget", type=float, default=BUDGET, help="seconds for all rows")
    parser.add_argument("--rows", nargs="+", choices=JOBS, default=[*JOBS], help="these alone")
    parser.add_argument("--rehearse", action="store_true", help="the same rows, tiny, on the CPU")
    parser.add_argument("--row", choices=JOBS, help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=BUDGET, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.row:
        return one_row(chosen.row, chosen.into, chosen.seconds, tiny=chosen.rehearse)
    started = time.perf_counter()
    machine = probe(rehearse=chosen.rehearse)
    if machine.get("platform") not in ("gpu", "cuda", "rocm") and not chosen.rehearse:
        why = machine.get("error", f"JAX sees {machine.get('device', 'no device')}")
        print(f"no GPU: {why}; install jax[cuda12], or see the rows run with --rehearse")
        return 0
    print(f"{machine['device']}, jax {machine.get('jax')}, at most {chosen.budget:.0f} s")
    rows = []
    for name in chosen.rows:
        left = chosen.budget - (time.perf_counter() - started)
        rows.append(row(name, left, rehearse=chosen.rehearse))
        print(f"{name}: {rows[-1]['state']} ({rows[-1]['took']:.0f} s)", flush=True)
    took = time.perf_counter() - started
    report = {"machine": machine, "rehearsal": chosen.rehearse, "seconds": took, "rows": rows}
    write(chosen.output, report)
    return int(any(each["state"].startswith("failed") for each in rows))


def probe(*, rehearse: bool) -> dict[str, Any]:
    """The device and the versions, asked in a process that gives the GPU back."""
    code = (
        "import json, jax; from jaxdl.environment import environment, versions; "
        "print(json.dumps(environment() | versions('torch', 'flax', 'optax', 'numpy') "
        "| {'platform': jax.devices()[0].platform}))"
    )
    try:
        done = called([sys.executable, "-c", code], PATIENCE, rehearse=rehearse)
    except subprocess.TimeoutExpired:
        return {"error": f"JAX does not start in {PATIENCE:.0f} s"}
    if done.returncode:
        return {"error": f"JAX does not start: {last_line(done.stderr)}"}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv"]
        told = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
        found["nvidia-smi"] = told.strip().splitlines()[-1]
    return found


def row(name: str, left: float, *, rehearse: bool) -> dict[str, Any]:
    """What a row gave: its numbers, its state, and the seconds that it took."""
    begun = time.perf_counter()
    result: dict[str, Any] = {"row": name, "measured": [], "state": "done"}
    if left < LEAST:
        return result | {"state": f"skipped: {max(left, 0):.0f} s of the budget left", "took": 0.0}
    seconds = min(JOBS[name].seconds, left)
    with tempfile.TemporaryDirectory() as folder:
        into = Path(folder) / "row.json"
        command = [sys.executable, str(HERE), "--row", name, "--into", str(into)]
        command += ["--seconds", str(seconds)]
        try:
            done = called(command + ["--rehearse"] * rehearse, seconds, rehearse=rehearse)
        except subprocess.TimeoutExpired:
            result["state"] = f"failed: not done in {seconds:.0f} s"
        else:
            if into.exists():
                result |= json.loads(into.read_text("utf-8"))
            else:
                why = last_line(done.stderr) or "no message"
                result["state"] = f"failed: exit code {done.returncode}, {why}"
    return result | {"took": time.perf_counter() - begun}


def called(
    command: list[str], seconds: float, *, rehearse: bool
) -> subprocess.CompletedProcess[str]:
    """A process, and all that it starts, ended after so many seconds."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.getenv("PYTHONPATH")]))
    variables["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    if rehearse:
        variables["JAX_PLATFORMS"] = "cpu"
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=variables,
        cwd=ROOT,
        start_new_session=True,
    ) as process:
        try:
            stdout, stderr = process.communicate(timeout=seconds)
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


def last_line(text: str) -> str:
    """The last line that says something, without an end."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def one_row(name: str, into: Path, seconds: float, *, tiny: bool) -> int:
    """Run a row in this process, and write what it gave."""
    sys.path.insert(0, str(HERE.parent))
    try:
        if name == "suite":
            found = suite(seconds, tiny=tiny)
        else:
            module, _, function = JOBS[name].function.partition(":")
            made = getattr(importlib.import_module(f"on_gpu.{module}"), function)(tiny=tiny)
            found = {"measured": [each._asdict() for each in made]}
    except Exception as error:
        kind, said = type(error).__name__, " ".join(str(error).split())[:300]
        # By its name: this process has imported no row of another kind.
        found = {
            "state": f"not here: {said}" if kind == "NotHereError" else f"failed: {kind}: {said}"
        }
    into.write_text(json.dumps(found), encoding="utf-8")
    return 0


def suite(seconds: float, *, tiny: bool) -> dict[str, Any]:
    """Tests passed and failed, of the files that were done in time."""
    if not importlib.util.find_spec("pytest"):
        return {"state": 'not here: pytest is not installed; pip install -e ".[test]"'}
    began, counts = time.perf_counter(), dict.fromkeys(("passed", "failed", "error"), 0)
    wrong, late = [], []
    for file in TINY_SUITE if tiny else SUITE:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        left = seconds - (time.perf_counter() - began) - LEAST
        try:
            done = called([*command, "-m", "not slow", file], max(left, 0.1), rehearse=tiny)
        except subprocess.TimeoutExpired:
            late.append(file)
            continue
        for number, what in re.findall(r"(\d+) (passed|failed|error)", last_line(done.stdout)):
            counts[what] += int(number)
        named = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
        if done.returncode:
            wrong += named or [f"{file}: {last_line(done.stderr) or last_line(done.stdout)}"]
    not_in_time = f"not done in time: {', '.join(late)}" if late else ""
    measured = [
        {"what": f"tests {what}", "median": number, "unit": "", "rounds": 1, "note": not_in_time}
        for what, number in counts.items()
    ]
    state = f"failed: {len(wrong)} of the tests: {', '.join(wrong[:5])}" if wrong else "done"
    return {"measured": measured, "state": state}


def lines_of(report: dict[str, Any]) -> list[tuple[str, str, str, str, str]]:
    """The table's lines: what, the median, its range, beside `fit`, and the note or the state."""
    fit = [each for each in report["rows"] if each["row"] == "fit" and each["measured"]]
    found = []
    for each in report["rows"]:
        for one in each["measured"]:
            middle = f"{one['median']:.4g} {one['unit']}".strip()
            spread = f"{one['least']:.4g} to {one['most']:.4g}" if one["rounds"] > 1 else ""
            beside = ""
            if fit and each["row"].startswith("torch"):
                beside = f"{one['median'] / fit[0]['measured'][0]['median']:.2f}"
            found.append((one["what"], middle, spread, beside, one["note"]))
        if each["state"] != "done":
            found.append((each["row"], "", "", "", each["state"]))
    return found


HEADINGS = ("row", "median", "least to most", "/ fit", "note")


def write(folder: Path, report: dict[str, Any]) -> None:
    """Print the table, and write it as JSON and Markdown."""
    machine = report["machine"]
    device = machine.get("nvidia-smi") or machine["device"]
    title = f"{device}: {report['seconds']:.0f} s" + " (a rehearsal)" * report["rehearsal"]
    lines = lines_of(report)
    table = Table(*HEADINGS, title=title)
    for line in lines:
        table.add_row(*line)
    Console(width=None if sys.stdout.isatty() else 120).print(table)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
    versions = ", ".join(f"{name} {value}" for name, value in machine.items())
    rows = [HEADINGS, ("---",) * len(HEADINGS), *lines]
    text = "\n".join(f"| {' | '.join(each.replace('|', '/') for each in one)} |" for one in rows)
    (folder / "gpu.md").write_text(f"# {title}\n\n{versions}\n\n{text}\n", encoding="utf-8")
    print(f"written to {folder}/gpu.json and gpu.md")


if __name__ == "__main__":
    sys.exit(main())
