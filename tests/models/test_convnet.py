"""The small convolutional network: its arithmetic, its parameters, what it refuses."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import variables_of
from jax import lax

from jaxdl import initializers, losses, models, optimizers, training
from jaxdl.layers import BatchNorm

IMAGES = jax.random.normal(jax.random.key(1), (2, 8, 9, 3))


def init(model):
    return jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), IMAGES)


def test_equals_the_layers_written_out():
    model = models.ConvNet([4, 5], [6, 2])
    variables = variables_of(model, IMAGES)

    @jax.jit
    def written_out(params, x):
        for layer in range(2):
            conv = params[f"conv_{layer}"]
            x = lax.conv_general_dilated(
                x, conv["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = jnp.maximum(x + conv["bias"], 0)
            height, width = x.shape[1] // 2, x.shape[2] // 2
            x = x[:, : 2 * height, : 2 * width].reshape(2, height, 2, width, 2, -1).max((2, 4))
        dense_0, dense_1 = params["head"]["dense_0"], params["head"]["dense_1"]
        x = jnp.maximum(x.reshape(2, -1) @ dense_0["kernel"] + dense_0["bias"], 0)
        return x @ dense_1["kernel"] + dense_1["bias"]

    np.testing.assert_allclose(
        jax.jit(functools.partial(model.apply, train=False))(variables, IMAGES),
        written_out(variables["params"], IMAGES),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize(("norm", "has_bias"), [(BatchNorm, False), (nn.LayerNorm, True)])
def test_a_bias_that_the_norm_removes_is_left_out(norm, has_bias):
    params = jax.eval_shape(lambda: init(models.ConvNet([4], [5, 2], norm=norm)))["params"]
    assert ("bias" in params["conv_0"]) == ("bias" in params["head"]["dense_0"]) == has_bias


def test_torch_initialisers_reach_each_layer_with_its_own_fan_in():
    params = init(
        models.ConvNet(
            [40, 30],
            [200, 2],
            kernel_init=initializers.torch_kernel(),
            bias_init=initializers.torch_bias,
        )
    )["params"]
    layers = {
        27: params["conv_0"],
        360: params["conv_1"],
        120: params["head"]["dense_0"],
        200: params["head"]["dense_1"],
    }
    for fan_in, layer in layers.items():
        for values in layer.values():
            # The largest of n uniform values lies below 0.8 with probability 0.8^n: 1e-3 for the
            # 30 biases of a layer, and the key is fixed; the output layer has but two.
            assert jnp.abs(values).max() <= fan_in**-0.5
            assert values.size < 30 or jnp.abs(values).max() > 0.8 * fan_in**-0.5


def test_trains():
    model, optimizer = models.ConvNet([4], [2], norm=BatchNorm), optimizers.adam(0.01)
    batch = {"inputs": IMAGES, "targets": jnp.array([0, 1])}
    state = training.init_state(jax.random.key(0), model, optimizer, IMAGES)
    step = jax.jit(training.make_train_step(model, optimizer, losses.cross_entropy))
    for _ in range(30):
        state, measured = step(state, batch)
    assert measured["loss"] < 0.1


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"channels": [], "features": [2]}, "channels must name at least one width"),
        ({"channels": [3], "features": []}, "features must name at least one width"),
        ({"channels": [3], "features": [2], "norm_position": "between"}, "'before' or 'after'"),
        ({"channels": [3], "features": [2], "dropout_rate": 1.0}, r"\[0, 1\)"),
    ],
)
def test_refuses(settings, text):
    with pytest.raises(ValueError, match=text):
        models.ConvNet(**settings)


def test_refuses_an_image_that_the_poolings_leave_nothing_of():
    with pytest.raises(ValueError, match="at least 16 pixels"):
        init(models.ConvNet([2, 2, 2, 2], [2]))
