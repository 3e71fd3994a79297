"""Signals, weights and statistics near the smallest and the largest float, against float64."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import diagnostics, losses, models, training
from jaxdl.diagnostics.signal.histograms import _counter
from jaxdl.layers import BatchNorm

# Products of 5 and 4 terms, means of 64 entries: some tens of roundings of 2^-24.
ROUNDING = 3e-6


def linear_loss(upstream):
    """A loss whose gradient with respect to every output is `upstream`."""

    def loss(outputs, targets):
        return jnp.sum(outputs * jnp.asarray(upstream, outputs.dtype), -1) + 0 * targets

    return loss


class TwoLayers(nn.Module):
    dtype: str

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, use_bias=False, dtype=self.dtype, name="first")(x)
        return nn.Dense(2, use_bias=False, dtype=self.dtype, name="second")(x)


@pytest.mark.parametrize(
    ("dtype", "scale", "upstream"),
    [
        ("float32", 1e30, 1e-30),
        ("float32", 1e-30, 1e30),
        ("float32", 1e37, 1e-25),
        ("float32", 1e-32, 1.0),
        ("bfloat16", 1e30, 1e-30),
        ("bfloat16", 1e-30, 1e30),
        ("float16", 300.0, 1e-2),
        ("float16", 3000.0, 1e-3),
        ("float16", 1e-4, 30.0),
    ],
)
def test_propagation_of_signals_of_any_size(dtype, scale, upstream):
    draw = np.random.default_rng(0)
    first, second, x = (draw.normal(size=shape) for shape in ((5, 4), (4, 2), (16, 5)))
    model = TwoLayers(dtype)
    params = {
        "first": {"kernel": jnp.asarray(first * scale, dtype)},
        "second": {"kernel": jnp.asarray(second, dtype)},
    }
    batch = {"inputs": jnp.asarray(x, dtype), "targets": jnp.zeros(16)}
    measured = diagnostics.propagation(model, {"params": params}, batch, loss=linear_loss(upstream))
    kernels = [np.asarray(params[name]["kernel"], np.float64) for name in ("first", "second")]
    # Rows of lower precision are what the network computes; the statistics of them are ours.
    with jax.disable_jit():
        z0 = np.asarray(nn.Dense(4, use_bias=False, dtype=dtype).apply(
            {"params": params["first"]}, batch["inputs"]), np.float64)  # fmt: skip
    rounded = jnp.asarray(np.full((16, 2), upstream), dtype) @ params["second"]["kernel"].T
    gradient = np.asarray(rounded, np.float64)
    tolerance = ROUNDING if dtype == "float32" else float(jnp.finfo(dtype).eps)
    for got, expected, of in (
        (measured.mean[0], z0.mean(), z0),
        (measured.stddev[0], z0.std(), z0),
        (measured.gradient_mean[0], gradient.mean(), gradient),
        (measured.gradient_stddev[0], gradient.std(), gradient),
        (measured.weight_norm[0], np.linalg.norm(kernels[0] / scale) * scale, kernels[0]),
    ):
        assert got.dtype == jnp.float32
        assert 0 < expected < np.inf or expected != 0
        largest = np.abs(of).max()
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * largest)
    assert measured.nonfinite_fraction[0] == 0
    assert measured.gradient_zero_fraction[0] == 0


@pytest.mark.parametrize("scale", [1e-30, 1e-200])
def test_advice_compares_sizes_whose_squares_vanish(scale):
    batch = {"inputs": jnp.eye(8), "targets": jnp.ones((8, 1))}
    model = models.MLP([6] * 4 + [1])
    variables = model.init(jax.random.key(0), batch["inputs"], train=False)
    measured = diagnostics.propagation(model, variables, batch, loss=losses.mean_squared_error)
    found = diagnostics.advise(
        measured.replace(
            mean=np.asarray(measured.mean, np.float64) * scale * 10.0 ** -np.arange(9),
            stddev=np.asarray(measured.stddev, np.float64) * scale * 10.0 ** -np.arange(9),
        )
    )
    assert [each.problem for each in found if "signal" in each.problem] == ["vanishing signal"]


@pytest.mark.parametrize("value", [3.4e38, -3.4e38, 1e-37, 5e-38])
def test_edges_about_a_value_at_the_ends_are_numbers_that_ascend(value):
    counted = _counter(4, None)(jnp.full(6, value, jnp.float32))
    edges = np.asarray(counted.edges, np.float64)
    assert np.isfinite(edges).all()
    assert (np.diff(edges) > 0).all()
    assert counted.counts.sum() == 6


@pytest.mark.parametrize("scale", [1e-33, 1e-20, 1e20, 1e37])
def test_histograms_of_any_size_are_numpys(scale):
    draw = np.random.default_rng(0)
    values = jnp.asarray(draw.normal(size=500) * scale, jnp.float32)
    counted = _counter(10, None)(values)
    edges = np.asarray(counted.edges, np.float64)
    assert (edges[0], edges[-1]) == (values.min(), values.max())
    expected, _ = np.histogram(np.asarray(values, np.float64), edges)
    np.testing.assert_array_equal(counted.counts, expected)


@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        ("float32", 1e-32),
        ("float32", 1e30),
        ("float32", 1e37),
        ("bfloat16", 1e30),
        ("float16", 1e4),
    ],
)
@pytest.mark.parametrize("normalization", ["filter", "layer"])
def test_directions_of_weights_of_any_size_have_their_norms(dtype, scale, normalization):
    draw = np.random.default_rng(0)
    params: Any = {"kernel": jnp.asarray(draw.normal(size=(3, 4)) * scale, dtype)}
    (direction,) = diagnostics.random_directions(
        jax.random.key(0), params, count=1, normalization=normalization
    )
    axis = 0 if normalization == "filter" else None
    got, expected = (
        np.sqrt(np.square(np.asarray(each["kernel"], np.float64) / scale).sum(axis))
        for each in (direction, params)
    )
    # Each entry of the direction is rounded once to the dtype.
    tolerance = max(float(jnp.finfo(dtype).eps), ROUNDING)
    np.testing.assert_allclose(got, expected, rtol=tolerance)


def test_coordinates_of_half_precision_parameters_are_not_rounded():
    params = {"w": jnp.asarray(1.0, jnp.float16)}
    direction = {"w": jnp.asarray(1e-4, jnp.float16)}
    x = np.array([1.0, 1e5, 3e5])  # float16 ends at 65,504
    heights = diagnostics.surface(lambda p: p["w"].astype(jnp.float32), params, [direction], x)
    step = np.float64(direction["w"])
    np.testing.assert_allclose(heights, 1 + x * step, rtol=2.0**-10)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_running_statistics_that_are_not_finite_are_named(bad):
    x = 5 + jax.random.normal(jax.random.key(0), (100, 3))
    model = models.MLP([4, 1], norm=BatchNorm)
    variables = model.init(jax.random.key(1), x, train=False)
    exact = training.recalibrate(model, variables, [x])
    assert diagnostics.check_batch_norm(model, exact, x) == ()
    spoilt = x.at[0, 0].set(bad)
    _, updates = model.apply(exact, spoilt, train=True, mutable=["batch_stats"])
    (found,) = diagnostics.check_batch_norm(model, {**exact, **updates}, x)
    assert (found.problem, found.row, found.measured) == ("not finite", "norm_0", 1.0)
    assert "recalibrate" in found.sentence
