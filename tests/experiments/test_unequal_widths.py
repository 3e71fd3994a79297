"""Fans of unequal layers: the laws in NumPy, and that each claim can be refuted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import unequal_widths
import xarray
from unequal_widths import DEPTH, MODES, QUANTITIES, SHAPES

from jaxdl import initializers


def those(verdict, results):
    """The claims, by number, of this verdict."""
    claims = unequal_widths.claims(results)
    return {i for i, claim in enumerate(claims) if claim.verdict == verdict}


def unequal_widths_results(seeds=50):
    draw, axes, found = np.random.default_rng(0), ("shape", "mode", "layer"), {}
    for what in QUANTITIES:
        law = np.array([[unequal_widths.law(s, m)[what] for m in MODES] for s in SHAPES.values()])
        noise = np.exp(0.01 * draw.normal(size=(seeds, *law.shape)))
        found[what] = (("seed", *axes), law * noise)
        found[f"{what}_law"] = (axes, law)
    coords = {"shape": [*SHAPES], "mode": [*MODES], "layer": np.arange(1, DEPTH + 1)}
    return xarray.Dataset(found, coords)


def grown(rate, **where):
    def change(values):
        values = values.copy()
        values.loc[where] *= rate ** values["layer"]
        return values

    return change


@pytest.mark.parametrize(
    ("what", "change", "refuted"),
    [
        ("signal", grown(1.1, shape="widening", mode="fan_avg"), {0}),
        ("gradient", grown(1.1, shape="bottleneck", mode="fan_in"), {1}),
        ("signal", grown(1.1, shape="narrowing", mode="fan_in"), {0, 2}),
        ("gradient", grown(1.1, shape="narrowing", mode="fan_in"), {1, 3}),
        ("signal", grown(0.9, shape="narrowing", mode="fan_out"), {0, 4}),
        ("gradient", grown(0.9, shape="narrowing", mode="fan_out"), {1, 5}),
        ("signal", grown(0.9, shape="narrowing", mode="fan_avg"), {0, 6}),
        ("gradient", grown(0.9, shape="narrowing", mode="fan_avg"), {1, 7}),
        ("update", grown(1.1, shape="bottleneck", mode="fan_in"), {8}),
        ("update", grown(1.1, shape="bottleneck", mode="fan_out"), {9}),
        ("update", grown(1.1, shape="bottleneck", mode="fan_avg"), {10}),
    ],
)
def test_each_claim_can_be_refuted(what, change, refuted):
    results = unequal_widths_results()
    assert not those("refuted", results) | those("undecided", results)
    assert those("refuted", results.assign({what: change(results[what])})) == refuted


def test_few_networks_far_apart_are_undecided():
    results = unequal_widths_results(seeds=3)
    spread = xarray.DataArray([0.9, 1.0, 1.1], dims="seed")
    results["signal"] = results["signal"] * spread ** results["layer"]
    assert {0, 2, 4, 6} <= those("undecided", results)


def test_what_is_measured_is_what_numpy_computes():
    draw = np.random.default_rng(0)
    kernels = [draw.standard_normal(shape) for shape in ((5, 3), (3, 4))]
    inputs, gradient = draw.standard_normal((6, 5)), draw.standard_normal((6, 4))
    measured = unequal_widths.measure(
        [jnp.asarray(each, jnp.float32) for each in kernels], jnp.asarray(inputs, jnp.float32),
        jnp.asarray(gradient, jnp.float32),
    )  # fmt: skip
    z = inputs @ kernels[0]
    a = np.maximum(z, 0)
    below = gradient @ kernels[1].T * (z > 0)
    rows = {
        "signal": (a, np.maximum(a @ kernels[1], 0)),
        "gradient": (below, gradient),
        "update": (inputs.T @ below, a.T @ gradient),
    }
    for what, (first, last) in rows.items():
        expected = np.array([np.mean(first**2), np.mean(last**2)])
        if what == "update":
            expected /= [np.mean(kernel**2) for kernel in kernels]
        np.testing.assert_allclose(measured[what], expected, rtol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_the_weights_are_those_of_the_library(mode):
    (variance,) = unequal_widths.weight_variance((40, 1000), mode)
    drawn = initializers.variance_scaling(2.0, mode, "normal")(jax.random.key(0), (40, 1000))
    # 40,000 draws: a standard error of 0.7 % of the variance; 5 of them.
    np.testing.assert_allclose(np.var(drawn), variance, rtol=0.036)


def test_the_laws_of_two_layers_by_hand():
    # 4 to 2 to 1 with fan_in: Var(W) 1/2 and 1; back through the second layer: 1 * 1 / 2.
    law = unequal_widths.law((4, 2, 1), "fan_in")
    np.testing.assert_allclose(law["signal"], [1, 1])
    np.testing.assert_allclose(law["gradient"], [0.5, 1])
    np.testing.assert_allclose(law["update"], [1, 1])  # 0.5 * 1 / 0.5 and 1 * 1 / 1
    law = unequal_widths.law((4, 2, 1), "fan_out")
    np.testing.assert_allclose(law["signal"], [2, 4])
    np.testing.assert_allclose(law["gradient"], [1, 1])


def test_a_small_sweep_has_the_names_that_claims_and_figure_read(monkeypatch):
    monkeypatch.setattr(
        unequal_widths, "SHAPES", {name: tuple(n // 8 for n in s) for name, s in SHAPES.items()}
    )
    results = unequal_widths.run(unequal_widths.Config(seeds=3, examples=4))
    assert dict(results["update"].sizes) == {"shape": 3, "mode": 3, "layer": 5, "seed": 3}
    assert len(unequal_widths.claims(results)) == 11
    assert len(unequal_widths.plot(results).axes) == 9
