"""Batch normalisation: its statistics, its running averages, its gradient."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.layers import BatchNorm


def batch(shape=(16, 3), mean=0.0, scale=1.0, dtype=np.float32, seed=0):
    draw = np.random.default_rng(seed)
    return jnp.asarray(mean + scale * draw.normal(size=shape), dtype)


def train(norm, x, variables=None):
    variables = variables or norm.init(jax.random.key(0), x, train=False)
    y, updates = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    return y, {**variables, **updates}


@pytest.mark.parametrize("shape", [(16, 3), (4, 5, 5, 3), (2, 7, 3)])
def test_equals_the_formula_in_float64(shape):
    x = batch(shape, mean=2, scale=3)
    y, after = train(BatchNorm(), x)
    values = np.asarray(x, np.float64).reshape(-1, shape[-1])
    mean, var = values.mean(0), values.var(0)
    expected = (values - mean) / np.sqrt(var + 1e-5)
    np.testing.assert_allclose(y.reshape(-1, shape[-1]), expected, rtol=1e-5, atol=1e-5)
    count = len(values)
    np.testing.assert_allclose(after["batch_stats"]["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(
        after["batch_stats"]["var"], 0.9 + 0.1 * var * count / (count - 1), rtol=1e-5
    )


@pytest.mark.parametrize("unbiased", [True, False])
def test_the_running_variance_is_unbiased_or_not(unbiased):
    x = batch((2, 1))
    _, after = train(BatchNorm(unbiased_variance=unbiased, momentum=0.0), x)
    np.testing.assert_allclose(
        after["batch_stats"]["var"], np.var(x, axis=0, ddof=int(unbiased)), rtol=1e-6
    )


def test_a_large_mean_does_not_hide_the_spread():
    # E[x^2] - E[x]^2 at mean 1e4 leaves about 1 % of float32's digits: a spread of 0.25 for 1.
    y, _ = train(BatchNorm(), batch((1000, 1), mean=1e4))
    # Inputs at 1e4 are themselves rounded to 2^-10, a thousandth of the spread.
    assert float(y.std()) == pytest.approx(1.0, abs=1e-3)


def test_low_precision_inputs_have_float32_statistics():
    x = batch((256, 2), mean=3, dtype=jnp.bfloat16)
    y, after = train(BatchNorm(momentum=0.0), x)
    assert y.dtype == jnp.bfloat16
    assert after["batch_stats"]["mean"].dtype == jnp.float32
    np.testing.assert_allclose(
        after["batch_stats"]["mean"], np.asarray(x, np.float64).mean(0), rtol=1e-6
    )


def test_evaluation_uses_the_running_statistics_and_moves_nothing():
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), batch(), train=False)
    _, variables = train(norm, batch(mean=5), variables)
    y, updates = norm.apply(variables, batch(), train=False, mutable=["batch_stats"])
    stats = variables["batch_stats"]
    np.testing.assert_allclose(
        y, (batch() - stats["mean"]) / jnp.sqrt(stats["var"] + 1e-5), rtol=1e-5, atol=1e-6
    )
    chex.assert_trees_all_equal(updates["batch_stats"], stats)


def test_init_leaves_the_statistics_at_zero_and_one():
    stats = BatchNorm().init(jax.random.key(0), batch(mean=5), train=True)["batch_stats"]
    np.testing.assert_array_equal(stats["mean"], 0)
    np.testing.assert_array_equal(stats["var"], 1)


def test_the_gradient_is_the_formula_of_the_paper():
    x, upstream = batch(scale=2), batch(seed=1)
    norm = BatchNorm(use_scale=False, use_bias=False)
    gradient = jax.grad(lambda x: jnp.vdot(upstream, train(norm, x, {"batch_stats": STATS})[0]))(x)
    values, g = np.asarray(x, np.float64), np.asarray(upstream, np.float64)
    deviation = np.sqrt(values.var(0) + 1e-5)
    normed = (values - values.mean(0)) / deviation
    expected = (g - g.mean(0) - normed * (g * normed).mean(0)) / deviation
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


STATS = {"mean": jnp.zeros(3), "var": jnp.ones(3)}


def test_statistics_are_averaged_over_a_named_axis():
    x = batch((4, 8, 3), mean=1)
    norm = BatchNorm(axis_name="devices", momentum=0.0)
    variables = {"batch_stats": STATS, "params": {"scale": jnp.ones(3), "bias": jnp.zeros(3)}}
    y, updates = jax.vmap(
        lambda x: norm.apply(variables, x, train=True, mutable=["batch_stats"]),
        axis_name="devices",
    )(x)
    whole, after = train(BatchNorm(momentum=0.0), x.reshape(32, 3), variables)
    np.testing.assert_allclose(y.reshape(32, 3), whole, rtol=1e-5, atol=1e-5)
    for name in ("mean", "var"):
        for device in range(4):
            np.testing.assert_allclose(
                updates["batch_stats"][name][device], after["batch_stats"][name], rtol=1e-5
            )


def test_refuses_one_value_per_feature_in_training():
    with pytest.raises(ValueError, match="at least two values per feature"):
        train(BatchNorm(), batch((1, 3)))
    train(BatchNorm(), batch((1, 2, 3)))
