"""`fold` gives the same function: oracle, the evaluated model with its norms."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from folded import (
    IMAGES,
    KEY,
    VECTORS,
    Lifted,
    Own,
    check_is_same,
    convolution,
    disturbed,
    transposed,
)

from jaxdl import models
from jaxdl.calling import call_model
from jaxdl.layers import BatchNorm
from jaxdl.layers.norm import apply_norm
from jaxdl.training import fold


def plain(x, normed, dense):
    return nn.Dense(2, name="head")(nn.relu(normed(dense(5, name="first")(x))))


def with_bias(x, normed, dense):
    return normed(nn.Dense(5, name="first")(x))


def after_dropout(x, normed, dense):
    return normed(nn.Dropout(0.5, deterministic=True)(dense(5, name="first")(x)))


def other_names(x, normed, dense):
    return nn.tanh(normed(dense(5, name="z")(nn.tanh(normed(dense(5)(x), "b"))), "a"))


def residual(x, normed, dense):
    """The norm stands in the branch, and what is added to it beside."""
    return x + nn.relu(normed(dense(4, name="first")(x)))


def lifted_layer(x, normed, dense):
    return normed(nn.remat(nn.Dense)(5, name="first")(x))


SAME = [plain, with_bias, after_dropout, other_names, residual, lifted_layer]


@pytest.mark.parametrize("forward", SAME, ids=lambda each: each.__name__)
@pytest.mark.parametrize(
    "norm",
    [
        BatchNorm,
        functools.partial(BatchNorm, epsilon=0.5, cumulative=True, axis_name="devices"),
        functools.partial(BatchNorm, use_scale=False, use_bias=False),
        functools.partial(nn.BatchNorm, epsilon=0.5, momentum=0.5, use_bias=False),
        functools.partial(nn.BatchNorm, use_scale=False, axis=1),
    ],
    ids=["ours", "ours-settings", "ours-bare", "flax-settings", "flax-bare"],
)
def test_a_norm_after_a_dense_layer_is_folded(forward, norm):
    check_is_same(Own(forward, norm), VECTORS, VECTORS)


@pytest.mark.parametrize(
    "forward",
    [
        convolution(),
        convolution(padding="VALID", strides=2),
        convolution(padding="CIRCULAR", kernel_dilation=2),
        convolution(feature_group_count=2),
        convolution(mask=jnp.arange(9 * 4 * 8).reshape(3, 3, 4, 8) % 2),
        transposed(strides=(2, 2)),
    ],
    ids=["same", "valid", "circular", "grouped", "masked", "transposed"],
)
def test_a_norm_after_a_convolution_is_folded(forward):
    check_is_same(Own(forward), IMAGES, jax.ShapeDtypeStruct(IMAGES.shape, IMAGES.dtype))


def test_half_precision_is_folded_to_its_own_rounding():
    def forward(x, normed, dense):
        return normed(nn.Dense(5, dtype=jnp.bfloat16, name="first")(x))

    model = Own(forward)
    variables = disturbed(model, VECTORS)
    folded, without = fold(model, variables, VECTORS)
    expected = model.apply(variables, VECTORS, train=False)
    found = folded.apply(without, VECTORS, train=False)
    assert found.dtype == expected.dtype == jnp.bfloat16
    # A handful of roundings of 2^-9, of terms up to the largest.
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(
        np.asarray(found, np.float32), np.asarray(expected, np.float32), atol=16 * 2.0**-9 * scale
    )


@pytest.mark.parametrize("norm", [BatchNorm, nn.BatchNorm])
@pytest.mark.parametrize("lift", [nn.remat, nn.jit])
def test_a_block_under_remat_and_jit_is_folded(lift, norm):
    class Block(nn.Module):
        norm: Any

        @nn.compact
        def __call__(self, x):
            x = nn.Dense(4, use_bias=self.norm is None, name="dense")(x)
            norm = None if self.norm is None else self.norm(name="norm")
            return nn.relu(x if norm is None else apply_norm(norm, x, train=False))

    class Net(nn.Module):
        norm: Any = None

        @nn.compact
        def __call__(self, x, *, train):
            for layer in range(2):
                x = lift(Block)(self.norm, name=f"block_{layer}")(x)
            return x

    check_is_same(Net(norm), VECTORS, VECTORS)


class JitBlock(nn.Module):
    norm: Any

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(4, use_bias=self.norm is None, name="dense")(x)
        return x if self.norm is None else apply_norm(self.norm(name="norm"), x, train=False)


Jitted = nn.jit(JitBlock)  # keeps its programs as long as the class lives


class JitNet(nn.Module):
    norm: Any = BatchNorm

    @nn.compact
    def __call__(self, x, *, train):
        return Jitted(self.norm, name="block")(x)


def test_a_jitted_class_computes_the_same_before_and_after_a_fold():
    variables = disturbed(JitNet(), VECTORS)
    plain = {name: tree["block"] for name, tree in variables.items()}
    expected = JitBlock(BatchNorm).apply(plain, VECTORS)
    for _ in range(2):
        folded, without = fold(JitNet(), variables, VECTORS)
        # As `fold` and `fit` call it, so that a program kept from there would be found.
        for model, own in ((folded, without), (JitNet(), variables)):
            found, _ = call_model(model, own, VECTORS, train=False, dropout_key=KEY)
            np.testing.assert_allclose(found, expected, atol=1e-5)


def test_known_models_need_no_inputs():
    check_is_same(models.MLP([5, 3], norm=BatchNorm), VECTORS)
    check_is_same(models.ConvNet([4, 5], [6, 3], norm=nn.BatchNorm), IMAGES)
    for wrong, got in (({"dense_0": {}}, "none at dense_0/kernel"), (None, "got NoneType")):
        given = None if wrong is None else {"params": wrong}
        with pytest.raises((TypeError, ValueError), match=f"variables must be .*{got}"):
            fold(models.MLP([5, 3], norm=BatchNorm), given)
    flax = models.MLP([5, 3], norm=nn.BatchNorm)
    params = {"params": disturbed(flax, VECTORS)["params"]}
    with pytest.raises(ValueError, match="norm norm_0 must have running statistics, got variabl"):
        fold(flax, params)
    with pytest.raises(TypeError, match=r"got no inputs of Own; pass fold\(model, variables, inp"):
        fold(Own(plain), disturbed(Own(plain), VECTORS))


def test_one_block_that_is_mapped_over_examples_is_folded():
    check_is_same(Lifted("examples"), VECTORS, VECTORS)


def test_other_epsilons_of_one_factory_are_each_norms_own():
    def norm(name):
        return BatchNorm(epsilon=1.0 if name == "norm_1" else 1e-5, name=name)

    check_is_same(models.MLP([5, 6, 3], norm=norm), VECTORS)


def test_many_members_are_folded_in_one_compiled_call():
    model = models.MLP([5, 3], norm=BatchNorm)
    members = [disturbed(model, VECTORS), model.init(jax.random.key(7), VECTORS, train=False)]
    stacked = jax.tree.map(lambda *each: jnp.stack(each), *members)
    together = jax.jit(jax.vmap(lambda variables: fold(model, variables)[1]))(stacked)
    for place, member in enumerate(members):
        for one, other in zip(
            jax.tree.leaves(together), jax.tree.leaves(fold(model, member)[1]), strict=True
        ):
            np.testing.assert_allclose(one[place], other, rtol=1e-6)


def test_other_collections_and_the_mode_stay():
    class Net(nn.Module):
        norm: Any = BatchNorm

        @nn.compact
        def __call__(self, x, learning: bool):
            offset = self.variable("constants", "offset", jnp.ones, (4,))
            x = nn.Dense(4, use_bias=self.norm is None)(x + offset.value)
            return x if self.norm is None else self.norm()(x, train=learning)

    variables = Net().init(jax.random.key(0), VECTORS, False)
    variables["batch_stats"]["BatchNorm_0"]["mean"] += 1.0
    folded, without = fold(Net(), variables, VECTORS, mode="learning")
    assert set(without) == {"params", "constants"}
    expected = Net().apply(variables, VECTORS, False)
    np.testing.assert_allclose(folded.apply(without, VECTORS, False), expected, atol=1e-5)
