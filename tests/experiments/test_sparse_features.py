"""The experiment of sparse features: what it measures, and that claims can be refuted."""

import jax
import numpy as np
import pytest
import sparse_features
import xarray
from sparse_features import ARMS, FREQUENCY, NOISE, QUARTERS


def sparse_features_results(seeds=8, steps=1000):
    """SGD as its expectation; the others learn rare features; Adagrad's rate goes as t^-1/2."""
    draw, t = np.random.default_rng(0), np.arange(steps) + 1.0
    axes = {"optimizer": [*ARMS], "rate": [0.1], "seed": range(seeds)}
    shape = (len(ARMS), 1, seeds, steps, 2)
    exact = sparse_features.sgd_errors(0.1, steps)
    mean = np.stack([exact[:, part].mean(1) for part in QUARTERS.values()], -1)
    drawn = np.exp(0.01 * draw.normal(size=(len(ARMS), 1, seeds, 1, 1)))
    error = mean * drawn
    error[1:] *= 0.3
    moved = drawn * np.ones(shape)
    moved[1] *= (t**-0.5)[:, None]
    dims = [*axes, "step", "quarter"]
    data = {"error": (dims, error), "moved": (dims, moved), "gradient": (dims, np.ones(shape))}
    data["loss"] = (dims[:-1], error.mean(-1))
    return xarray.Dataset(data, {**axes, "quarter": [*QUARTERS]})


def verdicts(results):
    return [claim.verdict for claim in sparse_features.claims(results)]


@pytest.mark.parametrize(
    ("name", "optimizer", "factor", "expected"),
    [
        (None, None, None, []),
        ("error", "Adagrad", 10, [0]),
        ("error", "RMSprop", 10, [1]),
        ("error", "Adam", 10, [2]),
        ("error", "SGD", 2, [3]),
        ("moved", "Adagrad", 1 / np.arange(1, 1001)[:, None], [4]),
        ("moved", "Adam", 1 / np.arange(1, 1001)[:, None], [5]),
        ("moved", "RMSprop", 1 / np.arange(1, 1001)[:, None], [6]),
    ],
)
def test_the_claims_hold_and_can_be_refuted(name, optimizer, factor, expected):
    results = sparse_features_results()
    if name:
        at = {"optimizer": optimizer}
        results[name].loc[at] = results[name].loc[at].values * factor
    refuted = [i for i, verdict in enumerate(verdicts(results)) if verdict == "refuted"]
    assert refuted == expected
    assert verdicts(results).count("holds") == 7 - len(expected)


def test_the_expectation_of_sgd_is_that_of_one_batch_by_enumeration():
    """One step from 0, by mean and variance: the batch divides the variance."""
    rate, p = 0.1, FREQUENCY  # e is 1 everywhere
    mean = 1 - 2 * rate * p
    # x_j (x . e - noise) has the mean p e and the mean square p (1 + others + noise^2).
    variance = p * (1 + p.sum() - p + NOISE**2) - p**2
    expected = mean**2 + 4 * rate**2 * variance / sparse_features.BATCH_SIZE
    np.testing.assert_allclose(sparse_features.sgd_errors(rate, 1)[0], expected, rtol=1e-12)


def test_examples_have_their_frequencies_and_targets():
    made = sparse_features.examples(jax.random.key(0), 20_000)
    found = np.abs(made["inputs"]).mean(0)
    # Six standard deviations: 64 features are all within them but for one key in 10^7.
    np.testing.assert_array_less(abs(found - FREQUENCY), 6 * np.sqrt(FREQUENCY / 20_000))
    residual = made["targets"][:, 0] - made["inputs"] @ sparse_features.true_weights()
    np.testing.assert_allclose(np.std(residual), NOISE, rtol=0.03)


def test_the_smoke_preset_runs():
    results = sparse_features.run(sparse_features.PRESETS["smoke"])
    assert dict(results.sizes) == {
        "optimizer": 4, "rate": 7, "seed": 3, "step": 300, "quarter": 2,
    }  # fmt: skip
    sgd = results.sel(optimizer="SGD")
    np.testing.assert_allclose(sgd["moved"], sgd["rate"] * sgd["gradient"], rtol=1e-4)
    assert sparse_features.plot(results).axes


def test_too_few_steps_are_refused():
    with pytest.raises(ValueError, match=r"steps must be at least 100, .* got 99; pass more"):
        sparse_features.Config(steps=99)
