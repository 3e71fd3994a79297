"""What a checkpointed run refuses, accepts and keeps, seen through `fit`."""

import dataclasses
import functools
import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl import data, losses, metrics, models, observers, optimizers, training
from jaxdl.training.fit.observing import Observer

DRAWN = np.random.default_rng(0)
INPUTS = DRAWN.normal(size=(60, 5)).astype(np.float32)
TARGETS = (INPUTS.sum(axis=1) > 0).astype(np.int32)
NOISE = data.Dataset(
    "noise", data.Arrays(INPUTS, TARGETS), data.Arrays(INPUTS[:20], TARGETS[:20]), None, ("a", "b")
)
MODEL = models.MLP([8, 2])


def fit(folder: Path | None, **changes: Any) -> training.Result:
    settings: dict[str, Any] = {
        "model": MODEL,
        "dataset": NOISE,
        "optimizer": optimizers.adam(0.01),
        "loss": losses.cross_entropy,
        "metrics": [metrics.accuracy],
        "epochs": 2,
        "batch_size": 16,
        "key": jax.random.key(0),
        "checkpoint_dir": folder,
    } | changes
    return training.fit(
        settings.pop("model"), settings.pop("dataset"), settings.pop("optimizer"), **settings
    )


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("begun")
    fit(folder)
    return folder


def copied(begun: Path, to: Path) -> Path:
    shutil.copytree(begun, to / "copy")
    return to / "copy"


# The recipe

OTHERS: dict[str, dict[str, Any]] = {
    "optimizer": {"optimizer": optimizers.adam(0.02)},
    "loss": {"loss": functools.partial(losses.cross_entropy, label_smoothing=0.1)},
    "model": {"model": models.MLP([8, 2], activation=jax.nn.tanh)},
    "initialization": {"model": models.MLP([8, 2], kernel_init=jax.nn.initializers.ones)},
    "metrics": {"metrics": {"accuracy": lambda outputs, targets: targets * 1.0}},
    "preprocess": {"preprocess": lambda inputs: inputs / 2},
    "augment": {"augment": lambda key, inputs: inputs + jax.random.normal(key)},
    "data": {"dataset": dataclasses.replace(NOISE, train=data.Arrays(INPUTS + 1, TARGETS))},
    "validation": {
        "dataset": dataclasses.replace(NOISE, validation=data.Arrays(INPUTS[20:40], TARGETS[20:40]))
    },
}


@pytest.mark.parametrize("part", OTHERS)
def test_another_recipe_is_refused_by_name_unless_it_is_accepted(
    begun: Path, tmp_path: Path, part: str
) -> None:
    folder = copied(begun, tmp_path)
    named = rf"another {part} than there, which accept_changes=\('{part}',\) allows"
    with pytest.raises(ValueError, match=named):
        fit(folder, epochs=3, **OTHERS[part])
    with pytest.warns(UserWarning, match=f"with another recipe than before: {part}"):
        changed = fit(folder, epochs=3, accept_changes=(part,), **OTHERS[part])
    assert int(changed.state.step) == 12
    # From here on the changed recipe is the run's.
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(folder, epochs=4, **OTHERS[part])


def test_the_same_recipe_under_other_names_goes_on(begun: Path, tmp_path: Path) -> None:
    def loss_of_mine(scores: Any, labels: Any) -> Any:
        return losses.cross_entropy(scores, labels)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = fit(copied(begun, tmp_path), epochs=3, loss=loss_of_mine)
    chex.assert_trees_all_equal(result.state.params, fit(None, epochs=3).state.params)


@pytest.mark.parametrize(
    "rate_of", [optax.cosine_decay_schedule, functools.partial(optax.linear_schedule, 0.01, 0.0)]
)
def test_a_longer_schedule_goes_on_with_a_warning(tmp_path: Path, rate_of: Any) -> None:
    def schedule(steps: int) -> Any:
        return rate_of(0.01, steps) if rate_of is optax.cosine_decay_schedule else rate_of(steps)

    fit(tmp_path, optimizer=optimizers.adam(schedule(8)))
    with pytest.warns(UserWarning, match="another recipe than before: schedules"):
        result = fit(tmp_path, epochs=4, optimizer=optimizers.adam(schedule(16)))
    assert int(result.state.step) == 16


def test_a_rate_held_in_the_state_is_of_the_recipe_too(tmp_path: Path) -> None:
    """`inject_hyperparams` keeps it there: a checkpoint's rate would win without a word."""
    fit(tmp_path, optimizer=optax.inject_hyperparams(optax.sgd)(learning_rate=0.1))
    with pytest.raises(ValueError, match="another optimizer than there"):
        fit(tmp_path, epochs=3, optimizer=optax.inject_hyperparams(optax.sgd)(learning_rate=0.2))


