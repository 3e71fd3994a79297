"""The regularisers and the two decays: each claim holds, and can be refuted."""

import numpy as np
import pytest
import regularization
import weight_decay
import xarray
from regularization import ARMS, HELPERS, METRICS, NOISES, SPLITS


def verdicts(experiment, results):
    return [claim.verdict for claim in experiment.claims(results)]


def refuted(experiment, results):
    return [i for i, v in enumerate(verdicts(experiment, results)) if v == "refuted"]


def regularization_results():
    """By noise, arm, seed, epoch and split: the network over-fits, the helpers help."""
    seeds, epochs = 4, 2 * np.arange(1, 31)
    axes = {
        "noise": [*NOISES],
        "arm": [*ARMS],
        "seed": range(seeds),
        "epoch": epochs,
        "split": [*SPLITS],
    }
    sizes = [len(values) for values in axes.values()]
    results = xarray.Dataset({name: (axes, np.zeros(sizes)) for name in METRICS}, coords=axes)
    loss, accuracy, true_accuracy = (results[name].loc for name in METRICS)
    accuracy[{"split": "train"}] = 98.0
    accuracy[{"split": "test"}] = 61.0
    true_accuracy[{}] = 76.0
    loss[{"split": "test"}] = 2.0
    for name in HELPERS:
        if name in ARMS:
            accuracy[{"arm": name, "split": "train"}] = 85.0
            true_accuracy[{"arm": name}] = 84.0
    loss[{"arm": "smoothing_0.1", "split": "test"}] = 1.5
    # The validation loss is least at epoch 6 with wrong labels, at epoch 22 with true ones.
    for noise, least in ((0.0, 22), (0.2, 6)):
        away = xarray.DataArray(0.05 * np.abs(epochs - least), dims="epoch")
        where = {"noise": noise, "split": "validation"}
        loss[where] = 1.0 + away + 0 * results["cross_entropy"].sel(where)
        best = {"noise": noise, "arm": "none", "epoch": least}
        loss[{**best, "split": "test"}] = 1.3
        accuracy[{**best, "split": "train"}] = 80.0
        accuracy[{**best, "split": "test"}] = 68.0
        true_accuracy[best] = 85.0
    return results + 0.01 * results["seed"]


def test_the_regularisers_claims_hold():
    results = regularization_results()
    assert verdicts(regularization, results) == ["holds"] * 16
    assert regularization.plot(results).axes


NONE = {"noise": 0.2, "arm": "none"}
STOP = {**NONE, "epoch": 6}
SMOOTH = {"noise": 0.2, "arm": "smoothing_0.1"}


@pytest.mark.parametrize(
    ("index", "metric", "where", "value"),
    [
        *(
            (1 + 2 * i, "true_accuracy", {"noise": 0.2, "arm": arm}, 70.0)
            for i, arm in enumerate(HELPERS[:4])
        ),
        *(
            (2 + 2 * i, "accuracy", {"noise": 0.2, "arm": arm, "split": "train"}, 99.0)
            for i, arm in enumerate(HELPERS[:4])
        ),
        (9, "true_accuracy", STOP, 70.0),
        (10, "accuracy", {**STOP, "split": "train"}, 110.0),
        (11, "cross_entropy", {**SMOOTH, "split": "test"}, 3.0),
        (12, "accuracy", {**SMOOTH, "split": "train"}, 90.0),
        (
            13,
            "cross_entropy",
            {"noise": 0.0, "arm": "none", "epoch": 22, "split": "test"},
            3.0,
        ),
    ],
)
def test_each_of_them_can_be_refuted(index, metric, where, value):
    results = regularization_results()
    results[metric].loc[where] = value
    assert refuted(regularization, results) == [index]


def test_seeds_that_scatter_decide_nothing():
    results = regularization_results()
    last = {"noise": 0.2, "arm": "l2_1e-2", "epoch": 60, "split": "test"}
    results["true_accuracy"].loc[last] += 10 * np.array([-2, -1, 1, 2])
    assert verdicts(regularization, results)[1] == "undecided"


def test_a_network_that_does_not_overfit_refutes_the_first_claim():
    results = regularization_results()
    results["accuracy"].loc[{**NONE, "split": "test"}] = 99.0
    assert 0 in refuted(regularization, results)


def test_a_late_stop_is_refuted():
    results = regularization_results()
    results["cross_entropy"].loc[{**NONE, "epoch": 42, "split": "validation"}] = 0.0
    assert {14, 15} <= set(refuted(regularization, results))


