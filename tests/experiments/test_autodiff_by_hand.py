"""Backpropagation by hand: its derivatives, its counts, and that each claim can be refuted."""

import functools

import autodiff_by_hand
import jax
import numpy as np
import pytest
from autodiff_by_hand import CATALOGUE, OUTPUTS


@functools.cache
def measured():
    return autodiff_by_hand.run(autodiff_by_hand.PRESETS["smoke"])


def autodiff_by_hand_results():
    """Of the smoke preset; a copy, to be changed."""
    return measured().copy(deep=True)


def refuted(results):
    return [i for i, claim in enumerate(autodiff_by_hand.claims(results)) if claim.refuted]


def test_the_claims_hold():
    results = autodiff_by_hand_results()
    assert results["apart"].shape == (len(CATALOGUE), 4)
    assert [claim.verdict for claim in autodiff_by_hand.claims(results)] == ["holds"] * 4
    assert autodiff_by_hand.plot(results).axes


@pytest.mark.parametrize(
    ("name", "at", "value", "claim"),
    [
        ("apart", {"layer": "softmax", "derivative": "push"}, 1e-11, 0),
        ("house_apart", {}, np.nan, 1),
        ("passes", {"product": "pull", "outputs": 256}, 4.2, 2),
        ("passes", {"product": "Jacobian", "outputs": 64}, 60, 3),
    ],
)
def test_each_claim_can_be_refuted(name, at, value, claim):
    results = autodiff_by_hand_results()
    results[name].loc[at] = value
    assert refuted(results) == [claim]


@pytest.mark.parametrize("name", CATALOGUE)
def test_a_wrong_derivative_is_seen(name, monkeypatch):
    """One that is a millionth too large."""
    layer, reference = CATALOGUE[name]

    def wrong(params, x, delta):
        return layer.by_input(params, x, delta) * (1 + 1e-6)

    monkeypatch.setattr(
        autodiff_by_hand, "CATALOGUE", {name: (layer._replace(by_input=wrong), reference)}
    )
    with jax.enable_x64(True):
        apart = jax.jit(autodiff_by_hand.differences)(jax.random.key(0))
    assert apart[0, 1] == pytest.approx(1e-6, rel=1e-3)


def test_the_jacobian_is_one_pass_backward_an_output():
    """With products of matrices alone, K passes and one forward; the rest is below a tenth."""
    passes = measured()["passes"].sel(product="Jacobian")
    np.testing.assert_allclose(passes, 1 + np.array(OUTPUTS), rtol=0.1)


def test_the_deltas_of_the_house_follow_from_its_values():
    """By the chain rule in NumPy: 2 (y - t) at the output, nothing through a unit that is off."""
    results = measured()
    value, delta = results["house"].values
    assert np.nan_to_num(delta).any(1).all()  # a dead network would show nothing
    assert delta[5, 0] == pytest.approx(2 * (value[5, 0] - float(results["house_price"])))
    for before, after in ((1, 2), (3, 4)):
        on = value[before] > 0
        np.testing.assert_allclose(delta[before][on], delta[after][on])
        off = value[before] <= 0
        np.testing.assert_array_equal(delta[before][off], 0)


def test_no_draws_are_refused():
    with pytest.raises(ValueError, match="draws must be at least 1, got 0"):
        autodiff_by_hand.run(autodiff_by_hand.Config(draws=0))
