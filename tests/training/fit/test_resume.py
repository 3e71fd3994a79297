"""A run that is killed or told to end, and started again, ends as one that never was."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import environment

from jaxdl.training.checkpoints import on_disk

SCRIPT = Path(__file__).with_name("training_processes.py")


def start(compiled: Path, *arguments: Any) -> "subprocess.Popen[str]":
    """A process of the script, which keeps its compiled programs for the next one."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": str(compiled),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**cache),
    )


def finished(compiled: Path, *arguments: Any) -> dict[str, Any]:
    """What a process that comes to its end says last."""
    with start(compiled, *arguments) as process:
        output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return json.loads(output.splitlines()[-1])


def stored_steps(folder: Path) -> list[int]:
    return [on_disk.read_manifest(path).step for path in sorted(folder.glob("*-step-*"))]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.mark.slow
def test_a_run_killed_at_20_moments_ends_with_the_bits_of_one_never_killed(
    tmp_path: Path, compiled: Path
) -> None:
    """Killed with SIGKILL, saving included; the other run saves nothing and calls otherwise."""
    told = finished(compiled, "kill", tmp_path)
    assert told["killed"] == 20
    # The lives after the first went on, and not all from an epoch's first step, of which there
    # is one every 18.
    assert max(told["began"]) > 18
    assert told["began"] == sorted(told["began"])
    killed, never_killed = (
        json.loads((tmp_path / f"{name}.json").read_text()) for name in ("killed", "never_killed")
    )
    assert killed == never_killed


@pytest.fixture(scope="module")
def never_ended(compiled: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return finished(compiled, "train", tmp_path_factory.mktemp("never_ended"))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_a_run_with_its_state_saved(
    tmp_path: Path, compiled: Path, never_ended: dict[str, Any], number: int, status: int
) -> None:
    # No checkpoint is asked for within the run's 900 steps: the one there is the signal's.
    with start(compiled, "train", tmp_path, 10**6, "slow") as process:
        assert process.stdout is not None
        first = int(process.stdout.readline())
        process.send_signal(number)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == status, errors
    assert errors == ""
    (step,) = stored_steps(tmp_path)
    assert first <= step < never_ended["steps"]
    assert finished(compiled, "train", tmp_path) == never_ended
