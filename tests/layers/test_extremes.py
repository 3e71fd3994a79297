"""BatchNorm at the ends of the floating numbers, against the formulas in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.layers import BatchNorm

DRAW = np.random.default_rng(0)
UNIT, UPSTREAM = DRAW.normal(size=(2, 16, 3))
LARGEST = float(jnp.finfo(jnp.float32).max)

# Sums of 16 terms and a quotient; a result of lower precision is rounded once more.
TOLERANCE = {name: 32 * 2.0**-24 for name in ("float32", "float16", "bfloat16")}
TOLERANCE["float16"], TOLERANCE["bfloat16"] = 2.0**-10, 2.0**-7
TOLERANCE["float64"] = 32 * 2.0**-53


@functools.partial(jax.jit, static_argnames="norm")
def both(norm, x, upstream):
    """Outputs, gradient and the running statistics that take the place of the old ones."""
    wide = jnp.promote_types(x.dtype, jnp.float32)
    stats = {"mean": jnp.zeros(x.shape[-1], wide), "var": jnp.ones(x.shape[-1], wide)}

    def apply(x):
        variables = {"batch_stats": stats}
        return norm.apply(variables, x, train=True, mutable=["batch_stats"])

    y, pull, updates = jax.vjp(apply, x, has_aux=True)
    return y, pull(upstream)[0], updates["batch_stats"]


def norm(epsilon=1e-5, **settings):
    return BatchNorm(epsilon=epsilon, momentum=0.0, use_scale=False, use_bias=False, **settings)


def formulas(x, epsilon):
    """The same in float64 (which holds the squares), without the factor of an unbiased variance."""
    values = np.asarray(x, np.float64)
    unit = 2.0 ** -np.frexp(np.abs(values).max())[1]
    values, epsilon = values * unit, epsilon * unit * unit
    centred = values - values.mean(0)
    deviation = np.sqrt(np.square(centred).mean(0) + epsilon)
    normed = np.divide(centred, deviation, out=np.zeros_like(centred), where=deviation > 0)
    slope = np.divide(unit, deviation, out=np.zeros_like(deviation), where=deviation > 0)
    g = UPSTREAM - UPSTREAM.mean(0) - normed * (UPSTREAM * normed).mean(0)
    return normed, g * slope


CASES = {
    "1e18": (UNIT * 1e18, 1e-5, "float32"),
    "1e25": (UNIT * 1e25, 1e-5, "float32"),
    "1e31": (UNIT * 1e31, 1e-5, "float32"),
    "1e15 with epsilon 0": (UNIT * 1e15, 0.0, "float32"),
    "1e-15 with epsilon 0": (UNIT * 1e-15, 0.0, "float32"),
    "features of all sizes": (UNIT * [1e-30, 1.0, 1e30], 1e-5, "float32"),
    "one outlier": (UNIT + 1e30 * (np.arange(16) == 3)[:, None], 1e-5, "float32"),
    "below epsilon": (UNIT * 1e-30, 1e-5, "float32"),
    "1e-20 and epsilon 1e-30": (UNIT * 1e-20, 1e-30, "float32"),
    "float64, 1e200": (UNIT * 1e200, 1e-5, "float64"),
    "float16, 300": (300 + UNIT * 300, 1e-5, "float16"),
    "float16, its range": (UNIT * 15_000, 1e-5, "float16"),
    "float16, epsilon below its smallest": (UNIT * 1e-3, 1e-9, "float16"),
    "bfloat16, 1e30": (UNIT * 1e30, 1e-5, "bfloat16"),
    "bfloat16, 300": (300 + UNIT * 300, 1e-5, "bfloat16"),
}


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_are_the_formulas(name):
    values, epsilon, dtype = CASES[name]
    with jax.enable_x64(dtype == "float64"):
        x, upstream = jnp.asarray(values, dtype), jnp.asarray(UPSTREAM, dtype)
        y, gradient, _ = both(norm(epsilon), x, upstream)
        expected, expected_gradient = formulas(x, epsilon)
        tolerance = TOLERANCE[dtype]
        np.testing.assert_allclose(np.asarray(y, np.float64), expected, rtol=0, atol=8 * tolerance)
        largest = np.abs(expected_gradient).max(0)
        # A gradient below the smallest normal number of its dtype is flushed to zero.
        smallest = 2 * float(jnp.finfo(dtype).smallest_normal)
        difference = np.abs(np.asarray(gradient, np.float64) - expected_gradient)
        assert (difference <= 8 * tolerance * largest + smallest).all()


@pytest.mark.parametrize("value", [0.1, 7.3, 12_345.6, 1e8, 3.3e18, 1.7e25, 3e38])
@pytest.mark.parametrize("number", [7, 10, 129])
def test_a_constant_feature_has_no_spread(value, number):
    x = jnp.full((number, 2), value, jnp.float32)
    draw = np.random.default_rng(number)
    upstream = jnp.asarray(draw.normal(size=x.shape), jnp.float32)
    for epsilon in (1e-5, 0.0):
        y, gradient, stats = both(norm(epsilon), x, upstream)
        np.testing.assert_array_equal(y, 0)
        np.testing.assert_array_equal(stats["mean"], x[0])
        np.testing.assert_array_equal(stats["var"], 0)
        slope = 1 / np.sqrt(epsilon) if epsilon else 0.0
        expected = slope * (upstream - np.asarray(upstream, np.float64).mean(0))
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5 * max(slope, 1e-30))


@pytest.mark.parametrize("scale", [1e10, 1e18, 1e19, 1e25])
def test_the_running_variance_is_right_or_infinite(scale):
    x = jnp.asarray(UNIT * scale, jnp.float32)
    _, _, stats = both(norm(), x, x)
    variance = np.asarray(x, np.float64).var(0, ddof=1)
    expected = np.where(variance > LARGEST, np.inf, variance)
    np.testing.assert_allclose(stats["var"], expected, rtol=TOLERANCE["float32"])
    np.testing.assert_allclose(
        stats["mean"], np.asarray(x, np.float64).mean(0), rtol=0, atol=1e-6 * scale
    )


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_not_hidden(bad):
    for epsilon in (1e-5, 0.0):
        x = jnp.asarray(UNIT, jnp.float32).at[0, 0].set(bad)
        y, gradient, stats = both(norm(epsilon), x, x)
        assert np.isnan(y[:, 0]).all()
        assert np.isnan(gradient[:, 0]).all()
        assert not np.isfinite(stats["mean"][0])
        assert np.isfinite(y[:, 1:]).all()


def test_places_of_a_named_axis_know_the_extremes_of_all():
    x = jnp.asarray(UNIT * 1e25, jnp.float32).at[:4].multiply(1e-25)
    upstream = jnp.asarray(UPSTREAM, jnp.float32)
    run = functools.partial(both, norm(axis_name="devices"))
    together = jax.vmap(run, axis_name="devices")(x.reshape(4, 4, 3), upstream.reshape(4, 4, 3))
    alone = both(norm(), x, upstream)
    for got, expected in zip(together[:2], alone[:2], strict=True):
        largest = float(jnp.abs(expected).max())
        np.testing.assert_allclose(got.reshape(16, 3), expected, rtol=0, atol=1e-6 * largest)


@pytest.mark.parametrize(
    ("settings", "shape", "text"),
    [
        ({"feature_axis": 2}, (4, 3), r"axis of the inputs, got 2 for inputs of shape \(4, 3\)"),
        ({}, (), r"axis of the inputs, got -1 for inputs of shape \(\)"),
        ({}, (4, 0), r"needs values to normalise, got inputs of shape \(4, 0\)"),
        ({"track_running_stats": False}, (1, 3), "per feature in training, .* pass a larger batch"),
    ],
)
def test_refuses_inputs_without_statistics(settings, shape, text):
    layer = BatchNorm(use_scale=False, use_bias=False, **settings)
    variables = {"batch_stats": {"mean": jnp.zeros(3), "var": jnp.ones(3)}}
    for train in (True, False):
        with pytest.raises(ValueError, match=text):
            layer.apply(variables, jnp.ones(shape), train=train, mutable=["batch_stats"])
