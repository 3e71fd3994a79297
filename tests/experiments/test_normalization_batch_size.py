"""Norms at small batches: each claim holds, and can be refuted; the parts are what they say."""

import functools
import operator
from typing import Any

import flax.linen as nn
import jax
import normalization_batch_size as experiment
import numpy as np
import pytest

from jaxdl import data, diagnostics

SIZES = np.array([2, 4, 32, 128])
NAMES = np.array(["batch", "group", "layer", "instance"])
BATCH, GROUP, LAYER, INSTANCE = range(4)
SPREAD = 0.1 * np.array([-1.0, 0.0, 1.0, 0.0])


def results():
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
        "ghost_sizes": SIZES[:3],
        "ghost_error": np.array([65.5, 60.0, 59.0])[:, None] + SPREAD,
    }


def holds(found):
    return [claim.holds for claim in experiment.claims(found)]


def test_the_expected_numbers_hold():
    assert holds(results()) == [True] * 8
    fewer = results() | {"ghost_sizes": SIZES[:0], "ghost_error": np.zeros((0, 4))}
    assert holds(fewer) == [True] * 7


@pytest.mark.parametrize(
    ("quantity", "where", "change", "refuted"),
    [
        # BatchNorm that bears a batch of 2: then a quarter of its rise is no room for the others.
        ("error", (BATCH, 0), -7.0, {0, 1, 2, 3, 4}),
        ("error", (GROUP, 0), 2.0, {1}),
        ("error", (LAYER, 0), 2.0, {2}),
        ("error", (INSTANCE, 0), 2.0, {3}),
        ("error", (INSTANCE, 0), -2.0, set()),
        ("error", (GROUP,), 5.5, {4}),
        ("loss", (BATCH, 0), -0.2, {5}),
        ("recalibrated", (0,), -6.0, {6}),
        ("ghost_error", (0,), -6.5, {7}),
        ("ghost_error", (0,), 10 * SPREAD - 6.0, {7}),
    ],
)
def test_each_claim_can_be_refuted(quantity, where, change, refuted):
    found = results()
    found[quantity][where] += change
    assert {index for index, held in enumerate(holds(found)) if not held} == refuted


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
        expected = diagnostics.recalibrate(net, start, [x])
        # Means over at least 200 values near 1, in another order, and the root of a variance.
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-4), ours, expected)


def test_batches_leave_an_incomplete_one():
    orders = np.arange(2 * 3 * 7).reshape(2, 3, 7)
    found = experiment.batches(orders, 2)
    assert found.shape == (2, 9, 2)
    np.testing.assert_array_equal(found[1, 3], orders[1, 1, :2])


def test_the_whole_experiment_on_noise(monkeypatch, tmp_path):
    draw = np.random.default_rng(0)

    def arrays(count):
        images = draw.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
        return data.Arrays(images, draw.integers(0, 10, count).astype(np.int32))

    noise = data.Dataset("noise", arrays(128), None, arrays(50), tuple("abcdefghij"))
    monkeypatch.setattr(experiment.data, "load", lambda name, **where: noise)
    config = experiment.Config(
        seeds=2, examples=128, epochs=2, batch_sizes=(2, 32), norms=("batch", "group"),
        ghost_sizes=(2,), channels=(4,), pooling=4,
    )  # fmt: skip
    found = experiment.run(config)
    np.savez(tmp_path / "results.npz", **found)
    with np.load(tmp_path / "results.npz", allow_pickle=False) as loaded:
        kept = {name: loaded[name] for name in loaded}
    assert kept["error"].shape == (2, 2, 2)
    assert kept["recalibrated"].shape == (2, 2)
    assert kept["ghost_error"].shape == (1, 2)
    assert len(experiment.claims(kept)) == 5
    assert experiment.plot(kept).axes
    with pytest.raises(ValueError, match="examples must be at most the 128 training images"):
        experiment.run(experiment.Config(examples=129))
