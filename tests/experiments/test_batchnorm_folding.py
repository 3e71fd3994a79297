"""Folding: the bound is the formula, rounding keeps within it, and a wrong fold does not."""

import batchnorm_folding as experiment
import jax
import numpy as np
import pytest

from jaxdl import layers, models, training


def test_the_bound_of_two_layers_is_the_formula():
    model = models.MLP((3, 2), norm=layers.BatchNorm, activation=lambda x: x)
    images = jax.random.normal(jax.random.key(0), (4, 5))
    variables = model.init(jax.random.key(1), images, train=False)
    folded, without = training.fold(model, variables)
    bound = experiment.rounding_bound(folded, without, variables, images, epsilon=1e-5)
    first, last = (np.abs(without["params"][f"dense_{i}"]["kernel"]) for i in range(2))
    gamma = [2 * 7 * np.sqrt(n + 8) * 2.0**-24 for n in (5, 3)]
    hidden = np.abs(images @ without["params"]["dense_0"]["kernel"])
    own = [gamma[0] * np.abs(images) @ first, gamma[1] * hidden @ last]
    expected = np.sqrt(own[0] ** 2 @ last**2 + own[1] ** 2)
    np.testing.assert_allclose(bound, expected, rtol=1e-3)  # the bound itself is of float32


def batchnorm_folding_results():
    sizes = {"outputs": 5.0, "difference": 1e-6, "wrong": 1e-2, "bound": 1e-4}
    return {
        f"{network}_{key}": np.full((3, 4, 10), size)
        for network in ("mlp", "convnet")
        for key, size in sizes.items()
    }


def verdicts(results):
    return [claim.verdict for claim in experiment.claims(results)]


@pytest.mark.parametrize(
    ("name", "value", "claim", "verdict"),
    [
        ("mlp_difference", 1e-3, 0, "refuted"),
        ("mlp_wrong", 1e-5, 1, "refuted"),
        ("convnet_difference", np.nan, 2, "refuted"),
        ("convnet_bound", 1.0, 3, "refuted"),
        ("mlp_wrong", np.array([1e-5, 1e-3, 1e-2])[:, None, None], 1, "undecided"),
    ],
)
def test_each_claim_holds_and_can_be_refuted(name, value, claim, verdict):
    results = batchnorm_folding_results()
    assert verdicts(results) == ["holds"] * 4
    results[name] = value * np.ones((3, 4, 10))
    expected = [verdict if index == claim else "holds" for index in range(4)]
    assert verdicts(results) == expected
