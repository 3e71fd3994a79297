"""The page of activations: its numbers, and that each claim can be refuted."""

import functools

import activation_catalogue
import numpy as np
import pytest
from activation_catalogue import PRESETS, SLOPES, Config
from scipy.stats import norm

from jaxdl import activations

# They mix the elements of their argument.
MIXING = {"softmin", "log_softmax", "softmax"}


@functools.cache
def measured():
    return activation_catalogue.run(PRESETS["smoke"])


def activation_catalogue_results():
    """Of the smoke preset; a copy, to be changed."""
    return measured().copy(deep=True)


def test_every_elementwise_activation_of_the_library_is_there():
    assert {*SLOPES} == {*activations.by_name} - MIXING


def test_the_claims_hold():
    results = activation_catalogue_results()
    assert results["slope"].shape == (len(SLOPES), PRESETS["smoke"].points)
    claims = activation_catalogue.claims(results)
    assert [claim.verdict for claim in claims] == ["holds"] * 6
    assert activation_catalogue.plot(results).axes


@pytest.mark.parametrize(
    ("name", "at", "value", "claim"),
    [
        ("apart", {"activation": "celu"}, 1e-12, 0),
        ("slope", {"activation": "sigmoid"}, 0.24, 1),
        ("attraction", {"activation": "relu"}, 1.01, 2),
        ("attraction", {"activation": "softsign"}, 1.01, 3),
        ("attraction", {"activation": "gelu"}, 0.99, 4),
        ("heads_apart", {"quantity": "gradient"}, 9.0, 5),
    ],
)
def test_each_claim_can_be_refuted(name, at, value, claim):
    results = activation_catalogue_results()
    results[name].loc[at] = value
    refuted = [i for i, each in enumerate(activation_catalogue.claims(results)) if each.refuted]
    assert refuted == [claim]


@pytest.mark.parametrize("name", SLOPES)
def test_a_closed_form_is_the_slope_of_the_value(name):
    """Central differences of width 2e-5 away from the kinks, as in the tests of activations."""
    x = np.linspace(-7.03, 7.03, 200)
    f = activations.by_name[name]
    above, below = (activation_catalogue.evaluate_float64(f, x + d) for d in (1e-5, -1e-5))
    np.testing.assert_allclose((above - below) / 2e-5, SLOPES[name](x), atol=1e-9)


def test_the_kinks_are_among_the_points():
    for preset in PRESETS.values():
        half = preset.points // 2
        x = np.arange(-half, half + 1) * activation_catalogue.REACH / half
        assert np.isin([-3, -1, -0.5, 0, 0.5, 1, 3, 6], x).all()


def test_gain_attraction_and_flat_share_of_hard_tanh_are_the_closed_forms():
    """Of z cut at 1, with the normal's density and distribution in SciPy.

    E[f^2] = M + 2 Q(1), with M = E[z^2; |z| < 1] = 1 - 2 Q(1) - 2 phi(1) and Q the upper tail. A
    change of q moves the inner part alone: rho = M / E[f^2].
    """
    inner = 1 - 2 * norm.sf(1) - 2 * norm.pdf(1)
    square = inner + 2 * norm.sf(1)
    of = measured().sel(activation="hard_tanh")
    assert float(of["gain"]) == pytest.approx(square**-0.5, rel=1e-9)
    assert float(of["attraction"]) == pytest.approx(inner / square, rel=1e-9)
    # One of so many points, each as likely as the others, may fall on either side of each bound.
    points = activation_catalogue.NORMAL_POINTS
    assert float(of["flat"]) == pytest.approx(2 * norm.sf(1), abs=2 / points)


def test_a_jump_counts_in_the_attraction():
    """Of hard_shrink, whose E[f(sqrt(q) z)^2] is q (2 Q(a) + 2 a phi(a)), a = 1 / (2 sqrt(q))."""

    def square(q):
        a = 0.5 / np.sqrt(q)
        return q * 2 * (norm.sf(a) + a * norm.pdf(a))

    expected = (square(1 + 1e-5) - square(1 - 1e-5)) / 2e-5 / square(1)
    found = measured()["attraction"].sel(activation="hard_shrink")
    assert float(found) == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("config", [Config(points=100), Config(points=1), Config(logits=0)])
def test_even_points_and_no_logits_are_refused(config):
    with pytest.raises(ValueError, match="points must be odd"):
        activation_catalogue.run(config)
