"""Norms at small batches: each claim holds, and can be refuted; the parts are what they say."""

from typing import Any

import flax.linen as nn
import jax
import normalization_batch_size as experiment
import numpy as np
import pytest
import xarray

from jaxdl import data

AXES = ("norm", "batch_size", "seed")
SPREAD = 0.1 * np.array([-1.0, 0.0, 1.0, 0.0])


def normalization_batch_size_results():
    """Errors as expected: BatchNorm's 66, 60, 59, 59 %, the others' flat, for four seeds."""
    error = np.full((4, 4, 4), 61.0)
    error[0] = np.array([66.0, 60.0, 59.0, 59.0])[:, None]
    error[:, 0] += SPREAD  # so that no difference is without spread
    won_back = np.array([1.0, 0.3, 0.0, 0.0])[:, None]
    ghosts = np.array([65.5, 60.0, 59.0])[:, None] + SPREAD
    return xarray.Dataset(
        {
            "error": (AXES, error),
            "loss": (AXES, error / 40),
            "recalibrated": (AXES, error - won_back),
            "ghost_error": (("ghost_size", "seed"), ghosts),
        },
        coords={
            "norm": ["batch", "group", "layer", "instance"],
            "batch_size": [2, 4, 32, 128],
            "ghost_size": [2, 4, 32],
            "seed": range(4),
        },
        attrs={"examples": 4000, "epochs": 10},
    )


def verdicts(found):
    return [claim.verdict for claim in experiment.claims(found)]


def test_the_expected_numbers_hold():
    found = normalization_batch_size_results()
    assert verdicts(found) == ["holds"] * 8
    assert experiment.plot(found).axes
    without = found.drop_dims("ghost_size")
    assert verdicts(without) == ["holds"] * 7
    assert experiment.plot(without).axes


def at(norm, *batch_size):
    return {"norm": norm} | ({"batch_size": batch_size[0]} if batch_size else {})


@pytest.mark.parametrize(
    ("quantity", "where", "change", "refuted"),
    [
        # BatchNorm that bears a batch of 2: then a quarter of its rise is no room for the others.
        ("error", at("batch", 2), -16.0, {0, 1, 2, 3, 4}),
        ("error", at("group", 2), 4.0, {1}),
        ("error", at("layer", 2), 4.0, {2}),
        ("error", at("instance", 2), 4.0, {3}),
        ("error", at("instance", 2), -2.0, set()),
        ("error", at("group"), 7.5, {4}),
        ("loss", at("batch", 2), -0.3, {5}),
        ("loss", at("batch", 2), np.nan, {5}),
        ("recalibrated", at("batch", 2), -8.0, {6}),
        ("ghost_error", {"ghost_size": 2}, -8.5, {7}),
    ],
)
def test_each_claim_can_be_refuted(quantity, where, change, refuted):
    found = normalization_batch_size_results()
    found[quantity].loc[where] += change
    assert {i for i, verdict in enumerate(verdicts(found)) if verdict == "refuted"} == refuted


def test_seeds_that_scatter_decide_nothing():
    found = normalization_batch_size_results()
    found["ghost_error"].loc[{"ghost_size": 2}] += 100 * SPREAD
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


def test_every_norm_starts_from_the_same_weights():
    x = np.zeros((1, 8, 8, 3), np.float32)
    first, *others = (
        experiment.PatchNet((4, 8), norm).init(jax.random.key(0), x, train=False)["params"]
        for norm in experiment.NORMS.values()
    )
    for other in others:
        jax.tree.map(np.testing.assert_array_equal, first, other)


def test_a_run_has_the_axes_that_claims_read(monkeypatch):
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (64, 32, 32, 3)).astype(np.uint8)
    noise = data.Arrays(images, draw.integers(0, 10, 64).astype(np.int32))
    few = data.Dataset("few", noise, None, noise)
    monkeypatch.setattr(experiment.data, "load", lambda name, **where: few)
    found = experiment.run(
        experiment.Config(
            seeds=3, examples=64, epochs=1, batch_sizes=(2, 32), norms=("batch", "group"),
            ghost_sizes=(), channels=(4, 8), pooling=4,
        )
    )  # fmt: skip
    for name in ("error", "recalibrated", "loss"):
        assert found[name].dims == AXES
    assert len(experiment.claims(found)) == 5
    by_group = found.sel(norm="group")
    np.testing.assert_array_equal(by_group["recalibrated"], by_group["error"])


def test_more_images_than_there_are_are_refused(monkeypatch):
    few = data.Arrays(np.zeros((128, 32, 32, 3), np.uint8), np.zeros(128, np.int32))
    monkeypatch.setattr(
        experiment.data, "load", lambda name, **where: data.Dataset("few", few, None, few)
    )
    with pytest.raises(ValueError, match="examples must be at most the 128 training images"):
        experiment.run(experiment.Config(examples=129))
