"""Functions of one variable as data sets."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import data


def test_nielsens_function_is_the_books():
    """At x = 1/2, by the standard library."""
    expected = 0.2 + 0.1 + 0.15 * math.sin(7.5) + 0.05 * math.cos(25.0)
    assert data.nielsen(0.5) == pytest.approx(expected, abs=1e-15)
    np.testing.assert_allclose(data.nielsen(jnp.array([0.5])), [expected], rtol=1e-6)


def test_the_mean_over_examples_is_the_integral():
    """Of x^2 over [-1, 3]: 28/3; the midpoint rule misses h^2 (b - a) f'' / 24 with h = 4/n."""
    squares = data.sample_function(np.square, examples=100, test_examples=50, low=-1, high=3)
    assert squares.name == "square"
    for split, count in ((squares.train, 100), (squares.test, 50)):
        assert split.inputs.shape == split.targets.shape == (count, 1)
        assert split.inputs.dtype == split.targets.dtype == np.float32
        missed = 28 / 3 - split.targets.astype(np.float64).mean() * 4
        assert missed == pytest.approx((4 / count) ** 2 * 4 * 2 / 24, rel=1e-2)


@pytest.mark.parametrize(
    ("function", "settings", "error", "said"),
    [
        ("nielsen", {}, TypeError, "function must be a function of x, got 'nielsen'"),
        (np.sin, {"examples": 0}, ValueError, "examples must be at least 1, got 0"),
        (np.sin, {"test_examples": 1.5}, TypeError, "test_examples must be a whole number"),
        (np.sin, {"low": 1, "high": 1}, ValueError, "low < high, got low=1, high=1"),
        (np.sin, {"high": np.inf}, ValueError, "must be finite with low < high"),
        (lambda x: 1.0, {}, ValueError, r"a value for each of 1000 points, got shape \(\)"),
        (lambda x: np.where(x < 0.5, x, np.nan), {}, ValueError, "finite on the interval, got nan"),
    ],
)
def test_what_is_no_function_on_an_interval_is_refused(function, settings, error, said):
    with pytest.raises(error, match=said):
        data.sample_function(function, **settings)
