"""Structured initializers: what each layer does to its input, and what they refuse."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import linalg, stats

from jaxdl import initializers as ini

ALARM = 1e-8


def test_constants(key):
    for init, value in ((ini.zeros(), 0.0), (ini.ones(), 1.0), (ini.constant(-0.3), -0.3)):
        for shape in ((), (3,), (2, 3, 4)):
            weights = init(key, shape)
            assert weights.shape == shape
            np.testing.assert_array_equal(weights, np.float32(value))


@pytest.mark.parametrize(
    "init", [ini.zeros(), ini.ones(), ini.constant(0.1), ini.identical_features()]
)
def test_a_symmetric_start_keeps_the_units_of_a_layer_the_same(key, init):
    """Units that start the same stay the same under gradient descent, to rounding."""
    w1_key, w2_key, x_key = jax.random.split(key, 3)
    x, y = jax.random.normal(x_key, (64, 5)), jnp.linspace(-1, 1, 64)
    parameters = {"w1": init(w1_key, (5, 8)), "w2": jnp.full((8, 1), 0.2)}
    random = {"w1": ini.he_normal()(w2_key, (5, 8)), "w2": jnp.full((8, 1), 0.2)}

    def loss(p):
        return jnp.mean((jnp.tanh(x @ p["w1"]) @ p["w2"] - y[:, None]) ** 2)

    @jax.jit
    def descend(p):
        return jax.tree.map(lambda w, g: w - 0.1 * g, p, jax.grad(loss)(p))

    for _ in range(20):
        parameters, random = descend(parameters), descend(random)
    w1 = parameters["w1"]
    assert not np.array_equal(w1, init(w1_key, (5, 8)))
    np.testing.assert_allclose(w1, jnp.broadcast_to(w1[:, :1], w1.shape), atol=1e-6)
    assert float(jnp.std(random["w1"], axis=1).min()) > 0.1


def test_zero_weights_behind_a_zero_layer_never_move(key):
    x = jax.random.normal(key, (16, 4))

    def loss(p):
        return jnp.mean((jnp.tanh(x @ p[0]) @ p[1] - 1.0) ** 2)

    gradients = jax.grad(loss)([ini.zeros()(key, (4, 6)), ini.zeros()(key, (6, 1))])
    np.testing.assert_array_equal(gradients[0], 0)
    np.testing.assert_array_equal(gradients[1], 0)


@pytest.mark.parametrize("shape", [(4, 4), (3, 6), (6, 3)])
def test_identity_passes_on_what_fits(key, shape):
    x = jax.random.normal(key, (5, shape[0]))
    y = x @ ini.identity(gain=2.0)(key, shape)
    width = min(shape)
    np.testing.assert_array_equal(y[:, :width], 2 * x[:, :width])
    np.testing.assert_array_equal(y[:, width:], 0)


@pytest.mark.parametrize("init", [ini.dirac(), ini.zero_hadamard()])
@pytest.mark.parametrize(
    "window", [(1,), (2,), (3,), (4,), (5,), (3, 3), (2, 3), (1, 4), (3, 3, 3), (2, 4, 3)], ids=str
)
def test_a_same_convolution_returns_its_input(key, init, window):
    x = jax.random.normal(key, (2, *(6,) * len(window), 3))
    layer = nn.Conv(3, window, padding="SAME", kernel_init=init)
    y, _ = layer.init_with_output(key, x)
    np.testing.assert_array_equal(y, x)


@pytest.mark.parametrize(("channels", "features"), [(3, 5), (5, 3)])
def test_dirac_passes_on_the_channels_that_fit(key, channels, features):
    x = jax.random.normal(key, (2, 4, 4, channels))
    y, _ = nn.Conv(features, (3, 3), kernel_init=ini.dirac()).init_with_output(key, x)
    width = min(channels, features)
    np.testing.assert_array_equal(y[..., :width], x[..., :width])
    np.testing.assert_array_equal(y[..., width:], 0)


@pytest.mark.parametrize(("channels", "features"), [(3, 8), (4, 4), (5, 3)])
def test_dirac_draws_the_units_beyond_the_channels(key, channels, features):
    kernel = ini.dirac(rest=ini.torch_kernel())(key, (3, 3, channels, features))
    width = min(channels, features)
    plain = ini.dirac()(key, (3, 3, channels, features))
    np.testing.assert_array_equal(kernel[..., :width], plain[..., :width])
    # torch_kernel: uniform within 1 / sqrt(fan_in), and fan_in counts the window.
    beyond, bound = np.abs(kernel[..., width:]), 1 / np.sqrt(9 * channels)
    assert beyond.shape[-1] == max(features - channels, 0)
    assert ((beyond > 0) & (beyond <= bound)).all()


def test_dirac_in_groups_returns_its_input(key):
    x = jax.random.normal(key, (2, 5, 5, 6))
    layer = nn.Conv(6, (3, 3), feature_group_count=3, kernel_init=ini.dirac(groups=3))
    np.testing.assert_array_equal(layer.init_with_output(key, x)[0], x)
    depthwise = nn.Conv(6, (3, 3), feature_group_count=6, kernel_init=ini.dirac(groups=6))
    np.testing.assert_array_equal(depthwise.init_with_output(key, x)[0], x)


ORTHOGONAL_SHAPES = [(40, 40), (50, 20), (20, 50), (3, 3, 8, 30), (3, 3, 4, 60), (5, 8, 16)]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("shape", ORTHOGONAL_SHAPES, ids=str)
def test_every_singular_value_of_an_orthogonal_kernel_is_the_gain(key, shape, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        kernel = np.asarray(ini.orthogonal(gain=1.5)(key, shape, dtype), np.float64)
    matrix = kernel.reshape(-1, shape[-1])
    # Householder QR is orthogonal to a small multiple of the precision times the width.
    tolerance = 1.5 * max(matrix.shape) * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.linalg.svd(matrix)[1], 1.5, atol=tolerance)


def test_orthogonal_kernels_are_uniform(key):
    """Of a uniform rotation, every entry has mean 0 and n w^2 / n is Beta(1/2, (n - 1) / 2)."""
    n = 6
    draws = jax.vmap(lambda k: ini.orthogonal()(k, (n, n)))(jax.random.split(key, 4000))
    for i, j in ((0, 0), (0, 5), (3, 2), (5, 5)):
        entries = np.asarray(draws[:, i, j], np.float64)
        assert stats.kstest(entries**2, stats.beta(0.5, (n - 1) / 2).cdf).pvalue > ALARM
        # A QR without its sign fixed has diagonals of one sign.
        assert stats.binomtest(int((entries > 0).sum()), entries.size).pvalue > ALARM


@pytest.mark.parametrize(
    ("sparsity", "fan_out", "zeros"), [(0.0, 10, 0), (0.5, 10, 5), (0.25, 10, 3), (0.9, 7, 7)]
)
def test_sparse_has_its_zeros_in_every_row(key, sparsity, fan_out, zeros):
    w = np.asarray(ini.sparse(sparsity, stddev=0.5)(key, (400, fan_out)))
    np.testing.assert_array_equal((w == 0).sum(axis=1), zeros)


def test_sparse_zeros_are_spread_evenly_and_the_rest_is_normal(key):
    w = np.asarray(ini.sparse(0.3, stddev=0.5)(key, (5000, 20)), np.float64)
    per_column = (w == 0).sum(axis=0)
    for count in per_column:
        assert stats.binomtest(int(count), 5000, 0.3).pvalue > ALARM
    assert stats.kstest(w[w != 0], stats.norm(0, 0.5).cdf).pvalue > ALARM


@pytest.mark.parametrize("order", [1, 2, 3, 6])
def test_zero_hadamard_widens_by_sylvesters_matrix(key, order):
    width = 2**order
    c = 2 ** (-(order - 1) / 2)
    for inputs in (1, width // 2, width - 1):
        if inputs:
            expected = c * linalg.hadamard(width)[:inputs]
            w = ini.zero_hadamard()(key, (inputs, width))
            np.testing.assert_allclose(w, expected, rtol=2.0**-23)


@pytest.mark.parametrize("shape", [(3, 5), (10, 100), (100, 129)])
def test_zero_hadamard_of_any_width_is_the_padded_transform(key, shape):
    inputs, width = shape
    padded = linalg.hadamard(2 ** math.ceil(math.log2(width)))[:inputs, :width]
    w = ini.zero_hadamard()(key, shape)
    scale = 2 ** (-(math.ceil(math.log2(width)) - 1) / 2)
    np.testing.assert_allclose(w, scale * padded, rtol=2.0**-23)
    # No unit is zero, which is why the transform is there.
    assert np.all(np.abs(w).max(axis=0) > 0)


def test_orthonormal_zero_hadamard_keeps_the_norm_and_the_papers_doubles_its_square(key):
    x = jax.random.normal(key, (9, 10))
    before = jnp.sum(x**2, axis=1)
    for orthonormal, factor in ((True, 1), (False, 2)):
        y = x @ ini.zero_hadamard(orthonormal=orthonormal)(key, (10, 64))
        # A sum of 64 squares, each a sum of 10 products.
        np.testing.assert_allclose(jnp.sum(y**2, axis=1), factor * before, rtol=64 * 2.0**-23)


@pytest.mark.parametrize("shape", [(7, 7), (7, 4)])
def test_zero_hadamard_that_does_not_widen_is_a_partial_identity(key, shape):
    np.testing.assert_array_equal(ini.zero_hadamard()(key, shape), np.eye(*shape))


@pytest.mark.parametrize("shape", [(4000, 3), (3, 3, 500, 2)])
def test_identical_features_repeat_a_he_column(key, shape):
    w = np.asarray(ini.identical_features()(key, shape), np.float64).reshape(-1, shape[-1])
    np.testing.assert_array_equal(w, np.repeat(w[:, :1], shape[-1], axis=1))
    column = w[:, 0] * math.sqrt(len(w) / 2)
    assert stats.kstest(column, stats.norm.cdf).pvalue > ALARM


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ini.constant(math.nan), "value must be finite, got nan"),
        (lambda: ini.identity(gain=-1.0), "gain must be finite and positive, got -1.0"),
        (lambda: ini.orthogonal(gain=-1.0), "gain must be finite and positive, got -1.0"),
        (lambda: ini.orthogonal(gain=math.inf), "gain must be finite and positive"),
        (lambda: ini.sparse(-0.1), r"sparsity must be in \[0, 1\), got -0.1"),
        (lambda: ini.sparse(1.0), r"sparsity must be in \[0, 1\), got 1.0"),
        (lambda: ini.sparse(math.nan), r"sparsity must be in \[0, 1\)"),
        (lambda: ini.sparse(0.5, stddev=-1.0), "stddev must be finite and at least 0"),
        (lambda: ini.dirac(groups=0), "groups must be at least 1, got 0"),
        (lambda: ini.dirac(2, rest=ini.zeros()), "rest is for one group, got 2 groups"),
    ],
)
def test_settings_out_of_range_are_refused_by_the_factory(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("init", "shape", "message"),
    [
        (ini.identity(), (3, 3, 4, 4), "dense kernel.*use dirac"),
        (ini.identity(), (4,), "at least two axes"),
        (ini.sparse(0.5), (3, 4, 4), "dense kernel"),
        (ini.dirac(), (4, 4), "1 to 3 window axes.*use identity"),
        (ini.dirac(), (1, 1, 1, 1, 4, 4), "1 to 3 window axes"),
        (ini.dirac(groups=3), (3, 2, 4), "3 groups for 4"),
        (ini.orthogonal(), (4,), "at least two axes"),
        (ini.orthogonal(), (0, 4), "at least one value"),
        (ini.zero_hadamard(), (4,), "at least two axes"),
        (ini.identical_features(), (4,), "at least two axes"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(key, init, shape, message):
    with pytest.raises(ValueError, match=message):
        init(key, shape)
