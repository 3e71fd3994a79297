"""An experiment run from the command line: the knobs, the files, the exit code, the refusals."""

import base64
import dataclasses
import importlib
import json
import os
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
import xarray
from PIL import Image

from jaxdl.claims import Claim, main, read_claims, read_results
from jaxdl.data.types import DataError
from jaxdl.plotting import new_figure


@dataclasses.dataclass(frozen=True)
class Config:
    """The knobs."""

    value: float = 1.0
    """What is measured."""


def experiment(**changed):
    """A module as the scripts are: it measures its own knob and claims that it is 1 to 2."""
    made = types.ModuleType("toy", "A toy with <signs> & more.")
    parts = {
        "Config": Config,
        "PRESETS": {"default": Config(), "smoke": Config(1.5), "full": Config(3.0)},
        "run": lambda config: {"value": np.array([config.value])},
        "claims": lambda results: [
            Claim("the value is 1 to 2", results["value"][0], 1.0, 2.0),
            Claim("the value is positive", results["value"][0], 0.0, np.inf),
        ],
        "plot": lambda results: new_figure(2, 1),
    } | changed
    made.__file__ = "toy.py"
    for name, part in parts.items():
        if part is not None:
            setattr(made, name, part)
    return made


@pytest.fixture(autouse=True)
def _no_cache_of_the_users(monkeypatch, tmp_path):
    """What `main` keeps stays out of the user's folder, and out of this process."""
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))


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
    assert main(experiment(), [*arguments, "--output", str(tmp_path)]) == code
    folder = tmp_path / "toy"
    config = json.loads((folder / "config.json").read_text())
    assert config["value"] == value
    assert config["preset"] == (arguments[1] if "--preset" in arguments else "default")
    with np.load(folder / "results.npz", allow_pickle=False) as results:
        assert results["value"] == [value]
    assert [claim.verdict for claim in read_claims(folder)] == [
        "refuted" if code else "holds",
        "holds",
    ]
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (folder / "figure.svg").read_text()
    made = json.loads((folder / "made.json").read_text())
    assert made["changed"] == ({"value": value} if "--value" in arguments else {})
    assert made["jax"] == jax.__version__
    assert made["cores"] == len(os.sched_getaffinity(0))
    assert made["seconds"] > 0
    page = (folder / "index.html").read_text()
    assert "A toy with &lt;signs&gt; &amp; more." in page
    assert (">refuted<" in page) == (code == 1)
    assert ("refuted " in capsys.readouterr().out) == (code == 1)


def test_animations_are_written_and_the_gif_is_shown(tmp_path):
    def animate(results, folder):
        assert results["value"] == [1.0]
        files = [folder / "toy.gif", folder / "toy.mp4"]
        for file in files:
            file.write_bytes(file.suffix.encode())
        return files

    assert main(experiment(animate=animate), ["--output", str(tmp_path)]) == 0
    page = (tmp_path / "toy" / "index.html").read_text()
    assert f"data:image/gif;base64,{base64.b64encode(b'.gif').decode()}" in page
    assert page.count("<img") == 2
    assert (tmp_path / "toy" / "toy.mp4").read_bytes() == b".mp4"


def drawn(results):
    """Two panels."""
    figure = new_figure(8, 3)
    for axes, title in zip(figure.subplots(1, 2), ("First", "Second"), strict=True):
        axes.plot([0, 1], [0, results["value"][0]])
        axes.set_title(title)
    return figure


def test_at_lecture_size_the_figure_and_its_panels_are_drawn_again(tmp_path):
    assert main(experiment(plot=drawn), ["--output", str(tmp_path)]) == 0
    usual = {name: (tmp_path / "toy" / name).read_bytes() for name in ("figure.svg", "figure.png")}
    assert not list(tmp_path.rglob("talk.*"))
    assert main(experiment(plot=drawn), ["--style", "talk", "--output", str(tmp_path)]) == 0
    folder = tmp_path / "toy"
    assert {name: (folder / name).read_bytes() for name in usual} == usual
    pngs = [folder / "talk.png", *(folder / "panels").glob("*.png")]
    for png in pngs:
        with Image.open(png) as picture:
            assert picture.size == (1920, 1080)
    names = {path.name for path in (folder / "panels").iterdir()}
    assert names == {"1-first.svg", "1-first.png", "2-second.svg", "2-second.png"}
    page = (folder / "index.html").read_text()
    for link in ("figure.svg", "talk.svg", "talk.png", "panels/1-first.png"):
        assert f'href="{link}"' in page
    # The next run, or drawing again, leaves none of them behind.
    assert main(experiment(plot=drawn), ["--redraw", "--output", str(tmp_path)]) == 0
    assert not list(tmp_path.rglob("talk.*"))
    assert not (folder / "panels").exists()


