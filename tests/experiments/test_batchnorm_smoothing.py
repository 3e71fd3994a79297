"""Smoothing's experiment: its claims hold for the expected numbers, and each can be refuted."""

import batchnorm_smoothing as experiment
import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

from jaxdl import data, layers, losses, models, training

SEEDS, PROBES = 3, 6
SPREAD = np.array([-0.01, 0.0, 0.01])
BY_RUN = ("norm", "rate", "seed")


def batchnorm_smoothing_results(steps=300):
    """Results as they are expected."""
    last = np.array([[1.8, 2.3], [1.5, 1.6], [1.6, 1.8]])
    of_probes = np.ones((3, 2, SEEDS, PROBES)) * np.exp(SPREAD)[:, None]

    def by_norm(plain, norm, noisy):
        return np.array([plain, norm, noisy])[:, None, None, None] * of_probes

    change = by_norm(3.0, 1.0, 1.2)[..., None] * np.linspace(0.2, 1.0, 5)
    loss = last[..., None, None] + SPREAD[:, None] * np.ones(steps)
    by_probe = (*BY_RUN, "probe")
    return xarray.Dataset(
        {
            "loss": ((*BY_RUN, "step"), loss),
            "gradient_norm": (by_probe, by_norm(1.5, 1.0, 1.0)),
            "along_loss": ((*by_probe, "length"), 2.0 + change),
            "along_change": ((*by_probe, "length"), change),
        },
        coords={
            "norm": ["plain", "norm", "noisy"],
            "rate": [0.1, 0.5],
            "seed": range(SEEDS),
            "step": range(steps),
            "probe": np.arange(0, steps, steps // PROBES),
            "length": experiment.STEP_LENGTHS,
        },
    )


def verdicts(results):
    return [claim.verdict for claim in experiment.claims(results)]


def test_the_expected_numbers_hold():
    results = batchnorm_smoothing_results()
    assert verdicts(results) == ["holds"] * 9
    assert len(experiment.plot(results).axes) == 5
    # Too short for what the paper says.
    assert verdicts(batchnorm_smoothing_results(steps=30)) == ["holds"]


SMALL, LARGE = {"rate": 0.1}, {"rate": 0.5}
PLAIN, NORM, NOISY = ({"norm": name} for name in ("plain", "norm", "noisy"))


@pytest.mark.parametrize(
    ("name", "where", "value", "refuted"),
    [
        ("loss", NORM | SMALL, 3.0, {0}),
        ("loss", NOISY | SMALL, 3.0, {1}),
        ("loss", NOISY | LARGE, 4.0, {2, 4}),
        ("loss", PLAIN | LARGE, np.nan, set()),  # a diverged run counts as chance
        ("loss", NORM | LARGE, 4.0, {3, 4}),
        ("along_loss", PLAIN, 2.0 + np.linspace(0.0, 0.1, 5), {5}),
        ("along_change", PLAIN, np.full(5, 0.1), {6, 7, 8}),
        ("along_change", NORM | SMALL | {"probe": 250, "length": 4.0}, np.nan, {6, 7, 8}),
        ("gradient_norm", PLAIN, 9.0, {7, 8}),
        ("along_loss", LARGE, np.nan, set()),  # only the small rate is claimed of
    ],
)
def test_each_claim_can_be_refuted(name, where, value, refuted):
    results = batchnorm_smoothing_results()
    results[name].loc[where] = value
    assert {i for i, verdict in enumerate(verdicts(results)) if verdict == "refuted"} == refuted


@pytest.mark.parametrize(("norm", "claims"), [(PLAIN, []), (NORM, [3, 4]), (NOISY, [2, 4])])
def test_no_claim_holds_because_its_network_diverged(norm, claims):
    results = batchnorm_smoothing_results()
    results["loss"].loc[norm | LARGE] = np.nan
    assert [i for i, verdict in enumerate(verdicts(results)) if verdict != "holds"] == claims


def test_a_diverged_run_is_drawn():
    results = batchnorm_smoothing_results()
    results["loss"].loc[PLAIN | LARGE | {"seed": 0, "step": slice(50, None)}] = np.nan
    limits = [axes.get_ylim() for axes in experiment.plot(results).axes]
    assert np.isfinite(limits).all()


def test_one_seed_far_off_leaves_a_mean_undecided():
    results = batchnorm_smoothing_results()
    results["loss"].loc[NOISY | LARGE] = np.array([1.2, 1.2, 2.9])[:, None]
    assert results["loss"].sel(NOISY | LARGE).mean() < results["loss"].sel(PLAIN | LARGE).mean()
    assert verdicts(results)[2] == "undecided"  # the training loss at the larger rate


def explored(model, batch, rate, lengths, steps=1):
    """The run, its first state, and what `explore` gives of it."""
    task = training.Task(model, losses.mean_squared_error)
    learn = training.make_run(task, experiment.recording_sgd(rate), batch_size=len(batch))
    state = learn.init(jax.random.key(0), batch)
    rows = jnp.tile(jnp.arange(len(batch)), (steps, 1))
    return learn, state, *experiment.explore(learn, batch, state, rows, lengths)


def test_along_the_gradient_of_a_quadratic():
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(20, 3)).astype(np.float32)
    targets = draw.normal(size=(20, 1)).astype(np.float32)
    batch = data.Arrays(jnp.asarray(inputs), jnp.asarray(targets))
    lengths = np.array([0.05, 0.4])
    _, state, _, found = explored(models.MLP([1]), batch, 0.1, lengths)

    with_one = np.c_[np.ones(20), inputs].astype(np.float64)  # bias, kernel
    hessian = 2 * with_one.T @ with_one / 20

    def flat(tree):
        return np.r_[*(np.ravel(leaf) for leaf in jax.tree.leaves(tree))].astype(np.float64)

    error = with_one @ flat(state.params) - targets[:, 0]
    gradient = 2 * with_one.T @ error / 20
    curvature = gradient @ hessian @ gradient
    along = np.mean(error**2) - lengths * (gradient @ gradient) + lengths**2 / 2 * curvature
    # float32, sums of 20 terms of order one.
    np.testing.assert_allclose(found["gradient_norm"], np.linalg.norm(gradient), rtol=1e-5)
    np.testing.assert_allclose(found["along_loss"], along, rtol=1e-5)
    change = lengths * np.linalg.norm(hessian @ gradient)
    np.testing.assert_allclose(found["along_change"], change, rtol=1e-5)


