"""Training by a parametrisation: the same network as one with factors in its forward pass."""

import functools
import inspect

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl import layers, losses, models, optimizers, training

KEY, X = jax.random.key(0), jax.random.normal(jax.random.key(1), (6, 4))
BASE, WIDE, RATIO = 32, 128, 4.0


def mlp(width, **settings):
    return models.MLP([width, width, 3], **settings)


def maximal(make):
    return training.parametrization("maximal_update", make(WIDE), make(BASE), X)


class Factored(nn.Module):
    """An MLP with a factor on each weight of the forward pass: (factor w) x."""

    width: int
    factors: tuple[float, float, float]

    @nn.compact
    def __call__(self, x):
        features = (self.width, self.width, 3)
        for layer, (width, factor) in enumerate(zip(features, self.factors, strict=True)):
            x = factor * nn.Dense(width, use_bias=False, name=f"dense_{layer}")(x)
            x = nn.tanh(x) if layer < 2 else x
        return x


def losses_of(model, params, optimizer, steps=8):
    task = training.Task(model, losses.mean_squared_error)
    state = training.init_state(KEY, task, optimizer, X[:1], params)
    step, found = jax.jit(training.make_train_step(task, optimizer)), []
    for _ in range(steps):
        state, measured = step(state, {"inputs": X, "targets": jnp.sin(3 * X[:, :3])})
        found.append(float(measured["loss"]))
    return found


RULES = {
    "sgd": (optimizers.sgd, 0.2, {}),
    "momentum": (functools.partial(optimizers.momentum, decay=0.5), 0.1, {"rule": "sgd"}),
    "nesterov": (optimizers.nesterov, 0.02, {}),
    "adam": (functools.partial(optimizers.adam, epsilon=1e-30), 0.03, {"rule": "adam"}),
}


@pytest.mark.parametrize("name", RULES)
def test_the_output_multiplier_of_table_8_is_the_same_network(name):
    """Start and rate of table 8, with 1 / r in the forward pass, against those of table 3."""
    factory, rate, settings = RULES[name]
    plain, divided = (Factored(WIDE, (1.0, 1.0, last)) for last in (1.0, 1 / RATIO))
    found = training.parametrization("maximal_update", plain, Factored(BASE, (1.0, 1.0, 1.0)), X)
    params = found.init(KEY, X)["params"]
    folded = losses_of(plain, params, found.optimizer(factory, rate, **settings))

    params["dense_2"]["kernel"] *= RATIO
    is_adam = name == "adam"
    by_hand = {
        "dense_0": factory(rate if is_adam else rate * RATIO),
        "dense_1": factory(rate / RATIO if is_adam else rate),
        "dense_2": factory(rate if is_adam else rate * RATIO),
    }
    written = losses_of(divided, params, optimizers.by_layer(by_hand))
    np.testing.assert_allclose(folded, written, rtol=1e-4)
    assert folded[-1] < 0.9 * folded[0]


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_the_neural_tangent_is_one_rate_and_a_root_in_the_forward_pass(name):
    factory, rate, settings = RULES[name]
    root = RATIO**-0.5
    plain, rooted = Factored(WIDE, (1.0, 1.0, 1.0)), Factored(WIDE, (1.0, root, root))
    found = training.parametrization("neural_tangent", plain, Factored(BASE, (1.0, 1.0, 1.0)), X)
    params = found.init(KEY, X)["params"]
    folded = losses_of(plain, params, found.optimizer(factory, rate, **settings))
    for layer in ("dense_1", "dense_2"):
        params[layer]["kernel"] /= root
    np.testing.assert_allclose(folded, losses_of(rooted, params, factory(rate)), rtol=1e-4)