def never(config):
    raise AssertionError("it measured")


def test_drawn_again_a_run_is_judged_and_shown_anew_but_not_measured(tmp_path, capsys):
    output = ["--value", "3", "--output", str(tmp_path)]
    assert main(experiment(), output) == 1
    folder = tmp_path / "toy"
    kept = {name: (folder / name).read_bytes() for name in ("made.json", "results.npz")}
    wider = [Claim("the value is 1 to 4: it", 3.0, 1.0, 4.0)]
    again = experiment(run=never, claims=lambda results: wider, plot=drawn)
    assert main(again, ["--redraw", *output]) == 0
    assert read_claims(folder) == wider
    assert {name: (folder / name).read_bytes() for name in kept} == kept
    assert "the value is 1 to 4." in (folder / "index.html").read_text()
    assert "value 3" in (folder / "index.html").read_text()


def test_a_dataset_is_drawn_again_as_it_was(tmp_path):
    measured = xarray.Dataset({"value": ("seed", [1.0, 2.0])}, {"seed": [7, 8]}, {"of": "two"})
    assert main(experiment(run=lambda config: measured), ["--output", str(tmp_path)]) == 0
    seen = []
    again = experiment(run=never, plot=lambda results: [seen.append(results), new_figure(2, 1)][1])
    assert main(again, ["--redraw", "--output", str(tmp_path)]) == 0
    xarray.testing.assert_identical(seen[0], measured)


def test_what_was_not_measured_cannot_be_drawn_again(tmp_path, capsys):
    redraw = ["--redraw", "--output", str(tmp_path)]
    assert main(experiment(run=never), redraw) == 2
    assert "got no results.npz there; run it once without --redraw\n" in capsys.readouterr().err
    assert main(experiment(), ["--preset", "smoke", "--output", str(tmp_path)]) == 0
    capsys.readouterr()
    before = (tmp_path / "toy" / "claims.json").read_bytes()
    assert main(experiment(run=never), redraw) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "got preset default, value 1.0 where it had preset smoke, value 1.5; give" in said.err
    assert (tmp_path / "toy" / "claims.json").read_bytes() == before
    assert main(experiment(run=never), ["--preset", "smoke", *redraw]) == 0


def test_data_that_are_not_there_are_named_in_a_sentence(tmp_path, capsys):
    def load(config):
        raise DataError("digits: must be there; once `jaxdl data prepare NAME --raw-dir FOLDER`")

    assert main(experiment(run=load, NEEDS="digits"), ["--output", str(tmp_path)]) == 2
    said = capsys.readouterr()
    assert said.err == (
        "toy: digits: must be there; once `jaxdl data prepare digits --raw-dir FOLDER`\n"
    )
    assert not (tmp_path / "toy").exists()

    def slip(config):
        raise ValueError("a slip of the script")

    with pytest.raises(ValueError, match="a slip"):
        main(experiment(run=slip), ["--output", str(tmp_path)])


def test_a_run_may_return_a_dataset(tmp_path):
    measured = xarray.Dataset({"value": ("seed", [1.0, 2.0])}, {"seed": [7, 8]})
    assert main(experiment(run=lambda config: measured), ["--output", str(tmp_path)]) == 0
    xarray.testing.assert_identical(read_results(tmp_path / "toy"), measured)


def test_without_a_figure_the_page_has_none(tmp_path):
    assert main(experiment(plot=None), ["--output", str(tmp_path)]) == 0
    assert {path.name for path in (tmp_path / "toy").iterdir()} == {
        "config.json", "results.npz", "claims.json", "index.html", "made.json",
    }  # fmt: skip
    assert "<img" not in (tmp_path / "toy" / "index.html").read_text()