def test_looking_leaves_the_steps_as_they_are_and_has_their_noise():
    batch = data.Arrays(jax.random.normal(jax.random.key(1), (16, 4)), jnp.ones((16, 1)))
    model = models.MLP([8, 1], norm=layers.NoisyBatchNorm)
    learn, state, after, found = explored(model, batch, 0.5, np.zeros(2), steps=2)
    assert int(after.step) == 2
    # At length 0 there is the step's own loss, noise included. The next step's is another.
    np.testing.assert_allclose(found["along_loss"], found["loss"][0], rtol=1e-6)
    assert abs(found["loss"][1] / found["loss"][0] - 1) > 0.1
    np.testing.assert_allclose(found["along_change"], 0.0, atol=1e-5)
    expected = state
    for _ in range(2):
        expected, _ = jax.jit(learn.step)(expected, batch)
    # Sums of 16 float32 products, in another order.
    chex.assert_trees_all_close(after.params, expected.params, rtol=1e-4, atol=1e-5)


def test_a_run_that_leaves_the_noise_out_has_claims_and_a_figure():
    results = batchnorm_smoothing_results(steps=30).sel(norm=["plain", "norm"])
    assert verdicts(results) == ["holds"]
    assert len(experiment.plot(results).axes) == 5


def test_a_run_has_the_axes_that_claims_read(monkeypatch):
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (40, 32, 32, 3)).astype(np.uint8)
    noise = data.Arrays(images, draw.integers(0, 10, 40).astype(np.int32))
    few = data.Dataset("few", noise, None, None)
    monkeypatch.setattr(experiment.data, "load", lambda *_, **__: few)
    config = experiment.Config(
        seeds=3,
        steps=4,
        probes=2,
        batch_size=8,
        channels=(2, 2, 2, 2, 2),
        rates=(0.01, 0.02),
        norms=("plain", "norm"),
    )
    results = experiment.run(config)
    expected = batchnorm_smoothing_results(steps=4 * PROBES)
    assert {name: results[name].dims for name in results} == {
        name: expected[name].dims for name in expected
    }
    assert results["probe"].values.tolist() == [0, 2]


def test_knobs_that_no_run_can_be_made_from_are_refused():
    with pytest.raises(ValueError, match="steps a multiple of probes"):
        experiment.run(experiment.Config(steps=3, probes=2))
    for norms in (("norm", "noisy"), ("plain", "norm", "group")):
        with pytest.raises(ValueError, match="'plain' and 'norm' among them"):
            experiment.run(experiment.Config(norms=norms))
