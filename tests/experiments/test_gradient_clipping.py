"""The experiment of gradient clipping: what it measures, and that claims can be refuted."""

import gradient_clipping
import jax.numpy as jnp
import numpy as np
import pytest
import xarray
from gradient_clipping import CHOSEN, NONE, RATES, WAYS


def gradient_clipping_results(seeds=30, steps=200):
    """The large rate dies without clipping; clipped seldom in the mean, and least at the end."""
    draw = np.random.default_rng(0)
    axes = {"rate": RATES, "way": [*WAYS], "place": range(NONE + 1), "seed": range(seeds)}
    shape = (2, 2, NONE + 1, seeds, steps)
    loss = 0.4 * np.exp(0.01 * draw.normal(size=(2, 2, NONE + 1, seeds, 1))) * np.ones(shape)
    loss[0] += 0.1
    loss[0, :, NONE, :-1] = np.nan
    clipped = np.zeros(shape)
    clipped[..., :20] = 1.0
    clipped[..., 0] = draw.integers(0, 2, shape[:-1])
    data = {"loss": loss, "clipped": clipped, "before": np.full(shape, 2.0)}
    data["after"], data["cosine"] = np.ones(shape), np.ones(shape)
    data["cosine"][:, 1] = 0.6 + 0.01 * draw.normal(size=shape[:1] + shape[2:])
    return xarray.Dataset({name: ([*axes, "step"], each) for name, each in data.items()}, axes)


def verdicts(results):
    return [claim.verdict for claim in gradient_clipping.claims(results)]


@pytest.mark.parametrize(
    ("name", "where", "value", "expected"),
    [
        (None, None, None, []),
        ("loss", {"rate": RATES[0], "way": "norm", "place": NONE}, 1.0, [0]),
        ("loss", {"rate": RATES[0], "way": "norm", "place": CHOSEN}, 3.0, [1]),
        ("loss", {"rate": RATES[0], "way": "value", "place": CHOSEN}, np.nan, [2]),
        ("cosine", {"rate": RATES[0], "way": "norm", "place": CHOSEN}, 0.9, [6]),
        ("after", {"rate": RATES[0], "way": "norm", "place": CHOSEN}, 1.1, [7]),
    ],
)
def test_the_claims_hold_and_can_be_refuted(name, where, value, expected):
    results = gradient_clipping_results()
    if name:
        results[name].loc[where] = value
    refuted = [i for i, verdict in enumerate(verdicts(results)) if verdict == "refuted"]
    assert refuted == expected
    assert verdicts(results).count("holds") == 9 - len(expected)


def test_clipping_at_almost_every_step_refutes_the_lecture():
    results = gradient_clipping_results()
    results["clipped"][{"rate": 0, "way": 0, "place": CHOSEN, "step": slice(5, 190)}] = 1.0
    assert verdicts(results)[3] == "refuted"
    assert gradient_clipping.plot(results).axes


def test_what_clipping_did_is_counted_by_hand():
    before = {"a": jnp.array([3.0, 0.1]), "b": jnp.array([-4.0])}
    after = {"a": jnp.array([1.0, 0.1]), "b": jnp.array([-1.0])}
    found = gradient_clipping.what_clipping_did(before, after)
    b, a = np.array([3.0, 0.1, -4.0]), np.array([1.0, 0.1, -1.0])
    lengths = np.sqrt(b @ b), np.sqrt(a @ a)
    expected = (2 / 3, *lengths, b @ a / np.prod(lengths))
    np.testing.assert_allclose(
        [found[name] for name in ("clipped", "before", "after", "cosine")], expected, rtol=1e-6
    )
    broken = gradient_clipping.what_clipping_did({"a": jnp.array([jnp.inf])}, {"a": jnp.ones(1)})
    assert all(np.isnan(value) for value in broken.values())


def test_a_run_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match=r"steps must be at least 100, .* got 99; pass more"):
        gradient_clipping.Config(steps=99)
