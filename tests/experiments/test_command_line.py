"""`python -m experiments`: what there is, what is run, what is skipped."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments, **variables):
    return subprocess.run(
        [sys.executable, "-m", "experiments", *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | variables,
    )


def test_lists_every_script():
    listed = run("list", "--names").stdout.split()
    assert listed == sorted(
        path.stem for path in (ROOT / "experiments").glob("*.py") if path.stem != "__main__"
    )
    assert {"quickstart", "fashion_mnist"} <= set(listed)


def test_an_unknown_experiment_is_refused_with_the_known():
    done = run("run", "no_such")
    assert done.returncode == 2
    assert "no experiment no_such; there are" in done.stderr


@pytest.mark.parametrize("names", [[], ["gains", "lsuv"]])
def test_what_follows_an_option_is_no_name(names):
    spec = importlib.util.spec_from_file_location("runner", ROOT / "experiments" / "__main__.py")
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    options = ["--preset", "smoke", "--output", "runs"]
    assert runner.names_and_options([*names, *options]) == (names, options)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_failing_script_makes_the_run_fail(jobs):
    done = run("run", "quickstart", "gains", "--jobs", jobs, "--no-such-knob", "1")
    assert done.returncode == 1
    assert "refuted claim: quickstart, gains" in done.stderr
    assert "--no-such-knob" in done.stdout + done.stderr


def test_a_script_without_its_data_is_skipped_and_named(tmp_path):
    done = run("run", "cifar10", "--skip-missing", JAXDL_DATA_DIR=str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "")
    assert "cifar10 is skipped: cifar10 is not on this machine" in done.stderr


COUNTED = """
import sys, jax, glorot_histograms
from jaxdl.claims import main
missed = []
jax.monitoring.register_event_listener(
    lambda event, **_: missed.append(event) if event.endswith("/cache_misses") else None
)
main(glorot_histograms, ["--preset", "smoke", "--output", sys.argv[1]])
print("compiled", len(missed))
"""


def test_a_second_start_compiles_nothing(tmp_path):
    # As a user starts it: without the settings of the tests' own cache.
    ours = ("JAX_COMPILATION_CACHE_", "JAX_PERSISTENT_CACHE_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment = kept | {"JAXDL_DATA_DIR": str(tmp_path / "user")}
    counts = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", COUNTED, str(tmp_path / "runs")],
            cwd=ROOT / "experiments", env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        counts.append(int(done.stdout.rsplit(maxsplit=1)[-1]))
    assert counts[0] > 5
    assert counts[1] == 0
    assert any((tmp_path / "user" / "compiled").iterdir())
