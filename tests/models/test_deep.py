"""VGG and ResNet: parameter counts as published, PyTorch's shapes, norms and where they stand."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import variables_of

from jaxdl.activations import leaky_relu
from jaxdl.layers import BatchNorm, NoisyBatchNorm, PReLU, RReLU
from jaxdl.models import MLP, VGG, ConvNet, ResNet
from jaxdl.training import fold

IMAGES = jax.random.normal(jax.random.key(0), (4, 32, 32, 3))


def shapes(model):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), IMAGES, train=False))


def parameters(model):
    return sum(leaf.size for leaf in jax.tree.leaves(shapes(model)["params"]))


@pytest.mark.parametrize(
    ("model", "count"),
    [
        (ResNet(20, norm=BatchNorm), 269_722),  # published: 0.27 M
        (ResNet(32, norm=BatchNorm), 464_154),  # 0.46 M
        (ResNet(44, norm=BatchNorm), 658_586),  # 0.66 M
        (ResNet(56, norm=BatchNorm), 853_018),  # 0.85 M
        (ResNet(18, norm=BatchNorm), 11_173_962),  # 11.17 M with a 3 x 3 first convolution
        (VGG(16), 14_719_818),
        (VGG(16, norm=BatchNorm), 14_728_266 - 4_224),  # the biases of its convolutions left out
        (VGG(16, norm=functools.partial(BatchNorm), norm_position="after"), 14_728_266),
        (VGG(11), 9_225_610),
        (VGG(13), 9_410_122),
        (VGG(19), 20_029_514),
    ],
)
def test_parameter_counts_are_the_published_ones(model, count):
    assert parameters(model) == count


@pytest.mark.parametrize("norm", [None, BatchNorm, nn.LayerNorm, nn.BatchNorm])
@pytest.mark.parametrize("position", ["before", "after"])
@pytest.mark.parametrize("make", [functools.partial(VGG, 11), functools.partial(ResNet, 8)])
def test_every_norm_stands_at_either_place(make, norm, position):
    model = make(norm=norm, norm_position=position)
    variables = shapes(model)
    outputs = jax.eval_shape(
        lambda variables: model.apply(variables, IMAGES, train=True, mutable=["batch_stats"])[0],
        variables,
    )
    assert outputs.shape == (4, 10)


def test_noisy_norms_are_each_layers_own():
    params = shapes(VGG(11, channels=(2, 3, 4, 5, 6), norm=NoisyBatchNorm))["params"]
    widths = {name: leaf["norm"]["scale"].shape for name, leaf in params.items() if "norm" in name}
    assert widths["norm_0"] == (2,)
    assert widths["norm_7"] == (6,)
    assert len(widths) == 8
    assert "bias" not in params["conv_0"]


def test_redundant_biases_are_left_out():
    params = shapes(ResNet(8, norm=BatchNorm))["params"]
    assert "bias" not in params["conv_0"]
    assert "bias" not in params["stage_1_block_0"]["conv_1"]
    after = shapes(ResNet(8, norm=BatchNorm, norm_position="after"))["params"]
    assert "bias" in after["stage_1_block_0"]["conv_0"]
    assert "bias" not in after["stage_1_block_0"]["conv_1"]
    assert "bias" in shapes(ResNet(8))["params"]["conv_0"]


def test_with_zero_last_scales_blocks_start_as_their_shortcuts():
    model = ResNet(14, norm=BatchNorm, residual_start="zero_scale")
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), IMAGES)
    params = variables["params"]
    changed = jax.tree_util.tree_map_with_path(
        # The first blocks of later stages add channels, for which there is no shortcut.
        lambda path, leaf: leaf + 1.0 if "conv_0" in str(path) and "block_1" in str(path) else leaf,
        params,
    )
    apply = jax.jit(functools.partial(model.apply, train=False))
    np.testing.assert_array_equal(
        apply(variables, IMAGES), apply({**variables, "params": changed}, IMAGES)
    )


@pytest.mark.parametrize(
    "model",
    [ResNet(8, norm=BatchNorm), ResNet(18, norm=BatchNorm), VGG(11, norm=BatchNorm)],
    ids=["resnet-8", "resnet-18", "vgg-11"],
)
def test_folded_equals_unfolded(model):
    variables = variables_of(model, IMAGES)
    folded, without = fold(model, variables)
    expected = jax.jit(functools.partial(model.apply, train=False))(variables, IMAGES)
    got = jax.jit(functools.partial(folded.apply, train=False))(without, IMAGES)
    # Twenty layers of float32 sums.
    np.testing.assert_allclose(got, expected, atol=1e-4 * float(jnp.abs(expected).max()))


def test_dropout_stands_before_the_outputs():
    model = ResNet(8, dropout_rate=0.5)
    variables = variables_of(model, IMAGES)
    apply = jax.jit(functools.partial(model.apply, train=True))
    one, other = (
        apply(variables, IMAGES, rngs={"dropout": jax.random.key(seed)}) for seed in (1, 2)
    )
    assert not np.allclose(one, other)
    chex.assert_tree_all_finite((one, other))


@pytest.mark.parametrize(
    ("model", "slopes"),
    [
        (MLP([4, 5, 3], activation=PReLU()), 2),
        (ConvNet([4, 5], [6, 3], activation=PReLU()), 3),
        (VGG(11, activation=PReLU()), 8),
        (ResNet(8, activation=PReLU()), 7),
    ],
)
def test_every_layer_has_its_own_copy_of_an_activation_with_parameters(model, slopes):
    leaves = jax.tree_util.tree_leaves_with_path(shapes(model)["params"])
    assert sum("negative_slope" in str(path) for path, _ in leaves) == slopes


def test_an_activation_that_draws_does_so_in_training_only():
    model = ConvNet([4], [6, 3], activation=RReLU())
    variables = variables_of(model, IMAGES)
    apply = jax.jit(functools.partial(model.apply, train=True))
    one, other = (
        apply(variables, IMAGES, rngs={"dropout": jax.random.key(seed)}) for seed in (1, 2)
    )
    assert not np.allclose(one, other)
    middle = ConvNet([4], [6, 3], activation=functools.partial(leaky_relu, negative_slope=11 / 48))
    # The mean of U(1/8, 1/3); another program may order the same sums otherwise.
    np.testing.assert_allclose(
        jax.jit(functools.partial(model.apply, train=False))(variables, IMAGES),
        jax.jit(functools.partial(middle.apply, train=False))(variables, IMAGES),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: VGG(12), "VGG depth must be one of"),
        (lambda: VGG(11, channels=(8, 16)), "channels must be those of five stages"),
        (lambda: ResNet(21), "ResNet depth must be 18 or 6n"),
        (lambda: ResNet(20, outputs=0), "ResNet outputs must name at least one width"),
        (lambda: ResNet(20, residual_start="zero_scale"), "must have a norm at the end of each"),
        (lambda: VGG(16, dropout_rate=1.0), "dropout_rate must lie in"),
        (lambda: shapes(VGG(11)) and VGG(11).init(
            jax.random.key(0), jnp.ones((1, 16, 16, 3)), train=False), "need images of 32 x 32"),
    ],
)  # fmt: skip
def test_refuses(make, text):
    with pytest.raises(ValueError, match=text):
        make()
