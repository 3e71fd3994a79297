"""What `fit` refuses, before anything is compiled; what an observer's error leaves behind."""

import os
import signal
import threading

import jax
import numpy as np
import pytest

from jaxdl import data, losses, models, optimizers, training
from jaxdl.compiling import compiler_options, init_options
from jaxdl.training.fit import signals
from jaxdl.training.fit.observing import Change

KEY = jax.random.key(0)
COMPILED = []


def note(name, *_, **__):
    if "backend_compile" in name:
        COMPILED.append(name)


jax.monitoring.register_event_duration_secs_listener(note)


def problem(targets=None, classes=3, examples=24):
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(examples, 4)).astype(np.float32)
    if targets is None:
        targets = draw.integers(0, classes, examples).astype(np.int32)
    return data.Dataset("problem", data.Arrays(inputs, targets), None, None)


def fit(dataset=None, **changes):
    settings = {
        "loss": losses.cross_entropy,
        "epochs": 2,
        "batch_size": 8,
        "key": KEY,
    } | changes
    model = settings.pop("model", models.MLP([3]))
    return training.fit(model, dataset or problem(), optimizers.sgd(0.1), **settings)


def squared(outputs, targets):
    return ((outputs - targets) ** 2).mean(-1)


@pytest.mark.parametrize(
    ("given", "changes", "text"),
    [
        (problem(), {"batch_size": 25}, "at most the 24 training examples, got 25"),
        (problem(), {"epochs": 0}, "epochs must be at least 1"),
        (problem(), {"steps_per_call": 0}, "steps_per_call must be at least 1, got 0"),
        (problem(), {"checkpoint_every": 0}, "checkpoint_every must be at least 1, got 0"),
        (problem(classes=5), {}, r"labels must be in 0\.\.2, as the model has 3 outputs, got [34]"),
        (
            problem(np.full(24, -1, np.int32)), {}, r"0\.\.2.*got -1 at example 0 of the train"
        ),
        (
            problem(np.zeros(24, np.float32)),
            {"loss": squared, "model": models.MLP([1])},
            r"own target, got outputs of shape \(8, 1\) and targets of shape \(8,\)",
        ),
        (problem(np.zeros((24, 2), np.float32)), {"loss": losses.mean_squared_error}, "shape"),
    ],
)  # fmt: skip
def test_refuses_before_anything_is_compiled(given, changes, text):
    # What the backend knows is asked for once a process, by compiling x -> x.
    compiler_options(), compiler_options(convolutional=True), init_options()
    COMPILED.clear()
    with pytest.raises(ValueError, match=text):
        fit(given, **changes)
    assert not COMPILED


def test_a_run_compiles():
    COMPILED.clear()
    fit()
    assert COMPILED


def test_refuses_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"checkpoint_dir must be a folder that can be written"):
        fit(checkpoint_dir=tmp_path / "file" / "under")


def test_refuses_a_folder_of_a_longer_run(tmp_path):
    fit(checkpoint_dir=tmp_path)
    with pytest.raises(ValueError, match=r"at step 6 of 3; ask for more epochs"):
        fit(checkpoint_dir=tmp_path, epochs=1)


def test_a_change_must_fit_the_run():
    def narrower(event):
        return Change(state=event.state.replace(params={}))

    with pytest.raises(ValueError, match="structure, shapes and dtypes"):
        fit(observers=[narrower])

    def spoiled(event):
        return Change(state=event.state.replace(
            params=jax.tree.map(lambda leaf: leaf / 0, event.state.params)))  # fmt: skip

    with pytest.raises(ValueError, match="must be finite"):
        fit(observers=[spoiled])


def test_an_observer_that_raises_leaves_the_run_so_far(tmp_path):
    def fail(event):
        raise KeyError("observer")

    with pytest.raises(KeyError) as caught:
        fit(observers=[fail], checkpoint_dir=tmp_path)
    result = caught.value.result
    assert int(result.state.step) == 3
    assert len(result.history.train["loss"]) == 1
    resumed = fit(observers=[lambda event: None], checkpoint_dir=tmp_path)
    np.testing.assert_array_equal(resumed.history.steps["loss"], fit().history.steps["loss"])


def test_a_run_that_was_stopped_stays_stopped(tmp_path):
    def stop(event):
        return Change(stop="enough")

    for _ in range(2):
        result = fit(observers=[stop], checkpoint_dir=tmp_path, epochs=5)
        assert result.stopped == "enough"
        assert int(result.state.step) == 3


def test_handlers_are_put_back_and_only_the_main_thread_sets_them():
    before = signal.getsignal(signal.SIGTERM)
    # Not Python's own where the suite runs in the background of a shell, which ignores SIGINT.
    interrupt = signal.getsignal(signal.SIGINT)
    with signals.caught() as received:
        assert signal.getsignal(signal.SIGTERM) is not before
        assert received() == 0
        os.kill(os.getpid(), signal.SIGINT)
        assert received() == signal.SIGINT
        # A second one is no longer held back.
        assert signal.getsignal(signal.SIGINT) is interrupt
    assert signal.getsignal(signal.SIGTERM) is before
    seen = []

    def elsewhere():
        with signals.caught() as received:
            seen.append((signal.getsignal(signal.SIGTERM) is before, received()))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [(True, 0)]


def test_a_state_of_other_data_is_refused():
    x = np.ones((6, 3), np.float32)
    given = data.Dataset("ones", data.Arrays(x, x[:, :1]), None, None)
    model, sgd = models.MLP([1]), optimizers.sgd(0.1)
    other = training.init_state(jax.random.key(0), model, sgd, jax.numpy.asarray(x[:, :2]))
    with pytest.raises(ValueError, match="must fit the model and its inputs"):
        training.fit(
            model, given, sgd, loss=losses.mean_squared_error, epochs=1, batch_size=2,
            key=jax.random.key(0), state=other, progress=False,
        )  # fmt: skip
