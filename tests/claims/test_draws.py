"""The expected best of several draws is the mean over all ways of drawing them."""

import itertools

import numpy as np
import pytest

from jaxdl.claims import expected_best


@pytest.mark.parametrize("draws", [1, 2, 3])
def test_it_is_the_mean_over_all_draws(draws):
    scores, outcomes = np.array([3.0, -np.inf, 2.0, 9.0]), np.array([5.0, 1.0, 7.0, 4.0])
    all_ways = itertools.product(range(4), repeat=draws)
    expected = np.mean([outcomes[max(way, key=lambda i: scores[i])] for way in all_ways])
    np.testing.assert_allclose(expected_best(scores, draws, outcomes), [expected], rtol=1e-14)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (([], 1), r"got shapes \(0,\) and \(0,\)"),
        (([1.0, 2.0], 1, [1.0]), r"got shapes \(2,\) and \(1,\)"),
        (([1.0, np.nan], 1), "got 1 NaN"),
        (([1.0, 2.0], [1, 0]), r"at least 1, got 0 NaN and \[1, 0\] draws"),
    ],
)
def test_bad_input_is_refused(given, words):
    with pytest.raises(ValueError, match=words):
        expected_best(*given)
