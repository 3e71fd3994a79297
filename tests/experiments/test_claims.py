"""The scripts' claims hold for the numbers that they expect, and fail for others."""

import fashion_mnist
import numpy as np
import pytest
import quickstart


def fashion_results():
    seeds, long = 3, 20
    draw = np.random.default_rng(0)
    return {
        "slow_train": fashion_mnist.LECTURE_TRAIN_ACCURACY + 0.1 * draw.normal(size=(seeds, 4)),
        "slow_test": 82.8 + 0.05 * draw.normal(size=(seeds, 4)),
        "fast_train": np.linspace(85, 95, long) + 0.1 * draw.normal(size=(seeds, long)),
        "fast_test": np.linspace(86.9, 88, long) + 0.1 * draw.normal(size=(seeds, long)),
    }


def test_the_lectures_numbers_hold():
    assert all(claim.holds for claim in fashion_mnist.claims(fashion_results()))


@pytest.mark.parametrize(
    ("name", "epoch", "change", "refuted"),
    [
        ("slow_train", 0, -1.6, 0),
        ("slow_train", 3, 1.0, 3),
        ("slow_test", 3, -1.0, 4),
        ("fast_test", 3, -2.0, 5),
        ("fast_train", 19, -12.0, 6),
    ],
)
def test_each_of_them_can_be_refuted(name, epoch, change, refuted):
    results = fashion_results()
    results[name][:, epoch] += change
    holds = [claim.holds for claim in fashion_mnist.claims(results)]
    assert holds == [index != refuted for index in range(7)]


def quickstart_results():
    return {
        "plain_signal": 0.05 * 0.5 ** np.arange(5) * np.ones((5, 1)),
        "plain_validation": 83.0 + np.arange(5)[:, None] * np.ones((5, 10)),
        "batch_norm_validation": 88.0 + np.arange(5)[:, None] * np.ones((5, 10)),
        "plain_test": np.full(5, 93.4),
        "batch_norm_test": np.full(5, 93.4),
        "seconds": np.array(20.0),
    }


@pytest.mark.parametrize(
    ("changed", "refuted"),
    [
        ({}, None),
        ({"plain_signal": np.ones((5, 5))}, 0),
        ({"plain_test": np.full(5, 90.0)}, 1),
        ({"batch_norm_test": np.full(5, 90.0)}, 2),
        ({"batch_norm_validation": np.full((5, 10), 83.0)}, 3),
        ({"seconds": np.array(61.0)}, 4),
    ],
)
def test_quickstarts_claims_hold_and_can_be_refuted(changed, refuted):
    holds = [claim.holds for claim in quickstart.claims(quickstart_results() | changed)]
    assert holds == [index != refuted for index in range(5)]
