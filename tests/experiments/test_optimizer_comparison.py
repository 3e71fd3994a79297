"""The tuned optimizers: each claim holds, and can be refuted."""

import jax
import numpy as np
import optimizer_comparison
import pytest
import xarray
from optimizer_comparison import ARMS

from jaxdl import data, training

RATES = ["chosen", "tenth", "least", "greatest"]


def verdicts(results):
    return [claim.verdict for claim in optimizer_comparison.claims(results)]


def optimizer_comparison_results():
    seeds, arms = 8, len(ARMS)
    scatter = 0.1 * np.random.default_rng(0).normal(size=(2, arms, len(RATES), seeds))
    by = ("optimizer", "rate", "seed")
    validation = np.array([86.0, 83.0, 70.0, 10.0])[:, None] + scatter[0]
    test = 85.5 + 0.1 * np.arange(arms)[:, None, None] + scatter[1]
    tuning = [70.0, 80.0, 83.0, 85.0, 86.0, 85.0, 60.0, 10.0]
    return xarray.Dataset(
        {
            "validation": (by, validation),
            "test": (by, test),
            "loss": ((*by, "step"), np.ones((arms, len(RATES), seeds, 60))),
            "tuning": (("optimizer", "place"), np.tile(tuning, (arms, 1))),
            "best": ("optimizer", np.full(arms, 4)),
        },
        coords={"optimizer": list(ARMS), "rate": RATES, "place": range(8)},
        attrs={"dataset": "fashion_mnist", "epochs": 3},
    )


def test_the_claims_hold_for_the_expected_numbers():
    results = optimizer_comparison_results()
    assert verdicts(results) == ["holds"] * 3
    assert optimizer_comparison.plot(results).axes


def test_an_end_of_the_grid_that_is_the_best_rate_refutes_its_length():
    results = optimizer_comparison_results()
    chosen = results["validation"].sel(rate="chosen", optimizer="adagrad")
    results["validation"].loc["adagrad", "greatest"] = chosen
    assert verdicts(results) == ["refuted", "holds", "holds"]


def test_a_wrong_rate_that_costs_nothing_refutes():
    results = optimizer_comparison_results()
    results["validation"].loc[:, "tenth"] = results["validation"].sel(rate="chosen") + 2
    assert verdicts(results) == ["holds", "refuted", "refuted"]


@pytest.mark.parametrize(("apart", "verdict"), [(1.0, "refuted"), (2.4 / 7, "undecided")])
def test_optimizers_that_are_far_apart_refute(apart, verdict):
    results = optimizer_comparison_results()
    results["test"] += apart * xarray.DataArray(np.arange(len(ARMS)), dims="optimizer")
    assert verdicts(results) == ["holds", "holds", verdict]


def test_a_run_is_the_run_of_its_seed_and_rate(monkeypatch):
    monkeypatch.setattr(optimizer_comparison, "ARMS", {"adam": ARMS["adam"]})
    config = optimizer_comparison.Config(seeds=3, rates=4, epochs=1, dataset="mnist_5k")
    results = optimizer_comparison.run(config)
    assert dict(results["loss"].sizes) == {"optimizer": 1, "rate": 4, "seed": 3, "step": 3}
    assert results["rate"].values.tolist() == RATES

    adam, best = results.sel(optimizer="adam"), results["best"].item()
    assert best == adam["tuning"].argmax("place")
    for name, place in (("chosen", best), ("tenth", best - 2), ("least", 0), ("greatest", 3)):
        rule = ARMS["adam"].make(ARMS["adam"].least_rate * 10 ** (place / 2))
        learn = training.make_run(optimizer_comparison.TASK, rule, batch_size=100)
        splits = data.split(data.load("mnist_5k"), key=jax.random.key(0))
        key = jax.random.key(2)
        _, measured = learn(key, splits, training.orders(key, 1, len(splits.train)))
        # The same sums in another program: float32's rounding, a few steps on.
        loss = measured["train"]["loss"][0, :30].reshape(3, 10).mean(1)
        np.testing.assert_allclose(adam["loss"].sel(rate=name, seed=2), loss, rtol=1e-3)
        accuracy = 100 * measured["validation"]["accuracy"][-1]
        np.testing.assert_allclose(adam["validation"].sel(rate=name, seed=2), accuracy, atol=0.3)
