"""Targets that a loss cannot have, and weights with which no mean can be taken: at every door."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import data, losses, models, optimizers, training

EXAMPLES, BATCH, KEY = 12, 4, jax.random.key(0)
INPUTS = np.random.default_rng(0).normal(size=(EXAMPLES, 3)).astype(np.float32)
SGD = optimizers.sgd(0.1)
WEIGHTS = np.linspace(0.5, 2, EXAMPLES).astype(np.float32)


def by_fit(task, split, where):
    right = data.Arrays(INPUTS[:BATCH], *(part[:BATCH] for part in split[1:]))
    given = {"train": split} if where == "train" else {"train": right, where: split}
    return training.fit(task, given, SGD, epochs=1, batch_size=BATCH, key=KEY)


def by_run(task, split, where):
    right = tuple(part[:BATCH] for part in split)
    given = {"train": split} if where == "train" else {"train": right, where: split}
    run = training.make_run(task, SGD, batch_size=BATCH)
    return run(KEY, given, training.orders(KEY, 1, len(given["train"][0])))


def by_evaluate(task, split, where):
    run = training.make_run(task, SGD, batch_size=BATCH)
    right = tuple(part[:BATCH] for part in split)
    return run.evaluate(run.init(KEY, {"inputs": right[0], "targets": right[1]}), split)


def by_result(task, split, where):
    return by_fit(task, tuple(part[:BATCH] for part in split), "train").evaluate(split)


DOORS = [
    (by_fit, "train"), (by_fit, "validation"), (by_run, "train"), (by_run, "validation"),
    (by_evaluate, "evaluated"), (by_result, "evaluated"),
]  # fmt: skip
IDS = [f"{door.__name__[3:]}-{where}" for door, where in DOORS]

# Right targets, a wrong one, and what is said.
ROWS = np.tile(np.float32([0.25, 0.75]), (EXAMPLES, 1))
ONES = np.ones((EXAMPLES, 2), np.float32)
CASES = [
    (losses.binary_cross_entropy, ONES, 2.0, r"must be in \[0, 1\], got 2.0"),
    (losses.binary_cross_entropy, ONES.astype(np.uint8), 255, r"must be in \[0, 1\], got 255"),
    (
        functools.partial(losses.binary_cross_entropy, positive_weight=2.0),
        ONES, -1.0, r"targets of binary_cross_entropy must be in \[0, 1\], got -1.0",
    ),
    (losses.cross_entropy, ROWS, 0.5, r"sum to 1 over the classes, got \[0.5 *0.75\]"),
    (losses.cross_entropy, ROWS, -0.5, "at least 0"),
    (losses.kl_divergence, ROWS, 0.5, "sum to 1 over the classes"),
    (losses.hinge, ONES, 0.0, "must be -1 or 1, got 0.0"),
    (losses.poisson, ONES, -1.0, "must be at least 0, got -1.0"),
]  # fmt: skip


@pytest.mark.parametrize(("loss", "right", "value", "text"), CASES)
@pytest.mark.parametrize(("door", "where"), DOORS, ids=IDS)
def test_targets_that_the_loss_cannot_have(door, where, loss, right, value, text):
    wrong = right.copy()
    wrong[7, 0] = value
    task = training.Task(models.MLP([2]), loss)
    with pytest.raises(ValueError, match=rf"{text}.* at example 7 of the {where} split"):
        door(task, (INPUTS, wrong), where)


@pytest.mark.parametrize(("loss", "right", "value", "text"), CASES)
def test_right_targets_pass_and_a_weight_of_zero_excuses(loss, right, value, text):
    task = training.Task(models.MLP([2]), loss)
    by_run(task, (INPUTS, right), "train")
    wrong, weights = right.copy(), WEIGHTS.copy()
    wrong[7, 0], weights[7] = value, 0
    with_wrong, _ = by_run(task, (INPUTS, wrong, weights), "train")
    without, _ = by_run(task, (INPUTS, right, weights), "train")
    # The example has no part in the gradient, whatever it is.
    chex.assert_trees_all_close(with_wrong.params, without.params, rtol=2**-22)
    by_fit(task, (INPUTS, wrong, weights), "train")
    by_evaluate(task, (INPUTS, wrong, weights), "evaluated")


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16, np.float32, np.float64])
def test_probabilities_of_every_dtype_pass(dtype):
    draws = np.random.default_rng(1).normal(size=(EXAMPLES, 1000))
    rows = (np.exp(draws) / np.exp(draws).sum(1, keepdims=True)).astype(dtype)
    task = training.Task(models.MLP([1000]), losses.cross_entropy)
    by_evaluate(task, (INPUTS, rows), "evaluated")


def test_targets_that_are_not_finite_are_left_to_the_step():
    wrong = ONES.copy()
    wrong[7, 0] = np.nan
    task = training.Task(models.MLP([2]), losses.binary_cross_entropy)
    with pytest.raises(training.NonFiniteError):
        by_fit(task, (INPUTS, wrong), "train")


def test_one_output_and_labels_are_refused_by_fit():
    task = training.Task(models.MLP([1]), losses.cross_entropy)
    for targets in (ONES[:, :1], np.zeros(EXAMPLES, np.int32)):
        with pytest.raises(ValueError, match="use binary_cross_entropy"):
            by_fit(task, (INPUTS, targets), "train")


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
@pytest.mark.parametrize(("door", "where"), DOORS, ids=IDS)
def test_weights_that_are_no_weights(door, where, value):
    weights = WEIGHTS.copy()
    weights[7] = value
    task = training.Task(models.MLP([2]), losses.mean_squared_error)
    rule = "must be finite and at least 0, got .* at example 7"
    with pytest.raises(ValueError, match=rule):
        door(task, (INPUTS, ONES, weights), where)
    if door is by_evaluate:
        with pytest.raises(ValueError, match="must not all be 0, got 12 zeros"):
            door(task, (INPUTS, ONES, 0 * WEIGHTS), where)


def test_a_batch_whose_weights_are_all_zero_has_no_gradient():
    task = training.Task(models.MLP([2]), losses.mean_squared_error)
    run = training.make_run(task, SGD, batch_size=BATCH)
    batch = {"inputs": INPUTS[:BATCH], "targets": ONES[:BATCH], "weights": np.zeros(BATCH)}
    before = run.init(KEY, batch)
    after, measured = jax.jit(run.step)(before, batch)
    assert measured["loss"] == 0
    chex.assert_trees_all_equal(after.params, before.params)

    # The same over a mapped axis, of which only one place has weights: the mean of all places.
    step = training.make_train_step(task, SGD, axis_name="places")
    halves = {name: part.reshape(2, BATCH // 2, *part.shape[1:]) for name, part in batch.items()}
    mapped = jax.vmap(step, in_axes=(None, 0), axis_name="places")
    after, measured = mapped(before, halves)
    assert measured["loss"].tolist() == [0, 0]
    halves["weights"] = np.float32([[1, 3], [0, 0]])
    of_first = {"inputs": INPUTS[:2], "targets": ONES[:2], "weights": np.float32([1, 3])}
    expected, _ = jax.jit(run.step)(before, of_first)
    after, _ = mapped(before, halves)
    first = jax.tree.map(lambda leaf: leaf[0], after.params)
    # A handful of float32 operations on numbers of size 1.
    chex.assert_trees_all_close(first, expected.params, rtol=2**-20, atol=2**-22)


def test_labels_that_are_all_ignored_give_no_loss_in_their_batch():
    loss = functools.partial(losses.cross_entropy, ignored=-100)
    task = training.Task(models.MLP([2]), loss)
    labels = np.zeros(EXAMPLES, np.int32)
    labels[:BATCH] = -100
    run = training.make_run(task, SGD, batch_size=BATCH)
    order = np.arange(EXAMPLES, dtype=np.int32)[None]
    state, measured = run(KEY, {"train": (INPUTS, labels)}, order)
    assert float(measured["train"]["loss"][0, 0]) == 0
    chex.assert_tree_all_finite(state.params)
