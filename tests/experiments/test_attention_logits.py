"""The experiment of attention logits: what it measures, and that each claim can be refuted."""

import attention_logits
import flax.linen as nn
import jax
import numpy as np
import pytest
import xarray

from jaxdl import diagnostics

RATES = 10.0 ** np.linspace(-3, 0, 7)
ARMS = ["plain", "normalised"]


def attention_logits_results(spread=0.02):
    """Losses of two bowls, and logits and entropies by rate, as expected; seeds scatter."""
    draw = np.random.default_rng(0)
    seeds, looks = 5, 2
    axes = {
        "arm": ARMS, "rate": RATES, "seed": range(seeds), "step": [20, 40], "layer": [0, 1],
    }  # fmt: skip
    scatter = np.exp(spread * draw.normal(size=(len(ARMS), len(RATES), seeds)))
    loss = np.array(
        [[0.28, 0.14, 0.09, 0.08, 0.5, 1.0, 1.2], [0.29, 0.15, 0.1, 0.05, 0.06, 0.12, 0.7]]
    )
    logit = np.array([3 * 10 ** (2.0 * np.log10(RATES / 1e-3)), np.full(len(RATES), 4.0)])
    logit[0, 4:] *= RATES[4:] / RATES[4]
    entropy = np.array([[0.9, 0.9, 0.7, 0.5, 0.01, 0.0, 0.0], [0.9, 0.9, 0.8, 0.8, 0.9, 0.6, 0.1]])

    def looked(values, *more):
        whole = values[:, :, None] * scatter
        return np.broadcast_to(
            whole.reshape(*whole.shape, *(1 for _ in (looks, *more))), (*whole.shape, looks, *more)
        ).copy()

    names = ("arm", "rate", "seed", "step")
    return xarray.Dataset(
        {
            "loss": (names, looked(loss)),
            "logit": ((*names, "layer"), looked(logit, 2)),
            "entropy": ((*names, "layer"), looked(entropy, 2)),
        },
        coords=axes,
    )


def refuted(results):
    return [i for i, claim in enumerate(attention_logits.claims(results)) if claim.refuted]


def test_the_claims_hold_for_the_expected_numbers():
    results = attention_logits_results()
    assert [claim.verdict for claim in attention_logits.claims(results)] == ["holds"] * 7
    assert attention_logits.plot(results).axes


PLAIN, LARGE = {"arm": "plain"}, RATES[4]


@pytest.mark.parametrize(
    ("name", "where", "value", "expected"),
    [
        ("loss", {"arm": "normalised", "rate": RATES[4:]}, 1.2, [0, 1]),
        ("loss", {"arm": "normalised", "rate": RATES[2]}, 0.25, [6]),
        ("logit", {"arm": "plain", "rate": RATES[4:]}, 5.0, [2, 3]),
        ("entropy", {"arm": "plain", "rate": RATES[4]}, 0.9, [4]),
        ("entropy", {"arm": "normalised", "rate": RATES[4]}, 0.1, [5]),
    ],
)
def test_each_claim_can_be_refuted(name, where, value, expected):
    results = attention_logits_results()
    results[name].loc[where] = value + 0.01 * value * results["seed"]
    assert refuted(results) == expected


def test_no_gain_refutes_and_seeds_that_scatter_decide_nothing():
    results = attention_logits_results()
    results["loss"].loc[{"arm": "normalised"}] = results["loss"].sel(PLAIN)
    assert 0 in refuted(results)
    scattered = attention_logits_results(spread=3.0)
    verdicts = [claim.verdict for claim in attention_logits.claims(scattered)]
    assert "undecided" in verdicts


def test_runs_that_overflow_count_as_a_guess():
    results = attention_logits_results()
    results["loss"].loc[{"arm": "plain", "rate": RATES[-1]}] = np.nan
    loss = attention_logits.final_loss(results)
    assert (loss.sel(arm="plain", rate=RATES[-1]) == np.log(5)).all()
    assert [claim.verdict for claim in attention_logits.claims(results)][:2] == ["holds"] * 2


def test_the_largest_rate_is_found_between_two_rates():
    """In logarithms halfway: from 0.1 to 0.9 nats the target, 0.3, is in the middle."""
    rates = np.array([0.01, 0.1, 1.0])
    found = attention_logits.largest_rate(rates, np.array([0.1, 0.1, 0.9]))
    assert found == pytest.approx(10**-0.5)
    assert attention_logits.largest_rate(rates, np.array([0.2, 0.2, 0.1])) == 1.0
    assert np.isnan(attention_logits.largest_rate(rates, np.array([0.5, 0.4, 0.9])))


def test_the_rate_rises_and_falls():
    optimizer = attention_logits.make_optimizer(1.0, 40)
    state, moved = optimizer.init({"w": np.ones(1)}), []
    for _ in range(41):
        updates, state = optimizer.update({"w": np.ones(1)}, state, {"w": np.ones(1)})
        moved.append(float(np.abs(updates["w"][0])))
    # Of a constant gradient Adam's step is the rate.
    expected = [step / 4 for step in range(4)]
    expected += [0.5 + 0.5 * np.cos(np.pi * step / 36) for step in range(37)]
    np.testing.assert_allclose(moved, expected, atol=1e-5)


def test_the_norms_stand_on_queries_and_keys_alone():
    train, _ = attention_logits.words()
    inputs = train.inputs[:2]
    for norm in attention_logits.NORMS.values():
        model = attention_logits.make_task(norm, 1).model
        variables = model.init(jax.random.key(0), inputs, train=False)
        names = set(variables["params"]["block_0"]["attention"])
        assert names == {"query", "key", "value", "out"} | (
            {"query_norm", "key_norm"} if norm else set()
        )
    # With scales of 1 no logit is above the root of the head's width, 16.
    found = diagnostics.attention(model, variables, {"inputs": inputs})
    assert isinstance(model, nn.Module)
    assert (found.largest_logit <= np.sqrt(16) * (1 + 1e-5)).all()


def test_decades_that_lack_the_claimed_rates_are_refused():
    with pytest.raises(ValueError, match="decades hold -2 and -1"):
        attention_logits.run(attention_logits.Config(decades=(-3.0, -2.0)))
