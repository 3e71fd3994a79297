"""`python -m experiments`: what there is, what is run, what is skipped."""

import base64
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxdl.claims import Claim, keep_runs, write_claims, write_gallery
from jaxdl.claims.past_runs import find_run

ROOT = Path(__file__).parents[2]
SHARED = ("comparison", "on_gpu")
"""Folders of what benchmarks consist of."""
SCRIPTS = [
    path
    for path in (ROOT / "experiments").rglob("*.py")
    if path.stem != "__main__" and path.parent.name not in SHARED
]
EXPERIMENTS = [path for path in SCRIPTS if path.parent.name != "benchmarks"]


def run(*arguments, cwd=ROOT, **variables):
    return subprocess.run(
        [sys.executable, "-m", "experiments", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        # A width that a test beside this one has set is not the width of a pipe.
        env={name: value for name, value in os.environ.items() if name != "COLUMNS"} | variables,
    )


def test_lists_every_script_the_quickstart_first():
    listed = run("list", "--names").stdout.split()
    assert listed[0] == "quickstart"
    assert sorted(listed) == sorted(path.stem for path in EXPERIMENTS)


def test_a_name_stands_in_one_theme():
    names = Counter(path.stem for path in SCRIPTS)
    assert [name for name, count in names.items() if count > 1] == []


def test_the_tests_find_the_scripts_of_every_theme():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]
    folders = {str(path.parent.relative_to(ROOT)) for path in EXPERIMENTS}
    assert folders <= set(settings["pythonpath"])


def test_the_list_has_themes_and_first_lines():
    lines = [line.rstrip() for line in run("list", COLUMNS="250").stdout.splitlines()]
    assert lines[0].split() == ["name", "what", "it", "shows", "time", "data", "source"]
    theme = lines.index("Initialisation (initialization)")
    following = lines.index("Optimisation (optimization)")
    (gains,) = [line for line in lines[theme + 1 : following] if line.startswith("gains ")]
    shown = [cell.strip() for cell in gains.split("  ") if cell.strip()]
    assert shown[:2] == [
        "gains",
        "The table of gains beside the gains that preserve the signal, and 50 layers of each.",
    ]
    assert shown[2] == "20 s"
    assert shown[-1].startswith("lecture on weight initialisation; ")


@pytest.mark.parametrize("columns", ["100", None])
def test_the_list_is_a_table_of_a_hundred_columns_piped_too(columns):
    variables = {"COLUMNS": columns} if columns else {}
    lines = run("list", **variables).stdout.splitlines()
    assert max(map(len, lines)) <= 100
    words = " ".join(lines).split()
    assert not [name for name in (path.stem for path in EXPERIMENTS) if name not in words]
    # Words are not cut, and no more than a few lines stand for an experiment.
    assert "…" not in "".join(lines)
    assert len(lines) < 7 * len(EXPERIMENTS)


def test_the_run_line_of_a_script_is_its_path():
    for path in SCRIPTS:
        line = next(line for line in path.read_text().splitlines() if line.startswith("Run: "))
        assert line.startswith(f"Run: python {path.relative_to(ROOT)}"), path


def test_an_unknown_experiment_is_refused_with_the_known():
    done = run("run", "no_such")
    assert done.returncode == 2
    assert "no experiment no_such; there are quickstart, " in done.stderr
    assert "and the themes first_network, " in done.stderr


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
    assert done.returncode == 2
    assert "refuted claim: quickstart, gains" in done.stderr
    assert "--no-such-knob" in done.stdout + done.stderr


def test_the_gallery_has_what_was_run_and_names_what_was_not(tmp_path):
    claims = [Claim("a < b", 1, 0, 2), Claim("false", 3, 0, 2)]
    stored(tmp_path / "runs", "gains", claims, preset="smoke")
    # In a copy, what the project has kept is not there.
    copy = tmp_path / "copy" / "experiments"
    shutil.copytree(ROOT / "experiments", copy, ignore=shutil.ignore_patterns("__pycache__"))
    done = run("gallery", "--output", str(tmp_path / "runs"), cwd=copy.parent)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'runs' / 'gallery.html'}\n")
    page = (tmp_path / "runs" / "gallery.html").read_text()
    said = f"1 of {len(EXPERIMENTS)} experiments were run. Of 2 claims 1 holds, 1 is refuted."
    assert f"<p>{said}" in page
    assert f"data:image/png;base64,{base64.b64encode(b'PNG').decode()}" in page
    assert '<a href="gains/index.html">' in page
    assert "<p>1 holds, 1 is refuted</p>" in page
    assert "Preset &quot;smoke&quot;" in page
    assert page.count("Not run: <code>python experiments/") == len(EXPERIMENTS) - 1
    refuted, holds = page.index("<h3>Refuted: 1 claim</h3>"), page.index("Holds: 1 claim</h3>")
    assert refuted < page.index("<b>false.</b>") < holds < page.index("<b>a &lt; b.</b>")
    order = [page.index(f">{title}</h2>") for title in ("Initialisation", "Generalisation")]
    assert order == sorted(order)


