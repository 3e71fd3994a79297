"""Networks written by hand and trained: what is measured, and that each claim can be refuted."""

import numpy as np
import pytest
import universal_approximation
import xarray
from universal_approximation import BUMPS, RATES, Config

from jaxdl import data

WIDTHS = [20, 80, 320]


def universal_approximation_results(seeds=16):
    """Errors as expected, with seeds that scatter by a tenth."""
    scatter = np.exp(0.1 * np.random.default_rng(0).normal(size=seeds))
    theory = 0.71 / BUMPS
    narrow = np.array([0.05, 0.06, 0.08])[:, None, None] * np.array([3, 1, 2])[:, None] * scatter
    return xarray.Dataset(
        {
            "theory": ("bumps", theory),
            "by_hand": ("bumps", theory * np.array([1.02, 0.99, 1.0, 1.01, 1.0])),
            "narrow": (("width", "rate", "seed"), narrow),
            "deep": (("network", "seed"), np.array([[0.01], [0.05]]) * scatter),
            "deep_curve": (("network", "seed", "x"), np.ones((2, seeds, 5))),
        },
        {
            "bumps": BUMPS,
            "width": WIDTHS,
            "rate": [*RATES],
            "network": ["none", "dropout"],
            "x": np.linspace(0, 1, 5),
        },
    )


def refuted(results):
    return [i for i, c in enumerate(universal_approximation.claims(results)) if c.refuted]


def test_the_claims_hold():
    results = universal_approximation_results()
    claims = universal_approximation.claims(results)
    assert [claim.verdict for claim in claims] == ["holds"] * 5
    assert universal_approximation.plot(results).axes


@pytest.mark.parametrize(
    ("name", "at", "change", "expected"),
    [
        ("by_hand", {}, lambda errors: errors[-1] * (errors / errors[-1]) ** 0.5, [0, 3]),
        ("by_hand", {"bumps": 160}, lambda errors: errors * 1.05, [1]),
        ("deep", {"network": "dropout"}, lambda errors: errors / 4, [2]),
        ("narrow", {"width": 20}, lambda errors: errors * 3, [3]),
        ("narrow", {"width": 320}, lambda errors: errors / 30, [4]),
    ],
)
def test_each_claim_can_be_refuted(name, at, change, expected):
    results = universal_approximation_results()
    results[name].loc[at] = change(results[name].loc[at].values)
    assert refuted(results) == expected


def test_the_best_rate_is_taken():
    best = universal_approximation.at_best_rate(universal_approximation_results())
    np.testing.assert_allclose(np.log(best).mean("seed"), np.log([0.05, 0.06, 0.08]), atol=0.1)


@pytest.mark.parametrize("bumps", [10, 40])
def test_the_network_written_by_hand_is_the_function_at_every_bumps_middle(bumps):
    """There all steps are at least k / 2 = 100 from where they stand, e^-100 from 0 or 1."""
    middles = (np.arange(bumps) + 0.5) / bumps
    params = universal_approximation.hand_written(bumps)
    values = universal_approximation.outputs(params, middles[:, None].astype(np.float32))
    # A sum of 2 n numbers below 1 in float32.
    np.testing.assert_allclose(values, data.nielsen(middles), atol=2 * bumps * 6e-8)


def test_the_error_by_hand_is_the_staircases_in_float64():
    """Of exact steps the formula has k = infinity; sigmoids gain 12 / k in the square."""
    bumps, x = 40, (np.arange(100_000) + 0.5) / 100_000
    staircase = data.nielsen((np.floor(x * bumps) + 0.5) / bumps)
    exact = np.sqrt(np.mean((staircase - data.nielsen(x)) ** 2))
    params = universal_approximation.hand_written(bumps)
    fine = x[::10, None].astype(np.float32)
    apart = universal_approximation.outputs(params, fine) - data.nielsen(fine[:, 0])
    expected = exact * np.sqrt(1 - 12 / universal_approximation.STEEPNESS)
    # Steps that are not equally high at both sides: of the order of h f'' / f', squared.
    assert universal_approximation.rms(apart) == pytest.approx(expected, rel=0.02)


def test_runs_have_the_axes_of_the_figure_and_fit_better_than_the_mean():
    config = Config(seeds=2, epochs=8, widths=(20,))
    results = universal_approximation.run(config)
    assert results["narrow"].sizes == {"width": 1, "rate": 3, "seed": 2}
    assert results["deep"].sizes == {"network": 2, "seed": 2}
    function = data.nielsen(results["x"].values)
    curves = results["deep_curve"].transpose("network", "seed", "x").values
    measured = results["deep"].transpose("network", "seed").values
    np.testing.assert_allclose(np.sqrt(((curves - function) ** 2).mean(-1)), measured, rtol=1e-4)
    assert (measured < function.std()).all()
    np.testing.assert_allclose(results["by_hand"][1:], results["theory"][1:], rtol=0.02)


@pytest.mark.parametrize("widths", [(), (30,), (80, 20)])
def test_widths_without_a_network_by_hand_are_refused(widths):
    with pytest.raises(ValueError, match="widths must be some of"):
        universal_approximation.run(Config(widths=widths))
