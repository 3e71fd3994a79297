"""The inputs of a layer: percentiles against NumPy, and that each claim can be refuted."""

from dataclasses import replace

import internal_covariate_shift as experiment
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

from jaxdl import data, layers, models, optimizers, training

SEEDS, CHANNELS, AT = 3, 4, 6
SPREAD = np.exp([-0.01, 0.0, 0.01])


def internal_covariate_shift_results(steps=240):
    """Results as they are expected: percentiles of a uniform value that sways."""
    at = np.arange(1, AT + 1) * (steps // AT)
    sway = np.array([0.5, 0.05, 0.4])[:, None] * SPREAD
    moving = sway[..., None] * np.where(np.arange(AT) % 2, 1.0, -1.0)
    percentiles = moving[..., None, None] + np.linspace(-1, 1, len(experiment.LEVELS))[:, None]
    shift = np.array([0.2, 0.001, 0.3])[:, None, None] * SPREAD[:, None] * np.ones(AT)
    return xarray.Dataset(
        {
            "loss": (("norm", "seed", "step"), np.ones((3, SEEDS, steps))),
            "shift": (("norm", "seed", "at"), shift),
            "percentiles": (
                ("norm", "seed", "at", "level", "channel"),
                percentiles * np.ones(CHANNELS),
            ),
        },
        coords={
            "norm": ["plain", "norm", "noisy"],
            "seed": range(SEEDS),
            "step": np.arange(1, steps + 1),
            "at": at,
            "level": experiment.LEVELS,
        },
    )


def verdicts(results):
    return [claim.verdict for claim in experiment.claims(results)]


def test_the_expected_numbers_hold():
    results = internal_covariate_shift_results()
    assert verdicts(results) == ["holds"] * 3
    assert len(experiment.plot(results).axes) == 8
    # Too short for what the papers say.
    assert verdicts(internal_covariate_shift_results(steps=30)) == ["holds"]


def still(values):
    """Percentiles that hardly move."""
    return values.mean("at") + (values - values.mean("at")) / 1000


@pytest.mark.parametrize(
    ("name", "where", "change", "refuted"),
    [
        ("shift", {"norm": "noisy"}, lambda shift: 0.0005, {0, 1}),
        ("shift", {"norm": "noisy"}, lambda shift: 0.02, {1}),
        ("shift", {"norm": "noisy", "at": 240, "seed": 0}, lambda shift: np.nan, {0, 1}),
        ("shift", {"norm": "noisy", "at": 40}, lambda shift: 0.0, set()),  # of the first half
        ("percentiles", {"norm": "norm"}, lambda values: 3 * values + 2, set()),  # scale free
        ("percentiles", {"norm": "plain"}, still, {2}),
        ("percentiles", {"norm": "norm", "channel": 0, "seed": 1}, lambda values: np.nan, {2}),
    ],
)
def test_each_claim_can_be_refuted(name, where, change, refuted):
    results = internal_covariate_shift_results().assign_coords(channel=range(CHANNELS))
    results[name].loc[where] = change(results[name].loc[where])
    assert {i for i, verdict in enumerate(verdicts(results)) if verdict == "refuted"} == refuted


def watched_run(norm):
    images = jax.random.randint(jax.random.key(1), (8, 32, 32, 3), 0, 256).astype(jnp.uint8)
    task = experiment.task_of(norm, (2, 2, 2, 2, 2))
    learn = training.make_run(task, optimizers.sgd(0.1), batch_size=8)
    return task, learn.init(jax.random.key(0), data.Arrays(images, jnp.zeros(8, jnp.int32))), images


@pytest.mark.parametrize("norm", ["norm", "noisy"])
def test_the_noise_of_the_next_step_moves_inputs_that_the_weights_leave_still(norm):
    task, state, images = watched_run(norm)
    states = state, replace(state, step=state.step + 1)
    shift = experiment.measured_inputs(task, states, images)["shift"]
    # BatchNorm's means are beta, 0, up to float32; the noise's are uniform in +- 0.5.
    assert shift > 0.01 if norm == "noisy" else shift < 1e-6


def test_shift_and_percentiles_are_numpys():
    task, state, images = watched_run("plain")
    after = replace(state, params=jax.tree.map(lambda value: 1.1 * value, state.params))
    measured = experiment.measured_inputs(task, (state, after), images)
    # Five convolutions written out with lax; biases are zero, pooling after layers 1, 2 and 4.
    fed = []
    for scale in (1.0, 1.1):
        x = 2 * (images / 255.0) - 1
        for layer in range(5):
            x = jax.nn.relu(x) if layer else x
            x = models.vgg.max_pool(x) if layer in (1, 2, 4) else x
            kernel = scale * state.params[f"conv_{layer}"]["kernel"]
            x = jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
        fed.append(np.asarray(x, np.float64).reshape(-1, 2))
    before, later = fed
    expected = np.percentile(later, experiment.LEVELS, axis=0)
    # Sums of a few dozen float32 products, five layers deep.
    np.testing.assert_allclose(measured["percentiles"], expected, rtol=1e-4, atol=1e-4)
    shift = np.abs(later.mean(0) - before.mean(0)).mean() / before.std(0).mean()
    np.testing.assert_allclose(measured["shift"], shift, rtol=1e-3)


def test_a_density_is_that_of_its_percentiles():
    draws = np.random.default_rng(0).normal(3.0, 2.0, 100_000)
    x = np.linspace(-10, 16, 2001)
    curve = experiment.density(np.percentile(draws, experiment.LEVELS), x)
    curve = curve / (curve.sum() * (x[1] - x[0]))
    # The kernel, 1.06 s 39^-0.2 = 0.51 s wide, widens a normal to 1.12 s; the tails are cut.
    assert abs(x[curve.argmax()] - 3.0) < 0.1
    assert curve.max() == pytest.approx(1 / (2.0 * np.sqrt(2 * np.pi)), rel=0.15)


def test_a_run_has_the_axes_that_claims_read(monkeypatch):
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (40, 32, 32, 3)).astype(np.uint8)
    noise = data.Arrays(images, draw.integers(0, 10, 40).astype(np.int32))
    few = data.Dataset("few", noise, None, noise)
    monkeypatch.setattr(experiment.data, "load", lambda *_, **__: few)
    monkeypatch.setattr(experiment, "NORMS", {"norm": layers.BatchNorm})  # one to compile
    config = experiment.Config(
        seeds=3, steps=8, every=2, batch_size=8, channels=(2, 2, 2, 2, 2), generator="rbg"
    )
    results = experiment.run(config)
    expected = internal_covariate_shift_results()
    assert {name: results[name].dims for name in results} == {
        name: expected[name].dims for name in expected
    }
    assert results["at"].values.tolist() == [2, 4, 6, 8]
    assert results["percentiles"].sizes["channel"] == 2


def test_knobs_that_no_run_can_be_made_from_are_refused():
    with pytest.raises(ValueError, match="steps a multiple of every"):
        experiment.run(experiment.Config(steps=45, every=10))
