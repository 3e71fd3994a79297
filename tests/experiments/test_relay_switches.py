"""Units that switch by case: what is measured, and that each claim can be refuted."""

import jax.numpy as jnp
import numpy as np
import pytest
import relay_switches
import xarray
from relay_switches import PRESETS, SIDE, WHEN, Config

from jaxdl import models

SHAPE = (2, 16, 2)
"""Widths, seeds, before and after."""


def relay_switches_results():
    """Bits as expected, with seeds that scatter by a hundredth."""
    scatter = 1 + 0.01 * np.random.default_rng(0).normal(size=SHAPE)
    axes = ("width", "seed", "when")
    return xarray.Dataset(
        {
            "bits": (axes, np.array([2.0, 2.9]) * scatter),
            "aside_bits": (axes, np.array([2.0, 1.0]) * scatter),
            "network_misfit": (axes, np.full(SHAPE, 0.02)),
            "function_misfit": (axes, np.array([0.1, 0.01]) * scatter),
            "hand_bits": 3.0,
            "shown_kernel": (("when", "input", "unit"), np.ones((2, 2, 16))),
            "shown_bias": (("when", "unit"), np.zeros((2, 16))),
        },
        {"width": [8, 16], "seed": range(SHAPE[1]), "when": [*WHEN]},
    )


def test_the_claims_hold():
    results = relay_switches_results()
    assert [claim.verdict for claim in relay_switches.claims(results)] == ["holds"] * 6
    assert relay_switches.plot(results).axes


@pytest.mark.parametrize(
    ("name", "at", "factor", "expected"),
    [
        ("hand_bits", {}, 0.9, [0]),
        ("network_misfit", {"when": "untrained", "width": 8}, 100, [1]),
        ("bits", {"when": "untrained", "width": 8}, 2, [2]),
        ("bits", {"when": "trained", "width": 16}, 0.8, [3]),
        ("function_misfit", {"when": "trained", "width": 16}, 20, [4]),
        ("aside_bits", {"when": "trained", "width": 8}, 4, [5]),
    ],
)
def test_each_claim_can_be_refuted(name, at, factor, expected):
    results = relay_switches_results()
    results[name].loc[at] = results[name].loc[at] * factor
    claims = relay_switches.claims(results)
    assert [place for place, claim in enumerate(claims) if claim.refuted] == expected


def test_the_network_written_by_hand_is_the_function_and_switches_where_the_cases_meet():
    points, params = relay_switches.square(SIDE), relay_switches.written_by_hand()
    on, output, bound = relay_switches.switches(params, points.inputs)
    tree = {
        f"dense_{layer}": {leaf: params[f"dense_{layer}/{leaf}"] for leaf in ("kernel", "bias")}
        for layer in (0, 1)
    }
    of_model = models.MLP((4, 1)).apply({"params": tree}, jnp.asarray(points.inputs), train=False)
    # At most 8 sums of numbers below 8.
    np.testing.assert_allclose(output, relay_switches.clamps(points.inputs)[:, 0], atol=64 * 2**-23)
    np.testing.assert_allclose(output, of_model[:, 0], atol=64 * 2**-23)
    cases = relay_switches.case_of(points.inputs)
    known, aside = relay_switches.tells(on, cases)
    assert (known, aside) == pytest.approx((3.0, 0.0), abs=1e-12)
    # Sizes are at most 2 (2 + 1) x 2 = 12, in sums of 8 terms.
    assert 0 < bound < 12 * 8 * 2**-23
    both = np.column_stack([output, points.targets])
    assert (relay_switches.affine_misfit(on, points.inputs, both) < bound).all()


def test_bits_are_the_sum_over_the_table_of_shares():
    """I = sum p(u, c) log2 p(u, c) / p(u) p(c), of shares chosen by hand."""
    table = np.array([[3, 1, 0], [0, 2, 2]])
    units, cases = np.repeat(np.indices(table.shape).reshape(2, -1), table.ravel(), axis=1)
    shares = table / table.sum()
    apart = shares.sum(1, keepdims=True) * shares.sum(0)
    there = shares > 0
    expected = (shares[there] * np.log2(shares[there] / apart[there])).sum()
    known, aside = relay_switches.tells(units[:, None] == 1, cases)
    assert known == pytest.approx(expected, abs=1e-12)
    assert known + aside == pytest.approx(1.0, abs=1e-12)  # H(P): two patterns, 4 of 8 each


def test_the_misfit_is_that_of_a_plane_for_each_pattern():
    """A parabola is h^2 / sqrt 180 from its best line, rms, on an interval of length h = 1."""
    x = np.stack([(np.arange(2000) + 0.5) / 1000 - 1, np.zeros(2000)], 1)
    values = np.column_stack([x[:, 0] ** 2, np.abs(x[:, 0])])
    square, kink = relay_switches.affine_misfit(x[:, :1] > 0, x, values)
    # Of 1000 points a pattern; a sum in place of an integral is off by 1 / 1000^2.
    assert square == pytest.approx(1 / np.sqrt(180), rel=1e-5)
    assert kink < 1e-12


def test_runs_have_the_axes_of_the_figure_and_training_finds_cases():
    results = relay_switches.run(PRESETS["smoke"])
    seeds = PRESETS["smoke"].seeds
    assert results["bits"].sizes == {"width": 1, "seed": seeds, "when": 2}
    assert results["shown_kernel"].shape == (2, 2, 16)
    refuted = [claim.text for claim in relay_switches.claims(results) if claim.refuted]
    assert not refuted
    assert results["hand_bits"] == pytest.approx(3.0, abs=1e-12)
    # No more can be known than there is.
    assert ((results["bits"] > 0) & (results["bits"] < 3 + 1e-12)).all()


@pytest.mark.parametrize("widths", [(), (8,), (16, 8), (0, 16), (16, 16)])
def test_widths_that_the_claims_do_not_know_are_refused(widths):
    with pytest.raises(ValueError, match="widths must ascend"):
        relay_switches.run(Config(widths=widths))
