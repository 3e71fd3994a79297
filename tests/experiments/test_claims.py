"""The claims on first networks: they hold for the numbers that they expect, and others refute."""

import fashion_mnist
import numpy as np
import pytest
import quickstart


def verdicts(experiment, results):
    return [claim.verdict for claim in experiment.claims(results)]


def only(refuted, of, verdict="refuted"):
    return [verdict if index == refuted else "holds" for index in range(of)]


def fashion_mnist_results():
    seeds, long = 5, 20
    draw = np.random.default_rng(0)
    return {
        "slow_train": fashion_mnist.LECTURE_TRAIN_ACCURACY + 0.1 * draw.normal(size=(seeds, 4)),
        "slow_test": 82.8 + 0.05 * draw.normal(size=(seeds, 4)),
        "fast_train": np.linspace(85, 95, long) + 0.1 * draw.normal(size=(seeds, long)),
        "fast_test": np.linspace(86.0, 88, long) + 0.1 * draw.normal(size=(seeds, long)),
    }


@pytest.mark.parametrize(
    ("name", "epoch", "change", "claim"),
    [
        ("slow_train", 0, -3.0, 0),
        ("slow_train", 1, 3.0, 1),
        ("slow_train", 2, 3.0, 2),
        ("slow_train", 3, -3.0, 3),
        ("slow_test", 3, -2.0, 4),
        ("fast_test", 3, -3.0, 5),
        ("fast_train", 19, -14.0, 6),
    ],
)
def test_fashion_mnists_claims_hold_and_can_be_refuted(name, epoch, change, claim):
    results = fashion_mnist_results()
    assert verdicts(fashion_mnist, results) == only(None, 7)
    results[name][:, epoch] += change
    assert verdicts(fashion_mnist, results) == only(claim, 7)


def test_a_mean_at_the_bands_end_is_undecided():
    results = fashion_mnist_results()
    results["slow_train"][:, 0] += fashion_mnist.LECTURE_BAND[0]
    assert verdicts(fashion_mnist, results) == only(0, 7, "undecided")


def quickstart_results():
    by_seed = np.arange(5)[:, None]
    return {
        "plain_signal": 0.05 * 0.5 ** np.arange(5) * np.ones((40, 1)),
        "batch_norm_signal": np.full((40, 5), 0.5),
        "plain_validation": 83.0 + by_seed * np.ones((5, 10)),
        "batch_norm_validation": 88.0 + 1.1 * by_seed * np.ones((5, 10)),
        "plain_test": np.full(5, 93.4),
        "batch_norm_test": np.full(5, 93.4),
    }


@pytest.mark.parametrize(
    ("changed", "claim"),
    [
        ({}, None),
        ({"plain_signal": np.ones((40, 5))}, 0),
        ({"batch_norm_signal": 0.9 ** np.arange(5) * np.ones((40, 1))}, 1),
        ({"batch_norm_validation": np.full((5, 10), 60.0)}, 2),
        ({"plain_test": np.full(5, 90.0)}, 3),
        ({"batch_norm_test": np.full(5, 90.0)}, 4),
    ],
)
def test_quickstarts_claims_hold_and_can_be_refuted(changed, claim):
    assert verdicts(quickstart, quickstart_results() | changed) == only(claim, 5)


def test_quickstart_cannot_tell_a_small_lead():
    same = quickstart_results()["plain_validation"] + np.array([-2, -1, 0, 1, 3])[:, None]
    results = quickstart_results() | {"batch_norm_validation": same}
    assert verdicts(quickstart, results) == only(2, 5, "undecided")


def test_a_shorter_run_of_quickstart_is_not_compared_with_earlier_ones():
    results = quickstart_results()
    for name in ("plain", "batch_norm"):
        results[f"{name}_validation"] = results[f"{name}_validation"][:, :2]
    assert verdicts(quickstart, results) == only(None, 3)
