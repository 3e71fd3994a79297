"""The scale of the first weights: training against NumPy, and claims that can be refuted."""

import batchnorm_and_scale
import jax
import numpy as np
import pytest
import xarray
from batchnorm_and_scale import ARMS, BATCH_SIZE, SPLITS

from jaxdl import data, training

SCALES, RATES = np.array([1e-3, 1e-2, 1.0, 1e2, 1e3]), np.array([0.1, 1.0])
AXES = ("arm", "scale", "rate", "seed")


def batchnorm_and_scale_results(seeds=5):
    """Accuracies and effective rates as they are expected."""
    by_scale = [[9, 9, 96, 10, 9], [94, 97, 98, 94, 93], [95, 97, 98, 20, 9], [94, 97, 98, 94, 93]]
    accuracy = np.stack([np.array(by_scale), np.array(by_scale) - 2.0], axis=-1)[..., None]
    draw = np.random.default_rng(0)
    of_seed = 0.2 * draw.normal(size=(1, 5, 2, seeds))
    accuracy = accuracy + of_seed + 0.02 * draw.normal(size=(4, 5, 2, seeds))
    turning = np.minimum(SCALES**2, SCALES**-2.0)[:, None, None] * RATES[:, None]
    effective = np.broadcast_to(turning, accuracy.shape)
    return xarray.Dataset(
        {
            "validation": (AXES, accuracy.copy()),
            "test": (AXES, accuracy),
            "effective": (AXES, effective * (1 + 0.01 * np.arange(seeds))),
        },
        coords={"arm": [*ARMS], "scale": SCALES, "rate": RATES, "seed": range(seeds)},
    )


def those(verdict, results):
    """The claims, by number, of this verdict."""
    claims = batchnorm_and_scale.claims(results)
    return {i for i, claim in enumerate(claims) if claim.verdict == verdict}


@pytest.mark.parametrize(
    ("name", "where", "change", "refuted"),
    [
        ("test", {"arm": ["hidden", "law"], "scale": 1e2}, -20.0, {0}),
        ("test", {"arm": "plain", "scale": 1e-3}, 60.0, {1}),
        ("test", {"arm": "all", "scale": 1e3}, 60.0, {2}),
        ("test", {"arm": "hidden", "scale": 1e-2, "rate": 1.0}, -3.0, {3}),
        ("test", {"arm": "law", "scale": 1e-2, "rate": 1.0}, np.nan, {3}),
        ("effective", {"arm": "hidden", "scale": 1e3}, 1e-5, {4}),
        ("effective", {"arm": "hidden", "scale": 1e-3}, 1e-5, {5}),
    ],
)
def test_each_claim_can_be_refuted(name, where, change, refuted):
    results = batchnorm_and_scale_results()
    assert those("holds", results) == set(range(6))
    results[name].loc[where] += change
    assert those("refuted", results) == refuted


def test_seeds_that_scatter_decide_nothing():
    results = batchnorm_and_scale_results(seeds=3)
    results["test"] += xarray.DataArray([-20.0, 0.0, 20.0], dims="seed") * (results["scale"] != 1)
    assert those("undecided", results) == {0, 1, 2}


def test_the_rate_is_chosen_in_validation():
    results = batchnorm_and_scale_results()
    results["test"].loc[{"rate": 1.0}] += 5
    chosen = batchnorm_and_scale.at_best_rate(results)
    xarray.testing.assert_equal(
        chosen.drop_vars("rate"),
        results["test"].sel(rate=0.1, drop=True).transpose("seed", "arm", "scale"),
    )


def test_scales_without_one_to_compare_with_are_refused():
    with pytest.raises(ValueError, match=r"1\.0 among them"):
        batchnorm_and_scale.Config(scales=(1e-3, 1e-1, 1e1, 1e3))