def test_recipes_of_other_versions_are_not_compared(begun: Path, tmp_path: Path) -> None:
    folder = copied(begun, tmp_path)
    path = max(folder.glob("*-step-*")) / "manifest.json"
    manifest = json.loads(path.read_text().split("\n")[1])
    manifest["identity"]["environment"]["jax"] = "0.8.0"
    rewrite(path, manifest)
    with pytest.warns(UserWarning, match=r"equal to rounding, not bit for bit: jax is 0\.8\.0"):
        fit(folder, epochs=3, **OTHERS["optimizer"])


def rewrite(path: Path, manifest: Any) -> None:
    import hashlib

    text = json.dumps(manifest)
    path.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}\n")


def test_a_validation_split_added_or_removed_is_refused(begun: Path, tmp_path: Path) -> None:
    without = dataclasses.replace(NOISE, validation=None)
    with pytest.raises(ValueError, match="validation examples is 20 there and None here"):
        fit(copied(begun, tmp_path), epochs=3, dataset=without)
    fit(tmp_path / "without", dataset=without)
    with pytest.raises(ValueError, match="validation examples is None there and 20 here"):
        fit(tmp_path / "without", epochs=3)


def test_observers_keep_their_memories_by_name(tmp_path: Path) -> None:
    first = observers.early_stopping(patience=3)
    second = observers.early_stopping("accuracy", mode="max", patience=5)
    fit(tmp_path, observers=[first, second])
    with pytest.raises(ValueError, match="another observers than there"):
        fit(tmp_path, epochs=3, observers=[second, first])
    # Observers that remember nothing may come and go.
    seen: list[int] = []
    fit(tmp_path, epochs=3, observers=[lambda event: seen.append(event.epoch), first, second])
    assert seen == [3]


def test_an_observer_of_a_users_own_is_told_by_its_function(tmp_path: Path) -> None:
    def zero(state: Any) -> Any:
        return jnp.zeros(())

    def up(event: Any, memory: Any) -> Any:
        return memory + 1, None

    def down(event: Any, memory: Any) -> Any:
        return memory - 1, None

    fit(tmp_path, observers=[Observer(up, zero), Observer(down, zero)])
    with pytest.raises(ValueError, match="another observers"):
        fit(tmp_path, epochs=3, observers=[Observer(down, zero), Observer(up, zero)])


def test_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"accept_changes must hold names among .*optimizer.*, got"
    ):
        fit(tmp_path, accept_changes=("learning_rate",))
    with pytest.raises(ValueError, match=r'pass e\.g\. \("optimizer",\)'):
        fit(tmp_path, accept_changes="optimizer")


def test_a_stream_that_draws_anew_is_known_by_its_length(tmp_path: Path) -> None:
    class Drawn:
        def __init__(self, examples: int) -> None:
            self.examples = examples

        def __len__(self) -> int:
            return self.examples

        def __getitem__(self, index: int) -> Any:
            x = np.random.default_rng().normal(size=5).astype(np.float32)
            return {"inputs": x, "targets": np.int32(x.sum() > 0)}

    stream = dataclasses.replace(NOISE, train=Drawn(60), validation=None)
    fit(tmp_path, dataset=stream)
    assert int(fit(tmp_path, epochs=3, dataset=stream).state.step) == 12


# The history


def test_the_history_of_two_lives_is_that_of_one(tmp_path: Path) -> None:
    whole = fit(None, epochs=4, steps_per_call=3)
    for epochs, every in ((1, 3), (2, 1), (4, 7)):
        result = fit(tmp_path, epochs=epochs, checkpoint_every=every, steps_per_call=2)
    for part in ("steps", "train", "validation"):
        chex.assert_trees_all_equal(getattr(result.history, part), getattr(whole.history, part))
    lines = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    assert sum(len(line["steps"]["loss"]) for line in lines) == 16
    assert [line["epoch"]["train"]["loss"] for line in lines if "epoch" in line] == list(
        whole.history.train["loss"]
    )


# Ends


def test_a_stopped_run_that_is_asked_for_more_says_why_it_takes_no_step(tmp_path: Path) -> None:
    stopping = [observers.early_stopping(patience=1, min_delta=10.0)]
    stopped = fit(tmp_path, epochs=6, observers=stopping)
    assert stopped.stopped is not None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit(tmp_path, epochs=6, observers=stopping)
    with pytest.warns(UserWarning, match="takes no further step: the validation loss has not imp"):
        again = fit(tmp_path, epochs=9, observers=stopping)
    chex.assert_trees_all_equal(again.state.params, stopped.state.params)


def test_a_last_save_that_fails_loses_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jaxdl.training.checkpoints import on_disk

    real = on_disk.write

    def full(folder: Path, manifest: Any, parts: Any) -> None:
        if manifest.step == 8:
            raise OSError(28, "No space left on device")
        real(folder, manifest, parts)

    monkeypatch.setattr(on_disk, "write", full)
    with pytest.raises(RuntimeError, match="checkpoint of step 8 must reach the disk") as caught:
        fit(tmp_path)
    error: Any = caught.value
    chex.assert_trees_all_equal(error.result.state.params, fit(None).state.params)
    assert len(error.result.history.steps["loss"]) == 8


