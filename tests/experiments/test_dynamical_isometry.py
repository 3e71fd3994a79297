"""The experiment of dynamical isometry: what it measures, and that each claim can be refuted."""

import dynamical_isometry
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from dynamical_isometry import KINDS, TRAINED, WEIGHTS, Config

from jaxdl.diagnostics import gaussian_product_singular_values

DEPTHS, LAYERS, WIDTH = (1, 4, 16), (4, 16, 64), 256


def values_of(spread, width=WIDTH):
    """Some equal values, the others 0, so that the squares have this spread."""
    count = round(width / (1 + spread))
    return np.concatenate([np.full(count, (width / count) ** 0.5), np.zeros(width - count)])


def dynamical_isometry_results(seeds=4, draws=20, noise=0.02):
    random = np.random.default_rng(0)
    values = np.ones((len(KINDS), 2, draws, len(DEPTHS), WIDTH))
    theory = np.zeros((len(KINDS), 2, len(DEPTHS)))
    for place, depth in enumerate(DEPTHS):
        law = gaussian_product_singular_values(depth, 100_000)
        theory[:, :, place] = [[depth, 0], [depth, 1.0], [2 * depth, depth]]
        law_values = np.interp((np.arange(WIDTH) + 0.5) / WIDTH, np.linspace(0, 1, 100_000), law)
        law_values[0] = gaussian_product_singular_values(depth, WIDTH)[0]
        squares = law_values**2
        values[0, 0, :, place] = law_values
        for kind, gaussian, orthogonal in ((1, depth, 1.0), (2, 2 * depth, depth)):
            values[kind, 0, :, place] = values_of(gaussian)
            values[kind, 1, :, place] = values_of(orthogonal)
        theory[0, 0, place] = squares.var() / squares.mean() ** 2
    values[:, 0] *= 1 + noise * random.normal(size=(len(KINDS), draws, len(DEPTHS), 1))
    steps = np.array(
        [
            [[100, 200, 400], [100, 90, 110]],
            [[100, 200, np.inf], [100, 110, 120]],
            [[100, 300, np.inf], [100, 150, 250]],
        ]
    )[..., None]
    loss = np.where(np.isfinite(steps), 0.45, 2.2)
    jitter = 1 + noise * random.normal(size=(seeds,))
    return xarray.Dataset(
        {
            "singular_values": (("kind", "weights", "draw", "depth", "value"), values),
            "theory": (("kind", "weights", "depth"), theory),
            "steps": (("trained", "weights", "layers", "seed"), steps * jitter),
            "loss": (("trained", "weights", "layers", "seed"), loss * jitter),
        },
        coords={
            "kind": [*KINDS],
            "trained": [*TRAINED],
            "weights": [*WEIGHTS],
            "depth": [*DEPTHS],
            "layers": [*LAYERS],
        },
    )


def refuted(results):
    claims = dynamical_isometry.claims(results)
    return {i for i, claim in enumerate(claims) if claim.verdict == "refuted"}


def test_the_claims_hold_for_the_expected_numbers():
    results = dynamical_isometry_results()
    claims = dynamical_isometry.claims(results)
    assert [claim.text for claim in claims if not claim.holds] == []
    assert len(dynamical_isometry.plot(results).axes) == 4


def changed(name, factor, **where):
    def change(results):
        array = results[name].copy()
        array.loc[where] *= factor
        return results.assign({name: array})

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (changed("singular_values", 1.1, kind="linear", weights="orthogonal"), {0}),
        (changed("theory", 2.0, kind="linear", weights="Gaussian"), {1}),
        (changed("singular_values", 1.5, kind="linear", weights="Gaussian", depth=16), {2}),
        (lambda results: like(results, "ReLU", "Gaussian", "orthogonal"), {3}),
        (lambda results: like(results, "tanh", "Gaussian", "orthogonal"), {4}),
        (changed("steps", 6.0, trained="linear", weights="orthogonal", layers=64), {5}),
        (changed("steps", 6.0, trained="tanh", weights="orthogonal", layers=64), {6}),
        (changed("loss", 4.0, trained="tanh convolutions", weights="orthogonal", layers=64), {7}),
        (changed("loss", 0.2, trained="tanh convolutions", weights="Gaussian", layers=64), {8}),
    ],
)
def test_each_claim_can_be_refuted(change, expected):
    assert refuted(change(dynamical_isometry_results())) == expected


def like(results, kind, weights, other):
    """One sort of weights as unequal as the other."""
    array = results["singular_values"].copy()
    array.loc[{"kind": kind, "weights": weights}] = array.sel(kind=kind, weights=other)
    return results.assign(singular_values=array)


def test_a_run_that_does_not_arrive_refutes():
    results = dynamical_isometry_results()
    results["steps"].loc[{"trained": "tanh", "weights": "orthogonal", "layers": 64}] = np.inf
    assert refuted(results) == {6}


def test_the_singular_values_are_those_of_the_product_of_the_layers():
    config = Config(draws=3, width=12, seed=5)
    found = dynamical_isometry.jacobians(config, KINDS["tanh"], 3)
    draw_key, x_key = jax.random.split(jax.random.key(6))
    both = dynamical_isometry.stack(KINDS["tanh"], draw_key, 3, (12, 12))
    for weights, layers in enumerate(both):
        a = np.asarray(jax.random.normal(x_key, (12,)), np.float64)
        product = np.eye(12)
        for w in np.asarray(layers, np.float64):
            a = np.tanh(a @ w)
            product = product @ w * (1 - a**2)
        expected = np.linalg.svd(product)[1]
        one = found.transpose("weights", "draw", "value")[weights, 1]
        np.testing.assert_allclose(one, expected, atol=2e-6 * expected[0])


def test_the_two_sorts_of_weights_have_one_variance():
    for kind, shape, fan_in in ((KINDS["ReLU"], (40, 40), 40), (TRAINED["tanh"], (40, 40), 40)):
        for w in dynamical_isometry.stack(kind, jax.random.key(0), 20, shape):
            # 32,000 weights: six standard errors of a variance.
            allowed = 6 * (2 / w.size) ** 0.5
            assert float(w.var()) * fan_in == pytest.approx(kind.weight_variance, rel=allowed)


def test_a_convolution_as_a_product_is_a_convolution_with_joined_edges():
    kind = TRAINED["tanh convolutions"]
    params, _ = dynamical_isometry.draw(kind, 2, jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 1))
    a = x @ params["lift"]
    for w in params["hidden"]:
        joined = jnp.pad(a, ((0, 0), (1, 1), (1, 1), (0, 0)), "wrap")
        names = ("NHWC", "HWIO", "NHWC")
        a = jnp.tanh(
            jax.lax.conv_general_dilated(joined, w, (1, 1), "VALID", dimension_numbers=names)
        )
    expected = a.reshape(2, -1) @ params["head"]
    found = dynamical_isometry.network(kind, params, x)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_best_rate_is_of_the_fewest_steps_else_of_the_least_loss():
    def tried(steps, loss):
        coords = {"rate": [0.5, 1.0, 2.0]}
        return xarray.Dataset({"steps": ("rate", steps), "loss": ("rate", loss)}, coords)

    assert dynamical_isometry.best(tried([80, 40, np.inf], [0.4, 0.45, np.nan])) == 1.0
    assert dynamical_isometry.best(tried([np.inf] * 3, [0.9, 1.2, np.nan])) == 0.5
