"""The experiment of optimizers' rates: what it measures, and that each claim can be refuted."""

import jax.numpy as jnp
import numpy as np
import optimizer_rates
import pytest
import xarray
from optimizer_rates import EPSILONS, OPTIMIZERS, SHARES

from jaxdl import data

ADAPTIVE = [*optimizer_rates.BESIDE, "Adadelta"]


def optimizer_rates_results():
    """What the adaptive ones give, and what the others do."""
    axes = {
        "optimizer": [*OPTIMIZERS],
        "epsilon": [*EPSILONS],
        "seed": range(4),
        "share": [*SHARES],
    }
    results = xarray.Dataset(
        {"rates": ([*axes], np.ones([len(axis) for axis in axes.values()]))}, axes
    )
    rates, draw = results["rates"].loc, np.random.default_rng(0)
    rates[{"optimizer": ADAPTIVE}] = [0.2, 0.5, 1.0, 3.0, 20.0]
    rates[{"optimizer": "Adadelta", "epsilon": "own"}] = [0.4, 0.7, 0.9, 1.0, 1.0]
    drawn = np.exp(0.1 * draw.normal(size=(len(ADAPTIVE), 2, 4)))
    rates[{"optimizer": ADAPTIVE, "share": SHARES[-1]}] *= drawn
    return results


def verdicts(results):
    return [claim.verdict for claim in optimizer_rates.claims(results)]


OWN, NONE = {"epsilon": "own"}, {"epsilon": "none"}


@pytest.mark.parametrize(
    ("optimizer", "where", "change", "expected"),
    [
        (None, None, None, []),
        ("SGD", {}, lambda v: v * 1.01, [0]),
        ("Nesterov", OWN, lambda v: v * 0.99, [0]),
        ("Adam", OWN, np.ones_like, [1]),
        ("Adadelta", OWN, lambda v: v * 20, [2]),
        ("Adadelta", NONE, np.ones_like, [3]),
    ],
)
def test_the_claims_hold_and_can_be_refuted(optimizer, where, change, expected):
    results = optimizer_rates_results()
    if optimizer:
        at = {"optimizer": optimizer, "share": SHARES[-1], **where}
        results["rates"].loc[at] = change(results["rates"].loc[at].values)
    refuted = [i for i, verdict in enumerate(verdicts(results)) if verdict == "refuted"]
    assert refuted == expected
    assert verdicts(results).count("holds") == 4 - len(expected)
    assert optimizer_rates.plot(results).axes


def test_rates_have_an_axis_for_all_that_varies(monkeypatch):
    """And each parameter of SGD has its rate."""
    monkeypatch.setattr(optimizer_rates, "OPTIMIZERS", {"SGD": OPTIMIZERS["SGD"]})
    draw = np.random.default_rng(0)
    train = data.Arrays(draw.normal(size=(150, 4)).astype(np.float32), draw.integers(0, 10, 150))
    rates = optimizer_rates.rates(train, optimizer_rates.Config(seeds=2, steps=3))["rates"]
    assert dict(rates.sizes) == {"optimizer": 1, "epsilon": 2, "seed": 2, "share": 5}
    np.testing.assert_allclose(rates, 0.3, rtol=1e-6)


def test_the_effective_rate_of_momentum_is_its_rate_and_adagrads_the_root():
    gradients = {"w": jnp.array([1.0, -2.0, 0.0])}
    # d/dg of g / sqrt(s + g^2) is s / (s + g^2)^1.5, here 1e-3 to a few parts in 1e6.
    for name, expected in (("momentum", 0.03), ("Adagrad", 0.03e-3)):
        rule = OPTIMIZERS[name](0.0)
        state = rule.init({"w": jnp.zeros(3)})
        _, state = rule.update({"w": jnp.array([1e3, 1e3, 1e3])}, state)
        rates = optimizer_rates.effective_rates(rule, state, gradients)
        np.testing.assert_allclose(rates, expected, rtol=1e-7 if name == "momentum" else 1e-5)
