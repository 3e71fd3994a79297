"""Evaluation with batch norms: the averages, and claims that can be refuted."""

import functools
from typing import Any

import batchnorm_inference as experiment
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

from jaxdl import layers, losses, optimizers, training

MOMENTA = (0.5, 0.99)


@pytest.fixture(scope="module")
def small():
    """A few images of noise, and the states before training."""
    draw = np.random.default_rng(0)
    arrays = {
        "inputs": jnp.asarray(draw.integers(0, 256, (60, 8, 8, 1)).astype(np.uint8)),
        "targets": jnp.asarray(draw.integers(0, 10, 60).astype(np.int32)),
    }
    rows = draw.integers(0, 60, (7, 16))
    return arrays, rows


def test_the_averages_are_those_of_runs_with_these_momenta(small):
    arrays, rows = small

    def after_every_step(model):
        task = training.Task(model, losses.cross_entropy)
        run = training.make_run(task, optimizers.sgd(experiment.RATE), batch_size=16)
        state, step = run.init(jax.random.key(0), arrays), jax.jit(run.step)
        for batch in rows:
            yield state
            state, _ = step(state, {name: array[batch] for name, array in arrays.items()})
        yield state

    first, *states = after_every_step(experiment.MODEL)
    averages = experiment.repeated(first.batch_stats, len(MOMENTA) + 1)
    for state in states:
        averages = experiment.averaged(averages, state, MOMENTA)
    settings: list[dict[str, Any]] = [{"momentum": momentum} for momentum in MOMENTA] + [
        {"cumulative": True}
    ]
    for k, setting in enumerate(settings):
        norm = functools.partial(layers.BatchNorm, **setting)
        *_, solo = after_every_step(experiment.MODEL.clone(norm=norm))
        for name, kept in solo.batch_stats.items():
            for moment in ("mean", "var"):
                # Seven updates of the weights in another order of summation, float32.
                np.testing.assert_allclose(
                    averages[name][moment][k], kept[moment], rtol=1e-4, atol=1e-5
                )


AXES = ("batch_size", "seed", "length", "statistics")


def batchnorm_inference_results(dataset="fashion_mnist"):
    """Accuracies and losses by batch size, seed, length and statistics, as they are expected."""
    behind = np.array([[1, 5, 35, 2, 0], [0.5, 0.5, 20, 3, 0], [0.1, 0.2, 1, 2, 0]])
    noise = np.array([-0.1, 0.0, 0.0, 0.1])[:, None, None] * np.array([1.2, 1.1, 1, 0.9, 0])
    accuracy = 85 - np.stack([behind + noise] * 2)
    return xarray.Dataset(
        {"accuracy": (AXES, accuracy), "loss": (AXES, (100 - accuracy) / 50)},
        coords={
            "batch_size": [64, 8],
            "seed": range(4),
            "length": [10, 100, 2000],
            "statistics": ["0.5", "0.9", "0.999", experiment.CUMULATIVE, experiment.EXACT],
            "dataset": dataset,
        },
    )


def verdicts(results):
    return [claim.verdict for claim in experiment.claims(results)]


def test_the_expected_numbers_hold():
    results = batchnorm_inference_results()
    assert verdicts(results) == ["holds"] * 6
    assert len(experiment.plot(results).axes) == 3
    # Of long training nothing is said.
    assert verdicts(results.isel(length=slice(2))) == ["holds"] * 2


@pytest.mark.parametrize(
    ("name", "where", "change", "index"),
    [
        ("accuracy", {"batch_size": 64, "length": 100, "statistics": "0.999"}, 25.0, 0),
        ("accuracy", {"batch_size": 64, "length": 2000, "statistics": "0.9"}, -5.0, 1),
        ("accuracy", {"batch_size": 64, "length": 2000, "statistics": "0.9"}, 5.0, 1),
        ("loss", {"batch_size": 8, "length": 2000, "statistics": "cumulative"}, -0.2, 5),
        ("loss", {"batch_size": 8, "length": 2000, "statistics": "cumulative"}, np.nan, 5),
    ],
)
def test_each_claim_can_be_refuted(name, where, change, index):
    results = batchnorm_inference_results()
    results[name].loc[where] += change
    assert verdicts(results) == ["refuted" if i == index else "holds" for i in range(6)]


def test_seeds_that_scatter_decide_nothing():
    results = batchnorm_inference_results()
    last = {"batch_size": 64, "length": 2000, "statistics": "cumulative"}
    results["loss"].loc[last] += np.array([-0.4, -0.2, 0.2, 0.4])
    assert verdicts(results)[2] == "undecided"


def test_a_run_has_the_axes_that_claims_read():
    config = experiment.Config(
        seeds=3, lengths=(1, 3), momenta=(0.9,), batch_sizes=(64, 8), dataset="mnist_5k"
    )
    results = experiment.run(config)
    assert results["accuracy"].dims == results["loss"].dims == AXES
    assert results["statistics"].values.tolist() == ["0.9", "cumulative", "recalibrated"]
    assert len(experiment.claims(results)) == 2
