"""Initializers against torch.nn.init, whose kernels are (out, in, *window)."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jaxdl import initializers as ini

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity

# Two samples of one distribution: each comparison raises a false alarm at a rate of 1e-9, so the
# file, with fewer than 1,000 of them, at less than 1e-6.
ALARM = 1e-9
SHAPES = [(120, 80), (5, 12, 40), (3, 3, 8, 24)]


def ours(init, shape, dtype=jnp.float32):
    return np.asarray(init(jax.random.key(0), shape, dtype))


def theirs(fill, shape, **settings):
    """The kernel torch fills, in this library's layout."""
    *window, channels, features = shape
    weights = torch.empty(features, channels, *window)
    torch.manual_seed(0)
    with torch.no_grad():
        fill(weights, **settings)
    return np.moveaxis(weights.numpy(), (0, 1), (-1, -2))


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("linear", {}),
        ("sigmoid", {}),
        ("tanh", {}),
        ("relu", {}),
        ("leaky_relu", {}),
        ("leaky_relu", {"negative_slope": 0.2}),
        ("selu", {}),
    ],
)
def test_table_of_gains(name, settings):
    param = settings.get("negative_slope")
    # Both evaluate one closed form in Python floats.
    assert ini.gain(name, **settings) == pytest.approx(
        torch.nn.init.calculate_gain(name, param), rel=4 * 2.0**-52
    )


@pytest.mark.parametrize("shape", [(4, 4), (3, 7), (7, 3)])
def test_identity(shape):
    np.testing.assert_array_equal(ours(ini.identity(), shape), theirs(torch.nn.init.eye_, shape))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("shape", [(3, 2, 6), (3, 5, 4, 4), (3, 3, 1, 6, 2), (1, 4, 6)])
def test_dirac_in_odd_windows(shape, groups):
    expected = theirs(torch.nn.init.dirac_, shape, groups=groups)
    np.testing.assert_array_equal(ours(ini.dirac(groups), shape), expected)


def test_dirac_in_even_windows_is_one_tap_before_torch():
    expected = theirs(torch.nn.init.dirac_, (4, 3, 3))
    np.testing.assert_array_equal(ours(ini.dirac(), (4, 3, 3)), np.roll(expected, -1, axis=0))


def fans_of_torch(shape):
    *window, channels, features = shape
    return torch.nn.init._calculate_fan_in_and_fan_out(torch.empty(features, channels, *window))


@pytest.mark.parametrize("shape", SHAPES)
def test_fans(shape):
    assert ini.compute_fans(shape) == fans_of_torch(shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("init", "fill", "settings"),
    [
        (ini.glorot_normal(gain=1.3), torch.nn.init.xavier_normal_, {"gain": 1.3}),
        (ini.glorot_uniform(gain=1.3), torch.nn.init.xavier_uniform_, {"gain": 1.3}),
        (ini.he_normal(), torch.nn.init.kaiming_normal_, {}),
        (
            ini.he_normal(0.3, "fan_out"),
            torch.nn.init.kaiming_normal_,
            {"a": 0.3, "mode": "fan_out"},
        ),
        (ini.he_uniform(), torch.nn.init.kaiming_uniform_, {}),
        (ini.torch_kernel(), torch.nn.init.kaiming_uniform_, {"a": math.sqrt(5)}),
        (ini.normal(0.1, 0.2), torch.nn.init.normal_, {"mean": 0.1, "std": 0.2}),
        (ini.uniform(-0.1, 0.2), torch.nn.init.uniform_, {"a": -0.1, "b": 0.2}),
        (
            # torch's bounds are absolute; these are the same in standard deviations.
            ini.truncated_normal(0.1, 0.2, lower=-2, upper=1),
            torch.nn.init.trunc_normal_,
            {"mean": 0.1, "std": 0.2, "a": -0.3, "b": 0.3},
        ),
    ],
    ids=lambda v: getattr(v, "__name__", None),
)
def test_random_families_have_one_distribution(init, fill, settings, shape):
    a, b = ours(init, shape).ravel(), theirs(fill, shape, **settings).ravel()
    assert stats.ks_2samp(a, b).pvalue > ALARM


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (torch.nn.Linear(120, 800), (120, 800)),
        (torch.nn.Conv2d(8, 900, 3), (3, 3, 8, 900)),
        (torch.nn.Conv1d(8, 900, 5, groups=2), (5, 4, 900)),
    ],
    ids=["Linear", "Conv2d", "grouped Conv1d"],
)
def test_torch_defaults(layer, shape):
    kernel = layer.weight.detach().numpy().ravel()
    assert stats.ks_2samp(ours(ini.torch_kernel(), shape).ravel(), kernel).pvalue > ALARM
    bias = ours(ini.torch_bias(ini.compute_fans(shape).fan_in), shape[-1:])
    assert stats.ks_2samp(bias, layer.bias.detach().numpy()).pvalue > ALARM


@pytest.mark.parametrize("shape", [(40, 20), (20, 40), (3, 3, 2, 30), (3, 3, 4, 8)], ids=str)
def test_orthogonal_kernels_have_one_gram_matrix(shape):
    """The draws differ; what is orthonormal, and to which axis, is the same."""
    a = ours(ini.orthogonal(gain=1.5), shape).reshape(-1, shape[-1])
    b = theirs(torch.nn.init.orthogonal_, shape, gain=1.5).reshape(-1, shape[-1])
    if a.shape[0] < a.shape[1]:
        a, b = a.T, b.T
    # A float32 QR of at most 40 columns, twice.
    tolerance = 2 * 1.5**2 * 40 * 2.0**-23
    np.testing.assert_allclose(a.T @ a, b.T @ b, atol=tolerance)
    np.testing.assert_allclose(a.T @ a, 2.25 * np.eye(a.shape[1]), atol=tolerance)


@pytest.mark.parametrize("sparsity", [0.0, 0.07, 0.3, 0.5, 0.95])
def test_sparse_has_the_zeros_of_torch_in_every_row(sparsity):
    a = ours(ini.sparse(sparsity, stddev=0.2), (300, 100))
    b = theirs(torch.nn.init.sparse_, (300, 100), sparsity=sparsity, std=0.2)
    np.testing.assert_array_equal((a == 0).sum(1), (b == 0).sum(1))
    assert stats.ks_2samp(a[a != 0], b[b != 0]).pvalue > ALARM
