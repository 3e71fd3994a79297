"""The regularisers and the two decays: each claim holds, and can be refuted."""

import jax
import numpy as np
import pytest
import regularization
import weight_decay
from regularization import ACCURACY, ARMS, HELPERS, LOSS, NOISES, TRUE_ACCURACY


def verdicts(experiment, results):
    return [claim.verdict for claim in experiment.claims(results)]


def refuted(experiment, results):
    return [i for i, v in enumerate(verdicts(experiment, results)) if v == "refuted"]


def regularization_results():
    """(noise, arm, seed, check, split, measure): the network over-fits, the helpers help."""
    seeds, checks = 4, 30
    curves = np.zeros((len(NOISES), len(ARMS), seeds, checks, 3, 3))
    names = list(ARMS)
    curves[..., 0, ACCURACY] = 98.0
    curves[..., 2, ACCURACY] = 61.0
    curves[..., TRUE_ACCURACY] = 76.0
    curves[..., 2, LOSS] = 2.0
    for name in HELPERS:
        if name in names:
            curves[:, names.index(name), ..., 0, ACCURACY] = 85.0
            curves[:, names.index(name), ..., TRUE_ACCURACY] = 84.0
    curves[:, names.index("smoothing_0.1"), ..., 2, LOSS] = 1.5
    # The validation loss is least at check 3 with wrong labels, at check 11 with true ones.
    for noise, least in ((0, 10), (1, 2)):
        curves[noise, ..., 1, LOSS] = 1.0 + 0.1 * np.abs(np.arange(checks) - least)
        curves[noise, 0, :, least, 2, LOSS] = 1.3
        curves[noise, 0, :, least, 0, ACCURACY] = 80.0
        curves[noise, 0, :, least, 2, ACCURACY] = 68.0
        curves[noise, 0, :, least, :, TRUE_ACCURACY] = 85.0
    spread = 0.01 * np.arange(seeds)[:, None, None, None]
    return {"names": np.array(names), "curves": curves + spread}


def test_the_regularisers_claims_hold():
    results = regularization_results()
    assert verdicts(regularization, results) == ["holds"] * 16
    assert regularization.plot(results).axes


@pytest.mark.parametrize(
    ("index", "where", "value"),
    [
        *((1 + 2 * i, (1, arm, ..., TRUE_ACCURACY), 70.0) for i, arm in enumerate(HELPERS[:4])),
        *((2 + 2 * i, (1, arm, ..., 0, ACCURACY), 99.0) for i, arm in enumerate(HELPERS[:4])),
        (9, (1, "none", slice(None), 2, slice(None), TRUE_ACCURACY), 70.0),
        (10, (1, "none", slice(None), 2, 0, ACCURACY), 110.0),
        (11, (1, "smoothing_0.1", ..., 2, LOSS), 3.0),
        (12, (1, "smoothing_0.1", ..., 0, ACCURACY), 90.0),
        (13, (0, "none", slice(None), 10, 2, LOSS), 3.0),
    ],
)
def test_each_of_them_can_be_refuted(index, where, value):
    results = regularization_results()
    noise, arm, *rest = where
    results["curves"][(noise, list(ARMS).index(arm), *rest)] = value
    assert refuted(regularization, results) == [index]


def test_seeds_that_scatter_decide_nothing():
    results = regularization_results()
    results["curves"][1, 1:3, :, -1, 2, TRUE_ACCURACY] += 10 * np.array([-2, -1, 1, 2])
    assert verdicts(regularization, results)[1] == "undecided"


def test_a_network_that_does_not_overfit_refutes_the_first_claim():
    results = regularization_results()
    results["curves"][1, 0, ..., 2, ACCURACY] = 99.0
    assert 0 in refuted(regularization, results)


def test_a_late_stop_is_refuted():
    results = regularization_results()
    results["curves"][1, 0, :, 20, 1, LOSS] = 0.0
    assert {14, 15} <= set(refuted(regularization, results))


def test_a_fifth_of_the_labels_is_wrong_and_none_of_the_inputs():
    wrong = regularization.splits(0.2, jax.random.key(0))
    clean = regularization.splits(0.0, jax.random.key(0))
    for name, count in (("train", 1000), ("validation", 1000), ("test", 3000)):
        flipped = np.asarray(wrong[name]["targets"] != wrong[name]["truth"])
        assert len(flipped) == count
        # Binomial: 4.5 standard deviations, a false alarm in 10^5.
        assert abs(flipped.mean() - 0.2) < 4.5 * np.sqrt(0.2 * 0.8 / count)
        np.testing.assert_array_equal(wrong[name]["inputs"], clean[name]["inputs"])
        np.testing.assert_array_equal(clean[name]["targets"], clean[name]["truth"])


def weight_decay_results():
    """What `free_weights` measures itself, and grids with the best in the middle."""
    drawn = np.exp(0.1 * np.array([-1.0, 0.0, 1.0]))
    strengths = len(weight_decay.GRID_STRENGTHS["l2"])
    bowl = 1.0 + 0.1 * np.abs(np.arange(strengths) - 3.0)
    rates = np.geomspace(weight_decay.LEAST_RATE, weight_decay.GREATEST_RATE, 5)
    grid = np.broadcast_to(bowl[:, None, None], (len(rates), strengths, 3, 3))
    return {
        "sgd_apart": 2e-7 * drawn,
        "sgd_rounding": np.full(3, 3e-7),
        "adam_apart": 0.8 * drawn,
        "rates": rates,
        "l2_grid": grid.copy(),
        "decay_grid": grid.copy(),
        **weight_decay.free_weights(),
    }


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        (None, None, []),
        ("free_sgd_decay", lambda v: v * np.linspace(1, 1.001, v.shape[1])[:, None], [0]),
        ("free_adam_l2", lambda v: v[:, :1] + (v - v[:, :1]) / 2, [1]),
        ("sgd_apart", lambda v: 1e7 * v, [2]),
        ("adam_apart", np.zeros_like, [3]),
        ("l2_grid", lambda v: tilted(v), [4]),
        ("decay_grid", lambda v: tilted(v), [5]),
    ],
)
def test_the_decays_claims(name, change, expected):
    results = weight_decay_results()
    if name:
        results[name] = change(results[name])
    assert refuted(weight_decay, results) == expected
    assert verdicts(weight_decay, results).count("holds") == 6 - len(expected)
    assert weight_decay.plot(results).axes


def tilted(grid):
    """The best strength falls as the rate rises: one grid step of one for one of the other."""
    return np.stack([np.roll(rows, 2 - i, axis=0) for i, rows in enumerate(grid)])


def test_seeds_that_disagree_decide_nothing():
    results = weight_decay_results()
    results["l2_grid"][:, :, 0] = tilted(results["l2_grid"])[:, :, 0]
    assert verdicts(weight_decay, results)[4] == "undecided"


def test_the_best_strength_is_found_between_the_grids_points():
    results = weight_decay_results()
    places = np.arange(len(weight_decay.GRID_STRENGTHS["l2"]))
    results["l2_grid"][:] = ((places - 2.3) ** 2)[:, None, None]
    np.testing.assert_allclose(weight_decay.best_strength(results, "l2"), 10 ** (-3 + 2.3 / 2))
    results["l2_grid"][:] = places[:, None, None]  # the least is the first: no neighbour below
    np.testing.assert_allclose(weight_decay.best_strength(results, "l2"), 1e-3)


def test_a_run_that_overflowed_is_not_the_best():
    results = weight_decay_results()
    results["decay_grid"][:, 0] = np.nan
    assert verdicts(weight_decay, results) == ["holds"] * 6
