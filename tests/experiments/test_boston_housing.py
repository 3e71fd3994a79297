"""The claims on Boston housing hold for the numbers that they expect, and fail for others."""

import boston_housing
import numpy as np
import pytest

SEEDS = 100


def results():
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
    changed = results()
    for row in range(2):
        changed["spread"][row, ::10] = 7.6
        changed["test_mse"][row, ::10] = 14.0
        changed["spread"][row, :died] = 0.0
        changed["test_mse"][row, :died] = 118.0
    return changed


def worse_than_least_squares():
    changed = results()
    changed["test_mse"][1, 1] = 30.0
    return changed


@pytest.mark.parametrize(
    ("measured", "refuted"),
    [
        (results(), []),
        (results() | {"least_squares_mse": np.array(25.0)}, [0]),
        # Worse than the band of medians, and every run above the lecture's.
        (results() | {"test_mse": results()["test_mse"] + 2.0}, [1, 2, 5, 6]),
        (results() | {"test_mse": results()["test_mse"] - 1.5}, [1, 5]),
        (worse_than_least_squares(), [7]),
        (dying(0), [4, 8]),
        (dying(30), [4, 8]),
    ],
)
def test_the_claims_hold_and_can_be_refuted(measured, refuted):
    holds = [claim.holds for claim in boston_housing.claims(measured)]
    assert holds == [index not in refuted for index in range(9)]


def test_the_split_is_the_lectures():
    dataset, scaler = boston_housing.housing()
    assert (len(dataset.train), len(dataset.test)) == (404, 102)
    np.testing.assert_allclose(dataset.train.inputs.mean(0), 0, atol=1e-6)
    # RM is some 6 rooms, LSTAT some 13 %.
    np.testing.assert_allclose(scaler.mean, [6.3, 12.7], rtol=0.05)


def test_a_run_trains_and_its_figure_is_drawn():
    # The mean price alone has a training error of about 85.
    config = boston_housing.Config(seeds=20, epochs=150)
    measured = boston_housing.run(config)
    assert measured["train_mse"].shape == (2, 20, 150)
    assert measured["test_mse"].shape == (2, 20)
    alive = measured["spread"] > boston_housing.CONSTANT
    assert alive.mean() > 0.5
    assert np.median(measured["train_mse"][alive][:, -1]) < 40
    assert measured["least_squares_mse"] == pytest.approx(26.39, abs=0.01)
    assert len(boston_housing.plot(measured).axes) == 4
