"""The claims on Boston housing hold for the numbers that they expect, and others refute them."""

import boston_housing
import numpy as np
import pytest

SEEDS = 500


def boston_housing_results():
    """Runs that live between 13.7 and 16, every tenth dead."""
    errors = np.linspace(13.7, 16.0, SEEDS) * np.ones((2, 1))
    spread = np.full((2, SEEDS), 7.6)
    errors[:, ::10], spread[:, ::10] = 118.0, 0.0
    return {
        "initializers": np.array(["torch", "glorot_normal"]),
        "test_mse": errors,
        "spread": spread,
        "least_squares_mse": np.array(26.393),
    }


def dying(died):
    """So many of the runs die."""
    changed = boston_housing_results()
    dead = changed["spread"] == 0
    changed["test_mse"][dead] = 14.0
    changed["test_mse"][:, :died], changed["spread"] = 118.0, np.full((2, SEEDS), 7.6)
    changed["spread"][:, :died] = 0.0
    return changed


def worse_than_least_squares(runs):
    changed = boston_housing_results()
    changed["test_mse"][1, np.flatnonzero(changed["spread"][1])[-runs:]] = 30.0
    return changed


def test_the_expected_numbers_hold():
    claims = boston_housing.claims(boston_housing_results())
    assert [claim.verdict for claim in claims] == ["holds"] * 9


@pytest.mark.parametrize(
    ("measured", "refuted"),
    [
        (boston_housing_results() | {"least_squares_mse": np.array(25.0)}, {0}),
        # Worse than the band of medians, and every run above the lecture's.
        (
            boston_housing_results() | {"test_mse": boston_housing_results()["test_mse"] + 3.0},
            {1, 2, 5, 6},
        ),
        (
            boston_housing_results() | {"test_mse": boston_housing_results()["test_mse"] - 1.5},
            {1, 5},
        ),
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
    few = {
        name: values[:, :30] if values.ndim == 2 else values
        for name, values in boston_housing_results().items()
    }
    claims = boston_housing.claims(few)
    assert [claims[index].verdict for index in (4, 8)] == ["undecided"] * 2


def test_the_split_is_the_lectures():
    dataset, scaler = boston_housing.housing()
    assert (len(dataset.train), len(dataset.test)) == (404, 102)
    np.testing.assert_allclose(dataset.train.inputs.mean(0), 0, atol=1e-6)
    # RM is some 6 rooms, LSTAT some 13 %.
    np.testing.assert_allclose(scaler.mean, [6.3, 12.7], rtol=0.05)
