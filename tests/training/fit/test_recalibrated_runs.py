"""Statistics of norms of the parameters that are evaluated: in fit, results, runs and sweeps."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from trained import GOAL, IMAGES, KEY, MODEL, SETTINGS, SPLITS

from jaxdl import data, models, optimizers, training
from jaxdl.training import checkpoints

TASK = training.Task(MODEL, **GOAL)
FREE = optimizers.schedule_free(optimizers.sgd(0.5))


@functools.cache
def fitted(recalibrate=True):
    return training.fit(TASK, SPLITS, FREE, **SETTINGS, recalibrate=recalibrate)


def exact(state):
    """The statistics of what is evaluated, by `recalibrate` alone."""
    return training.recalibrate(TASK, state.replace(evaluated_stats={}).evaluated, [IMAGES[:60]])


def test_what_is_evaluated_has_the_statistics_of_its_own_parameters():
    result, plain = fitted(), fitted(recalibrate=False)
    chex.assert_trees_all_equal(result.state.params, plain.state.params)
    chex.assert_trees_all_equal(result.state.batch_stats, plain.state.batch_stats)
    expected = exact(result.state)
    chex.assert_trees_all_close(result.state.evaluated, expected, rtol=1e-5)
    apart = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), expected["batch_stats"], plain.state.batch_stats
    )
    assert max(jax.tree.leaves(apart)) > 1e-3
    outputs = TASK.outputs(expected, jnp.asarray(TASK.preprocess(IMAGES)), train=False)[0]
    np.testing.assert_allclose(result.predict(IMAGES), outputs, rtol=1e-4, atol=1e-5)
    found = result.evaluate("validation")["loss"]
    assert result.history.validation["loss"][-1] == found
    assert found != plain.evaluate("validation")["loss"]
    assert "evaluated_stats" in repr(result.state)


def test_it_is_saved_loaded_and_resumed(tmp_path):
    result = fitted()
    result.save(tmp_path / "saved")
    for optimizer in (None, FREE):
        loaded = training.load(tmp_path / "saved", TASK, optimizer)
        np.testing.assert_array_equal(loaded.predict(IMAGES), result.predict(IMAGES))
    variables = checkpoints.load_variables(tmp_path / "saved")
    chex.assert_trees_all_equal(variables, jax.tree.map(np.asarray, result.state.evaluated))
    folder = tmp_path / "run"
    for epochs in (1, 2):
        resumed = training.fit(
            TASK, SPLITS, FREE, epochs=epochs, batch_size=20, key=KEY, recalibrate=True,
            checkpoint_dir=folder,
        )  # fmt: skip
    chex.assert_trees_all_equal(resumed.state, result.state)
    chex.assert_trees_all_equal(
        checkpoints.load_variables(folder), jax.tree.map(np.asarray, result.state.evaluated)
    )
    # Going on from the result, with or without.
    more = training.fit(TASK, SPLITS, FREE, **SETTINGS, state=result.state)
    assert not more.state.evaluated_stats


def test_a_run_and_its_members_recalibrate_too():
    given = {name: data.Arrays(*SPLITS[name]) for name in ("train", "validation")}
    orders = training.orders(KEY, 2, 60)

    def member(rate, key):
        free = optimizers.schedule_free(optimizers.sgd(rate))
        run = training.make_run(TASK, free, batch_size=20, recalibrate=True)
        state, measured = run(key, given, orders)
        return state.evaluated, measured["validation"]["loss"][-1]

    expected = exact(fitted().state)
    evaluated, loss = member(0.5, KEY)
    chex.assert_trees_all_close(evaluated, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(loss, fitted().evaluate("validation")["loss"], rtol=1e-4)
    together = jax.vmap(member, in_axes=(0, None))(jnp.array([0.1, 0.5]), KEY)
    chex.assert_trees_all_close(
        jax.tree.map(lambda leaf: leaf[1], together), (evaluated, loss), rtol=1e-4, atol=1e-5
    )


def test_statistics_over_several_batches_are_those_of_all(monkeypatch):
    run = training.make_run(TASK, FREE, batch_size=20, recalibrate=True)
    state = fitted().state
    monkeypatch.setattr(training.run, "EVALUATION_BATCH", 25)
    found = jax.jit(run.recalibrated)(state, data.Arrays(*SPLITS["train"]))
    expected = training.recalibrate(
        TASK,
        state.replace(evaluated_stats={}).evaluated,
        [IMAGES[:25], IMAGES[25:50], IMAGES[50:60]],
    )
    chex.assert_trees_all_close(found.evaluated, expected, rtol=1e-5)


def test_a_streamed_split_is_recalibrated_over():
    x, y = SPLITS["train"]
    streamed = data.Streamed((x, y))
    result = training.fit(TASK, {"train": streamed}, FREE, **SETTINGS, recalibrate=True)
    chex.assert_trees_all_close(result.state.evaluated, exact(result.state), rtol=1e-5)


def test_a_model_without_statistics_is_refused():
    task = training.Task(models.MLP([4, 2]), **GOAL)
    with pytest.raises(ValueError, match=r"recalibrate=True needs a model with running statistics"):
        training.fit(task, SPLITS, FREE, **SETTINGS, recalibrate=True)
    run = training.make_run(task, FREE, batch_size=20, recalibrate=True)
    with pytest.raises(ValueError, match=r"recalibrate=True needs a model with running statistics"):
        run(KEY, {"train": SPLITS["train"]}, training.orders(KEY, 1, 60))