def test_a_multiplier_is_a_factor_in_the_forward_pass():
    factor = 0.25
    plain, divided = Factored(WIDE, (1.0, 1.0, 1.0)), Factored(WIDE, (1.0, factor, 1.0))
    narrow = Factored(BASE, (1.0, 1.0, 1.0))
    for name in ("sgd", "adam"):
        factory, rate, settings = RULES[name]
        found, folded = (
            training.parametrization("maximal_update", plain, narrow, X, multipliers=given)
            for given in ({}, {"dense_1": factor})
        )
        written = losses_of(
            divided, found.init(KEY, X)["params"], found.optimizer(factory, rate, **settings)
        )
        here = losses_of(
            plain, folded.init(KEY, X)["params"], folded.optimizer(factory, rate, **settings)
        )
        np.testing.assert_allclose(here, written, rtol=1e-4)


def test_decoupled_decay_takes_the_same_share_at_every_width():
    found = maximal(mlp)
    params = found.init(KEY, X)["params"]
    for factory in (optimizers.adamw, optimizers.lion):
        optimizer = found.optimizer(factory, 0.5, weight_decay=0.1)
        zeros = jax.tree.map(jnp.zeros_like, params)
        updates, _ = optimizer.update(zeros, optimizer.init(params), params)
        for layer in params:
            np.testing.assert_allclose(
                updates[layer]["kernel"], -0.05 * params[layer]["kernel"], rtol=1e-6
            )
            np.testing.assert_array_equal(updates[layer]["bias"], 0)


def test_the_default_decay_and_mask_of_a_factory_hold():
    found = maximal(mlp)
    one = found.optimizer(optimizers.adamw, 0.1)
    other = optimizers.decoupled_decay(
        found.scaled(optimizers.adam(0.1, epsilon_position="outside"), "adam"), 1e-2
    )
    params = found.init(KEY, X)["params"]
    both = [each.update(params, each.init(params), params)[0] for each in (one, other)]
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), *both)


NADAMW = functools.partial(optax.adamw, nesterov=True)


@pytest.mark.parametrize("factory", [optax.adamw, optax.adamaxw, optax.lion, NADAMW])
@pytest.mark.parametrize("mask", [None, optimizers.is_kernel])
def test_optaxs_decoupled_decay_takes_the_same_share_by_its_own_mask(factory, mask):
    found = maximal(mlp)
    rates = {row.name: row.adam for row in found.parameters}
    params = jax.tree.map(lambda leaf: leaf + 0.25, found.init(KEY, X)["params"])
    gradients = jax.tree.map(jnp.sin, params)
    without, decayed = (
        found.optimizer(factory, 0.1, rule="adam", weight_decay=decay, mask=mask)
        for decay in (0.0, 0.5)
    )
    plain, own = (
        each.update(gradients, each.init(params), params)[0]
        for each in (factory(0.1, weight_decay=0.0), decayed)
    )
    scaled = without.update(gradients, without.init(params), params)[0]
    for layer, leaves in params.items():
        for leaf, theta in leaves.items():
            expected = rates[f"{layer}/{leaf}"] * plain[layer][leaf]
            np.testing.assert_allclose(scaled[layer][leaf], expected, rtol=1e-6)
            shrink = 0.05 if mask is None or leaf == "kernel" else 0.0
            # Each entry is a sum of numbers of at most 0.1 and 0.05 |theta|.
            expected = expected - shrink * theta
            np.testing.assert_allclose(own[layer][leaf], expected, rtol=1e-5, atol=1e-7)


def test_optaxs_own_default_decay_holds():
    found = maximal(mlp)
    params = found.init(KEY, X)["params"]
    zeros = jax.tree.map(jnp.zeros_like, params)
    optimizer = found.optimizer(optax.adamw, 0.5, rule="adam")
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    default = inspect.signature(optax.adamw).parameters["weight_decay"].default
    for layer in params:
        theta = params[layer]["kernel"]
        np.testing.assert_allclose(updates[layer]["kernel"], -0.5 * default * theta, rtol=1e-6)


