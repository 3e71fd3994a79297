"""The lecture's table of optimizers: each claim holds, and can be refuted."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimizer_table
import pytest
import xarray
from optimizer_table import ADAPTIVE, ARMS, CHANGES, EPSILONS, FLATNESS, SHARES

from jaxdl import data


def table_results():
    """By optimizer: what the adaptive ones give, and what the others do."""
    axes = {
        "optimizer": [*ARMS],
        "epsilon": [*EPSILONS],
        "seed": range(4),
        "share": [*SHARES],
        "change": [*CHANGES],
        "flatness": FLATNESS,
    }

    def filled(value, *names):
        return xarray.DataArray(np.full([len(axes[name]) for name in names], value), dims=names)

    by, draw = ("optimizer", "epsilon", "seed"), np.random.default_rng(0)
    drawn = np.exp(0.1 * draw.normal(size=(len(ADAPTIVE), 2, 4)))
    results = xarray.Dataset(
        {
            "rates": filled(1.0, *by, "share"),
            "step": filled(optimizer_table.LOSS_SCALE, *by, "change"),
            "path": filled(1e5, *by, "change"),
            "saddle": filled(100.0, "optimizer", "epsilon", "flatness"),
        },
        coords=axes,
        attrs={"path_steps": 100},
    )
    rates, step, path, saddle = (results[name].loc for name in ("rates", "step", "path", "saddle"))
    rates[{"optimizer": ADAPTIVE}] = [0.2, 0.5, 1.0, 3.0, 20.0]
    rates[{"optimizer": "adadelta", "epsilon": "own"}] = [0.4, 0.7, 0.9, 1.0, 1.0]
    rates[{"optimizer": ADAPTIVE, "share": SHARES[-1]}] *= drawn
    step[{"change": "units"}] = optimizer_table.PARAMETER_SCALE**-2
    step[{"change": "units", "optimizer": ADAPTIVE}] = 1 / optimizer_table.PARAMETER_SCALE
    path[{"optimizer": ADAPTIVE}] = 0.0
    path[{"optimizer": ADAPTIVE, "epsilon": "own"}] = 0.4 * drawn[:, 0, :, None]
    saddle[{"optimizer": optimizer_table.PLAIN}] = [100, 1000, 10_000]
    saddle[{"optimizer": "adadelta", "epsilon": "own"}] = [80, 83, 245]
    return results


def verdicts(results):
    return [claim.verdict for claim in optimizer_table.claims(results)]


LAST, OWN, NONE = {"share": SHARES[-1]}, {"epsilon": "own"}, {"epsilon": "none"}


@pytest.mark.parametrize(
    ("name", "optimizer", "where", "change", "expected"),
    [
        (None, None, None, None, []),
        ("rates", "sgd", LAST, lambda v: v * 1.01, [0]),
        ("rates", "adam", OWN, np.ones_like, [1]),
        ("rates", "adadelta", LAST | OWN, lambda v: v * 20, [2]),
        ("rates", "adadelta", NONE, np.ones_like, [3]),
        ("step", "momentum", {"change": "loss"}, lambda v: v * 0.9, [4]),
        ("path", "rmsprop", {"change": "loss"} | NONE, lambda v: v + 1e-3, [5]),
        ("path", "adadelta", {"change": "loss"} | OWN, np.zeros_like, [6]),
        ("step", "nesterov", {"change": "units"}, lambda v: v * 2, [7]),
        ("step", "adagrad", {"change": "units"}, lambda v: v * 2, [8]),
        ("step", "adadelta", {"change": "units"}, np.ones_like, [9]),
        ("path", "adadelta", {"change": "units of epsilon too"} | NONE, lambda v: v + 1e-3, [10]),
        ("saddle", "sgd", {}, lambda v: v**1.2, [11]),
        ("saddle", "adam", {"flatness": FLATNESS[-1]}, lambda v: v * 1.1, [12]),
        ("saddle", "adadelta", OWN, lambda v: v * 0 + 80, [13]),
        ("saddle", "adagrad", {}, lambda v: v * 1000, [14]),
    ],
)
def test_the_tables_claims(name, optimizer, where, change, expected):
    results = table_results()
    if name:
        at = {"optimizer": optimizer, **where}
        results[name].loc[at] = change(results[name].loc[at].values)
    refuted = [i for i, verdict in enumerate(verdicts(results)) if verdict == "refuted"]
    assert refuted == expected
    assert verdicts(results).count("holds") == 15 - len(expected)
    assert optimizer_table.plot(results).axes


def test_seeds_that_scatter_decide_nothing():
    results = table_results()
    at = {"optimizer": "adadelta", "epsilon": "own", "change": "loss", "seed": 0}
    results["path"].loc[at] = 1e-3
    assert verdicts(results)[6] == "undecided"


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

    start, adam = jnp.array([1.0, -0.5]), ARMS["adam"].make(0.1, 1e-8, None)
    rescaled = optimizer_table.rescaled(adam, loss_scale, parameter_scale)
    expected = end(scaled, adam, {"w": parameter_scale * start}) / parameter_scale
    np.testing.assert_allclose(end(loss, rescaled, {"w": start}), expected, rtol=1e-5)


def test_paths_have_an_axis_for_all_that_varies(monkeypatch):
    """And SGD, whose path heeds the loss's scale, makes its first step as often larger."""
    monkeypatch.setattr(optimizer_table, "ARMS", {"sgd": ARMS["sgd"]})
    draw = np.random.default_rng(0)
    train = data.Arrays(draw.normal(size=(150, 4)).astype(np.float32), draw.integers(0, 10, 150))
    paths = optimizer_table.paths(train, optimizer_table.Config(seeds=2, path_steps=3))
    assert dict(paths.sizes) == {
        "optimizer": 1, "epsilon": 2, "seed": 2, "share": 5, "change": 3
    }  # fmt: skip
    np.testing.assert_allclose(paths["step"].sel(change="loss"), 1024, rtol=1e-5)
    np.testing.assert_allclose(paths["step"].sel(change="units"), 1 / 256, rtol=1e-5)
    np.testing.assert_allclose(paths["rates"], 1, rtol=1e-6)


