"""Fine-tuning as a run: a warm start, frozen layers, rates of their own; resumed, swept."""

import dataclasses
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl import data, initializers, losses, models, observers, optimizers, training
from jaxdl.layers import BatchNorm

DRAW = np.random.default_rng(0)
X = DRAW.normal(size=(24, 5)).astype(np.float32)
LABELS = DRAW.integers(0, 3, 24)
ONE = jnp.asarray(X[:1])
SPLIT = data.Arrays(X, LABELS)
DATASET = data.Dataset("own", SPLIT, SPLIT, None, ("a", "b", "c"))
NORM = functools.partial(BatchNorm, freeze_statistics=True)
KEY = jax.random.key(0)


def fit(model, optimizer, **settings):
    given = {"loss": losses.cross_entropy, "epochs": 2, "batch_size": 8, "key": KEY}
    return training.fit(model, DATASET, optimizer, progress=False, **given | settings)


def groups(rate=0.1):
    return optimizers.by_layer(
        {
            "dense_2": optimizers.adamw(rate, mask=None),
            "dense_1": optax.chain(optimizers.l2(0.1), optimizers.momentum(0.01)),
            "*": None,
        }
    )


def test_a_warm_start_with_frozen_layers_and_norms():
    source = fit(models.MLP([8, 7, 10], norm=BatchNorm), optimizers.sgd(0.1)).state
    model = models.MLP([8, 7, 3], norm=NORM)
    first = training.init_state(KEY, model, groups(), ONE)
    variables, report = initializers.transfer(first.variables, source.variables)
    assert set(report.mismatched) == {"params/dense_2/bias", "params/dense_2/kernel"}
    state = training.init_state(KEY, model, groups(), ONE, variables=variables)
    after = fit(model, groups(), state=state).state
    for name in ("dense_0", "norm_0", "norm_1"):
        chex.assert_trees_all_equal(after.params[name], source.params[name])
    chex.assert_trees_all_equal(after.batch_stats, source.batch_stats)
    for name in ("dense_1", "dense_2"):
        assert not np.array_equal(after.params[name]["kernel"], variables["params"][name]["kernel"])


def test_frozen_parameters_alone_do_not_stop_the_statistics():
    model = models.MLP([8, 3], norm=BatchNorm)
    optimizer = optimizers.freeze(optimizers.sgd(0.1), "norm_0", "dense_0")
    first = training.init_state(KEY, model, optimizer, ONE)
    after = fit(model, optimizer, state=first).state
    chex.assert_trees_all_equal(after.params["norm_0"], first.params["norm_0"])
    assert not np.array_equal(after.batch_stats["norm_0"]["mean"], np.zeros(8))


def test_a_model_whose_norms_are_all_frozen_needs_no_mode():
    class Frozen(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3)(BatchNorm(freeze_statistics=True)(x, train=True))

    after = fit(Frozen(), optimizers.sgd(0.1)).state
    assert after.batch_stats["BatchNorm_0"]["mean"].tolist() == [0.0] * 5


def test_recalibrating_what_is_frozen_is_refused():
    model = models.MLP([8, 3], norm=NORM)
    variables = model.init(KEY, ONE, train=False)
    with pytest.raises(ValueError, match="they all use their running statistics"):
        training.recalibrate(model, variables, [X])


def test_goes_on_from_a_checkpoint_bit_for_bit(tmp_path):
    model = models.MLP([8, 7, 3], norm=BatchNorm)
    whole = fit(model, groups(), epochs=3).state
    fit(model, groups(), epochs=1, checkpoint_dir=tmp_path)
    resumed = fit(model, groups(), epochs=3, checkpoint_dir=tmp_path)
    assert resumed.state.step == 9
    chex.assert_trees_all_equal(resumed.state.params, whole.params)
    chex.assert_trees_all_equal(resumed.state.opt_state, whole.opt_state)
    other = optimizers.freeze(optimizers.adam(0.1), "dense_0")
    with pytest.raises(ValueError, match="optimizer"):
        fit(model, other, epochs=4, checkpoint_dir=tmp_path)


def test_every_plateau_hears_the_metric_in_fit():
    optimizer = optimizers.by_layer(
        {
            "dense_1": optimizers.adam(optimizers.plateau(0.0, patience=0, eps=0.0)),
            "dense_0": optimizers.sgd(optimizers.plateau(0.0, patience=0)),
        }
    )
    after = fit(models.MLP([8, 3]), optimizer, epochs=3, observers=[observers.report_plateau()])
    # At rate 0 the loss is the same in each epoch: the second and third are bad.
    plateaus = [
        node
        for node in jax.tree.leaves(
            after.state.opt_state,
            is_leaf=lambda node: hasattr(node, "bad_epochs"),
        )
        if hasattr(node, "bad_epochs")
    ]
    assert len(plateaus) == 2
    assert all(np.isfinite(each.best) for each in plateaus)


def test_a_swept_rate_of_one_layer_equals_each_run():
    task = training.Task(models.MLP([8, 7, 3]), losses.cross_entropy)
    orders = training.orders(KEY, 2, len(X))

    def member(key, rate):
        run = training.make_run(task, groups(rate), batch_size=8)
        state, measured = run(key, {"train": SPLIT}, orders)
        return {"loss": measured["train"]["loss"], "embed": state.params["dense_0"]["kernel"]}

    rates = np.float32([0.001, 0.01, 0.1])
    together = training.sweep(member, over={"rate": rates}, seeds=[0])
    alone = [jax.tree.map(np.asarray, jax.jit(member)(KEY, rate)) for rate in rates]
    for index, each in enumerate(alone):
        # Six steps on 24 examples, each rounded at 2^-24 of values of order one.
        np.testing.assert_allclose(together["loss"].values[index, 0], each["loss"], rtol=1e-5)
        np.testing.assert_array_equal(together["embed"].values[index, 0], alone[0]["embed"])
    assert len({float(each["loss"][-1, -1]) for each in alone}) == 3


def test_rates_that_fall_with_the_distance_from_the_top():
    depth, decay = 3, 0.5
    rates = {f"dense_{layer}": decay ** (depth - 1 - layer) for layer in range(depth)}
    optimizer = optimizers.by_layer({name: optimizers.sgd(rate) for name, rate in rates.items()})
    params = models.MLP([8, 7, 3]).init(KEY, ONE, train=False)["params"]
    ones = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(ones, optimizer.init(params), params)
    means = {name: -float(layer["kernel"].mean()) for name, layer in updates.items()}
    assert means == {"dense_0": 0.25, "dense_1": 0.5, "dense_2": 1.0}


def test_a_task_is_trained_the_same_way():
    task = training.Task(models.MLP([8, 7, 3], norm=BatchNorm), losses.cross_entropy)
    frozen = dataclasses.replace(task, model=models.MLP([8, 7, 3], norm=NORM))
    state = training.init_state(KEY, task, groups(), ONE)
    after = fit(frozen, groups(), loss=None, state=state).state
    chex.assert_trees_all_equal(after.batch_stats, state.batch_stats)
