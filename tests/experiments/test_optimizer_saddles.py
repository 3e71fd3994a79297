"""The experiment of optimizers at saddles: what it measures, and that each claim can be refuted."""

import numpy as np
import optimizer_saddles
import pytest
import xarray
from optimizer_saddles import ARMS, EPSILONS, FLATNESS


def optimizer_saddles_results():
    """By optimizer: what the adaptive ones do, and the others."""
    axes = {"optimizer": [*ARMS], "epsilon": [*EPSILONS], "flatness": FLATNESS}
    results = xarray.Dataset(
        {"steps": ([*axes], np.full([len(axis) for axis in axes.values()], 100.0))}, axes
    )
    results["steps"].loc[{"optimizer": optimizer_saddles.PLAIN}] = [100, 1000, 10_000]
    results["steps"].loc[{"optimizer": "Adadelta", "epsilon": "own"}] = [80, 83, 245]
    return results


def verdicts(results):
    return [claim.verdict for claim in optimizer_saddles.claims(results)]


@pytest.mark.parametrize(
    ("optimizer", "where", "change", "expected"),
    [
        (None, None, None, []),
        ("SGD", {}, lambda v: v**1.2, [0]),
        ("Adam", {"flatness": FLATNESS[-1]}, lambda v: v * 1.1, [1]),
        ("Adadelta", {"epsilon": "own"}, lambda v: v * 0 + 80, [2]),
        ("Adagrad", {}, lambda v: v * 1000, [3]),
    ],
)
def test_the_claims_hold_and_can_be_refuted(optimizer, where, change, expected):
    results = optimizer_saddles_results()
    if optimizer:
        at = {"optimizer": optimizer, **where}
        results["steps"].loc[at] = change(results["steps"].loc[at].values)
    refuted = [i for i, verdict in enumerate(verdicts(results)) if verdict == "refuted"]
    assert refuted == expected
    assert verdicts(results).count("holds") == 4 - len(expected)
    assert optimizer_saddles.plot(results).axes


def test_the_saddle_of_gradient_descent_is_left_when_the_formula_says(monkeypatch):
    """y grows by 1 + rate h a step, so that 0.1 has passed 1 after ln 10 / ln(1 + rate h)."""
    monkeypatch.setattr(optimizer_saddles, "ARMS", {"SGD": ARMS["SGD"]})
    config = optimizer_saddles.Config()
    expected = np.ceil(np.log(1 / config.start) / np.log1p(optimizer_saddles.RATE * FLATNESS))
    steps = optimizer_saddles.run(config)["steps"].sel(optimizer="SGD", epsilon="own")
    # 23,027 products, each rounded by at most 6e-8, shift the logarithm by 1.4e-3 of 2.3.
    np.testing.assert_allclose(steps, expected, rtol=1e-3)


def test_a_path_that_stays_is_given_up(monkeypatch):
    monkeypatch.setattr(optimizer_saddles, "ARMS", {"SGD": ARMS["SGD"]})
    steps = optimizer_saddles.run(optimizer_saddles.Config(steps=100))["steps"]
    np.testing.assert_array_equal(steps, 100)
