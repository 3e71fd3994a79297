"""The progress bar: what it shows, and that it is silent away from a terminal."""

import io

import jax
import numpy as np
from rich.console import Console

from jaxdl import data, losses, models, optimizers, training
from jaxdl.training.fit.progress import progress_bar


def shown(**options):
    output = io.StringIO()
    console = Console(file=output, width=120, **options)
    with progress_bar(2, 100, console=console) as advance:
        advance(100, {"loss": 0.5, "accuracy": 0.25})
        advance(100, {"loss": 0.25, "accuracy": 0.75})
    return output.getvalue()


def test_shows_measurements_speed_and_time_on_a_terminal():
    text = shown(force_terminal=True)
    for part in ("epoch 2/2", "loss 0.2500", "accuracy 0.7500", "examples/s", "0:00:00"):
        assert part in text


def test_is_silent_elsewhere():
    assert shown() == ""


def test_a_run_in_a_pipe_prints_nothing(capfd):
    ones = data.Arrays(np.ones((8, 2), np.float32), np.ones((8, 1), np.float32))
    training.fit(
        models.MLP([1]),
        data.Dataset("ones", ones, None, None),
        optimizers.sgd(0.1),
        loss=losses.mean_squared_error,
        epochs=2,
        batch_size=4,
        key=jax.random.key(0),
    )
    assert capfd.readouterr() == ("", "")