def by_numpy(batch_norm, factors, rates, digits, order, params):
    """[test accuracy in %, square of hidden weights] after one epoch, in float64.

    `factors` are of the three kernels, `rates` of the hidden kernels and of all else.
    """
    weights = [
        factor * np.asarray(params[f"dense_{layer}"]["kernel"], np.float64)
        for layer, factor in enumerate(factors)
    ]
    bias, shift = [np.zeros(64), np.zeros(64), np.zeros(10)], [np.zeros(64)] * 2
    gain, mean, variance = [np.ones(64)] * 2, [np.zeros(64)] * 2, [np.ones(64)] * 2
    inputs = digits.train.inputs.reshape(-1, 64).astype(np.float64)
    labels = np.eye(10)[digits.train.targets]
    for at in np.split(order, range(BATCH_SIZE, len(order), BATCH_SIZE)):
        x, kept = inputs[at], []
        for k in range(2):
            z = x @ weights[k] + (0 if batch_norm else bias[k])
            deviation = z.std(0)
            normal = (z - z.mean(0)) / deviation
            y = gain[k] * normal + shift[k] if batch_norm else z
            if batch_norm:
                mean[k] = 0.9 * mean[k] + 0.1 * z.mean(0)
                variance[k] = 0.9 * variance[k] + 0.1 * z.var(0, ddof=1)
            kept.append((x, normal, deviation, y))
            x = np.maximum(y, 0)
        logits = x @ weights[2] + bias[2]
        odds = np.exp(logits - logits.max(1, keepdims=True))
        delta = (odds / odds.sum(1, keepdims=True) - labels[at]) / len(at)
        back = delta @ weights[2].T
        weights[2] = weights[2] - rates[1] * x.T @ delta
        bias[2] = bias[2] - rates[1] * delta.sum(0)
        for k in (1, 0):
            x, normal, deviation, y = kept[k]
            delta = back * (y > 0)
            by_gain, by_shift = (delta * normal).sum(0), delta.sum(0)
            if batch_norm:
                along = delta.mean(0) + normal * (delta * normal).mean(0)
                delta = gain[k] / deviation * (delta - along)
            back = delta @ weights[k].T
            weights[k] = weights[k] - rates[0] * x.T @ delta
            bias[k], shift[k] = bias[k] - rates[1] * by_shift, shift[k] - rates[1] * by_shift
            gain[k] = gain[k] - rates[1] * by_gain
    x = digits.test.inputs.reshape(-1, 64).astype(np.float64)
    for k in range(2):
        z = x @ weights[k]
        normed = gain[k] * (z - mean[k]) / np.sqrt(variance[k]) + shift[k]
        x = np.maximum(normed if batch_norm else z + bias[k], 0)
    right = (x @ weights[2] + bias[2]).argmax(1) == digits.test.targets
    squares = np.concatenate([np.square(kernel).sum(0) for kernel in weights[:2]])
    return 100 * right.mean(), np.exp(np.log(squares).mean())


def test_training_is_that_of_numpy_in_float64_and_has_the_names_that_claims_read():
    config = batchnorm_and_scale.Config(
        scales=(0.1, 0.5, 1.0, 10.0), rates=(0.1,), epochs=1, seeds=3
    )
    results = batchnorm_and_scale.run(config)
    assert dict(results.sizes) == {"arm": 4, "scale": 4, "rate": 1, "seed": 3}
    digits = data.split(data.load("digits"), key=jax.random.key(0), fractions=SPLITS)
    key, a = jax.random.key(1), 0.5
    (order,) = training.orders(key, 1, len(digits.train))
    for name, factors, slower in (
        ("plain", (a, a, a), 1),
        ("hidden", (a, a, 1), 1),
        ("all", (a, a, a), 1),
        ("law", (1, 1, 1), a**-2),
    ):
        norm = ARMS[name].batch_norm
        draw = training.first_weights(batchnorm_and_scale.task_of(norm, 0.0), digits.train)
        accuracy, square = by_numpy(norm, factors, (0.1 * slower, 0.1), digits, order, draw(key))
        measured = results.sel(arm=name, scale=a, seed=1).squeeze("rate")
        # 22 updates in float32; a digit on the border of two classes may fall to either side.
        assert float(measured["effective"]) == pytest.approx(0.1 * slower / square, rel=1e-4)
        assert float(measured["test"]) == pytest.approx(accuracy, abs=2.01 * 100 / 540)
    assert len(batchnorm_and_scale.claims(results)) == 6
    assert len(batchnorm_and_scale.plot(results).axes) == 2
