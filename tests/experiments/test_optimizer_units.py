"""The experiment of optimizers' units: what it measures, and that each claim can be refuted."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimizer_units
import pytest
import xarray
from optimizer_units import ADAPTIVE, CHANGES, EPSILONS, OPTIMIZERS

from jaxdl import data, optimizers


def optimizer_units_results():
    """By optimizer: what the adaptive ones do, and the others."""
    axes = {
        "optimizer": [*OPTIMIZERS],
        "epsilon": [*EPSILONS],
        "seed": range(4),
        "change": [*CHANGES],
    }
    shape, draw = [len(axis) for axis in axes.values()], np.random.default_rng(0)
    drawn = np.exp(0.1 * draw.normal(size=(len(ADAPTIVE), 4, 1)))
    results = xarray.Dataset(
        {
            "step": ([*axes], np.full(shape, optimizer_units.LOSS_SCALE)),
            "path": ([*axes], np.full(shape, 1e5)),
        },
        axes,
        {"steps": 100},
    )
    step, path = results["step"].loc, results["path"].loc
    step[{"change": "units"}] = optimizer_units.PARAMETER_SCALE**-2
    step[{"change": "units", "optimizer": ADAPTIVE}] = 1 / optimizer_units.PARAMETER_SCALE
    path[{"optimizer": ADAPTIVE}] = 0.0
    path[{"optimizer": ADAPTIVE, "epsilon": "own"}] = 0.4 * drawn
    return results


def verdicts(results):
    return [claim.verdict for claim in optimizer_units.claims(results)]


OWN, NONE = {"epsilon": "own"}, {"epsilon": "none"}


@pytest.mark.parametrize(
    ("name", "optimizer", "where", "change", "expected"),
    [
        (None, None, None, None, []),
        ("step", "momentum", {"change": "loss"}, lambda v: v * 0.9, [0]),
        ("path", "RMSprop", {"change": "loss"} | NONE, lambda v: v + 1e-3, [1]),
        ("path", "Adadelta", {"change": "loss"} | OWN, np.zeros_like, [2]),
        ("step", "Nesterov", {"change": "units"}, lambda v: v * 2, [3]),
        ("step", "Adagrad", {"change": "units"}, lambda v: v * 2, [4]),
        ("step", "Adadelta", {"change": "units"}, np.ones_like, [5]),
        ("path", "Adadelta", {"change": "units of epsilon too"} | NONE, lambda v: v + 1e-3, [6]),
    ],
)
def test_the_claims_hold_and_can_be_refuted(name, optimizer, where, change, expected):
    results = optimizer_units_results()
    if name:
        at = {"optimizer": optimizer, **where}
        results[name].loc[at] = change(results[name].loc[at].values)
    refuted = [i for i, verdict in enumerate(verdicts(results)) if verdict == "refuted"]
    assert refuted == expected
    assert verdicts(results).count("holds") == 7 - len(expected)
    assert optimizer_units.plot(results).axes


def test_seeds_that_scatter_decide_nothing():
    results = optimizer_units_results()
    at = {"optimizer": "Adadelta", "epsilon": "own", "change": "loss", "seed": 0}
    results["path"].loc[at] = 1e-3
    assert verdicts(results)[2] == "undecided"


def test_a_rescaled_rule_walks_as_the_rescaled_loss_makes_it():
    """theta = phi / c, where phi descends s L(phi / c); by hand, with Adam."""
    loss_scale, parameter_scale = 3.0, 5.0

    def loss(theta):
        return (theta["w"] ** 4).sum() + theta["w"][0] * theta["w"][1]

    def end(objective, rule, params):
        state = rule.init(params)
        for _ in range(5):
            updates, state = rule.update(jax.grad(objective)(params), state, params)
            params = optax.apply_updates(params, updates)
        return params["w"]

    def scaled(phi):
        return loss_scale * loss({"w": phi["w"] / parameter_scale})

    start, adam = jnp.array([1.0, -0.5]), optimizers.adam(0.1)
    rescaled = optimizer_units.rescaled(adam, loss_scale, parameter_scale)
    expected = end(scaled, adam, {"w": parameter_scale * start}) / parameter_scale
    np.testing.assert_allclose(end(loss, rescaled, {"w": start}), expected, rtol=1e-5)


def test_paths_have_an_axis_for_all_that_varies(monkeypatch):
    """And SGD, whose path heeds the loss's scale, makes its first step as often larger."""
    monkeypatch.setattr(optimizer_units, "OPTIMIZERS", {"SGD": OPTIMIZERS["SGD"]})
    draw = np.random.default_rng(0)
    train = data.Arrays(draw.normal(size=(150, 4)).astype(np.float32), draw.integers(0, 10, 150))
    paths = optimizer_units.paths(train, optimizer_units.Config(seeds=2, steps=3))
    assert dict(paths.sizes) == {"optimizer": 1, "epsilon": 2, "seed": 2, "change": 3}
    np.testing.assert_allclose(paths["step"].sel(change="loss"), 1024, rtol=1e-5)
    np.testing.assert_allclose(paths["step"].sel(change="units"), 1 / 256, rtol=1e-5)


def test_a_path_that_overflows_departs_infinitely_far():
    vectors = jnp.array([[3.0, 4.0], [jnp.nan, 1.0], [jnp.inf, 1.0]])
    found = optimizer_units.lengths_over(jnp.array([0.0, 2.0]), vectors)
    assert found.tolist() == [2.5, np.inf, np.inf]
    assert optimizer_units.lengths_over(vectors[2], vectors[2:]).tolist() == [np.inf]