def test_the_saddle_of_gradient_descent_is_left_when_the_formula_says(monkeypatch):
    """y grows by 1 + rate h a step, so that 0.1 has passed 1 after ln 10 / ln(1 + rate h)."""
    monkeypatch.setattr(optimizer_table, "ARMS", {"sgd": ARMS["sgd"]})
    rate, start = optimizer_table.SADDLE_RATE, optimizer_table.SADDLE_START
    expected = np.ceil(np.log(1 / start) / np.log1p(rate * FLATNESS))
    steps = optimizer_table.saddles()["saddle"].sel(optimizer="sgd", epsilon="own")
    # 23,027 products, each rounded by at most 6e-8, shift the logarithm by 1.4e-3 of 2.3.
    np.testing.assert_allclose(steps, expected, rtol=1e-3)


def test_the_effective_rate_of_momentum_is_its_rate_and_adagrads_the_root():
    params = {"w": jnp.zeros(3)}
    gradients = {"w": jnp.array([1.0, -2.0, 0.0])}
    for name in ("momentum", "adagrad"):
        optimizer = ARMS[name].make(0.5, 0.0, None)
        state = optimizer.init(params)
        _, state = optimizer.update({"w": jnp.array([1e3, 1e3, 1e3])}, state, params)
        rates = optimizer_table.effective_rates(optimizer, state, gradients)
        if name == "momentum":
            np.testing.assert_allclose(rates, 0.5)
        else:
            # d/dg of g / sqrt(s + g^2) is s / (s + g^2)^1.5, here 1e-3 to a few parts in 1e6.
            np.testing.assert_allclose(rates, 0.5e-3, rtol=1e-5)


def test_a_path_that_overflows_departs_infinitely_far():
    vectors = jnp.array([[3.0, 4.0], [jnp.nan, 1.0], [jnp.inf, 1.0]])
    found = optimizer_table.lengths_over(jnp.array([0.0, 2.0]), vectors)
    assert found.tolist() == [2.5, np.inf, np.inf]
    assert optimizer_table.lengths_over(vectors[2], vectors[2:]).tolist() == [np.inf]
