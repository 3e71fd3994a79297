"""The experiment of Nesterov's look-ahead: its paths, and that each claim can be refuted."""

import nesterov_look_ahead
import numpy as np
import pytest
import xarray
from nesterov_look_ahead import DECAY, LOOK_AHEAD, RATE, START


def nesterov_look_ahead_results(steps=40):
    """The paths of the equations."""
    paths = [nesterov_look_ahead.by_equations(look, steps)[0] for look in LOOK_AHEAD.values()]
    return xarray.Dataset(
        {"path": (("optimizer", "step", "axis"), paths)}, {"optimizer": [*LOOK_AHEAD]}
    )


def verdicts(results):
    return [claim.verdict for claim in nesterov_look_ahead.claims(results)]


def test_the_claims_hold_and_can_be_refuted():
    results = nesterov_look_ahead_results()
    assert verdicts(results) == ["holds", "holds"]
    results["path"].loc[{"optimizer": "momentum"}] += 1e-3
    assert verdicts(results) == ["refuted", "holds"]
    results["path"].loc[{"optimizer": "nesterov", "axis": 1}] -= 1.0
    assert verdicts(results) == ["refuted", "refuted"]


@pytest.mark.parametrize("name", ["momentum", "nesterov"])
def test_the_equations_decay_as_their_matrix_says(name):
    """On a quadratic theta_(t+1) = a theta_t - b theta_(t-1), with these a and b in each axis."""
    path = nesterov_look_ahead.run(nesterov_look_ahead.Config())["path"].sel(optimizer=name).values
    shrink = 1 - RATE * np.array([1.0, 10.0])
    if name == "momentum":
        a, b = shrink + DECAY, np.full(2, DECAY)
    else:
        a, b = shrink * (1 + DECAY), shrink * DECAY
    expected = [np.array(START), np.array(START) * shrink]
    while len(expected) < len(path):
        expected.append(a * expected[-1] - b * expected[-2])
    # A path of 40 steps rounds numbers up to 2 a few times each.
    np.testing.assert_allclose(path, expected, rtol=0, atol=40 * 4 * 2**-24)


def test_the_figure_has_both_panels():
    assert len(nesterov_look_ahead.plot(nesterov_look_ahead_results()).axes) == 2
