"""Evaluation with batch norms: the averages, and claims that can be refuted."""

import functools
from typing import Any

import batchnorm_inference as experiment
import jax
import jax.numpy as jnp
import numpy as np
import pytest

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
    optimizer = optimizers.sgd(experiment.RATE)

    def start(model):
        return training.init_state(jax.random.key(0), model, optimizer, jnp.zeros((1, 8, 8, 1)))

    state = start(experiment.network())
    averages = experiment.repeated(state.batch_stats, len(MOMENTA) + 1)
    advance = experiment.make_step(MOMENTA)
    for indices in rows:
        state, averages = advance(arrays, state, averages, indices)
    settings: list[dict[str, Any]] = [{"momentum": momentum} for momentum in MOMENTA] + [
        {"cumulative": True}
    ]
    for k, setting in enumerate(settings):
        model = experiment.network(functools.partial(layers.BatchNorm, **setting))
        step = jax.jit(training.make_train_step(model, optimizer, losses.cross_entropy))
        solo = start(model)
        for batch in rows:
            solo, _ = step(solo, {name: array[batch] for name, array in arrays.items()})
        for norm, kept in solo.batch_stats.items():
            for name in ("mean", "var"):
                # Seven updates of the weights in another order of summation, float32.
                np.testing.assert_allclose(
                    averages[norm][name][k], kept[name], rtol=1e-4, atol=1e-5
                )


def batchnorm_inference_results(dataset="fashion_mnist"):
    """Accuracies and losses by batch size, length, seed and statistics, as they are expected."""
    lengths, momenta, sizes = np.array([10, 100, 2000]), np.array([0.5, 0.9, 0.999]), [64, 8]
    behind = np.array([[1, 5, 35, 2, 0], [0.5, 0.5, 20, 3, 0], [0.1, 0.2, 1, 2, 0]])
    noise = np.array([-0.1, 0.0, 0.0, 0.1])[None, None, :, None] * np.array([1.2, 1.1, 1, 0.9, 0])
    accuracy = 85 - (behind[None, :, None] + noise).repeat(2, 0)
    return {
        "dataset": np.array(dataset), "lengths": lengths, "momenta": momenta,
        "batch_sizes": np.array(sizes), "accuracy": accuracy, "loss": (100 - accuracy) / 50,
    }  # fmt: skip


def verdicts(results):
    return [claim.verdict for claim in experiment.claims(results)]


def test_the_expected_numbers_hold():
    results = batchnorm_inference_results()
    assert verdicts(results) == ["holds"] * 6
    assert len(experiment.plot(results).axes) == 3
    for name in ("lengths", "accuracy", "loss"):
        results[name] = results[name][:2] if name == "lengths" else results[name][:, :2]
    assert verdicts(results) == ["holds"] * 2  # nothing is said of long training


@pytest.mark.parametrize(
    ("name", "place", "change", "index"),
    [
        ("accuracy", np.s_[0, 1, :, 2], 25.0, 0),
        ("accuracy", np.s_[0, 2, :, 1], -5.0, 1),
        ("accuracy", np.s_[0, 2, :, 1], 5.0, 1),
        ("loss", np.s_[1, 2, :, 3], -0.2, 5),
    ],
)
def test_each_claim_can_be_refuted(name, place, change, index):
    results = batchnorm_inference_results()
    results[name][place] += change
    assert verdicts(results) == ["refuted" if i == index else "holds" for i in range(6)]


def test_seeds_that_scatter_decide_nothing():
    results = batchnorm_inference_results()
    results["loss"][0, 2, :, 3] += np.array([-0.4, -0.2, 0.2, 0.4])
    assert verdicts(results)[2] == "undecided"
