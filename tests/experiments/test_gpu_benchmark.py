"""The benchmark on a GPU: what it says without one, its rows rehearsed, and how a row fails."""

import json
import subprocess
import sys
from pathlib import Path

import gpu
import pytest
from on_gpu import measured

ROOT = Path(__file__).parents[2]


@pytest.fixture
def no_gpu(monkeypatch):
    found = {"device": "cpu", "platform": "cpu", "jax": "0"}
    monkeypatch.setattr(gpu, "probe", lambda **how: found)


def test_without_a_gpu_it_says_so_and_ends_well(capsys, tmp_path, no_gpu):
    assert gpu.main(["--output", str(tmp_path / "table")]) == 0
    said = capsys.readouterr().out
    assert said.startswith("no GPU: JAX sees cpu;")
    assert "--rehearse" in said
    assert not (tmp_path / "table").exists()


def test_jax_that_does_not_start_is_no_gpu_either(capsys, monkeypatch):
    monkeypatch.setattr(gpu, "called", lambda *given, **how: subprocess.CompletedProcess(
        [], 1, "", "Traceback\nRuntimeError: no driver\n"))  # fmt: skip
    assert gpu.main([]) == 0
    assert "JAX does not start: RuntimeError: no driver" in capsys.readouterr().out


def test_a_device_that_does_not_answer_is_no_gpu(capsys, monkeypatch):
    monkeypatch.setattr(gpu, "PATIENCE", 0.05)
    assert gpu.main([]) == 0
    assert "JAX does not start in 0 s" in capsys.readouterr().out


@pytest.mark.slow
def test_every_row_runs_in_a_rehearsal(tmp_path):
    command = [sys.executable, str(ROOT / "experiments/benchmarks/gpu.py"), "--rehearse"]
    done = subprocess.run(
        [*command, "--budget", "1000", "--output", str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "gpu.json").read_text())
    states = {row["row"]: row["state"] for row in report["rows"]}
    assert [*states] == [*gpu.JOBS]
    absent = {name for name, state in states.items() if state.startswith("not here")}
    assert absent >= {"torch_graphs"}
    assert absent <= {"torch_eager", "torch_compiled", "torch_graphs"}
    assert {state for name, state in states.items() if name not in absent} == {"done"}
    for row in report["rows"]:
        assert bool(row["measured"]) == (row["row"] not in absent)
        for one in row["measured"]:
            assert one["rounds"] >= 1
            assert one["median"] >= 0
    text = (tmp_path / "gpu.md").read_text()
    assert "(a rehearsal)" in text.splitlines()[0]
    assert f"jax {report['machine']['jax']}" in text
    for name in ("fit", "ResNet-8, bfloat16", "CIFAR-10 record", "sweep, 4 members", "propagation"):
        assert f"| {name} |" in text
    assert "| tests passed | 2" in text


def child(body, monkeypatch, seconds=60.0):
    """What a row gives whose process runs this code, told where to write."""
    real = gpu.called

    def other(command, seconds, **how):
        into = command[command.index("--into") + 1]
        return real([sys.executable, "-c", f"into = {into!r}\n{body}"], seconds, **how)

    monkeypatch.setattr(gpu, "called", other)
    return gpu.row("fit", seconds, rehearse=True)


def test_a_row_that_dies_says_its_last_words(monkeypatch):
    row = child("import sys; sys.exit('out of memory')", monkeypatch)
    assert row["state"] == "failed: exit code 1, out of memory"
    assert row["measured"] == []


def test_a_row_that_takes_too_long_is_ended_with_its_processes(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu, "LEAST", 0.1)
    alive = tmp_path / "alive"
    late = f"import time; time.sleep(8); open({str(alive)!r}, 'w')"
    body = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {late!r}])"
    row = child(body, monkeypatch, seconds=2.0)
    assert row["state"] == "failed: not done in 2 s"
    assert 2.0 <= row["took"] < 7.0
    assert not alive.exists()


def test_a_row_without_time_is_skipped_and_named(monkeypatch):
    row = gpu.row("sweep", 3.0, rehearse=True)
    assert row["state"] == "skipped: 3 s of the budget left"
    report = {"rows": [row], "machine": {}, "rehearsal": True, "seconds": 1.0}
    assert gpu.lines_of(report) == [("sweep", "", "", "", row["state"])]


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (measured.NotHereError("no PyTorch"), "not here: no PyTorch"),
        (ValueError("first line\nlast line"), "failed: ValueError: first line last line"),
    ],
)
def test_an_error_of_a_row_is_its_state(monkeypatch, tmp_path, error, state):
    from on_gpu import jaxdl_rows

    def broken(*, tiny):
        raise error

    monkeypatch.setattr(jaxdl_rows, "fit", broken)
    assert gpu.one_row("fit", tmp_path / "row.json", 1.0, tiny=True) == 0
    assert json.loads((tmp_path / "row.json").read_text()) == {"state": state}


def test_a_failure_is_the_exit_code_and_the_others_go_on(monkeypatch, tmp_path, capsys):
    def made(name, left, *, rehearse):
        given = measured.of_rounds(name, [1.0, 3.0], "s")._asdict()
        failed = {"measured": [], "state": "failed: broken | pipe"}
        return {"row": name, "took": 1.0} | (
            failed if name == "sweep" else {"measured": [given], "state": "done"}
        )

    monkeypatch.setattr(gpu, "row", made)
    monkeypatch.setattr(gpu, "probe", lambda **how: {"device": "a card", "platform": "gpu"})
    names = ["fit", "torch_eager", "sweep", "record"]
    assert gpu.main(["--output", str(tmp_path), "--rows", *names]) == 1
    lines = (tmp_path / "gpu.md").read_text().splitlines()
    assert lines[0].startswith("# a card: ")
    assert "| torch_eager | 2 s | 1 to 3 | 1.00 |  |" in lines
    assert "| sweep |  |  |  | failed: broken / pipe |" in lines
    assert any(line.startswith("| record | 2 s") for line in lines)
    assert "a card" in capsys.readouterr().out