def test_a_save_that_fails_on_the_way_ends_the_run_with_its_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The moment after it is saved, with the lines of the save that failed."""
    from jaxdl.training.checkpoints import on_disk

    real = on_disk.write

    def once_full(folder: Path, manifest: Any, parts: Any) -> None:
        if manifest.step == 4:
            raise OSError(28, "No space left on device")
        real(folder, manifest, parts)

    with monkeypatch.context() as patch:
        patch.setattr(on_disk, "write", once_full)
        with pytest.raises(RuntimeError, match="checkpoint of step 4") as caught:
            fit(tmp_path, epochs=4)
    error: Any = caught.value
    assert int(error.result.state.step) == 8
    resumed = fit(tmp_path, epochs=4)
    whole = fit(None, epochs=4)
    chex.assert_trees_all_equal(resumed.state.params, whole.state.params)
    chex.assert_trees_all_equal(resumed.history.steps, whole.history.steps)


def test_a_source_that_fails_ends_the_run_with_its_result(tmp_path: Path) -> None:
    class Failing:
        reads = 0

        def __len__(self) -> int:
            return 60

        def __getitem__(self, index: int) -> Any:
            self.reads += 1
            if self.reads > 100:
                raise OSError("the server is gone")
            return {"inputs": INPUTS[index], "targets": TARGETS[index]}

    stream = dataclasses.replace(NOISE, train=Failing(), validation=None)
    with pytest.raises(data.DataError, match="the server is gone") as caught:
        fit(tmp_path, dataset=stream, epochs=4, checkpoint_every=100)
    error: Any = caught.value
    taken = int(error.result.state.step)
    assert 0 < taken < 16
    kept = [int(path.name.split("-")[-1]) for path in tmp_path.glob("*-step-*")]
    assert kept == [taken]


def test_a_measurement_that_fails_leaves_no_epoch_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is well again in the next life, which ends as one life does."""
    from jaxdl.training.fit.measuring import Measure

    real, calls = Measure.__call__, []

    def failing(self: Any, variables: Any, split: Any) -> Any:
        calls.append(split)
        if len(calls) == 2:
            raise OSError("the validation split is gone")
        return real(self, variables, split)

    with monkeypatch.context() as patch:
        patch.setattr(Measure, "__call__", failing)
        with pytest.raises(OSError, match="validation split is gone") as caught:
            fit(tmp_path, epochs=4, steps_per_call=3)
    error: Any = caught.value
    assert len(error.result.history.validation["loss"]) == 1
    resumed, whole = fit(tmp_path, epochs=4), fit(None, epochs=4)
    chex.assert_trees_all_equal(resumed.state.params, whole.state.params)
    for part in ("steps", "train", "validation"):
        chex.assert_trees_all_equal(getattr(resumed.history, part), getattr(whole.history, part))


def test_an_error_between_single_steps_keeps_the_state_of_before(tmp_path: Path) -> None:
    """A convolution is stepped one by one on a CPU, and each step overwrites its state."""

    class Failing:
        reads = 0

        def __len__(self) -> int:
            return 40

        def __getitem__(self, index: int) -> Any:
            self.reads += 1
            if self.reads > 65:
                raise OSError("the server is gone")
            image = np.full((6, 6, 1), INPUTS[index, 0])
            return {"inputs": image, "targets": TARGETS[index]}

    stream = dataclasses.replace(NOISE, train=Failing(), validation=None)
    with pytest.raises(data.DataError, match="the server is gone") as caught:
        fit(
            tmp_path, dataset=stream, model=models.ConvNet([2], [2]), epochs=3, batch_size=10,
            steps_per_call=4, checkpoint_every=100,
        )  # fmt: skip
    error: Any = caught.value
    assert np.isfinite(jax.tree.leaves(error.result.state.params)[0]).all()
    assert not [note for note in getattr(error, "__notes__", []) if "deleted" in note]
    assert [int(path.name.split("-")[-1]) for path in tmp_path.glob("*-step-*")] == [
        int(error.result.state.step)
    ]


def test_an_optimizer_may_hold_a_key(tmp_path: Path) -> None:
    def noisy(seed: int) -> Any:
        return optax.chain(
            optax.add_noise(eta=0.01, gamma=0.5, key=jax.random.key(seed)), optax.sgd(0.1)
        )

    fit(tmp_path, optimizer=noisy(0))
    resumed = fit(tmp_path, optimizer=noisy(0), epochs=3)
    whole = fit(None, optimizer=noisy(0), epochs=3)
    chex.assert_trees_all_equal(resumed.state.params, whole.state.params)
    with pytest.raises(ValueError, match="another optimizer than there"):
        fit(tmp_path, optimizer=noisy(1), epochs=4)
