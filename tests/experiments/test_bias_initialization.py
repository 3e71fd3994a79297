"""Dead units and dead runs by bias: counted in NumPy, and that each claim can be refuted."""

import bias_initialization
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from bias_initialization import BIASES, TIMES

from jaxdl import initializers


def those(verdict, results):
    """The claims, by number, of this verdict."""
    claims = bias_initialization.claims(results)
    return {i for i, claim in enumerate(claims) if claim.verdict == verdict}


def bias_initialization_results(seeds=600):
    places = np.arange(seeds)[:, None]
    dying = np.array([0.09, 0.09, 0.06, 0.04, 0.01])
    of_units = np.array([[0.17, 0.35], [0.12, 0.35], [0.02, 0.3], [0.0, 0.28], [0.0, 0.06]])
    layer_2 = of_units + 0.02 * np.random.default_rng(0).normal(size=(seeds, 5, 2))
    return xarray.Dataset(
        {
            "spread": (("seed", "bias"), np.where(places < seeds * dying, 0.0, 8.0)),
            "test_mse": (("seed", "bias"), 14.5 + 0.1 * np.sin(places) + np.zeros(5)),
            "dead": (("seed", "bias", "time", "hidden"), np.stack([layer_2 / 4, layer_2], axis=-1)),
        },
        coords={"bias": [*BIASES], "time": [*TIMES], "hidden": [1, 2]},
    )


@pytest.mark.parametrize(
    ("what", "bias", "value", "refuted"),
    [
        ("spread", "PyTorch's", 8.0, {0}),
        ("spread", "0", 8.0, {1, 3}),
        ("dead", "0", 0.01, {2, 5}),
        ("spread", "0.1", 0.0, {3}),
        ("spread", "1", 0.0, {4}),
        ("dead", "1", 0.9, {5}),
        ("test_mse", "1", 16.0, {6}),
    ],
)
def test_each_claim_can_be_refuted(what, bias, value, refuted):
    results = bias_initialization_results()
    assert not those("refuted", results) | those("undecided", results)
    results[what].loc[{"bias": bias}] = value
    assert those("refuted", results) == refuted


def test_few_runs_cannot_tell():
    assert {0, 1, 3, 4} <= those(
        "undecided", bias_initialization_results().isel(seed=slice(0, 600, 20))
    )


def test_dead_units_are_those_that_no_example_turns_on():
    draw = np.random.default_rng(1)
    inputs = draw.standard_normal((20, 2)).astype(np.float32)
    shapes = {"dense_0": (2, 4), "dense_1": (4, 3)}
    params = {
        name: {"kernel": draw.standard_normal(shape), "bias": np.zeros(shape[1])}
        for name, shape in shapes.items()
    }
    params["dense_0"]["bias"][:2] = -100.0
    params["dense_1"]["kernel"][:, 0] = -1.0  # gets numbers that are never negative
    params["dense_1"]["kernel"][:, 1:] = 1.0
    found = bias_initialization.dead_units(jax.tree.map(jnp.asarray, params), jnp.asarray(inputs))
    np.testing.assert_allclose(found, [1 / 2, 1 / 3])


def test_units_born_dead_are_at_least_one_in_16():
    # 4,000 units of 4 symmetric weights behind ReLUs that are all on for some example.
    kernel = initializers.torch_kernel()(jax.random.key(0), (4, 4000))
    assert bias_initialization.BORN_DEAD == 1 / 16
    share = np.mean(np.all(np.asarray(kernel) < 0, axis=0))
    # 5 standard errors of a share.
    assert abs(share - 1 / 16) < 5 * np.sqrt(1 / 16 * 15 / 16 / 4000)


def test_a_small_sweep_has_the_names_that_claims_and_figure_read():
    results = bias_initialization.run(bias_initialization.Config(seeds=20, epochs=2))
    assert dict(results["dead"].sizes) == {"seed": 20, "bias": 5, "time": 2, "hidden": 2}
    # Zero biases: the standardised inputs lie on all sides, so no unit of layer 1 is born dead.
    assert float(results["dead"].sel(bias="0", time="start", hidden=1).max()) == 0
    assert len(bias_initialization.claims(results)) == 7
    assert len(bias_initialization.plot(results).axes) == 3
