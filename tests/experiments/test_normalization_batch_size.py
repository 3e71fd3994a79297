"""Norms at small batches: each claim holds, and can be refuted; the parts are what they say."""

import functools
import operator
from typing import Any

import flax.linen as nn
import jax
import normalization_batch_size as experiment
import numpy as np
import pytest

from jaxdl import data, training

SIZES = np.array([2, 4, 32, 128])
NAMES = np.array(["batch", "group", "layer", "instance"])
BATCH, GROUP, LAYER, INSTANCE = range(4)
SPREAD = 0.1 * np.array([-1.0, 0.0, 1.0, 0.0])


def normalization_batch_size_results():
    """Errors as expected: BatchNorm's 66, 60, 59, 59 %, the others' flat, for four seeds."""
    error = np.full((4, 4, 4), 61.0)
    error[BATCH] = np.array([66.0, 60.0, 59.0, 59.0])[:, None]
    error[:, 0] += SPREAD  # so that no difference is without spread
    return {
        "names": NAMES,
        "batch_sizes": SIZES,
        "error": error,
        "loss": error / 40,
        "recalibrated": error[BATCH] - np.array([1.0, 0.3, 0.0, 0.0])[:, None],
        "examples": np.array(4000),
        "epochs": np.array(10),
        "ghost_sizes": SIZES[:3],
        "ghost_error": np.array([65.5, 60.0, 59.0])[:, None] + SPREAD,
    }


def verdicts(found):
    return [claim.verdict for claim in experiment.claims(found)]


def test_the_expected_numbers_hold():
    found = normalization_batch_size_results()
    assert verdicts(found) == ["holds"] * 8
    assert experiment.plot(found).axes
    found |= {"ghost_sizes": SIZES[:0], "ghost_error": np.zeros((0, 4))}
    assert verdicts(found) == ["holds"] * 7


@pytest.mark.parametrize(
    ("quantity", "where", "change", "refuted"),
    [
        # BatchNorm that bears a batch of 2: then a quarter of its rise is no room for the others.
        ("error", (BATCH, 0), -16.0, {0, 1, 2, 3, 4}),
        ("error", (GROUP, 0), 4.0, {1}),
        ("error", (LAYER, 0), 4.0, {2}),
        ("error", (INSTANCE, 0), 4.0, {3}),
        ("error", (INSTANCE, 0), -2.0, set()),
        ("error", (GROUP,), 7.5, {4}),
        ("loss", (BATCH, 0), -0.3, {5}),
        ("recalibrated", (0,), -8.0, {6}),
        ("ghost_error", (0,), -8.5, {7}),
    ],
)
def test_each_claim_can_be_refuted(quantity, where, change, refuted):
    found = normalization_batch_size_results()
    found[quantity][where] += change
    assert {i for i, verdict in enumerate(verdicts(found)) if verdict == "refuted"} == refuted


def test_seeds_that_scatter_decide_nothing():
    found = normalization_batch_size_results()
    found["ghost_error"][0] += 100 * SPREAD
    assert verdicts(found)[7] == "undecided"


def test_a_convolution_on_patches_is_flaxs_convolution():
    key, x_key = jax.random.split(jax.random.key(0))
    x = jax.random.normal(x_key, (3, 8, 8, 5))
    net = experiment.PatchNet((7,), experiment.NORMS["batch"])
    variables = net.init(key, x, train=False)
    _, state = net.apply(variables, x, train=False, capture_intermediates=True)
    (found,) = state["intermediates"]["conv_0"]["__call__"]
    kernel = variables["params"]["conv_0"]["kernel"].reshape(2, 2, 5, 7)
    convolution = nn.Conv(7, (2, 2), strides=2, use_bias=False)
    expected: Any = convolution.apply({"params": {"kernel": kernel}}, x)
    # 20 products, whose sizes add up to less than 20: as many roundings, in another order.
    np.testing.assert_allclose(found, expected, atol=20 * 20 * 2.0**-24)


@pytest.mark.parametrize(
    ("name", "axes", "groups"), [("layer", (1, 2, 3), 1), ("group", (1, 2, 4), 4)]
)
def test_norms_normalise_over_what_the_paper_says(name, axes, groups):
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (2, 4, 4, 8))
    norm = experiment.NORMS[name]()
    variables = norm.init(jax.random.key(1), x)
    assert variables["params"]["scale"].shape == (8,)
    y = np.asarray(norm.apply(variables, x), np.float64)
    if groups > 1:
        y = y.reshape(2, 4, 4, groups, -1)
    np.testing.assert_allclose(y.mean(axes), 0.0, atol=1e-5)
    # Epsilon takes 1e-5 / 4 from the variance; E[x^2] - E[x]^2 of 13 - 9 rounds by 13 * 2^-24.
    np.testing.assert_allclose(y.var(axes), 1.0, atol=1e-5)


def test_statistics_of_the_training_set_are_those_of_diagnostics():
    config = experiment.Config(channels=(4, 8))
    norm = experiment.NORMS["batch"]
    net = experiment.PatchNet(config.channels, norm)
    x = 2 + jax.random.normal(jax.random.key(0), (50, 8, 8, 3))
    starts = experiment.make_starts(net)(jax.vmap(jax.random.key)(np.arange(2)), x[:1])
    found = experiment.recalibrated(config, starts, {"inputs": x})
    for seed in range(2):
        ours, start = jax.tree.map(operator.itemgetter(seed), (found, starts))
        expected = training.recalibrate(net, start, [x])
        # Means over at least 200 values near 1, in another order, and the root of a variance.
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4), ours, expected)


def test_batches_leave_an_incomplete_one():
    orders = np.arange(2 * 3 * 7).reshape(2, 3, 7)
    found = experiment.batches(orders, 2)
    assert found.shape == (2, 9, 2)
    np.testing.assert_array_equal(found[1, 3], orders[1, 1, :2])


def test_more_images_than_there_are_are_refused(monkeypatch):
    few = data.Arrays(np.zeros((128, 32, 32, 3), np.uint8), np.zeros(128, np.int32))
    monkeypatch.setattr(
        experiment.data, "load", lambda name, **where: data.Dataset("few", few, None, few)
    )
    with pytest.raises(ValueError, match="examples must be at most the 128 training images"):
        experiment.run(experiment.Config(examples=129))
