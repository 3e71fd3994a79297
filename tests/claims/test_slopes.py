"""Slopes against NumPy and SciPy, and how often their intervals and claims err."""

import numpy as np
import pytest
from scipy.stats import linregress

from jaxdl.claims import about_mean, about_slope, slope_interval, slopes

X = np.array([0.0, 1.0, 1.5, 4.0, 7.0, 7.0])
RUNS = 4_000
CHANCE = 0.02


def drawn(slope, runs=RUNS, seed=0):
    """Points of lines with a scatter of 1, (runs, points)."""
    return 3 + slope * X + np.random.default_rng(seed).normal(size=(runs, len(X)))


def test_slopes_are_numpys():
    values = drawn(0.5, runs=12).reshape(3, 4, -1)
    expected = np.polyfit(X, values.reshape(12, -1).T, 1)[0].reshape(3, 4)
    # Two sums of six terms in another order, in float64.
    np.testing.assert_allclose(slopes(X, values), expected, rtol=1e-12)
    np.testing.assert_allclose(slopes(X + 1e6, values), expected, rtol=1e-8)


def test_the_interval_is_scipys():
    (values,) = drawn(0.5, runs=1)
    found, expected = slope_interval(X, values), linregress(X, values)
    np.testing.assert_allclose(found.mean, expected.slope, rtol=1e-12)
    # Student's t with 4 degrees of freedom: 2.7764451052 from tables.
    np.testing.assert_allclose(found.half_width, 2.7764451052 * expected.stderr, rtol=1e-9)
    assert (found.low, found.high) == (
        found.mean - found.half_width,
        found.mean + found.half_width,
    )


def test_an_exact_line_has_no_error():
    claim = about_slope("", [1, 2, 3], [2, 4, 6], 2, 2)
    assert claim.holds
    assert claim.interval == (2.0, 2.0)


def test_the_interval_covers_as_often_as_it_says():
    intervals = [slope_interval(X, values) for values in drawn(0.5)]
    covered = np.mean([interval.low < 0.5 < interval.high for interval in intervals])
    # Five deviations of a share of 4,000.
    assert covered == pytest.approx(0.95, abs=5 * np.sqrt(0.95 * 0.05 / RUNS))


def test_chance_refutes_and_confirms_at_the_band_s_end_no_oftener_than_stated():
    verdicts = [about_slope("", X, values, low=0.5, chance=CHANCE).verdict for values in drawn(0.5)]
    for verdict, stated in (("refuted", CHANCE), ("holds", 0.025)):
        share = np.mean([v == verdict for v in verdicts])
        assert share == pytest.approx(stated, abs=5 * np.sqrt(stated * (1 - stated) / RUNS))


def test_over_runs_the_slopes_are_the_sample():
    # Points of one run go astray together: only the runs tell how far.
    draw = np.random.default_rng(0)
    walks = np.cumsum(draw.normal(size=(RUNS, 8, len(X))), axis=-1)
    claims = [about_mean("", slopes(X, runs), -1, 1, chance=CHANCE) for runs in walks]
    covered = np.mean([claim.interval[0] < 0 < claim.interval[1] for claim in claims])
    assert covered == pytest.approx(0.95, abs=5 * np.sqrt(0.95 * 0.05 / RUNS))


def test_what_is_no_number_refutes():
    assert about_slope("", [1, 2, 3], [1, np.inf, 3]).refuted


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: slopes([1, 2], [1, 2, 3]), r"got \(2,\) and \(3,\); give a value for every x"),
        (lambda: slopes([[1, 2]], [1, 2]), r"needs x of shape \(points,\)"),
        (lambda: slopes([1, 1], [1, 2]), r"at 2 or more values of x, got \[1.\]"),
        (lambda: slope_interval([1, 2], [1, 2]), "at least 3 points, got 2"),
        (lambda: slope_interval([1, 2, 3], [[1, 2, 3]]), r"got \(1, 3\); for several runs use"),
    ],
)
def test_what_is_no_line_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
