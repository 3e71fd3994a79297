"""The multilayer perceptron: its arithmetic, its parameters, what it refuses."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import activations, initializers, models
from jaxdl.layers import BatchNorm

INPUTS = jax.random.normal(jax.random.key(1), (6, 2, 2, 1))


def init(model):
    return jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), INPUTS)


def test_equals_the_layers_written_out():
    model = models.MLP([5, 4, 3], activation=activations.tanh, bias_init=initializers.normal(0, 1))
    variables = init(model)
    x = np.asarray(INPUTS, np.float64).reshape(6, 4)
    for layer in range(3):
        parameters = variables["params"][f"dense_{layer}"]
        x = x @ np.asarray(parameters["kernel"], np.float64) + np.asarray(parameters["bias"])
        x = np.tanh(x) if layer < 2 else x
    outputs = jax.jit(functools.partial(model.apply, train=False))(variables, INPUTS)
    np.testing.assert_allclose(outputs, x, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("norm", "position", "has_bias"),
    [
        (None, "before", True),
        (BatchNorm, "before", False),
        (BatchNorm, "after", True),
        (nn.BatchNorm, "before", False),
        (nn.LayerNorm, "before", True),
        (functools.partial(nn.GroupNorm, num_groups=1), "after", True),
    ],
)
def test_a_bias_that_the_norm_removes_is_left_out(norm, position, has_bias):
    variables = jax.eval_shape(lambda: init(models.MLP([5, 3], norm=norm, norm_position=position)))
    assert ("bias" in variables["params"]["dense_0"]) == has_bias
    assert "bias" in variables["params"]["dense_1"]


@pytest.mark.parametrize("position", ["before", "after"])
def test_the_norm_stands_where_it_is_told(position):
    model = models.MLP([8, 3], norm=BatchNorm, norm_position=position)
    variables = init(model)

    @jax.jit
    def apply(variables):
        outputs, state = model.apply(
            variables,
            INPUTS,
            train=True,
            mutable=["batch_stats", "intermediates"],
            capture_intermediates=lambda module, _: isinstance(module, BatchNorm),
        )
        return outputs, state["intermediates"]["norm_0"]["__call__"]

    outputs, (normed,) = apply(variables)
    np.testing.assert_allclose(normed.mean(0), 0, atol=1e-6)
    kernel, bias = variables["params"]["dense_1"]["kernel"], variables["params"]["dense_1"]["bias"]
    hidden = jax.nn.relu(normed) if position == "before" else normed
    np.testing.assert_allclose(outputs, hidden @ kernel + bias, rtol=1e-5, atol=1e-5)


def test_dropout_keeps_the_mean_and_the_stated_share():
    model = models.MLP([100_000, 1], dropout_rate=0.3, kernel_init=initializers.constant(0.5))
    x = jnp.ones((1, 2))
    variables = model.init(jax.random.key(0), x, train=False)
    dropped = model.apply(
        variables,
        x,
        train=True,
        rngs={"dropout": jax.random.key(1)},
        capture_intermediates=True,
        mutable=["intermediates"],
    )[1]["intermediates"]["dropout_0"]["__call__"][0]
    # A binomial share of 100,000 has a standard deviation of 0.0014; five of them: 6e-7.
    assert float((dropped == 0).mean()) == pytest.approx(0.3, abs=5 * 0.00145)
    np.testing.assert_allclose(jnp.unique(dropped), [0, 1 / 0.7], rtol=1e-6)
    chex.assert_trees_all_equal(
        model.apply(variables, x, train=False), model.apply(variables, x, train=False)
    )


def test_torch_initialisers_reach_each_layer_with_its_own_fan_in():
    model = models.MLP(
        [400, 300, 2],
        kernel_init=initializers.torch_kernel(),
        bias_init=initializers.torch_bias,
    )
    params = init(model)["params"]
    for layer, fan_in in enumerate([4, 400, 300]):
        parameters = params[f"dense_{layer}"]
        bound = fan_in**-0.5
        for values in parameters.values():
            assert jnp.abs(values).max() <= bound
        if layer == 0:
            # The largest of 400 uniform values lies below 0.95 with probability 0.95^400, 1e-9.
            assert jnp.abs(parameters["bias"]).max() > 0.95 * bound


def test_equal_settings_make_equal_models():
    assert models.MLP([3, 2]) == models.MLP((3, 2))
    assert hash(models.MLP([3, 2])) == hash(models.MLP((3, 2)))


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"features": []}, "at least one width"),
        ({"features": [3, 0]}, "each 1 or more"),
        ({"features": [3], "norm_position": "between"}, "'before' or 'after'"),
        ({"features": [3], "dropout_rate": 1.0}, r"\[0, 1\), got 1.0"),
        ({"features": [3], "dropout_rate": -0.1}, r"\[0, 1\)"),
    ],
)
def test_refuses(settings, text):
    with pytest.raises(ValueError, match=text):
        models.MLP(**settings)
