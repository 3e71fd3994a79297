"""Signal over noise of each parameter: unbiased for known gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import diagnostics, losses, models, training

TRUE = np.array([0.0, 0.1, 0.5, 1.0, 3.0])


def given(params, x):
    return x @ params


def output(outputs, targets):
    return outputs


def measured(x, weights=None):
    batch = {"inputs": x, "targets": jnp.zeros(len(x))}
    if weights is not None:
        batch["weights"] = jnp.asarray(weights, jnp.float32)
    return diagnostics.signal_to_noise(
        given, jnp.zeros(x.shape[1]), batch, loss=output, layers=None
    )


def drawn(draws, examples):
    normal = np.random.default_rng(0).normal(size=(draws, examples, len(TRUE)))
    return jnp.asarray(TRUE * 2 + 2 * normal, jnp.float32)


def test_the_squared_ratio_of_normal_gradients_is_unbiased():
    found = jax.jit(jax.vmap(measured))(drawn(4000, 12))
    ratios = np.asarray(found.squared_ratio, np.float64)
    apart = np.abs(ratios.mean(0) - TRUE**2) / (ratios.std(0, ddof=1) / np.sqrt(4000))
    assert (apart < 4).all()  # each a false alarm in 16,000 keys
    plain = np.mean((np.asarray(found.mean) / np.asarray(found.stddev)) ** 2, 0)
    assert (np.abs(plain - TRUE**2) > 0.05).all()


def test_noise_alone_is_seen_in_a_twentieth():
    x = jax.random.normal(jax.random.key(0), (20, 4000))
    share = measured(x).seen.item()
    assert abs(share - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 4000)


@pytest.mark.parametrize("batch_size", [None, 5])
def test_means_and_deviations_are_those_of_the_gradients(batch_size):
    task = training.Task(models.ConvNet([3], [4, 2]), losses.cross_entropy)
    x = jax.random.normal(jax.random.key(1), (12, 6, 6, 1))
    batch = {"inputs": x, "targets": jnp.arange(12) % 2}
    variables = jax.jit(task.init)(jax.random.key(0), x)
    found = diagnostics.signal_to_noise(task, variables, batch, batch_size=batch_size)
    gradients = diagnostics.example_gradients(task, variables, batch)
    for mean, stddev, rows in zip(
        *map(jax.tree.leaves, (found.mean, found.stddev, gradients)), strict=True
    ):
        rows = np.asarray(rows, np.float64)
        largest = np.abs(rows).max()
        np.testing.assert_allclose(mean, rows.mean(0), rtol=1e-4, atol=1e-5 * largest)
        # A difference of squares: the root of float32's rounding of the largest.
        np.testing.assert_allclose(stddev, rows.std(0, ddof=1), rtol=1e-3, atol=2e-3 * largest)
    assert len(found.names) == len(found.median) == found.table().row_count == 3
    assert "SignalToNoise(3 groups" in repr(found)


def test_weights_count_as_repetitions_do_in_the_mean():
    x = drawn(1, 8)[0]
    weights = np.array([1.0, 2, 0, 1, 1, 3, 1, 1])
    found = measured(x, weights)
    rows, p = np.asarray(x, np.float64), weights / weights.sum()
    np.testing.assert_allclose(found.mean, p @ rows, rtol=1e-5)
    variance = p @ (rows - p @ rows) ** 2 / (1 - p @ p)
    np.testing.assert_allclose(np.asarray(found.stddev) ** 2, variance, rtol=1e-4)


def test_parameters_without_gradient_and_without_noise_are_told_apart():
    x = jnp.asarray(np.stack([np.zeros(8), np.full(8, 3.0), np.arange(8.0)], 1), jnp.float32)
    found = measured(x)
    assert found.squared_ratio.tolist()[:2] == [0.0, np.inf]
    assert np.isfinite(found.squared_ratio[2])
    assert found.without_gradient.item() == pytest.approx(1 / 3)
    assert found.ratio.tolist()[:2] == [0.0, np.inf]


def test_too_few_examples_are_refused():
    with pytest.raises(ValueError, match="4 small batches or more, got 3 examples"):
        measured(drawn(1, 3)[0])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_gradient_that_is_not_finite_is_no_signal(bad):
    x = drawn(1, 8)[0]
    found = measured(x.at[2, 1].set(bad))
    assert np.isnan(found.squared_ratio).tolist() == [False, True, False, False, False]
    for name in ("median", "mean_square", "seen", "without_gradient"):
        assert np.isnan(getattr(found, name)).all()
    assert "all not finite" in repr(found)
    assert "not finite in all" in found.table().caption
    assert measured(x).table().caption is None


@pytest.mark.parametrize("padded", [1, 2, 3])
def test_examples_without_weight_are_none_of_the_fewest(padded):
    x = drawn(1, 64)[0]
    found = measured(x, np.arange(64) < padded)
    assert np.isnan(found.squared_ratio).all()
    for name in ("median", "mean_square", "seen"):
        assert np.isnan(getattr(found, name)).all()
    assert "all too few examples" in repr(found)
    assert "needs 4 examples" in found.table().caption


def test_weights_that_leave_too_few_examples_have_no_ratio():
    """n = (sum w)^2 / sum w^2 is nearly 1: (n - 3) / (n - 1) has no meaning there."""
    assert np.isnan(measured(drawn(1, 6)[0], [1, 1e-3, 1e-3, 1e-3, 1e-3, 1e-3]).squared_ratio).all()


@pytest.mark.parametrize("count", [4, 5, 12])
def test_padding_changes_nothing(count):
    x = jnp.concatenate([jax.random.normal(jax.random.key(0), (count, 4000)), jnp.ones((50, 4000))])
    padded, plain = measured(x, np.arange(count + 50) < count), measured(x[:count])
    # One parameter at the threshold may round to the other side.
    np.testing.assert_allclose(padded.seen, plain.seen, atol=1.5 / 4000)
    np.testing.assert_allclose(padded.median, plain.median, rtol=1e-4)


def test_weights_that_are_all_0_are_refused():
    with pytest.raises(ValueError, match="64 weights that are all 0"):
        measured(drawn(1, 64)[0], np.zeros(64))
