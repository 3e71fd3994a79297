"""Curves after many layers: slopes against differences, theory against draws, claims refuted."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import repeated_composition
import xarray
from repeated_composition import COMPARED, DEPTH, QUANTILES, WEIGHT_VARIANCE, WIDTH


def those(verdict, results):
    """The claims, by number, of this verdict."""
    claims = repeated_composition.claims(results)
    return {i for i, claim in enumerate(claims) if claim.verdict == verdict}


def repeated_composition_results(seeds=200):
    draw, layers = np.random.default_rng(0), np.arange(DEPTH + 1)
    noise = draw.normal(size=(seeds, 1, DEPTH + 1))
    medians, largest = np.full(DEPTH + 1, 0.005), 0.2 * 2.0**layers
    medians[0] = 0.07
    slope = np.stack([medians, 0.04 + 0 * layers, 0.2 + 0 * layers, largest])
    return xarray.Dataset(
        {
            "slope": (("seed", "quantile", "layer"), slope * np.exp(0.3 * noise)),
            "turns": (("seed", "layer"), layers + 0.5 * noise[:, 0]),
            "below": (
                ("seed", "share", "layer"),
                np.array(COMPARED)[:, None] + 0.02 * noise,
            ),
        },
        coords={"quantile": [*QUANTILES], "share": [*COMPARED], "layer": layers},
    )


@pytest.mark.parametrize(
    ("what", "where", "change", "refuted"),
    [
        ("below", {"share": 0.5, "layer": 3}, lambda v: v + 0.1, {0}),
        ("below", {"share": 0.9, "layer": DEPTH}, lambda v: v - 0.1, {1}),
        ("slope", {"quantile": 0.5, "layer": DEPTH}, lambda v: v * 100, {2}),
        ("slope", {"quantile": 1.0, "layer": DEPTH}, lambda v: v / 1000, {3}),
        ("turns", {"layer": DEPTH}, lambda v: v - 9, {4}),
    ],
)
def test_each_claim_can_be_refuted(what, where, change, refuted):
    results = repeated_composition_results()
    assert not those("refuted", results) | those("undecided", results)
    results[what].loc[where] = change(results[what].sel(where))
    assert those("refuted", results) == refuted


def test_few_networks_far_apart_are_undecided():
    results = repeated_composition_results(seeds=3)
    results["below"] += xarray.DataArray([-0.1, 0.0, 0.1], dims="seed")
    assert {0, 1} <= those("undecided", results)


def test_the_slopes_are_those_of_differences_in_float64():
    """The network written again in NumPy, from the same draws."""
    key, t, step = jax.random.key(0), np.array([-20.0, 0.0, 0.5, 3.0]), 1e-6
    y, slopes = repeated_composition.compose(key, jnp.asarray(t, jnp.float32))
    direction_key, projection_key, weights_key = jax.random.split(key, 3)
    u, projection, weights = (
        np.asarray(jax.random.normal(of, shape), np.float64)
        for of, shape in (
            (direction_key, (WIDTH,)),
            (projection_key, (WIDTH, repeated_composition.PROJECTIONS)),
            (weights_key, (DEPTH, WIDTH, WIDTH)),
        )
    )

    def curve(t):
        a, rows = t[:, None] * u / np.linalg.norm(u), []
        for kernel in weights:
            rows.append(a @ projection / np.sqrt(WIDTH))
            a = np.tanh(a @ kernel * np.sqrt(WEIGHT_VARIANCE / WIDTH))
        return np.stack([*rows, a @ projection / np.sqrt(WIDTH)])

    expected = (curve(t + step) - curve(t - step)) / (2 * step)
    # float32 rounding grows in eight chaotic layers, by 2 a layer: 256 times 1e-7 a few times over.
    np.testing.assert_allclose(y, curve(t), atol=1e-3)
    np.testing.assert_allclose(slopes, expected, rtol=2e-3, atol=2e-3 * np.abs(expected).max())


def test_the_theory_of_two_layers_against_draws():
    t, units = np.array([0.0, 2.0, 30.0]), 1000
    predicted = repeated_composition.slope_variances(t)
    draw, networks = np.random.default_rng(0), 20
    found = []
    for _ in range(networks):
        a = np.tile(t[:, None] / np.sqrt(WIDTH), (1, WIDTH))
        slope = np.full((3, WIDTH), 1 / np.sqrt(WIDTH))
        for inputs in (WIDTH, units):
            kernel = draw.standard_normal((inputs, units)) * np.sqrt(WEIGHT_VARIANCE / inputs)
            a = np.tanh(a @ kernel)
            slope = (1 - a**2) * (slope @ kernel)
        found.append(np.mean(slope**2, axis=1))
    error = np.std(found, axis=0, ddof=1) / np.sqrt(networks)
    # `predicted` is of a sum of units times projections of variance 1 / WIDTH: their mean square.
    # Student's t with 19 degrees: beyond 6 once in 100,000; a width of 1,000 departs by 5 / 1,000.
    limit = 6 * error + 0.005 * predicted[2]
    np.testing.assert_array_less(np.abs(np.mean(found, axis=0) - predicted[2]), limit)
    assert (limit < 0.2 * predicted[2]).all()


def test_theorys_quantiles_of_the_line_itself_are_those_of_a_normal_variable():
    predicted = repeated_composition.theory(np.linspace(0, 60, 20))
    np.testing.assert_allclose(predicted[0.5][0], 0.674490 / np.sqrt(WIDTH), rtol=1e-5)
    np.testing.assert_allclose(predicted[0.9][0], 1.644854 / np.sqrt(WIDTH), rtol=1e-5)


def test_a_small_sweep_has_the_names_that_claims_and_figure_read():
    results = repeated_composition.run(repeated_composition.Config(seeds=3, points=101))
    assert dict(results["slope"].sizes) == {"quantile": 4, "layer": 9, "seed": 3}
    assert float(results["turns"].sel(layer=0).max()) == 0
    assert len(repeated_composition.claims(results)) == 5
    assert len(repeated_composition.plot(results).axes) == 7
