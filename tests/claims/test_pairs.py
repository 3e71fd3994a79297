"""Pairs of arms: Student's interval over all of them, and how often any of them errs."""

import itertools

import numpy as np
import pytest
from scipy.stats import t, ttest_ind

from jaxdl.claims import Pair, mean_of_last, ordered_pairs

NAMES = "abcdef"


def test_the_interval_of_one_pair_is_students():
    draw = np.random.default_rng(0)
    values = {"a": draw.normal(size=5), "b": draw.normal(size=3)}
    (pair,) = ordered_pairs(values, [("a", "b")])
    expected = ttest_ind(values["a"], values["b"]).confidence_interval(0.95)
    np.testing.assert_allclose(pair.lead - pair.half_width, expected.low, rtol=1e-12)
    np.testing.assert_allclose(pair.lead + pair.half_width, expected.high, rtol=1e-12)


def test_many_pairs_share_the_error_rate_and_the_deviation():
    values = {"a": [0.0, 2.0], "b": [5.0, 7.0], "c": [1.0]}
    pairs = ordered_pairs(values, [("b", "a"), ("b", "c"), ("c", "a")], error_rate=0.1)
    assert [pair.lead for pair in pairs] == [5.0, 5.0, 0.0]
    # Two degrees of freedom; the deviation of (0, 2) and of (5, 7) is sqrt(2).
    quantile = t.ppf(1 - 0.1 / 6, 2)
    for pair, runs in zip(pairs, (1 / 2 + 1 / 2, 1 / 2 + 1, 1 + 1 / 2), strict=True):
        np.testing.assert_allclose(pair.half_width, quantile * np.sqrt(2 * runs))
    assert ordered_pairs(values, []) == []


@pytest.mark.parametrize(
    ("lead", "verdict"),
    [(1.01, "agrees"), (0.99, "undecided"), (-0.99, "undecided"), (-1.01, "disagrees"),
     (np.nan, "undecided")],
)  # fmt: skip
def test_verdicts_follow_the_lead_and_its_interval(lead, verdict):
    assert Pair("a", "b", lead, 1.0).verdict == verdict


def errors(means, repetitions=1_000):
    """How often any of 15 pairs is decided wrongly: equal means decided, others misjudged."""
    draw = np.random.default_rng(0)
    pairs = list(itertools.combinations(NAMES, 2))
    wrong = 0
    for _ in range(repetitions):
        values = {name: draw.normal(means[name], size=4) for name in NAMES}
        verdicts = [pair.verdict for pair in ordered_pairs(values, pairs)]
        leads = [means[a] - means[b] for a, b in pairs]
        wrong += any(
            verdict == "disagrees" if lead > 0 else verdict != "undecided"
            for verdict, lead in zip(verdicts, leads, strict=True)
        )
    return wrong / repetitions


def test_any_pair_is_decided_wrongly_no_oftener_than_stated():
    # Five deviations of a share of 1,000.
    most = 0.05 + 5 * np.sqrt(0.05 * 0.95 / 1_000)
    # Bonferroni of 15 pairs of 6 arms is not sharp, but not idle.
    assert 0.01 < errors(dict.fromkeys(NAMES, 0.0)) < most
    most = 0.025 + 5 * np.sqrt(0.025 * 0.975 / 1_000)
    assert errors({name: -0.1 * i for i, name in enumerate(NAMES)}) < most


@pytest.mark.parametrize(
    ("values", "pairs", "rate", "message"),
    [
        ({"a": [1, 2]}, [("a", "b")], 0.05, "must name the arms a, got b; give their values"),
        ({"a": [1], "b": [2]}, [("a", "b")], 0.05, "at least 2 runs, which show a spread; run mo"),
        ({"a": [1, 2]}, [], 0.0, r"error_rate must lie in \(0, 1\), got 0.0; the usual one is"),
    ],
)
def test_what_cannot_be_compared_is_refused(values, pairs, rate, message):
    with pytest.raises(ValueError, match=message):
        ordered_pairs(values, pairs, error_rate=rate)


def test_the_end_of_a_curve():
    curves = np.arange(24, dtype=np.float32).reshape(2, 12)
    np.testing.assert_array_equal(mean_of_last(curves, one_in=6), [10.5, 22.5])
    np.testing.assert_array_equal(mean_of_last(curves, one_in=100), [11, 23])
    with pytest.raises(ValueError, match="got 1 in 0 of 12; take fewer"):
        mean_of_last(curves, one_in=0)
    with pytest.raises(ValueError, match="got 1 in 2 of 0; take fewer"):
        mean_of_last([], one_in=2)
