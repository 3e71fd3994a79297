"""Activation modules: their parameters, their draws, and what each reduces to."""

from typing import Any

import chex
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.initializers import he_normal, torch_bias
from jaxdl.layers import Maxout, PReLU, RReLU

RTOL = 16 * 2.0**-23


def test_prelu_starts_as_a_leaky_relu_of_a_quarter(key):
    x = jax.random.normal(key, (4, 5))
    variables = PReLU().init(key, x)
    chex.assert_trees_all_equal(
        PReLU().apply(variables, x), jax.nn.leaky_relu(x, negative_slope=0.25)
    )


@pytest.mark.parametrize(("per_feature", "shape"), [(False, ()), (True, (5,))])
def test_prelu_slope_learns_from_the_negative_inputs_alone(key, per_feature, shape):
    x = jax.random.normal(key, (64, 5))
    layer: Any = PReLU(per_feature=per_feature)
    variables = layer.init(key, x)
    chex.assert_shape(variables["params"]["negative_slope"], shape)
    gradient = jax.grad(lambda v: layer.apply(v, x).sum())(variables)
    negative = jnp.minimum(x, 0)
    expected = negative.sum(0) if per_feature else negative.sum()
    chex.assert_trees_all_close(gradient["params"]["negative_slope"], expected, rtol=RTOL)


def test_prelu_features_have_their_own_slopes():
    layer = PReLU(per_feature=True)
    variables = {"params": {"negative_slope": jnp.array([0.0, 1.0, -1.0])}}
    y = layer.apply(variables, jnp.full((2, 3), -2.0))
    np.testing.assert_array_equal(y, [[0.0, -2.0, 2.0]] * 2)


def test_prelu_derivative_at_zero_is_the_slope():
    layer = PReLU()
    variables = layer.init(jax.random.key(0), jnp.zeros(()))
    assert float(jax.grad(lambda x: layer.apply(variables, x))(0.0)) == 0.25


def test_rrelu_evaluates_with_the_mean_slope(key):
    x = jax.random.normal(key, (10, 10))
    y = RReLU().apply({}, x, train=False)
    chex.assert_trees_all_close(y, jax.nn.leaky_relu(x, (1 / 8 + 1 / 3) / 2), rtol=RTOL)


def test_rrelu_slopes_are_uniform_and_independent_in_training(key):
    x = jnp.full((200, 500), -1.0)
    layer: Any = RReLU()
    slopes = -layer.apply({}, x, train=True, rngs={"dropout": key})
    low, high = 1 / 8, 1 / 3
    assert low <= float(slopes.min()) <= float(slopes.max()) <= high
    # 1e5 draws; at 5 standard errors a false alarm has probability 6e-7 for each statement.
    n, variance = slopes.size, (high - low) ** 2 / 12
    assert abs(float(slopes.mean()) - (low + high) / 2) < 5 * (variance / n) ** 0.5
    # The fourth central moment of a uniform is 9/5 of its variance squared.
    assert abs(float(slopes.var()) / variance - 1) < 5 * (0.8 / n) ** 0.5
    neighbours = np.corrcoef(slopes[:, :-1].ravel(), slopes[:, 1:].ravel())[0, 1]
    assert abs(neighbours) < 5 / n**0.5


def test_rrelu_slopes_have_the_right_mean_in_half_precision(key):
    layer: Any = RReLU()
    x = jnp.full((1000, 1000), -1, jnp.bfloat16)
    slopes = -np.asarray(layer.apply({}, x, train=True, rngs={"dropout": key}), np.float64)
    low, high = 1 / 8, 1 / 3
    # Rounding to nearest is unbiased but at the two ends; drawing in bfloat16 would cut each
    # slope down by up to 2^-7 of the range, 8e-4 on average. Five standard errors are 3e-4.
    assert abs(slopes.mean() - (low + high) / 2) < 5 * (high - low) / 12**0.5 / 1000


