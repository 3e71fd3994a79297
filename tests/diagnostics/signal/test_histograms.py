"""Counts against NumPy's, and nothing lost."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import losses, models
from jaxdl.diagnostics import histograms, propagation
from jaxdl.diagnostics.signal.histograms import _counter

EDGES = np.linspace(-1.0, 1.0, 21, dtype=np.float32)


@pytest.fixture(scope="module")
def setting():
    key, other = jax.random.split(jax.random.key(0))
    batch = {"inputs": jax.random.normal(key, (32, 5)), "targets": jnp.zeros((32, 1))}
    model = models.MLP([16, 8, 1], activation=jnp.tanh)
    return model, model.init(other, batch["inputs"], train=False), batch


def test_counts_are_numpys(setting):
    model, variables, batch = setting
    counted = histograms(
        model,
        variables,
        batch,
        bins=EDGES,
        loss=losses.mean_squared_error,
        gradient_bins=2 * EDGES,
    )
    params = variables["params"]
    z0 = batch["inputs"] @ params["dense_0"]["kernel"]
    z1 = jnp.tanh(z0) @ params["dense_1"]["kernel"]
    outputs = jnp.tanh(z1) @ params["dense_2"]["kernel"]
    assert counted.names[2] == "dense_1"
    for row, value in enumerate([z0, jnp.tanh(z0), z1, jnp.tanh(z1), outputs]):
        expected, _ = np.histogram(value, EDGES)
        # An entry within rounding of an edge may fall on either side of it: it moves two counts.
        near = np.sum(np.abs(np.asarray(value).ravel()[:, None] - EDGES).min(axis=1) < 1e-6)
        assert np.abs(counted.activations.counts[row] - expected).sum() <= 2 * near
        assert counted.activations.below[row] == np.sum(value < -1)
        assert counted.activations.above[row] == np.sum(value > 1)
    assert counted.activations.below[0] > 0
    assert counted.gradients is not None
    expected, _ = np.histogram(2 * np.asarray(outputs), 2 * EDGES)
    near = np.sum(np.abs(2 * np.asarray(outputs) - 2 * EDGES).min(axis=1) < 1e-6)
    assert np.abs(counted.gradients.counts[4] - expected).sum() <= 2 * near


def test_rows_are_those_of_propagation(setting):
    model, variables, batch = setting
    counted = histograms(model, variables, batch)
    measured = propagation(model, variables, batch, loss=losses.mean_squared_error)
    assert (counted.names, counted.kinds) == (measured.names, measured.kinds)
    assert counted.gradients is None
    # Equal widths between the extremes hold every entry; the densities integrate to 1.
    entries = [np.prod(shape) for shape in measured.shapes]
    np.testing.assert_array_equal(counted.activations.counts.sum(axis=1), entries)
    integral = (
        counted.activations.density * np.diff(np.asarray(counted.activations.edges, float))
    ).sum(axis=1)
    np.testing.assert_allclose(integral, 1, rtol=1e-12)


def test_jit_and_vmap_with_shared_edges(setting):
    model, _, batch = setting

    def count(key):
        variables = model.init(key, batch["inputs"], train=False)
        return histograms(model, variables, batch, bins=EDGES)

    keys = jax.random.split(jax.random.key(2), 3)
    together = jax.jit(jax.vmap(count))(keys)
    chex.assert_shape(together.activations.counts, (3, 5, 20))
    alone = count(keys[1])
    moved = np.abs(together.activations.counts[1] - alone.activations.counts)
    # At most a few of the 1,600 entries stand within rounding of an edge.
    assert moved.sum() <= 8
    np.testing.assert_array_equal(together.activations.edges[1], alone.activations.edges)


@pytest.mark.parametrize(
    ("values", "counts", "outside"),
    [
        ([-2.0, -1.0, 0.0, 1.0, 2.0], [1, 2], (1, 1, 0)),
        ([jnp.nan, jnp.inf, -jnp.inf, 0.5], [0, 1], (0, 0, 3)),
    ],
)
def test_every_entry_is_counted_once(values, counts, outside):
    counted = _counter(None, jnp.array([-1.0, 0.0, 1.0]))(jnp.array(values))
    assert counted.counts.tolist() == counts
    assert (int(counted.below), int(counted.above), int(counted.nonfinite)) == outside


@pytest.mark.parametrize("value", [0.0, 3.0, -1e-30, 1e30])
def test_one_value_alone_gets_edges_of_some_width(value):
    counted = _counter(4, None)(jnp.full(6, value))
    assert np.all(np.diff(counted.edges) > 0)
    assert counted.counts.sum() == 6


def test_no_finite_value_leaves_empty_bins():
    counted = _counter(4, None)(jnp.full(6, jnp.nan))
    assert counted.counts.tolist() == [0, 0, 0, 0]
    assert int(counted.nonfinite) == 6
    assert np.all(np.isfinite(counted.edges))


def test_refusals(setting):
    with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
        histograms(*setting, bins=0)
    with pytest.raises(ValueError, match="finite and ascend"):
        histograms(*setting, bins=[0.0, 1.0, 1.0])
    with pytest.raises(ValueError, match="finite and ascend"):
        histograms(*setting, bins=[0.0, jnp.inf])
    with pytest.raises(ValueError, match="2 edges and more"):
        histograms(*setting, bins=[1.0])
    with pytest.raises(ValueError, match="gradient_bins must come with a loss"):
        histograms(*setting, gradient_bins=10)
    with pytest.raises(ValueError, match=r"without \['inputs'\]"):
        histograms(setting[0], setting[1], {})
