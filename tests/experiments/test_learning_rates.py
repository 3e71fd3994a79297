"""The experiment of learning rates: what it measures, and that each claim can be refuted."""

import jax
import learning_rates
import numpy as np
import pytest

from jaxdl import data

SEEDS, EPOCHS = 6, 4


def learning_rates_results():
    draw = np.random.default_rng(0)

    def noisy(values):
        """(seeds, rates, epochs) with 2 % of noise."""
        ends = np.broadcast_to(np.asarray(values)[:, None], (len(values), EPOCHS))
        return ends * np.exp(0.02 * draw.normal(size=(SEEDS, *ends.shape)))

    grid = learning_rates.GRID
    results = {
        "suggested": 0.05 * np.exp(0.1 * draw.normal(size=SEEDS)),
        "ramp_rates": np.geomspace(1e-5, 10, 20),
        "ramp_change": np.zeros((SEEDS, 20)),
        "grid": grid,
        "grid_train": noisy(0.01 + np.log(grid / 0.05) ** 2),
        "grid_validation": noisy(0.3 + np.log(grid / 0.05) ** 2),
        "arm_rates": 0.05 * np.array([1 / 30, 1, 30]),
        "arm_train": noisy([0.3, 0.003, 2.6]),
        "peaks": 0.05 * learning_rates.PEAKS,
    }
    for name in learning_rates.SCHEDULES:
        cold, hot = (0.16, 0.8) if name == "constant" else (0.21, 0.4)
        results |= {
            f"{name}_train": noisy([cold, 0.01, hot]),
            f"{name}_validation": noisy([cold, 0.3, hot]),
            f"{name}_rate": noisy([0.005, 0.05, 0.15]),
        }
    return results


def verdicts(results):
    return [claim.verdict for claim in learning_rates.claims(results)]


def test_the_claims_hold_for_the_expected_numbers():
    results = learning_rates_results()
    assert verdicts(results) == ["holds"] * 10
    assert learning_rates.plot(results).axes


HOT, COLD = np.array([1, 1, 3.0])[:, None], np.array([0.5, 1, 1])[:, None]


@pytest.mark.parametrize(
    ("name", "change", "refuted"),
    [
        ("arm_train", lambda v: v * np.array([0.005, 1, 1])[:, None], [0]),
        ("arm_train", lambda v: v * np.array([1, 1, 0.5])[:, None], [1]),
        ("suggested", lambda v: v * 20, [2]),
        ("suggested", lambda v: v / 20, [2]),
        ("step_validation", lambda v: v * HOT, [3]),
        ("cosine_validation", lambda v: v * HOT, [4]),
        ("one-cycle_validation", lambda v: v * HOT, [5]),
        ("plateau_validation", lambda v: v * HOT, [6]),
        ("step_train", lambda v: v * COLD, [7]),
        ("cosine_train", lambda v: v * COLD, [8]),
        ("one-cycle_train", lambda v: v * COLD, [9]),
        ("constant_validation", np.zeros_like, [3, 4, 5, 6]),
    ],
)
def test_each_claim_can_be_refuted(name, change, refuted):
    results = learning_rates_results()
    results[name] = change(results[name])
    assert [i for i, verdict in enumerate(verdicts(results)) if verdict == "refuted"] == refuted


def test_one_seed_far_off_leaves_a_mean_undecided():
    results = learning_rates_results()
    results["suggested"][2] *= 1000
    results["step_validation"][2, -1] *= 100
    assert [i for i, verdict in enumerate(verdicts(results)) if verdict == "undecided"] == [2, 3]


def test_a_run_that_overflows_is_too_large_and_never_the_best():
    results = learning_rates_results()
    results["arm_train"][:, -1] = np.nan
    results["grid_train"][:, -3:] = np.nan
    assert verdicts(results) == ["holds"] * 10


def test_every_schedule_takes_its_own_rates():
    """Their peaks, ends and shapes; constant against a run of the same rate and seed."""
    digits = data.split(data.load("mnist_5k"), key=jax.random.key(0))
    few = data.Dataset(
        "few",
        data.Arrays(digits.train.inputs[:100], digits.train.targets[:100]),
        data.Arrays(digits.validation.inputs[:50], digits.validation.targets[:50]),
        None,
    )
    train = learning_rates.Trainer(few, learning_rates.Config(seeds=2, epochs=4))
    measured = {
        name: train(learning_rates.SCHEDULES[name].make, [0.01, 0.1])
        for name in ("constant", "step", "plateau")
    }
    rates = {name: values["rate"] for name, values in measured.items()}
    np.testing.assert_allclose(rates["constant"][0, :, 2], [0.01, 0.1], rtol=1e-6)
    # Steps down after half and after three quarters of the 20 steps: epochs 2 and 3 of 0 to 3.
    np.testing.assert_allclose(rates["step"][1, 1], [0.1, 0.1, 0.01, 0.001], rtol=1e-5)
    assert np.all(np.diff(rates["plateau"], axis=2) <= 0)
    # Until the first step down the two are the same run.
    np.testing.assert_allclose(
        measured["step"]["train"][..., :2], measured["constant"]["train"][..., :2], rtol=1e-5
    )
    assert measured["constant"]["train"].shape == (2, 2, 4)