def test_rrelu_is_pure_in_its_key_and_leaves_positive_inputs(key):
    x = jnp.linspace(-1, 1, 11)
    layer = RReLU()
    first, again, other = (
        layer.apply({}, x, train=True, rngs={"dropout": k}) for k in (key, key, jax.random.key(1))
    )
    chex.assert_trees_all_equal(first, again)
    assert np.all(first[:5] != other[:5])
    chex.assert_trees_all_equal(first[5:], x[5:])


def test_rrelu_derivative_is_the_slope_drawn(key):
    x = jnp.full((8,), -2.0)
    layer: Any = RReLU()
    value, vjp = jax.vjp(lambda x: layer.apply({}, x, train=True, rngs={"dropout": key}), x)
    chex.assert_trees_all_close(vjp(jnp.ones(8))[0], value / x, rtol=RTOL)


def test_rrelu_needs_its_stream_in_training_only(key):
    with pytest.raises(flax.errors.InvalidRngError, match="dropout"):
        RReLU().apply({}, jnp.ones(3), train=True)


def test_maxout_is_the_largest_of_its_pieces(key):
    x = jax.random.normal(key, (7, 4))
    layer = Maxout(3, pieces=5, bias_init=torch_bias)
    variables = layer.init(key, x)
    chex.assert_tree_all_finite(variables)
    dense = variables["params"]["dense"]
    chex.assert_shape(dense["kernel"], (4, 15))
    assert float(jnp.abs(dense["bias"]).max()) <= 0.5
    pieces = (x @ dense["kernel"] + dense["bias"]).reshape(7, 3, 5)
    chex.assert_trees_all_close(layer.apply(variables, x), pieces.max(-1), rtol=RTOL)


def test_maxout_of_one_piece_is_a_dense_layer(key):
    x = jax.random.normal(key, (2, 6, 4))
    layer = Maxout(3, pieces=1)
    variables = layer.init(key, x)
    dense = nn.Dense(3).apply({"params": variables["params"]["dense"]}, x)
    chex.assert_trees_all_equal(layer.apply(variables, x), dense)


def test_maxout_of_two_pieces_is_the_absolute_value_or_a_relu():
    variables = {"params": {"dense": {"kernel": jnp.array([[1.0, -1.0, 1.0, 0.0]])}}}
    variables["params"]["dense"]["bias"] = jnp.zeros(4)
    x = jnp.array([[-2.0], [3.0]])
    np.testing.assert_array_equal(Maxout(2).apply(variables, x), [[2.0, 0.0], [3.0, 3.0]])


def test_maxout_kernel_has_the_variance_of_its_fan_in(key):
    kernel = Maxout(64, pieces=4, kernel_init=he_normal()).init(key, jnp.zeros((1, 100)))
    spread = kernel["params"]["dense"]["kernel"].var() * 100
    # 25,600 normal draws: the variance has relative standard error sqrt(2 / n), here five of them.
    assert abs(float(spread) / 2 - 1) < 5 * (2 / 25_600) ** 0.5


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_dtypes_are_kept_under_jit(key, dtype):
    x = jnp.ones((2, 3), dtype)
    cases: list[tuple[Any, dict[str, Any]]] = [
        (PReLU(per_feature=True), {}),
        (RReLU(), {"train": True, "rngs": {"dropout": key}}),
        (RReLU(), {"train": False}),
    ]
    for layer, settings in cases:
        init_settings = {k: v for k, v in settings.items() if k == "train"}
        variables = layer.init({"params": key, "dropout": key}, x, **init_settings)
        y = jax.jit(lambda v, x, f=layer, s=settings: f.apply(v, x, **s))(variables, x)
        chex.assert_type(y, dtype)
        chex.assert_shape(y, x.shape)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RReLU(0.5, 0.1), "lower <= upper, got lower=0.5, upper=0.1"),
        (lambda: RReLU(0.0, float("inf")), "finite"),
        (lambda: RReLU(float("nan"), 1.0), "finite"),
        (lambda: Maxout(0), "features must be at least 1, got 0"),
        (lambda: Maxout(3, pieces=0), "pieces must be at least 1, got 0"),
    ],
)
def test_settings_out_of_range_are_refused_when_the_module_is_made(make, message):
    with pytest.raises(ValueError, match=message):
        make()
