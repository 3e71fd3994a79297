"""The experiment of Adam's bias correction: what it measures, and that claims can be refuted."""

import bias_correction
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from bias_correction import BETA1, BETAS2, RULES, STEPS


def bias_correction_results(seeds=8):
    """What the closed forms say; a network whose best rate is ten times smaller, and no better."""
    draw, rates = np.random.default_rng(0), np.geomspace(1e-5, 1e-1, 9)
    factor = np.stack([bias_correction.excess(beta2) for beta2 in BETAS2])
    size = np.stack([np.ones_like(factor), factor], -1)
    drawn = np.exp(0.01 * draw.normal(size=(2, seeds, 1)))
    loss = drawn * np.stack(
        [0.1 + np.log10(rates / 1e-2) ** 2, 0.12 + np.log10(rates / 1e-3) ** 2]
    ).reshape(2, 1, -1)
    second = np.stack([1 - beta2 ** np.arange(1, STEPS + 1) for beta2 in BETAS2])
    second = second[:, None] * (1 + 1e-3 * draw.normal(size=(seeds, 1)))
    every = np.ones((2, 3, seeds, 1, 1))
    return xarray.Dataset(
        {
            "size": (("noise", "beta2", "seed", "step", "rule_of_size"), every * size[:, None]),
            "second": (("noise", "beta2", "seed", "step"), every[..., 0] * second),
            "excess": (
                ("noise", "beta2", "seed", "step", "end"),
                np.repeat(every * factor[:, None, :, None], 2, -1),
            ),
            "loss": (
                ("rule", "beta2", "rate", "seed"),
                np.repeat(loss.swapaxes(1, 2)[:, None], 3, 1),
            ),
            "network_size": (
                ("rule", "beta2", "rate", "seed", "step"),
                np.ones((2, 3, 9, seeds, STEPS)),
            ),
        },
        {
            "noise": [*bias_correction.STREAMS],
            "beta2": list(BETAS2),
            "rule": [*RULES],
            "rate": rates,
        },
        {"steps": 300},
    )


def verdicts(results):
    return [claim.verdict for claim in bias_correction.claims(results)]


@pytest.mark.parametrize(
    ("name", "where", "change", "expected"),
    [
        (None, None, None, []),
        ("size", {"noise": "constant", "rule_of_size": 0}, 1.001, [0]),
        ("size", {"noise": "constant", "rule_of_size": 1}, 1.001, [0]),
        ("excess", {"noise": "noise"}, 1.001, [1]),
        ("second", {"noise": "noise"}, 1.1, [2]),
        ("loss", {"rule": "raw"}, 0.5, [4]),
    ],
)
def test_the_claims_hold_and_can_be_refuted(name, where, change, expected):
    results = bias_correction_results()
    if name:
        results[name].loc[where] = change * results[name].loc[where].values
    refuted = [i for i, verdict in enumerate(verdicts(results)) if verdict == "refuted"]
    assert refuted == expected
    assert verdicts(results).count("holds") == 5 - len(expected)
    assert bias_correction.plot(results).axes


def test_a_best_rate_that_is_larger_without_correction_refutes():
    results = bias_correction_results()
    results["loss"] = results["loss"].roll(rule=1)
    assert verdicts(results)[3] == "refuted"


def test_the_uncorrected_rule_is_the_formula_in_float64():
    rule = bias_correction.uncorrected_adam(0.1, beta2=0.999)
    gradients = np.random.default_rng(0).normal(size=(20, 3))
    state, m, v = rule.init(jnp.zeros(3)), 0.0, 0.0
    for gradient in gradients:
        update, state = rule.update(jnp.asarray(gradient, jnp.float32), state)
        m, v = BETA1 * m + (1 - BETA1) * gradient, 0.999 * v + 0.001 * gradient**2
    # Twenty steps round each moment three times; cancelling in m may lose two digits more.
    np.testing.assert_allclose(update, -0.1 * m / np.sqrt(v + 1e-8), rtol=100 * 60 * 2**-24)


def test_the_factor_is_the_sum_of_the_weights():
    """The weights of a moving average that started at 0 add up to 1 - beta^t."""
    beta2 = float(np.float32(0.999))
    weights = [(1 - beta) * beta ** np.arange(7) for beta in (BETA1, beta2)]
    expected = weights[0].sum() / np.sqrt(weights[1].sum())
    np.testing.assert_allclose(bias_correction.excess(0.999, 7)[-1], expected, rtol=1e-12)


def test_the_smoke_presets_sizes_and_arithmetic():
    results = bias_correction.run(bias_correction.PRESETS["smoke"])
    sizes = {"noise": 2, "beta2": 3, "seed": 3, "step": STEPS, "rule": 2, "rate": 5}
    assert {name: results.sizes[name] for name in sizes} == sizes
    assert verdicts(results)[:2] == ["holds", "holds"]


def test_a_network_that_ends_before_its_first_steps_is_refused():
    with pytest.raises(ValueError, match=r"steps must be at least the 100 .* got 50; pass more"):
        bias_correction.Config(steps=50)
