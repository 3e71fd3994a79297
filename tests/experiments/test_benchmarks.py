"""The table of all benchmarks: what ran, what fell short, what crashed, what changed."""

import doctest
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from comparison import command, machine, rows, suite, table, timing
from comparison.table import Result

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "experiments" / "benchmarks"
SCRIPT = '''"""What `{name}` costs.

More of it.
"""
import sys
import numpy as np
from comparison import options_of, run, show

def rows(arguments):
    {body}
    seconds = {{"theirs": np.array([1.0, 1.0]), "ours": np.array({ours})}}
    yield from show("a step", seconds, "theirs", at_most={{"ours": 1.1}}, note="<two> rounds")

sys.exit(run(rows, options_of(__doc__, rounds=5), __file__))
'''


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "experiments", *arguments],
        capture_output=True, text=True, cwd=ROOT, env=os.environ | {"COLUMNS": "100"},
    )  # fmt: skip


@pytest.fixture(scope="module")
def runner():
    spec = importlib.util.spec_from_file_location("runner", ROOT / "experiments" / "__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("module", [command, machine, rows, suite, table, timing])
def test_examples_in_docstrings(module):
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.testmod(module, optionflags=flags).failed == 0


@pytest.fixture
def three(tmp_path, monkeypatch):
    """A benchmark that misses its target, one that crashes, and one that cannot run."""
    monkeypatch.setenv("PYTHONPATH", f"{FOLDER}:{ROOT}")
    bodies = {
        "misses": "assert arguments.rounds == 2",
        "crashes": "sys.exit('the arms do not agree')",
        "lacks": "pass",
    }
    for name, body in bodies.items():
        text = SCRIPT.format(name=name, body=body, ours=[1.2, 1.4])
        (tmp_path / f"{name}.py").write_text(text)
    whys = {"misses": "", "crashes": "", "lacks": "torch is not installed"}
    return {tmp_path / f"{name}.py": why for name, why in whys.items()}


def test_what_fell_short_stands_first(three, tmp_path, capfd):
    assert suite.run_all(three, ["--quick", "--output", str(tmp_path / "runs")]) == 1
    said = capfd.readouterr()
    assert "== lacks is skipped: torch is not installed" in said.out
    assert "a step, ours: 1.300 (at most 1.1)" in said.err
    folder = tmp_path / "runs" / "benchmarks"
    kept = json.loads((folder / "benchmarks.json").read_text())
    assert {each["name"]: each["crashed"] or each["skipped"] for each in kept["results"]} == {
        "misses": "",
        "crashes": "the arms do not agree",
        "lacks": "torch is not installed",
    }
    (row,) = kept["results"][0]["rows"]
    assert row["by_round"] == [1.2, 1.4]
    assert row["value"] == pytest.approx(1.3)
    assert set(suite.SAME) < set(kept["machine"])

    text = (folder / "benchmarks.md").read_text()
    summary = "1 of 1 targets is missed. 1 benchmark crashed. 1 benchmark could not run."
    assert summary in text
    assert "This is a trial, of few rounds and less work" in text
    short = text[text.index("## What fell short") : text.index("## All rows")]
    order = [short.index(f"| {name} |") for name in ("crashes", "misses", "lacks")]
    assert order == sorted(order)
    line = next(line for line in text.splitlines() if line.startswith("| misses |"))
    assert line.split(" | ")[1:8] == [
        "a step", "ours / theirs", "1.300", "1.200 to 1.400", "2", "at most 1.1", "missed",
    ]  # fmt: skip

    page = (folder / "benchmarks.html").read_text()
    assert f"<b>{summary}</b> This is a trial" in page
    assert page.index("What fell short") < page.index("<h2>misses</h2>")
    assert "<p>What <code>misses</code> costs.</p>" in page
    assert "<b>misses: a step</b>" in page
    assert "&lt;two&gt; rounds" in page
    assert 'class="refuted"' in page
    assert "http" not in page.replace("http://www.w3.org", "")


def test_a_second_table_says_what_changed(three, tmp_path, capfd):
    folder, script = tmp_path / "runs" / "benchmarks", next(iter(three))
    text = script.read_text()
    for ours in ([1.2, 1.4], [1.0, 1.0]):
        script.write_text(text.replace("[1.2, 1.4]", str(ours)))
        options = ["--rounds", "2", "--output", str(tmp_path / "runs")]
        assert suite.run_all({script: ""}, options) == 0
    assert "-23 % (was 1.300)" in (folder / "benchmarks.md").read_text()
    page = (folder / "benchmarks.html").read_text()
    before = json.loads((folder / "earlier.json").read_text())
    assert f"Changes are against the table of {before['machine']['date']}." in page
    assert "What fell short" not in page
    assert "This is a trial" not in page
    assert "0 of 1 targets are missed." in capfd.readouterr().out


def test_another_machine_is_named_where_tables_are_compared():
    now = {"processor": "B", "cores seen": "2", "jax": "1"}
    before = {"processor": "A", "cores seen": "2", "jax": "1", "date": "2026-01-01"}
    said = suite.compared_with(now, before)
    assert said == "Changes are against the table of 2026-01-01, which had processor A (now B)."


def test_a_change_within_the_rounds_is_called_so():
    def result(value, by_round):
        return Result("b", "", (rows.Row("r", "x", "y", value=value, by_round=by_round),))

    near = table.lines_of([result(1.1, (1.0, 1.2))], [result(1.0, (0.9, 1.05))])
    far = table.lines_of([result(1.1, (1.08, 1.2))], [result(1.0, (0.9, 1.05))])
    assert near[0].change == "+10 %, within the ranges (was 1.000)"
    assert far[0].change == "+10 % (was 1.000)"


def test_rounds_begin_with_every_arm_in_turn():
    called = []
    arms = {name: lambda name=name: called.append(name) for name in "abc"}
    timing.measure(arms, 3, warm=False)
    assert "".join(called) == "abcbcacab"


def test_why_a_benchmark_cannot_run(runner, tmp_path, monkeypatch):
    script = tmp_path / "b.py"
    script.write_text('NEEDS, PACKAGE = "no_such_data", "no_such_package"\n')
    assert runner.cannot_run(script).startswith("no_such_package is not installed; pip install")
    script.write_text('NEEDS = "no_such_data"\n')
    assert runner.cannot_run(script) == (
        "no_such_data is not on this machine; jaxdl data prepare no_such_data"
    )
    script.write_text('BATCH, PACKAGE = 3, "json"\n')
    assert runner.cannot_run(script) == ""


@pytest.mark.parametrize("words", [["--theme", "beyond"], ["beyond"]])
def test_a_theme_is_named_either_way(runner, monkeypatch, words):
    started = []
    monkeypatch.setattr(
        runner, "run", lambda chosen, options, jobs: started.append((chosen, options)) or 0
    )
    monkeypatch.setattr(sys, "argv", ["experiments", "run", *words, "--preset", "smoke"])
    assert runner.main() == 0
    assert started == [(runner.by_theme()["beyond"], ["--preset", "smoke"])]


def test_all_benchmarks_or_some_are_run_alone(runner, monkeypatch, capsys):
    started = []
    monkeypatch.setattr(
        runner, "run_benchmarks", lambda names, options: started.append((names, options)) or 0
    )

    def main(*words):
        monkeypatch.setattr(sys, "argv", ["experiments", "run", *words])
        return runner.main()

    assert main("--theme", "benchmarks", "--quick") == 0
    assert main("curvature", "boston_sweep", "--rounds", "3") == 0
    every = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "gpu")
    assert started == [
        (every, ["--quick"]),
        (["curvature", "boston_sweep"], ["--rounds", "3"]),
    ]
    for words in (["curvature", "gains"], ["--theme", "benchmarks", "--jobs", "2"]):
        with pytest.raises(SystemExit):
            main(*words)
        assert "benchmarks run alone, one at a time" in capsys.readouterr().err


def test_a_benchmark_runs_through_to_its_page(tmp_path):
    done = run("run", "curvature", "--quick", "--output", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "All rows" in done.stdout
    assert "…" not in done.stdout
    (kept,) = json.loads((tmp_path / "benchmarks" / "benchmarks.json").read_text())["results"]
    (row,) = kept["rows"]
    assert (row["arm"], row["against"], len(row["by_round"])) == ("sharpness", "products alone", 2)
    # Both arms have the same products, so neither is far from the other.
    assert 0.1 < row["value"] < 10
    assert kept["title"].startswith("What the largest eigenvalue of a Hessian costs")


def test_the_list_names_benchmarks_apart():
    said = " ".join(run("list").stdout.split())
    assert "Benchmarks (run --theme benchmarks): batch_sizes, boston_sweep" in said
    assert "boston_sweep" not in run("list", "--names").stdout