def test_a_slip_in_the_claims_does_not_lose_what_was_measured(tmp_path):
    assert main(experiment(), ["--value", "2", "--output", str(tmp_path)]) == 0
    slip = experiment(claims=lambda results: results["valu"])
    with pytest.raises(KeyError):
        main(slip, ["--output", str(tmp_path)])
    assert read_results(tmp_path / "toy")["value"] == [1.0]
    # Nothing of the earlier run stands beside it.
    assert {path.name for path in (tmp_path / "toy").iterdir()} == {"config.json", "results.npz"}


@pytest.mark.parametrize(("process", "writes"), [(0, True), (1, False)])
def test_of_several_processes_the_first_writes_and_all_judge(
    tmp_path, monkeypatch, process, writes
):
    joined = []
    layouts = importlib.import_module("jaxdl.training.fit.layouts")
    monkeypatch.setattr(layouts, "initialize", lambda *place, **which: joined.append(which))
    several = ["--coordinator", "here:1", "--processes", "2", "--process", str(process)]
    assert main(experiment(), ["--value", "3", *several, "--output", str(tmp_path)]) == 1
    assert joined == [{"processes": 2, "process": process}]
    assert (tmp_path / "toy").exists() == writes


@dataclasses.dataclass(frozen=True)
class TakesAnOption:
    """Knobs of which one is called as an option of every experiment."""

    output: str = "here"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"run": None}, r"must have Config, run and claims, got toy .* add run\(config\), which"),
        (
            {"Config": None, "claims": None},
            r"add Config, a frozen dataclass.*, and claims\(results\)",
        ),
        ({"Config": dict}, "Config must be a dataclass, got <class 'dict'>; write @dataclass"),
        ({"Config": TakesAnOption}, "Config must leave the names .* got output; name it otherwise"),
        ({"PRESETS": {"tiny": Config()}}, 'PRESETS must have "default", got tiny; give'),
        ({"run": lambda config: None}, "must return arrays by name .* got NoneType; return a dict"),
        ({"claims": lambda results: None}, "must return a list of jaxdl.claims.Claim, got None; "),
        ({"claims": lambda results: [True]}, r"must return a list .* got \[True\]; make them with"),
    ],
)
def test_what_is_no_experiment_is_told_what_it_lacks(tmp_path, changed, message):
    with pytest.raises(TypeError, match=message):
        main(experiment(**changed), ["--output", str(tmp_path)])


@pytest.mark.parametrize("package", ["tyro", "matplotlib.figure"])
def test_a_missing_package_gives_the_command_that_installs_it(tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    name = package.partition(".")[0]
    with pytest.raises(ImportError, match=rf'needs {package}, .*; pip install "{name}\b'):
        main(experiment(), ["--output", str(tmp_path)])


SCRIPT = '''"""Is the mean of some normal numbers positive?"""

import sys
from dataclasses import dataclass

import numpy as np

from jaxdl.claims import about_mean, main


@dataclass(frozen=True)
class Config:
    """The knobs."""

    mean: float = 5.0
    """The true mean, in standard deviations."""


def run(config):
    return {"drawn": np.random.default_rng(0).normal(config.mean, size=8)}


def claims(results):
    return [about_mean("The mean is positive", results["drawn"], low=0)]


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
'''


def test_a_users_own_script_runs_anywhere(tmp_path):
    (tmp_path / "mine.py").write_text(SCRIPT)

    def run(*arguments):
        return subprocess.run(
            [sys.executable, "mine.py", *arguments],
            cwd=tmp_path, env=os.environ, capture_output=True, text=True,
        )  # fmt: skip

    folder = tmp_path / "runs" / "mine"
    for mean, code, verdict in (("5", 0, "holds"), ("0", 0, "undecided"), ("-5", 1, "refuted")):
        done = run("--mean", mean)
        assert done.returncode == code, done.stderr
        assert [claim.verdict for claim in read_claims(folder)] == [verdict]
        assert verdict in done.stdout
    assert read_results(folder)["drawn"].shape == (8,)
    assert "Is the mean" in (folder / "index.html").read_text()
    refused = run("--preset", "smoke")
    assert refused.returncode == 2
    assert "invalid choice: 'smoke' (choose from 'default')" in refused.stderr
