"""Observers as `fit` calls them: what they change, what is kept, what an error leaves behind."""

from typing import Any

import chex
import jax
import numpy as np
import pytest

from jaxdl import data, losses, metrics, models, observers, optimizers, training
from jaxdl.training.fit.observing import Observer

MODEL = models.MLP([8, 3])
# Runs of equal settings share what is compiled.
SGD = optimizers.sgd(0.5)


def dataset():
    """Noise with labels that tell nothing: the validation loss rises as the network fits it."""
    draw = np.random.default_rng(0)

    def arrays(count):
        images = draw.integers(0, 256, (count, 4, 4, 1)).astype(np.uint8)
        return data.Arrays(images, draw.integers(0, 3, count).astype(np.int32))

    return data.Dataset("noise", arrays(30), arrays(30), None, tuple("abc"))


def fit(**changes):
    settings = {
        "optimizer": SGD,
        "loss": losses.cross_entropy,
        "metrics": [metrics.accuracy],
        "epochs": 6,
        "batch_size": 10,
        "key": jax.random.key(0),
    }
    settings |= changes
    return training.fit(MODEL, dataset(), settings.pop("optimizer"), **settings)


def test_early_stopping_stops_and_restores_the_best():
    whole = fit(epochs=30)
    validation = whole.history.validation["loss"].astype(np.float32)
    # Where, by the curve of the run that goes on, three epochs in a row have not improved.
    best_so_far = np.minimum.accumulate(validation)
    bad = 0
    for epoch in range(1, 30):
        bad = 0 if validation[epoch] < best_so_far[epoch - 1] else bad + 1
        if bad == 3:
            break
    assert bad == 3, "the premise: the network over-fits"
    stopped = fit(epochs=30, observers=[observers.early_stopping(patience=3)])
    assert len(stopped.history.validation["loss"]) == epoch + 1
    assert "has not improved for 3 epochs" in stopped.stopped
    best = epoch - 3 + 1
    assert stopped.state.step == 3 * best
    chex.assert_trees_all_equal(stopped.state.params, fit(epochs=best).state.params)
    assert stopped.evaluate("validation")["loss"] == stopped.history.validation["loss"].min()


def test_a_plateau_lowers_the_rate():
    optimizer = optimizers.momentum(
        optimizers.plateau(0.5, factor=0.1, patience=0, threshold=1e3, threshold_mode="abs")
    )
    rates = []

    def note(event):
        rates.append(optimizers.current_learning_rate(event.state.opt_state).item())

    result = fit(optimizer=optimizer, epochs=4, observers=[observers.report_plateau(), note])
    # The first metric is better than none; no later one is, by a thousand nats.
    assert rates == pytest.approx([0.5, 0.05, 0.005, 0.0005], rel=1e-6)
    moved = np.abs(np.diff(result.history.train["loss"]))
    assert moved[-1] < moved[0]


def test_a_resumed_run_observes_as_one_that_never_ended(tmp_path):
    optimizer = optimizers.momentum(optimizers.plateau(0.5, patience=1))

    def run(folder, *more):
        return fit(
            optimizer=optimizer,
            epochs=12,
            checkpoint_dir=tmp_path / folder / "checkpoints",
            observers=[
                observers.report_plateau(),
                observers.early_stopping(patience=2),
                observers.history_lines(tmp_path / folder / "history.jsonl"),
                *more,
            ],
        )

    def interrupt(event):
        if event.epoch == 2:
            raise InterruptedError

    at_once = run("a")
    with pytest.raises(InterruptedError):
        run("b", interrupt)
    resumed = run("b")
    assert resumed.stopped == at_once.stopped
    assert at_once.stopped is not None
    chex.assert_trees_all_equal(resumed.state.params, at_once.state.params)
    chex.assert_trees_all_equal(resumed.state.opt_state, at_once.state.opt_state)
    lines = [observers.read_lines(tmp_path / name / "history.jsonl") for name in "ab"]
    for first, again in zip(*lines, strict=True):
        assert {**first, "seconds": 0} == {**again, "seconds": 0}
    assert [line["epoch"] for line in lines[1]] == list(range(1, len(lines[1]) + 1))


def test_an_observer_that_raises_does_not_lose_the_run(tmp_path):
    def fail(event):
        if event.epoch == 2:
            raise OSError("no space left on device")

    closed = []
    closing = Observer(lambda event, memory: (memory, None), close=lambda: closed.append(1))
    with pytest.raises(OSError, match="no space") as caught:
        fit(observers=[closing, fail], checkpoint_dir=tmp_path)
    so_far: Any = caught.value
    assert len(so_far.result.history.train["loss"]) == 2
    assert closed == [1]
    resumed = fit(checkpoint_dir=tmp_path)
    chex.assert_trees_all_equal(resumed.state.params, fit().state.params)


def test_tensorboard_watches_a_run_and_changes_nothing(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    watched = fit(epochs=3, observers=[observers.tensorboard(tmp_path, step_every=3)])
    chex.assert_trees_all_equal(watched.state.params, fit(epochs=3).state.params)
    found = accumulator.EventAccumulator(str(tmp_path))
    found.Reload()
    drawn = [point.value for point in found.Scalars("loss/validation")]
    np.testing.assert_allclose(drawn, watched.history.validation["loss"], rtol=1e-6)
    batches = [(point.step, point.value) for point in found.Scalars("loss/batch")]
    assert batches == [(step, watched.history.steps["loss"][step - 1]) for step in (3, 6, 9)]
    assert [event.step for event in found.Images("predictions")] == [3, 6, 9]


def test_propagation_follows_a_run():
    kept = []
    fit(
        epochs=4,
        observers=[observers.propagation_every(2, lambda event, measured: kept.append(measured))],
    )
    assert len(kept) == 2
    assert kept[0].weight_norm[0] != kept[1].weight_norm[0]
