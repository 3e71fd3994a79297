"""Convolutions that keep the norm: exactly, whatever the window, and to any depth."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import initializers as ini

WINDOWS = [(1,), (2,), (3,), (3, 3), (2, 3), (4, 4), (3, 2, 3)]


def layer_of(window, features, *, gain=1.0, padding="SAME"):
    return nn.Conv(
        features, window, padding=padding, use_bias=False,
        kernel_init=ini.delta_orthogonal(gain), param_dtype=jnp.float64, dtype=jnp.float64,
    )  # fmt: skip


@pytest.mark.parametrize("padding", ["SAME", "CIRCULAR"])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_every_singular_value_of_the_layer_is_the_gain(key, window, padding):
    with jax.enable_x64(True):
        x = jax.random.normal(key, (*(5,) * len(window), 2), jnp.float64)
        layer = layer_of(window, 3, gain=1.5, padding=padding)
        variables = layer.init(key, x[None])
        jacobian = jax.jacobian(lambda x: layer.apply(variables, x[None])[0])(x)
        matrix = np.asarray(jacobian).reshape(-1, x.size)
        # Householder QR in float64, of two columns.
        np.testing.assert_allclose(np.linalg.svd(matrix)[1], 1.5, atol=64 * 2.0**-52)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_the_matrix_stands_where_the_layer_returns_its_own_position(key, window):
    kernel = np.asarray(ini.delta_orthogonal()(key, (*window, 3, 4)))
    centre = np.argwhere(np.asarray(ini.dirac()(key, (*window, 1, 1)))[..., 0, 0])
    found = np.argwhere(np.abs(kernel).sum((-1, -2)))
    np.testing.assert_array_equal(found, centre)
    own = kernel[tuple(centre[0])]
    np.testing.assert_allclose(own @ own.T, np.eye(3), atol=16 * 2.0**-23)


def convolve(x, kernel):
    names = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(x[None], kernel, (1, 1), "SAME", dimension_numbers=names)[0]


def test_a_hundred_layers_keep_the_norm(key):
    x = jax.random.normal(key, (8, 8, 6))
    y = x
    for each in jax.random.split(key, 100):
        y = convolve(y, ini.delta_orthogonal()(each, (3, 3, 6, 6)))
    # A float32 QR and a product of 6 terms, a hundred times.
    rounding = 100 * 6 * 2.0**-23
    assert float(jnp.linalg.norm(y) / jnp.linalg.norm(x)) == pytest.approx(1, abs=rounding)


def test_a_kernel_with_orthonormal_columns_is_no_such_layer(key):
    kernel = ini.orthogonal()(key, (3, 3, 6, 6))
    jacobian = jax.jacobian(lambda x: convolve(x, kernel))(jnp.zeros((6, 6, 6)))
    singular = np.linalg.svd(np.asarray(jacobian).reshape(216, 216))[1]
    # The mean square of white inputs is kept but for the edges; single inputs are not.
    assert 0.7 < np.mean(singular**2) < 1
    assert singular[0] / singular[-1] > 5


def test_the_orthogonal_matrices_differ_by_key_and_are_uniform_in_sign(key):
    draws = jax.vmap(lambda k: ini.delta_orthogonal()(k, (3, 4, 4)))(jax.random.split(key, 2000))
    entries = np.asarray(draws[:, 1, 0, 0], np.float64)
    # Entries of a uniform rotation in 4 dimensions: mean 0, variance 1/4.
    assert abs(entries.mean()) < 6 * math.sqrt(1 / 4 / len(entries))
    assert abs(entries.var() - 1 / 4) < 6 * math.sqrt(2) / 4 / math.sqrt(len(entries))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((4, 4), r"\(\*window, in, out\) with 1 to 3 window axes.*use orthogonal"),
        ((1, 1, 1, 1, 4, 4), "1 to 3 window axes"),
        ((3, 3, 8, 4), "at least as many output channels.*got 8 in and 4 out; use he_normal"),
        ((4,), "at least two axes"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(key, shape, message):
    with pytest.raises(ValueError, match=message):
        ini.delta_orthogonal()(key, shape)


@pytest.mark.parametrize("gain", [0.0, -1.0, math.inf, math.nan])
def test_a_gain_out_of_range_is_refused(gain):
    with pytest.raises(ValueError, match="gain must be finite and positive"):
        ini.delta_orthogonal(gain)