def test_runs_of_default_presets_are_kept_and_fill_the_gaps_of_a_gallery(tmp_path):
    scripts = {name: tmp_path / f"{name}.py" for name in ("kept", "changed", "smoke", "old", "no")}
    for name, script in scripts.items():
        script.write_text(f'"""What {name} shows."""')
    runs, kept, claims = tmp_path / "runs", tmp_path / "docs", [Claim("1 < 2", 1, 0, 2)]
    stored(runs, "kept", [*claims, Claim("false", 3, 0, 2)])
    at_lecture_size(runs / "kept")
    stored(runs, "changed", claims, changed={"seeds": 2})
    stored(runs, "smoke", claims, preset="smoke")
    stored(runs, "old", claims)
    (runs / "old" / "made.json").unlink()
    refused = keep_runs({"All": list(scripts.values())}, runs, kept)
    assert {name: why.partition(":")[0] for name, why in refused.items()} == {
        "changed": "not a run of the default preset alone",
        "smoke": "not a run of the default preset alone",
        "old": "not a run of the default preset alone",
        "no": "not run",
    }
    assert ", seeds 2: 9 s on 2 cores of a CPU" in refused["changed"]
    assert sorted(path.name for path in kept.iterdir()) == ["README.md", "kept"]
    assert sorted(path.name for path in (kept / "kept").iterdir()) == [
        "claims.json", "config.json", "figure.svg", "index.html", "made.json", "panels",
        "talk.png", "talk.svg", "thumbnail.png",
    ]  # fmt: skip
    panels = kept / "kept" / "panels"
    assert sorted(path.name for path in panels.iterdir()) == [
        "1-noise.png", "10-flat.png", "10-flat.svg", "2-noise.png",
    ]  # fmt: skip
    assert (kept / "kept" / "talk.png").stat().st_size <= 120_000
    assert sum(path.stat().st_size for path in panels.iterdir()) <= 120_000
    page = (kept / "kept" / "index.html").read_text()
    links = [f'href="panels/{name}.png"' for name in ("1-noise", "2-noise", "10-flat")]
    assert sorted(links, key=page.index) == links
    overview = (kept / "README.md").read_text()
    assert "1 of 5 experiments were run. Of 2 claims 1 holds, 1 is refuted." in overview
    assert "- **kept**: false: 3, expected 0 to 2" in overview
    assert "](../kept.py)** What kept shows." in overview
    assert '<img alt="kept: the figure" src="figure.svg">' in (kept / "kept/index.html").read_text()

    page = write_gallery({"All": list(scripts.values())}, tmp_path / "new", kept).read_text()
    assert '<a href="../docs/kept/index.html">' in page
    assert "1 of 5 experiments were run" in page


def test_every_experiment_is_kept_as_the_project_ran_it():
    kept = ROOT / "docs" / "gallery"
    folders = {path.name for path in kept.iterdir() if path.is_dir()}
    assert folders == {path.stem for path in EXPERIMENTS}
    for folder in folders:
        run = find_run(kept / folder)
        assert run is not None
        assert run.is_default
        assert (kept / folder / "figure.svg").is_file()
    # About 230 kB each, and 310 more for the pictures at lecture size.
    assert sum(path.stat().st_size for path in kept.rglob("*")) < 0.55e6 * len(folders)


def stored(output, name, claims, *, preset="default", changed=None):
    """What a run leaves that a gallery reads."""
    folder = output / name
    folder.mkdir(parents=True)
    write_claims(folder, claims)
    (folder / "config.json").write_text(json.dumps({"preset": preset}))
    made = {"changed": changed or {}, "seconds": 9.0, "cores": 2, "processor": "a CPU"}
    made |= {"python": "3.11", "jax": "0.10", "date": "2026-01-01"}
    (folder / "made.json").write_text(json.dumps(made))
    (folder / "figure.png").write_bytes(b"PNG")
    (folder / "figure.svg").write_text("<svg/>")


def at_lecture_size(folder):
    """Pictures of which some are too large to keep as they are: noise cannot be compressed."""
    noise = np.random.default_rng(0).integers(0, 256, (1080, 1920, 3), np.uint8)
    noise = noise // 16 * 16 * (np.arange(1920) < 400)[:, None]
    (folder / "panels").mkdir()
    for name, picture in (("1-noise", noise), ("2-noise", noise), ("10-flat", 0 * noise)):
        Image.fromarray(picture.astype(np.uint8)).save(folder / "panels" / f"{name}.png")
        (folder / "panels" / f"{name}.svg").write_text("<svg/>" * (1 if "flat" in name else 20000))
    shutil.copyfile(folder / "panels" / "1-noise.png", folder / "talk.png")
    (folder / "talk.svg").write_text("<svg/>")


@pytest.mark.parametrize("command", ["script", "run"])
def test_data_that_cannot_be_had_are_named_with_the_command_that_prepares_them(tmp_path, command):
    (tmp_path / "nothing").mkdir()
    options = ["--preset", "smoke", "--output", str(tmp_path / "runs")]
    options += ["--raw-dir", str(tmp_path / "nothing")]  # so that nothing is downloaded
    if command == "run":
        done = run("run", "cifar10", *options, JAXDL_DATA_DIR=str(tmp_path / "data"))
    else:
        done = subprocess.run(
            [sys.executable, "experiments/normalization/cifar10.py", *options],
            cwd=ROOT, capture_output=True, text=True,
            env=os.environ | {"JAXDL_DATA_DIR": str(tmp_path / "data"), "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    sentence = done.stderr.splitlines()[0]
    assert sentence.startswith("cifar10: ")
    assert "must be there, got neither; copy one of them into that folder" in sentence
    assert not (tmp_path / "runs" / "cifar10").exists()


def test_a_theme_is_run_whole_and_a_script_once():
    done = run("run", "generalization", "weight_decay", "--no-such-knob", "1")
    names = sorted(path.stem for path in EXPERIMENTS if path.parent.name == "generalization")
    assert f"refuted claim: {', '.join(names)}\n" in done.stderr


def test_only_run_passes_options_on():
    done = run("list", "--preset", "smoke")
    assert done.returncode == 2
    assert "list takes no --preset smoke" in done.stderr


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
            cwd=ROOT / "experiments" / "initialization", env=environment,
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        counts.append(int(done.stdout.rsplit(maxsplit=1)[-1]))
    assert counts[0] > 5
    assert counts[1] == 0
    assert any((tmp_path / "user" / "compiled").iterdir())
