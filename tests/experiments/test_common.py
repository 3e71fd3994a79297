"""What every experiment shares: a claim that can fail, and what is written of it."""

import base64
import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import common
import numpy as np
import pytest

from jaxdl.claims import Claim

ROOT = Path(common.__file__).parent.parent


@dataclasses.dataclass(frozen=True)
class Config:
    """The knobs."""

    value: float = 1.0
    """What is measured."""


def experiment():
    """A module as the scripts are: it measures its own knob and claims that it is 1 to 2."""
    made = types.ModuleType("toy", "A toy with <signs> & more.")
    made.__file__ = "toy.py"
    made.Config = Config
    made.PRESETS = {"default": Config(), "smoke": Config(1.5), "full": Config(3.0)}
    made.run = lambda config: {"value": np.array([config.value])}
    made.claims = lambda results: [
        Claim("the value is 1 to 2", results["value"][0], 1.0, 2.0),
        Claim("the value is positive", results["value"][0], 0.0, np.inf),
    ]
    made.plot = lambda results: common.new_figure(2, 1)
    return made


@pytest.fixture(autouse=True)
def _no_cache_of_the_users(monkeypatch, tmp_path):
    """What `main` keeps stays out of the user's folder, and out of this process."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))


COUNTED = """
import sys, jax, common, glorot_histograms
missed = []
jax.monitoring.register_event_listener(
    lambda event, **_: missed.append(event) if event.endswith("/cache_misses") else None
)
common.main(glorot_histograms, ["--preset", "smoke", "--output", sys.argv[1]])
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


@pytest.mark.parametrize(
    ("arguments", "code", "value"),
    [
        ([], 0, 1.0),
        (["--preset", "smoke"], 0, 1.5),
        (["--preset", "full"], 1, 3.0),
        (["--preset", "full", "--value", "2"], 0, 2.0),
        (["--value", "0.5"], 1, 0.5),
    ],
)
def test_writes_everything_and_exits_by_the_claims(tmp_path, capsys, arguments, code, value):
    assert common.main(experiment(), [*arguments, "--output", str(tmp_path)]) == code
    folder = tmp_path / "toy"
    config = json.loads((folder / "config.json").read_text())
    assert config["value"] == value
    assert config["preset"] == (arguments[1] if "--preset" in arguments else "default")
    with np.load(folder / "results.npz", allow_pickle=False) as results:
        assert results["value"] == [value]
    claims = json.loads((folder / "claims.json").read_text())
    assert [claim["verdict"] for claim in claims] == ["refuted" if code else "holds", "holds"]
    assert claims[1]["high"] is None
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    page = (folder / "index.html").read_text()
    assert "A toy with &lt;signs&gt; &amp; more." in page
    assert (">refuted<" in page) == (code == 1)
    assert ("refuted " in capsys.readouterr().out) == (code == 1)


def test_animations_are_written_and_the_gif_is_shown(tmp_path):
    animated = experiment()

    def animate(results, folder):
        assert results["value"] == [1.0]
        files = [folder / "toy.gif", folder / "toy.mp4"]
        for file in files:
            file.write_bytes(file.suffix.encode())
        return files

    animated.animate = animate
    assert common.main(animated, ["--output", str(tmp_path)]) == 0
    page = (tmp_path / "toy" / "index.html").read_text()
    assert f"data:image/gif;base64,{base64.b64encode(b'.gif').decode()}" in page
    assert page.count("<img") == 2
    assert (tmp_path / "toy" / "toy.mp4").read_bytes() == b".mp4"


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
        path.stem
        for path in (ROOT / "experiments").glob("*.py")
        if path.stem not in ("common", "__main__")
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
