"""Every rule on a network that has the disease and on one that has not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import activations, losses, models, optimizers
from jaxdl.diagnostics import advise, propagation
from jaxdl.initializers import he_normal, lecun_normal, zeros
from jaxdl.layers import BatchNorm


@pytest.fixture(scope="module")
def batch():
    inputs, targets = jax.random.normal(jax.random.key(0), (2, 64, 32))
    return {"inputs": inputs, "targets": targets[:, :1]}


def measure(batch, optimizer=None, edit=lambda params: params, **settings):
    settings = {"kernel_init": he_normal(), "activation": activations.relu, **settings}
    depth = settings.pop("depth", 10)
    model = models.MLP([32] * depth + [1], **settings)
    variables = jax.jit(functools.partial(model.init, train=False))(
        jax.random.key(1), batch["inputs"]
    )
    variables["params"] = edit(variables["params"])
    return propagation(model, variables, batch, loss=losses.mean_squared_error, optimizer=optimizer)


def scaled(scale):
    he = he_normal()
    return lambda key, shape, dtype=jnp.float32: scale * he(key, shape, dtype)


HEALTHY = {
    "he and relu": {},
    "lecun and tanh": {"activation": activations.tanh, "kernel_init": lecun_normal()},
    "a norm undoes the scale": {"norm": BatchNorm, "kernel_init": scaled(30.0)},
    "sgd": {"optimizer": optimizers.sgd(1e-3)},
    "adam": {"optimizer": optimizers.adam(1e-3)},
}


@pytest.mark.parametrize("settings", HEALTHY.values(), ids=HEALTHY)
def test_a_healthy_network_gets_no_advice(batch, settings):
    assert advise(measure(batch, **settings)) == ()


def shift_biases(params):
    return {
        name: {**layer, "bias": layer["bias"] - (4.0 if name == "dense_3" else 0.0)}
        for name, layer in params.items()
    }


def infinite_bias(params):
    layer = params["dense_2"]
    return {**params, "dense_2": {**layer, "bias": layer["bias"] + jnp.inf}}


DISEASES = {
    "vanishing gradient": ("dense_0", {"activation": activations.sigmoid}),
    "vanishing signal": ("dense_9", {"kernel_init": scaled(1 / 4)}),
    "exploding signal": ("dense_9", {"kernel_init": scaled(4.0)}),
    "exploding gradient": ("dense_0", {"kernel_init": scaled(4.0)}),
    "dead units": ("dense_3/activation", {"edit": shift_biases}),
    "saturated": (
        "dense_0/activation",
        {"activation": activations.tanh, "kernel_init": scaled(4.0), "depth": 1},
    ),
    "small update": ("dense_0", {"optimizer": optimizers.sgd(1e-9), "depth": 1}),
    "large update": ("dense_1", {"optimizer": optimizers.sgd(10.0), "depth": 1}),
    "not finite": ("dense_2", {"edit": infinite_bias}),
    "cut off": ("dense_9/activation", {"kernel_init": zeros()}),
}


@pytest.mark.parametrize("problem", DISEASES)
def test_a_sick_network_is_told_what_and_where(batch, problem):
    row, settings = DISEASES[problem]
    found = {each.problem: each for each in advise(measure(batch, **settings))}
    assert problem in found
    assert found[problem].row == row
    assert row in found[problem].sentence
    assert str(found[problem]) == found[problem].sentence
    assert found[problem].sentence.endswith(".")


def test_the_factor_a_layer_is_what_the_weights_were_scaled_by(batch):
    found = {each.problem: each for each in advise(measure(batch, kernel_init=scaled(4.0)))}
    # 9 layers of 32 units: log of the ratio departs by sqrt(9 * 5 / 32) / 2 = 0.6, a factor of
    # 1.07 a layer at one standard deviation; 4.9 of them are 1.39.
    for problem in ("exploding signal", "exploding gradient"):
        layers = 9 if problem == "exploding signal" else 10
        assert 4 / 1.39 < found[problem].measured ** (1 / layers) < 4 * 1.39


def test_an_underflow_is_told_from_a_dead_layer(batch):
    linear = measure(
        batch, depth=26, activation=activations.identity, kernel_init=scaled(1e-2), norm=None
    )
    (cut,) = [each for each in advise(linear) if each.problem == "cut off"]
    assert "underflowed float32" in cut.sentence
    dead = measure(batch, edit=lambda params: {**params, "dense_3": _far_below(params["dense_3"])})
    (cut,) = [each for each in advise(dead) if each.problem == "cut off"]
    # Zero from there on, the last ReLU is off as well and is what the gradient meets first.
    assert cut.row == "dense_9"
    assert "every unit of dense_3/activation is dead" in cut.sentence


def _far_below(layer):
    return {**layer, "bias": layer["bias"] - 1e3}


def test_a_measurement_of_several_runs_is_refused(batch):
    one = measure(batch, depth=1)
    two = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), one)
    with pytest.raises(ValueError, match=r"shape \(2, 3\); take one"):
        advise(two)
    assert advise(jax.tree.map(lambda leaf: leaf[0], two)) == advise(one)
    assert advise(jax.tree.map(np.asarray, one)) == advise(one)
