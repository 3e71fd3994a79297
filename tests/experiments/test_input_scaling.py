"""Inputs left raw, centred and scaled: what is measured, and that each claim can be refuted."""

import functools

import input_scaling
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from input_scaling import APART, RATIOS, SHARE, WAYS, Config


@functools.cache
def measured():
    return input_scaling.run(Config(seeds=10))


def input_scaling_results():
    """Of ten seeds; a copy, to be changed."""
    return measured().copy(deep=True)


def test_the_claims_hold():
    results = input_scaling_results()
    assert results["steps"].sizes == {"way": len(WAYS), "ratio": len(RATIOS), "seed": 10}
    assert [claim.verdict for claim in input_scaling.claims(results)] == ["holds"] * 8
    assert input_scaling.plot(results).axes


@pytest.mark.parametrize(
    ("name", "at", "change", "expected"),
    [
        ("steps", {"way": "centred"}, lambda steps: np.sqrt(steps), [0]),
        ("steps", {"way": "raw"}, lambda steps: 3 * steps, [1]),
        ("kappa", {"way": "centred", "ratio": APART}, lambda kappa: kappa * 1.6, [2]),
        ("kappa", {"way": "scaled", "ratio": APART}, lambda kappa: kappa * 1.6, [3]),
        ("kappa", {"way": "raw", "ratio": APART}, lambda kappa: kappa / 40, [4]),
        ("kappa_n_1", {"way": "both"}, lambda kappa: kappa * 1.01, [7]),
        ("boston_kappa", {"way": "both"}, lambda kappa: kappa + 1e-6, [6]),
    ],
)
def test_each_claim_can_be_refuted(name, at, change, expected):
    results = input_scaling_results()
    results[name].loc[at] = change(results[name].loc[at].values)
    refuted = [i for i, each in enumerate(input_scaling.claims(results)) if each.refuted]
    # What makes kappa less than it was leaves the steps above their bound.
    assert [i for i in refuted if i != 1 or expected == [1]] == expected


def test_a_correlation_that_is_left_refutes_the_claim_about_both():
    results = input_scaling_results()
    results["kappa"].loc[{"way": "both"}] += 2
    refuted = [i for i, each in enumerate(input_scaling.claims(results)) if each.refuted]
    assert 5 in refuted


def test_steps_are_those_of_the_powers_in_numpy():
    """In the eigenvectors each distance is multiplied by 1 - rate lambda a step; float64."""
    draw = np.random.default_rng(0)
    factor, best = draw.normal(size=(3, 3)), draw.normal(size=3)
    hessian = factor @ factor.T + 0.1 * np.eye(3)
    values, vectors = np.linalg.eigh(hessian)
    rate = 2 / (values[0] + values[-1])
    losses = (values * (vectors.T @ best) ** 2) @ (1 - rate * values)[:, None] ** (
        2 * np.arange(2000)
    )
    expected = np.flatnonzero(losses <= SHARE * losses[0])[0]
    with jax.enable_x64(True):
        kappa, best_rate = input_scaling.condition(jnp.asarray(hessian))
        steps = input_scaling.steps_to_share(jnp.asarray(hessian), best_rate, jnp.asarray(best))
    assert float(kappa) == pytest.approx(values[-1] / values[0], rel=1e-9)
    assert int(steps) == expected <= np.ceil(input_scaling.bound(values[-1] / values[0]))


def test_two_features_and_a_bias_have_the_elongation_of_their_means():
    """The Hessian of infinitely many examples, its eigenvalues by NumPy."""
    for m in (0.5, 3.0, 10.0):
        hessian = [[1, m, m], [m, 1 + m * m, m * m], [m, m * m, 1 + m * m]]
        expected = np.linalg.cond(np.array(hessian))
        assert input_scaling.elongation_of_means(m) == pytest.approx(expected, rel=1e-9)


def test_the_path_goes_to_the_minimum_of_least_squares():
    """It ends as near as its steps allow: ((kappa - 1) / (kappa + 1))^steps of the distance."""
    results = measured()
    for panel in results["panel"].values:
        of = results.sel(panel=panel)
        kappa = np.linalg.cond(of["hessian"].values)
        left = of["path"].values - of["best"].values
        assert (of["path"][0] == 0).all()
        shrink = ((kappa - 1) / (kappa + 1)) ** input_scaling.PATH_STEPS
        # In the norm of the Hessian; the path is in float32.
        first, last = (np.sqrt(each @ of["hessian"].values @ each) for each in left[[0, -1]])
        assert last <= first * (shrink + 1e-5)


def test_no_seeds_are_refused():
    with pytest.raises(ValueError, match="seeds must be at least 1, got 0"):
        input_scaling.run(Config(seeds=0))
