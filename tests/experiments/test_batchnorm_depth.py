"""The growth of gradients with BatchNorm: against NumPy, and that each claim can be refuted."""

import batchnorm_depth
import jax
import numpy as np
import pytest
import xarray
from batchnorm_depth import ARMS, CHAINS, LIMIT

from jaxdl import diagnostics

LAYERS, WIDTH = 49, 256


def those(verdict, results):
    """The claims, by number, of this verdict."""
    claims = batchnorm_depth.claims(results)
    return {i for i, claim in enumerate(claims) if claim.verdict == verdict}


def batchnorm_depth_results(seeds=24):
    theory = np.ones((len(ARMS), LAYERS))
    theory[0], theory[1] = LIMIT, 1.178
    theory[3] = 1 + 1 / (2 + 0.6817 * np.arange(LAYERS))
    by_batch = np.array([[1.788, 1.473], [1.36, 1.18], [1.2, 1.004]])
    growth = np.repeat(theory[:, None, :], 2, axis=1)
    growth[: len(CHAINS)] = by_batch[..., None]
    noise = 1 + 0.003 * np.random.default_rng(0).normal(size=(seeds, *growth.shape[:2], 1))
    return xarray.Dataset(
        {
            "growth": (("seed", "arm", "batch", "layer"), growth * noise),
            "theory": (("arm", "layer"), theory),
            "theory_by_batch": (("chain", "batch"), by_batch),
        },
        coords={
            "arm": [*ARMS],
            "chain": [*CHAINS],
            "batch": [8, 256],
            "layer": np.arange(1, LAYERS + 1),
            "width": WIDTH,
        },
    )


def scaled(factor, **where):
    def change(growth):
        growth = growth.copy()
        growth.loc[where] *= factor
        return growth

    return change


@pytest.mark.parametrize(
    ("change", "refuted"),
    [
        (scaled(1.1, arm="relu", batch=256), {0, 1, 3}),
        (scaled(0.9, arm="tanh", batch=8), {1}),
        (scaled(0.8, arm="relu", batch=8), {1, 2}),
        (scaled(1.1, arm="skip"), {4}),
        (scaled(0.9, arm="plain"), {5}),
    ],
)
def test_each_claim_can_be_refuted(change, refuted):
    results = batchnorm_depth_results()
    assert not those("refuted", results) | those("undecided", results)
    assert those("refuted", results.assign(growth=change(results["growth"]))) == refuted


def test_few_networks_far_apart_are_undecided():
    results = batchnorm_depth_results(seeds=3)
    results["growth"] *= xarray.DataArray([0.9, 1.0, 1.1], dims="seed")
    assert {0, 1, 3, 4, 5} <= those("undecided", results)


@pytest.mark.parametrize("name", ["tanh", "skip", "plain"])
def test_the_growth_is_that_of_numpy_in_float64(name):
    arm, (depth, width, examples) = ARMS[name], (4, 12, 7)
    draws = batchnorm_depth.draw(jax.random.key(0), depth, width, examples)
    measured = batchnorm_depth.growth(arm, draws)
    weights = np.sqrt(arm.weight_variance) * np.asarray(draws.weights, np.float64)
    f, slope = (
        (np.tanh, lambda z: 1 - np.tanh(z) ** 2)
        if name == "tanh"
        else (lambda z: np.maximum(z, 0), lambda z: z > 0)
    )
    z, kept = draws.inputs @ weights[0], []
    for kernel in weights[1:]:
        deviation = z.std(axis=0) if arm.batch_norm else np.ones(width)
        normal = (z - z.mean(axis=0)) / deviation if arm.batch_norm else z
        kept.append((normal, deviation, kernel))
        z = arm.residual * z + f(normal) @ kernel
    gradient, squares = np.asarray(draws.gradient, np.float64), []
    for normal, deviation, kernel in kept[::-1]:
        squares.append(np.mean(gradient**2))
        branch = gradient @ kernel.T * slope(normal)
        if arm.batch_norm:
            along = normal * np.mean(branch * normal, axis=0)
            branch = (branch - branch.mean(axis=0) - along) / deviation
        gradient = arm.residual * gradient + branch
    squares.append(np.mean(gradient**2))
    # Sums of a dozen float32 terms, a few layers deep.
    np.testing.assert_allclose(measured[::-1], np.divide(squares[1:], squares[:-1]), rtol=1e-4)


def test_a_small_sweep_has_the_names_that_claims_and_figure_read():
    config = batchnorm_depth.Config(seeds=3, depth=4, width=16, batches=(4, 8))
    results = batchnorm_depth.run(config)
    assert dict(results["growth"].sizes) == {"arm": 5, "seed": 3, "batch": 2, "layer": 3}
    assert float(results["theory_by_batch"].sel(chain="linear", batch=8)) == pytest.approx(6 / 5)
    predicted = diagnostics.batch_norm_gradient_growth(ARMS["tanh"].activation)
    np.testing.assert_allclose(results["theory"].sel(arm="tanh")[1:], predicted, rtol=1e-9)
    assert len(batchnorm_depth.claims(results)) == 6
    assert len(batchnorm_depth.plot(results).axes) == 2


def test_a_batch_without_a_law_is_refused():
    with pytest.raises(ValueError, match="at least 4 examples"):
        batchnorm_depth.run(batchnorm_depth.Config(seeds=3, depth=4, width=16, batches=(2, 8)))
