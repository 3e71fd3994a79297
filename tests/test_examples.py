"""The five tasks of docs/examples run, and take no more lines than are said."""

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "docs" / "examples"
COUNT = runpy.run_path(str(EXAMPLES / "count.py"))


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What the five print, one after another in one process, from an empty folder."""
    folder = tmp_path_factory.mktemp("examples")
    code = "import runpy, sys\n" + "".join(
        f"print('== {task}')\nrunpy.run_path({str(EXAMPLES / task)!r} + '.py')\n"
        for task in COUNT["TASKS"]
    )
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True,
        check=True, env={**os.environ, "PYTHONPATH": str(EXAMPLES)},
    )  # fmt: skip
    parts = ran.stdout.split("== ")[1:]
    return folder, {task: rest for task, _, rest in (part.partition("\n") for part in parts)}


def test_they_train_and_predict(said):
    _, printed = said
    for task in ("train", "weigh"):
        measured = eval(printed[task].splitlines()[0])
        assert measured["accuracy"] > 0.9  # of ten classes; chance has 0.1
    assert "rate" in printed["table"]
    assert "width" in printed["table"]


def test_they_leave_a_checkpoint_a_result_and_a_csv(said):
    folder, printed = said
    assert {path.name for path in folder.iterdir()} == {"run", "digits", "history.csv"}
    lines = (folder / "history.csv").read_text().splitlines()
    assert len(lines) == 21
    assert {"validation_f1", "validation_roc_auc_score"} <= set(lines[0].split(","))
    rows = [line.strip(" []").split() for line in printed["measure"].splitlines()]
    assert sum(int(row[place]) for place, row in enumerate(rows)) > 0.9 * 360


def test_they_are_as_short_as_is_said():
    counted = {library: sum(lines.values()) for library, lines in COUNT["count"]().items()}
    assert counted["jaxdl"] <= 45
    assert counted["jaxdl"] < min(counted["keras"], counted["skorch"])
    readme = " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())
    assert (
        f"{counted['jaxdl']} lines here beyond model and data, {counted['keras']} and "
        f"{counted['skorch']} there"
    ) in readme
