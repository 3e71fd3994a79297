"""Folding: the bound is the formula, rounding keeps within it, and a wrong fold does not."""

import batchnorm_folding as experiment
import jax
import numpy as np
import pytest

from jaxdl import diagnostics, layers, models


def test_the_bound_of_two_layers_is_the_formula():
    model = models.MLP((3, 2), norm=layers.BatchNorm, activation=lambda x: x)
    images = jax.random.normal(jax.random.key(0), (4, 5))
    variables = model.init(jax.random.key(1), images, train=False)
    folded, without = diagnostics.fold(model, variables)
    bound = experiment.rounding_bound(folded, without, variables, images, epsilon=1e-5)
    first, last = (np.abs(without["params"][f"dense_{i}"]["kernel"]) for i in range(2))
    gamma = [2 * 7 * np.sqrt(n + 8) * 2.0**-24 for n in (5, 3)]
    hidden = np.abs(images @ without["params"]["dense_0"]["kernel"])
    own = [gamma[0] * np.abs(images) @ first, gamma[1] * hidden @ last]
    expected = np.sqrt(own[0] ** 2 @ last**2 + own[1] ** 2)
    np.testing.assert_allclose(bound, expected, rtol=1e-3)  # the bound itself is of float32


def test_the_smoke_preset_holds(tmp_path):
    results = experiment.run(experiment.Config(seeds=1, steps=3, images=64))
    np.savez(tmp_path / "results.npz", **results)
    with np.load(tmp_path / "results.npz", allow_pickle=False) as loaded:
        claims = experiment.claims(loaded)
        assert len(experiment.plot(dict(loaded)).axes) == 2
    assert [claim.holds for claim in claims] == [True] * 4
    assert results["convnet_difference"].shape == (1, 64, 10)
    # A fold that is not exact: the bound would have none to compare with.
    assert results["mlp_difference"].max() > 0


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("mlp_difference", 1e-3, {0}),
        ("mlp_wrong", 1e-5, {1}),
        ("convnet_difference", np.nan, {2}),
        ("convnet_bound", 1.0, {3}),
    ],
)
def test_each_claim_can_be_refuted(name, value, expected):
    sizes = {"outputs": 5.0, "difference": 1e-6, "wrong": 1e-2, "bound": 1e-4}
    results = {
        f"{network}_{key}": np.full((1, 4, 10), size)
        for network in ("mlp", "convnet")
        for key, size in sizes.items()
    }
    assert all(claim.holds for claim in experiment.claims(results))
    results[name] = np.full((1, 4, 10), value)
    held = [claim.holds for claim in experiment.claims(results)]
    assert {index for index, holds in enumerate(held) if not holds} == expected
