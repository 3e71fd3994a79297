"""The stream of a wide residual network: closed forms, and networks that are drawn."""

import dataclasses
import functools
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import activations
from jaxdl.diagnostics import mean_field, residual_stream
from jaxdl.intervals import interval
from jaxdl.models import ResidualMLP
from jaxdl.models.residual_mlp import DenseBlock

BLOCKS = np.arange(9)
relu = functools.partial(residual_stream, activations.relu, blocks=8)
EXACT = {"rtol": 1e-12}


def test_relu_without_a_norm_doubles():
    predicted = relu(input_second_moment=3.0)
    np.testing.assert_allclose(predicted.second_moment, 3 * 2.0**BLOCKS, **EXACT)
    np.testing.assert_allclose(predicted.branch_second_moment, 3 * 2.0 ** BLOCKS[:-1], **EXACT)
    np.testing.assert_allclose(predicted.gradient, 2.0 ** BLOCKS[::-1], **EXACT)


def test_scaled_branches_end_below_e():
    ends = [
        residual_stream(
            activations.relu, blocks=blocks, last_weight_variance=1 / blocks
        ).second_moment[-1]
        for blocks in (1, 4, 64, 1000)
    ]
    np.testing.assert_allclose(ends, [(1 + 1 / n) ** n for n in (1, 4, 64, 1000)], rtol=1e-12)
    # (1 + 1/n)^n = e (1 - 1/(2n) + ...)
    assert ends[-1] == pytest.approx(math.e, rel=1 / 1000)


@pytest.mark.parametrize("position", ["before", "inside"])
def test_norms_in_the_branch_add_one_a_block(position):
    predicted = relu(norm_position=position)
    np.testing.assert_allclose(predicted.second_moment, 1.0 + BLOCKS, **EXACT)
    factors = predicted.gradient[:-1] / predicted.gradient[1:]
    slope = 1 / predicted.second_moment[:-1]
    np.testing.assert_allclose(factors, 1 + slope, **EXACT)
    # So the gradient grows as the number of blocks, where without a norm it doubles.
    np.testing.assert_allclose(predicted.gradient, 9 / (1.0 + BLOCKS), **EXACT)


def test_norms_after_the_sum_hold_one():
    predicted = relu(norm_position="after", input_second_moment=1.0)
    np.testing.assert_allclose(predicted.second_moment, 1.0, **EXACT)
    np.testing.assert_allclose(predicted.gradient, 1.0, **EXACT)  # ReLU: chi = B
    # tanh's branch passes less gradient than it has signal left: chi < B, so it vanishes backward
    tanh = residual_stream(
        jnp.tanh, blocks=8, norm_position="after", weight_variance=4.0, last_weight_variance=2.0
    )
    assert tanh.gradient[0] != pytest.approx(1.0, rel=1e-3)


@pytest.mark.parametrize("position", [None, "before", "inside", "after"])
def test_a_branch_of_zero_leaves_the_stream(position):
    predicted = relu(norm_position=position, branch_scale=0.0)
    np.testing.assert_array_equal(predicted.second_moment, np.ones(9))
    np.testing.assert_array_equal(predicted.gradient, np.ones(9))


def test_one_layer_of_mean_field_is_what_a_branch_does():
    field = mean_field(jnp.tanh, weight_variance=1.7, depth=3, input_second_moment=0.8)
    predicted = residual_stream(
        jnp.tanh, blocks=1, branch_layers=4, weight_variance=1.7, last_weight_variance=1.7,
        input_second_moment=0.8,
    )  # fmt: skip
    branch = 1.7 * field.activation_second_moment[-1]
    np.testing.assert_allclose(predicted.branch_second_moment, [branch], **EXACT)
    factor = 1 + 1.7 * np.prod(field.gradient_factor)
    np.testing.assert_allclose(predicted.gradient[0], factor, **EXACT)


SEEDS, WIDTH, DEPTH = 12, 512, 6
ARMS = {
    "plain": {},
    "scaled": {"residual_start": "scaled"},
    "before": {"norm_position": "before"},
    "inside": {"norm_position": "inside"},
    "after": {"norm_position": "after"},
    "tanh before": {"norm_position": "before", "activation": jnp.tanh},
    "three layers": {"branch_layers": 3},
    "skip_init": {"residual_start": "skip_init"},
    "zero_scale": {"norm_position": "inside", "residual_start": "zero_scale"},
    "fixup": {"residual_start": "fixup"},
}


