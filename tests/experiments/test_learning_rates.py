"""The experiment of learning rates: what it measures, and that each claim can be refuted."""

import jax
import learning_rates
import numpy as np
import pytest
import xarray
from learning_rates import COLD, GRID, HOT, MULTIPLES, SCHEDULES, TOO_LARGE, TOO_SMALL

from jaxdl import data, optimizers, training

SEEDS, EPOCHS = 6, 4
SPLITS = ["train", "validation"]


def learning_rates_results():
    """Losses with 2 % of noise."""
    draw = np.random.default_rng(0)
    axes = {
        "schedule": [*SCHEDULES],
        "multiple": [*MULTIPLES],
        "rate": GRID,
        "seed": range(SEEDS),
        "epoch": 1 + np.arange(EPOCHS),
        "split": SPLITS,
        "ramp": np.geomspace(1e-5, 10, 20),
    }

    def noisy(*names):
        sizes = [len(axes[name]) for name in names]
        return xarray.DataArray(np.exp(0.02 * draw.normal(size=sizes)), dims=names)

    results = xarray.Dataset(coords=axes)
    results["suggested"] = 0.05 * noisy("seed") ** 5
    results["change"] = 0 * noisy("seed", "ramp")
    results["grid"] = noisy("rate", "seed", "epoch", "split") * (
        0.1 + np.log(results["rate"] / 0.05) ** 2
    )
    results["rate_of_epoch"] = noisy("schedule", "multiple", "seed", "epoch")
    results["loss"] = noisy("schedule", "multiple", "seed", "epoch", "split")
    results["loss"].loc[:, 1.0] *= 0.003
    results["loss"].loc[:, COLD] *= 0.21
    results["loss"].loc[:, HOT] *= 0.4
    constant = results["loss"].sel(schedule="constant")
    for multiple, factor in ((COLD, 0.16 / 0.21), (HOT, 2), (TOO_SMALL, 0.3), (TOO_LARGE, 2.6)):
        constant.loc[multiple] *= factor
    return results


def verdicts(results):
    return [claim.verdict for claim in learning_rates.claims(results)]


def test_the_claims_hold_for_the_expected_numbers():
    results = learning_rates_results()
    assert verdicts(results) == ["holds"] * 10
    assert learning_rates.plot(results).axes


def of(schedule, multiple, split):
    return {"schedule": schedule, "multiple": multiple, "split": split}


@pytest.mark.parametrize(
    ("name", "where", "factor", "refuted"),
    [
        ("loss", of("constant", TOO_SMALL, "train"), 0.005, [0]),
        ("loss", of("constant", TOO_LARGE, "train"), 0.5, [1]),
        ("suggested", {}, 20, [2]),
        ("suggested", {}, 1 / 20, [2]),
        ("loss", of("step", HOT, "validation"), 3, [3]),
        ("loss", of("cosine", HOT, "validation"), 3, [4]),
        ("loss", of("one-cycle", HOT, "validation"), 3, [5]),
        ("loss", of("plateau", HOT, "validation"), 3, [6]),
        ("loss", of("step", COLD, "train"), 0.5, [7]),
        ("loss", of("cosine", COLD, "train"), 0.5, [8]),
        ("loss", of("one-cycle", COLD, "train"), 0.5, [9]),
        ("loss", of("constant", HOT, "validation"), 0, [3, 4, 5, 6]),
    ],
)
def test_each_claim_can_be_refuted(name, where, factor, refuted):
    results = learning_rates_results()
    results[name].loc[where] *= factor
    assert [i for i, verdict in enumerate(verdicts(results)) if verdict == "refuted"] == refuted


def test_one_seed_far_off_leaves_a_mean_undecided():
    results = learning_rates_results()
    results["suggested"][2] *= 1000
    results["loss"].loc[{**of("step", HOT, "validation"), "seed": 2}] *= 100
    assert [i for i, verdict in enumerate(verdicts(results)) if verdict == "undecided"] == [2, 3]


def test_a_run_that_overflows_is_too_large_and_never_the_best():
    results = learning_rates_results()
    results["loss"].loc[of("constant", TOO_LARGE, "train")] = np.nan
    results["grid"][-3:] = np.nan
    assert verdicts(results) == ["holds"] * 10


@pytest.fixture(scope="module")
def few():
    digits = data.split(data.load("mnist_5k"), key=jax.random.key(0))
    return data.Dataset(
        "few",
        data.Arrays(digits.train.inputs[:100], digits.train.targets[:100]),
        data.Arrays(digits.validation.inputs[:50], digits.validation.targets[:50]),
        None,
    )


@pytest.fixture(scope="module")
def measured(few):
    names = ["constant", "step", "plateau"]
    return learning_rates.train(few, names, np.array([0.01, 0.1]), range(2), epochs=4)


def test_every_schedule_takes_its_own_rates(measured):
    """Their peaks, ends and shapes; constant against a run of the same rate and seed."""
    rates = measured["rate_of_epoch"]
    constant = rates.sel(schedule="constant").isel(seed=0, epoch=2)
    np.testing.assert_allclose(constant, [0.01, 0.1], rtol=1e-6)
    # Steps down after half and after three quarters of the 20 steps: epochs 2 and 3 of 0 to 3.
    step = rates.sel(schedule="step", rate=0.1).isel(seed=1)
    np.testing.assert_allclose(step, [0.1, 0.1, 0.01, 0.001], rtol=1e-5)
    assert (rates.sel(schedule="plateau").diff("epoch") <= 0).all()
    # Until the first step down the two are the same run.
    half = measured["loss"].sel(split="train").isel(epoch=slice(2))
    np.testing.assert_allclose(half.sel(schedule="step"), half.sel(schedule="constant"), rtol=1e-5)


def test_the_constant_rate_is_the_run_of_its_seed(few, measured):
    optimizer, key = optimizers.momentum(0.1), jax.random.key(1)
    learn = training.make_run(learning_rates.TASK, optimizer, batch_size=learning_rates.BATCH_SIZE)
    _, alone = learn(key, few, training.orders(key, 4, 100))
    loss = measured["loss"].sel(schedule="constant", rate=0.1, seed=1)
    np.testing.assert_allclose(loss.sel(split="validation"), alone["validation"]["loss"], rtol=1e-4)
    np.testing.assert_allclose(loss.sel(split="train"), alone["train"]["loss"].mean(1), rtol=1e-4)
