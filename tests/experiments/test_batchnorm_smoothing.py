"""Smoothing's experiment: its claims hold for the expected numbers, and each can be refuted."""

from dataclasses import replace

import batchnorm_smoothing
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from batchnorm_smoothing import probe, recording_sgd

from jaxdl import layers, losses, models, training

SEEDS, PROBES = 3, 6
SPREAD = np.array([-0.01, 0.0, 0.01])


def batchnorm_smoothing_results(steps=300):
    """Results as they are expected, by kind (no norm, BatchNorm, noisy), rate, seed and step."""
    lengths = 0.1 * batchnorm_smoothing.STEP_LENGTHS
    last = np.array([[1.8, 2.3], [1.5, 1.6], [1.6, 1.8]])
    of_probes = np.ones((3, SEEDS, PROBES)) * np.exp(SPREAD)[:, None]
    change = np.array([3.0, 1.0, 1.2])[:, None, None, None] * of_probes[..., None]
    change = change * np.linspace(0.2, 1.0, lengths.size)
    return {
        "rates": np.array([0.1, 0.5]),
        "step_lengths": lengths,
        "probe_steps": np.linspace(0, steps - 1, PROBES).astype(int),
        "loss": last[..., None, None] + SPREAD[:, None] * np.ones(steps),
        "accuracy": np.full((3, 2, SEEDS, steps), 40.0),
        "shift": np.array([0.1, 0.001, 0.3])[:, None, None] * of_probes,
        "gradient_norm": np.array([1.5, 1.0, 1.0])[:, None, None] * of_probes,
        "along_loss": 2.0 + change,
        "along_change": change,
    }


def verdicts(results):
    return [claim.verdict for claim in batchnorm_smoothing.claims(results)]


def test_the_expected_numbers_hold():
    results = batchnorm_smoothing_results()
    assert verdicts(results) == ["holds"] * 11
    assert len(batchnorm_smoothing.plot(results).axes) == 6
    # Too short for what the paper says.
    assert verdicts(batchnorm_smoothing_results(steps=30)) == ["holds"] * 2


@pytest.mark.parametrize(
    ("name", "place", "value", "refuted"),
    [
        ("loss", (1, 0), 3.0, {0}),
        ("loss", (2, 0), 3.0, {3}),
        ("loss", (2, 1), 4.0, {4, 6}),
        ("loss", (0, 1), np.nan, set()),  # a diverged run counts as chance
        ("loss", (1, 1), 4.0, {5, 6}),
        ("shift", 2, 0.0005, {1, 2}),
        ("shift", 2, 0.02, {2}),
        ("along_loss", 0, 2.0 + np.linspace(0.0, 0.1, 5), {7}),
        ("along_change", 0, np.full(5, 0.1), {8, 9, 10}),
        ("gradient_norm", 0, 9.0, {9, 10}),
    ],
)
def test_each_claim_can_be_refuted(name, place, value, refuted):
    results = batchnorm_smoothing_results()
    results[name][place] = value
    assert {i for i, verdict in enumerate(verdicts(results)) if verdict == "refuted"} == refuted


@pytest.mark.parametrize(("kind", "claims"), [(0, []), (1, [5, 6]), (2, [4, 6])])
def test_no_claim_holds_because_its_network_diverged(kind, claims):
    results = batchnorm_smoothing_results()
    results["loss"][kind, 1] = np.nan
    assert [i for i, verdict in enumerate(verdicts(results)) if verdict != "holds"] == claims


def test_a_diverged_run_is_drawn():
    results = batchnorm_smoothing_results()
    results["loss"][0, 1, 0, 50:] = np.nan
    limits = [axes.get_ylim() for axes in batchnorm_smoothing.plot(results).axes]
    assert np.isfinite(limits).all()


def test_one_seed_far_off_leaves_a_mean_undecided():
    results = batchnorm_smoothing_results()
    results["loss"][2, 1] = np.array([1.2, 1.2, 2.9])[:, None]
    assert results["loss"][2, 1].mean() < results["loss"][0, 1].mean()
    assert verdicts(results)[4] == "undecided"  # the training loss at the larger rate


def test_along_the_gradient_of_a_quadratic():
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(20, 3)).astype(np.float32)
    targets = draw.normal(size=(20, 1)).astype(np.float32)
    batch = {"inputs": jnp.asarray(inputs), "targets": jnp.asarray(targets)}
    model, optimizer = models.MLP([1]), recording_sgd()
    step = jax.jit(training.make_train_step(model, optimizer, losses.mean_squared_error))
    state = training.init_state(jax.random.key(0), model, optimizer, batch["inputs"])
    lengths = np.array([0.05, 0.4])
    found = probe(step, state, step(state, batch)[0], batch, lengths)

    with_one = np.c_[np.ones(20), inputs].astype(np.float64)  # bias, kernel
    hessian = 2 * with_one.T @ with_one / 20
    weights = np.r_[*(np.ravel(leaf) for leaf in jax.tree.leaves(state.params))].astype(np.float64)
    error = with_one @ weights - targets[:, 0]
    gradient = 2 * with_one.T @ error / 20
    curvature = gradient @ hessian @ gradient
    along = np.mean(error**2) - lengths * (gradient @ gradient) + lengths**2 / 2 * curvature
    # float32, sums of 20 terms of order one.
    np.testing.assert_allclose(found["gradient_norm"], np.linalg.norm(gradient), rtol=1e-5)
    np.testing.assert_allclose(found["along_loss"], along, rtol=1e-5)
    change = lengths * np.linalg.norm(hessian @ gradient)
    np.testing.assert_allclose(found["along_change"], change, rtol=1e-5)


def test_the_state_holds_the_rate_and_a_probe_the_noise():
    model, optimizer = models.MLP([8, 1], norm=layers.NoisyBatchNorm), recording_sgd()
    step = jax.jit(training.make_train_step(model, optimizer, losses.mean_squared_error))
    batch = {
        "inputs": jax.random.normal(jax.random.key(1), (16, 4)),
        "targets": jnp.ones((16, 1)),
    }
    key = jax.random.key(0, impl="rbg")
    state = training.init_state(key, model, optimizer, batch["inputs"])
    still, measured = step(state, batch)
    chex.assert_trees_all_equal(still.params, state.params)  # the rate starts at 0
    found = probe(step, state, still, batch, np.zeros(1))
    assert found["along_loss"][0] == measured["loss"]
    assert found["along_change"][0] == 0
    # The next step's noise is another, and so is its loss.
    assert step(still, batch)[1]["loss"] != measured["loss"]

    state = replace(state, opt_state={**state.opt_state, "rate": jnp.float32(0.5)})
    after, _ = step(state, batch)
    expected = jax.tree.map(lambda p, g: p - 0.5 * g, state.params, after.opt_state["gradient"])
    # p - 0.5 g is one rounding where the compiler fuses it, as here: half is exact either way.
    chex.assert_trees_all_equal(after.params, expected)


def test_batches_pass_through_every_epoch():
    config = batchnorm_smoothing.Config(steps=7, batch_size=4)
    order = batchnorm_smoothing.batches(jax.random.key(0), config, 14)
    assert order.shape == (7, 4)
    for epoch in (order[:3], order[3:6]):
        assert len(set(epoch.ravel().tolist())) == 12


def test_knobs_that_no_run_can_be_made_from_are_refused():
    with pytest.raises(ValueError, match="steps at least probes"):
        batchnorm_smoothing.run(batchnorm_smoothing.Config(steps=3, probes=4))