def measured(model):
    """By seed: the second moment of the stream, and the gradient with respect to it, by block."""
    names = [each.name for each in dataclasses.fields(DenseBlock)]
    settings = {name: getattr(model, name) for name in names if hasattr(model, name)}
    settings |= {"branches": model.layers, "hidden": model.features, "name": None, "parent": None}
    block = DenseBlock(**settings)

    def of(key):
        inputs_key, gradient_key, init_key = jax.random.split(key, 3)
        inputs = jax.random.normal(inputs_key, (16, WIDTH))
        params = model.init(init_key, inputs, train=False)["params"]["blocks"]

        def through(x, own):
            return block.apply({"params": own}, x, True)

        last, stream = jax.lax.scan(lambda x, own: (through(x, own), x), inputs, params)

        def back(gradient, at):
            x, own = at
            (before,) = jax.vjp(lambda x: through(x, own), x)[1](gradient)
            return before, before

        top = jax.random.normal(gradient_key, (16, WIDTH))
        _, gradients = jax.lax.scan(back, top, (stream, params), reverse=True)
        squares = (
            jnp.square(jnp.concatenate(parts)).mean((1, 2))
            for parts in ((stream, last[None]), (gradients, top[None]))
        )
        return tuple(squares)

    return jax.jit(jax.vmap(of))(jax.random.split(jax.random.key(0), SEEDS))


@pytest.mark.parametrize("arm", ARMS)
def test_wide_networks_follow_it(arm):
    settings = dict(ARMS[arm])
    if "norm_position" in settings:
        settings["norm"] = functools.partial(nn.LayerNorm, epsilon=1e-6)
    model = ResidualMLP(WIDTH, DEPTH, blocks="scan", **settings)
    start = settings.get("residual_start")
    stream, gradients = (np.asarray(each, np.float64) for each in measured(model))
    law = residual_stream(
        settings.get("activation", activations.relu),
        blocks=DEPTH,
        norm_position=settings.get("norm_position"),
        branch_layers=settings.get("branch_layers", 2),
        last_weight_variance=1 / DEPTH if start == "scaled" else 1.0,
        branch_scale=0.0 if start in ("zero_scale", "skip_init", "fixup") else 1.0,
    )
    kept = slice(1, None) if settings.get("norm_position") == "after" else slice(None)
    if law.second_moment[-1] == 1 and kept == slice(None):
        np.testing.assert_array_equal(stream, np.tile(stream[:, :1], DEPTH + 1))
        return
    growth = stream / stream[:, :1] if kept == slice(None) else stream[:, 1:]
    # Norms and ratios bring a bias of order 1 / width: a law of five units of it is allowed, as in
    # `batchnorm_depth`, beside the interval of the seeds at a false alarm in 1e5 for each point.
    for values, expected in (
        (growth, law.second_moment[kept]),
        (gradients / gradients[:, -1:], law.gradient),
    ):
        mean, half_width = interval(values, level=1 - 1e-5)
        allowed = half_width + 5 * DEPTH / WIDTH * expected
        assert (np.abs(mean - expected) <= allowed).all(), (mean, expected, allowed)


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("blocks must be at least 1, got 0", {"blocks": 0}),
        ("branch_layers must be at least 2, got 1", {"branch_layers": 1}),
        ("norm_position must be one of before, inside, after", {"norm_position": "pre"}),
        ("input_second_moment must be finite and positive",
         {"norm_position": "after", "input_second_moment": 0.0}),
        ("weight_variance must be finite and at least 0", {"weight_variance": -1.0}),
        ("branch_scale must be finite", {"branch_scale": math.inf}),
        ("must have a signal to normalise, got the second moment 0 in the branch of block 1",
         {"norm_position": "inside", "last_weight_variance": 0.0}),
        ("must stay within float64, .* at block", {"blocks": 60, "weight_variance": 1e6}),
    ],
)  # fmt: skip
def test_refuses(text, settings):
    with pytest.raises(ValueError, match=text):
        residual_stream(activations.relu, **{"blocks": 3} | settings)


def test_it_says_what_it_is_in_a_line():
    assert repr(relu()) == "ResidualStream(8 blocks: second_moment 1 to 256, gradient 256 to 1)"
