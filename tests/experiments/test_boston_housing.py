"""The claims on Boston housing hold for the numbers that they expect, and others refute them."""

import boston_housing
import jax
import numpy as np
import pytest
import xarray

from jaxdl import optimizers, training

SEEDS = 500


def boston_housing_results():
    """Runs that live between 13.7 and 16, every tenth dead."""
    errors = np.linspace(13.7, 16.0, SEEDS) * np.ones((2, 1))
    spread = np.full((2, SEEDS), 7.6)
    errors[:, ::10], spread[:, ::10] = 118.0, 0.0
    axes = ("initializer", "seed")
    return xarray.Dataset(
        {
            "test_mse": (axes, errors),
            "spread": (axes, spread),
            "least_squares_mse": 26.393,
        },
        coords={"initializer": ["torch", "glorot_normal"], "seed": range(SEEDS)},
    )


def shifted(name, by):
    results = boston_housing_results()
    return results.assign({name: results[name] + by})


def dying(died):
    """So many of the runs die."""
    results = boston_housing_results()
    dies = results["seed"] < died
    lives = results["test_mse"].where(results["spread"] > 0, 14.0)
    return results.assign(
        test_mse=lives.where(~dies, 118.0), spread=xarray.full_like(lives, 7.6).where(~dies, 0.0)
    )


def worse_than_least_squares(runs):
    changed = boston_housing_results()
    last = np.flatnonzero(changed["spread"].sel(initializer="glorot_normal"))[-runs:]
    changed["test_mse"].loc[{"initializer": "glorot_normal", "seed": last}] = 30.0
    return changed


def test_the_expected_numbers_hold():
    claims = boston_housing.claims(boston_housing_results())
    assert [claim.verdict for claim in claims] == ["holds"] * 9


@pytest.mark.parametrize(
    ("measured", "refuted"),
    [
        (shifted("least_squares_mse", -1.4), {0}),
        # Worse than the band of medians, and every run above the lecture's.
        (shifted("test_mse", 3.0), {1, 2, 5, 6}),
        (shifted("test_mse", -1.5), {1, 5}),
        (worse_than_least_squares(100), {7}),
        (dying(0), {4, 8}),
        (dying(150), {4, 8}),
        (dying(SEEDS), {1, 2, 4, 5, 6, 8}),
    ],
)
def test_each_claim_can_be_refuted(measured, refuted):
    claims = boston_housing.claims(measured)
    assert {index for index, claim in enumerate(claims) if claim.refuted} == refuted


def test_thirty_runs_cannot_tell_how_many_die():
    few = boston_housing_results().isel(seed=slice(30))
    claims = boston_housing.claims(few)
    assert [claims[index].verdict for index in (4, 8)] == ["undecided"] * 2


def test_the_split_is_the_lectures():
    dataset, scaler = boston_housing.housing()
    assert (len(dataset.train), len(dataset.test)) == (404, 102)
    np.testing.assert_allclose(dataset.train.inputs.mean(0), 0, atol=1e-6)
    # RM is some 6 rooms, LSTAT some 13 %.
    np.testing.assert_allclose(scaler.mean, [6.3, 12.7], rtol=0.05)


def test_a_run_is_that_of_fit_and_each_seed_has_its_own_order():
    results = boston_housing.run(boston_housing.Config(seeds=2, epochs=3))
    assert results["train_mse"].sizes == {"seed": 2, "initializer": 2, "epoch": 3}
    assert results["plane"].sizes == {"seed": 2, "initializer": 2, "RM": 40, "LSTAT": 40}
    dataset, _ = boston_housing.housing()
    for seed in (0, 1):
        alone = training.fit(
            boston_housing.make_task("glorot_normal"),
            dataset,
            optimizers.adam(0.01, epsilon_position="outside"),
            epochs=3,
            batch_size=128,
            key=jax.random.key(seed),
        )
        here = results.sel(initializer="glorot_normal", seed=seed)
        np.testing.assert_allclose(here["train_mse"], alone.history.train["loss"], rtol=1e-4)
        np.testing.assert_allclose(here["test_mse"], alone.evaluate("test")["loss"], rtol=1e-4)