def test_both_rates_of_muon_decay_as_without_factors():
    found = maximal(mlp)
    params = found.init(KEY, X)["params"]
    zeros = jax.tree.map(jnp.zeros_like, params)
    settings = {"adam_rate": 0.2, "weight_decay": 0.5, "matrices": {"dense_2": None}}
    ours = found.optimizer(optimizers.muon, 0.1, rule="adam", **settings)
    updates, _ = ours.update(zeros, ours.init(params), params)
    for layer, rate in {"dense_0": 0.1, "dense_1": 0.1, "dense_2": 0.2}.items():
        theta = params[layer]["kernel"]
        np.testing.assert_allclose(updates[layer]["kernel"], -rate * 0.5 * theta, rtol=1e-6)


def test_a_decay_inside_a_norm_is_scaled_with_all_of_the_update():
    found = maximal(mlp)
    params = found.init(KEY, X)["params"]
    gradients = jax.tree.map(jnp.cos, params)
    ours = found.optimizer(optimizers.lamb, 0.1, rule="adam", weight_decay=0.5)
    lamb = optimizers.lamb(0.1, weight_decay=0.5)
    both = [each.update(gradients, each.init(params), params)[0] for each in (ours, lamb)]
    for row in found.parameters:
        layer, leaf = row.name.split("/")
        mine, theirs = (each[layer][leaf] for each in both)
        np.testing.assert_allclose(mine, row.adam * theirs, rtol=1e-6)


@pytest.mark.parametrize(
    "factory", [optimizers.lamb, optimizers.adamw, optimizers.muon, optax.adamw, optax.lamb]
)
def test_under_standard_the_optimizer_is_the_factorys(factory):
    found = training.parametrization("standard", mlp(WIDE), mlp(BASE), X)
    params = found.init(KEY, X)["params"]
    gradients = jax.tree.map(jnp.cos, params)
    ours = found.optimizer(factory, 0.1, rule="adam", weight_decay=0.5)
    plain = factory(0.1, weight_decay=0.5)
    states = [each.init(params) for each in (ours, plain)]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])
    both = [
        each.update(gradients, state, params)[0]
        for each, state in zip((ours, plain), states, strict=True)
    ]
    jax.tree.map(np.testing.assert_array_equal, *both)


def test_an_optimizer_that_is_made_already_is_no_factory():
    found = maximal(mlp)
    with pytest.raises(TypeError, match=r"pass the function, or scale .*found\.scaled"):
        found.optimizer(optimizers.adam(0.1), 0.1)


def test_a_schedule_and_the_shown_rate_stay_the_bases():
    found = maximal(mlp)
    optimizer = found.optimizer(optimizers.adam, lambda step: 0.5 / (1 + step))
    params = found.init(KEY, X)["params"]
    state = optimizer.init(params)
    _, state = optimizer.update(params, state, params)
    assert float(optimizers.current_learning_rate(state)) == 0.25


def test_it_jits_and_maps_over_keys_and_rates():
    found = maximal(functools.partial(mlp, norm=layers.BatchNorm))
    starts = jax.jit(jax.vmap(lambda key: found.init(key, X)))(jax.random.split(KEY, 3))
    alone = found.init(jax.random.split(KEY, 3)[1], X)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-7)
    jax.tree.map(lambda many, one: close(many[1], one), starts, alone)

    def updated(rate):
        optimizer = found.optimizer(optimizers.sgd, rate)
        return optimizer.update(alone["params"], optimizer.init(alone["params"]))[0]

    several = jax.vmap(updated)(jnp.array([0.1, 0.2]))
    jax.tree.map(lambda many, one: close(many[1], one), several, updated(0.2))


def test_a_whole_fit_starts_from_it():
    task = training.Task(mlp(64), losses.cross_entropy)
    found = training.parametrization("maximal_update", task, mlp(BASE), X)
    optimizer = found.optimizer(optimizers.adam, 0.01)
    state = training.init_state(KEY, task, optimizer, X[:1], variables=found.init(KEY, X))
    examples = {"inputs": X, "targets": jnp.arange(6) % 3}
    result = training.fit(
        task, examples, optimizer, state=state, epochs=20, batch_size=6, key=KEY, progress=False
    )
    assert result.history.train["loss"][-1] < 0.8 * result.history.train["loss"][0]