def test_a_fifth_of_the_labels_is_wrong_and_none_of_the_inputs():
    digits = regularization.load_digits()
    wrong, clean = (regularization.splits(digits, noise) for noise in (0.2, 0.0))
    for name, count in (("train", 1000), ("validation", 1000), ("test", 3000)):
        labels = wrong[name].targets
        flipped = np.asarray(labels["given"] != labels["true"])
        assert len(flipped) == count
        # Binomial: 4.5 standard deviations, a false alarm in 10^5.
        assert abs(flipped.mean() - 0.2) < 4.5 * np.sqrt(0.2 * 0.8 / count)
        np.testing.assert_array_equal(wrong[name].inputs, clean[name].inputs)
        np.testing.assert_array_equal(clean[name].targets["given"], labels["true"])


def weight_decay_results():
    """What `free_weights` measures itself, and grids with the best in the middle."""
    drawn = np.exp(0.1 * np.array([-1.0, 0.0, 1.0]))
    places = np.arange(len(weight_decay.GRID_STRENGTHS["l2"]))
    bowl = 1.0 + 0.1 * np.abs(places - 3.0)
    rates = np.geomspace(weight_decay.LEAST_RATE, weight_decay.GREATEST_RATE, 5)
    made = xarray.Dataset(
        {
            "apart": (("optimizer", "seed"), np.stack([2e-7 * drawn, 0.8 * drawn])),
            "rounding": (("optimizer", "seed"), np.full((2, 3), 3e-7)),
            "loss": (
                ("way", "rate", "place", "seed"),
                np.broadcast_to(bowl[:, None], (2, len(rates), len(places), 3)).copy(),
            ),
        },
        coords={
            "optimizer": ["sgd", "adam"],
            "way": ["l2", "decay"],
            "rate": rates,
            "place": places,
            "seed": range(3),
        },
    )
    return xarray.merge([made, weight_decay.free_weights()])


STEP = xarray.DataArray(np.arange(weight_decay.FREE_STEPS + 1), dims="step")


@pytest.mark.parametrize(
    ("name", "where", "change", "expected"),
    [
        (None, None, None, []),
        ("free", {"optimizer": "sgd", "way": "decay"}, lambda v: v * (1 + 2e-5 * STEP), [0]),
        ("free", {"optimizer": "adam", "way": "l2"}, lambda v: (v + v.isel(step=0)) / 2, [1]),
        ("apart", {"optimizer": "sgd"}, lambda v: 1e7 * v, [2]),
        ("apart", {"optimizer": "adam"}, lambda v: 0 * v, [3]),
        ("loss", {"way": "l2"}, lambda v: tilted(v), [4]),
        ("loss", {"way": "decay"}, lambda v: tilted(v), [5]),
    ],
)
def test_the_decays_claims(name, where, change, expected):
    results = weight_decay_results()
    if name:
        results[name].loc[where] = change(results[name].sel(where))
    assert refuted(weight_decay, results) == expected
    assert verdicts(weight_decay, results).count("holds") == 6 - len(expected)
    assert weight_decay.plot(results).axes


def tilted(loss):
    """The best strength falls as the rate rises: one grid step of one for one of the other."""
    rows = [loss.isel(rate=i).roll(place=2 - i) for i in range(loss.sizes["rate"])]
    return xarray.concat(rows, "rate")


def test_seeds_that_disagree_decide_nothing():
    results = weight_decay_results()
    where = {"way": "l2", "seed": 0}
    results["loss"].loc[where] = tilted(results["loss"].sel(where))
    assert verdicts(weight_decay, results)[4] == "undecided"


def test_the_best_strength_is_found_between_the_grids_points():
    results = weight_decay_results()
    results["loss"][:] = (results["place"] - 2.3) ** 2 + 0 * results["loss"]
    np.testing.assert_allclose(weight_decay.best_strength(results, "l2"), 10 ** (-3 + 2.3 / 2))
    # The least is the first: no neighbour below.
    results["loss"][:] = results["place"] + 0 * results["loss"]
    np.testing.assert_allclose(weight_decay.best_strength(results, "l2"), 1e-3)


def test_a_run_that_overflowed_is_not_the_best():
    results = weight_decay_results()
    results["loss"].loc[{"way": "decay", "place": 0}] = np.nan
    assert verdicts(weight_decay, results) == ["holds"] * 6
