"""Residual starts: blocks that start as shortcuts, and what moves them, in all three models."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import variables_of

from jaxdl import initializers, losses, optimizers
from jaxdl.diagnostics import advise, propagation
from jaxdl.layers import BatchNorm
from jaxdl.models import ResidualMLP, ResNet, Transformer, stack_blocks, unstack_blocks

VECTORS = jax.random.normal(jax.random.key(0), (16, 20))
IMAGES = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
TOKENS = jax.random.randint(jax.random.key(2), (4, 6), 0, 11)
INPUTS = {"mlp": VECTORS, "resnet": IMAGES, "transformer": TOKENS}
TARGETS = {"mlp": jnp.arange(16) % 10, "resnet": jnp.arange(4), "transformer": TOKENS}
LAYER_NORM = functools.partial(nn.LayerNorm, epsilon=1e-5)
ZERO = {"norm": LAYER_NORM, "norm_position": "inside", "residual_start": "zero_scale"}
SKIP, FIXUP = ({"norm": None, "residual_start": start} for start in ("skip_init", "fixup"))
MLP = functools.partial(ResidualMLP, features=16, layers=4)
SMALL = functools.partial(Transformer, 11, features=8, layers=3, heads=2, length=6)
SHORTCUTS = {
    ("mlp", "zero_scale"): MLP(**ZERO),
    ("mlp", "skip_init"): MLP(**SKIP),
    ("mlp", "skip_init, norm before"): MLP(norm=LAYER_NORM, residual_start="skip_init"),
    ("mlp", "fixup"): MLP(**FIXUP),
    ("mlp", "fixup, torch's biases"): MLP(**FIXUP, bias_init=initializers.torch_bias),
    ("transformer", "zero_scale"): SMALL(**ZERO),
    ("transformer", "skip_init"): SMALL(**SKIP),
    ("transformer", "fixup"): SMALL(**FIXUP),
    ("transformer", "fixup, torch's biases"): SMALL(**FIXUP, bias_init=initializers.torch_bias),
    ("resnet", "zero_scale"): ResNet(8, norm=BatchNorm, residual_start="zero_scale"),
    ("resnet", "skip_init"): ResNet(8, **SKIP),
    ("resnet", "skip_init, norm"): ResNet(8, norm=BatchNorm, residual_start="skip_init"),
    ("resnet", "fixup"): ResNet(8, **FIXUP),
}
BRANCH_LAYERS = ("dense_0", "dense_1", "conv_0", "conv_1", "query", "key", "value", "out")


def names(path):
    return [part.key for part in path]


def drawn(model, inputs, seed=0):
    return jax.jit(functools.partial(model.init, train=False))(jax.random.key(seed), inputs)


def all_named(shortcuts=SHORTCUTS):
    return [pytest.param(name[0], model, id=" ".join(name)) for name, model in shortcuts.items()]


@functools.cache
def gradient(model, inputs):
    """A jitted function (params, rest) -> the gradient of the mean cross-entropy."""
    x, targets = INPUTS[inputs], TARGETS[inputs]

    def loss(params, rest):
        outputs, _ = model.apply({**rest, "params": params}, x, train=True, mutable=[*rest])
        return losses.cross_entropy(outputs, targets).mean()

    return jax.jit(jax.grad(loss))


@pytest.mark.parametrize(("inputs", "model"), all_named())
def test_blocks_start_as_their_shortcuts_exactly(inputs, model):
    x = INPUTS[inputs]
    variables = drawn(model, x)

    def moved(path, leaf):
        """A layer of a branch, but for a last kernel of zeros, is another one."""
        inside = "block" in names(path)[0] and names(path)[-2] in BRANCH_LAYERS
        # The first blocks of ResNet's later stages have channels without a shortcut.
        widens = inputs == "resnet" and names(path)[0] != "stage_0_block_0"
        inside &= not (widens and model.residual_start == "zero_scale")
        return leaf + 1.0 if inside and jnp.any(leaf != 0) else leaf

    params = jax.tree_util.tree_map_with_path(moved, variables["params"])
    same = jax.tree.map(lambda a, b: bool((a == b).all()), params, variables["params"])
    assert not all(jax.tree.leaves(same))
    if model.residual_start == "fixup":  # its head is zero: a head that sees the stream
        head = "dense" if inputs == "resnet" else "head"
        for each in (params, variables["params"]):
            kernel = each[head]["kernel"]
            assert not kernel.any()
            each[head] = {**each[head], "kernel": jnp.ones_like(kernel).at[0].set(2.0)}
    apply = jax.jit(functools.partial(model.apply, train=False))
    outputs = apply(variables, x)
    assert outputs.std() > 0
    np.testing.assert_array_equal(outputs, apply({**variables, "params": params}, x))


@pytest.mark.parametrize(("inputs", "model"), all_named())
def test_every_parameter_moves_after_the_steps_that_unlock_it(inputs, model):
    variables = drawn(model, INPUTS[inputs])
    params = variables["params"]
    rest = {name: value for name, value in variables.items() if name != "params"}
    still = []
    for _ in range(3):
        slopes = gradient(model, inputs)(params, rest)
        leaves = jax.tree_util.tree_leaves_with_path(slopes)
        still.append([names(path) for path, leaf in leaves if not leaf.any()])
        params = jax.tree.map(lambda leaf, slope: leaf - 0.1 * slope, params, slopes)
    if model.residual_start == "fixup":
        # The head first, then the last layer of each branch, then all: two zeros in a row.
        moving = [path for path in (names(path) for path, _ in leaves) if path not in still[0]]
        heads = {"mlp": "head", "transformer": "head", "resnet": "dense"}
        assert {path[0] for path in moving} == {heads[inputs]}
        assert 0 < len(still[1]) < len(still[0])
        assert still[2] == []
    else:
        assert all("block" in path[0] for path in still[0])
        assert still[0]
        assert still[1] == []


@pytest.mark.parametrize(("inputs", "model"), all_named())
def test_the_instruments_call_these_starts_healthy(inputs, model):
    batch = {"inputs": INPUTS[inputs], "targets": TARGETS[inputs]}
    variables = drawn(model, INPUTS[inputs])
    measured = propagation(model, variables, batch, loss=losses.cross_entropy)
    assert advise(measured) == ()


def test_blocks_that_add_channels_without_a_projection_keep_their_scale():
    params = drawn(ResNet(14, norm=BatchNorm, residual_start="zero_scale"), IMAGES)["params"]
    zero = {
        name for name in params if "block" in name and not params[name]["norm_1"]["scale"].any()
    }
    whole = {"stage_0_block_0", *(f"stage_{stage}_block_1" for stage in range(3))}
    assert zero == whole


@pytest.mark.parametrize(
    "settings", [ZERO, SKIP, FIXUP, {"residual_start": "scaled", "norm": None}]
)
@pytest.mark.parametrize("inputs", ["mlp", "transformer"])
def test_all_kinds_of_blocks_are_the_same_function(inputs, settings):
    make, x = {"mlp": MLP, "transformer": SMALL}[inputs], INPUTS[inputs]
    models = {kind: make(**settings, blocks=kind) for kind in ("plain", "remat", "scan")}
    variables = variables_of(models["plain"], x)

    @functools.partial(jax.jit, static_argnums=0)
    def run(model, variables):
        def total(variables):
            outputs = model.apply(variables, x, train=False)
            return (outputs**2).sum(), outputs

        return jax.grad(total, has_aux=True)(variables)[::-1]

    results = {
        kind: run(model, stack_blocks(variables) if kind == "scan" else variables)
        for kind, model in models.items()
    }
    close = functools.partial(chex.assert_trees_all_close, rtol=1e-3, atol=1e-3)
    close(results["remat"], results["plain"])
    outputs, slopes = results["scan"]
    close((outputs, unstack_blocks(slopes)), results["plain"])
    shapes = jax.eval_shape(lambda: models["scan"].init(jax.random.key(0), x, train=False))
    chex.assert_trees_all_equal_shapes(shapes, stack_blocks(variables))


@pytest.mark.parametrize(("branch_layers", "layers"), [(2, 4), (2, 16), (3, 16), (4, 5)])
def test_fixup_scales_the_inner_layers_as_published(branch_layers, layers):
    make = functools.partial(ResidualMLP, layers=layers, branch_layers=branch_layers)
    usual, fixup = (drawn(make(residual_start=each), VECTORS) for each in (None, "fixup"))
    expected = layers ** (-1 / (2 * branch_layers - 2))
    for layer in range(branch_layers - 1):
        for name in (f"block_0/dense_{layer}", f"block_{layers - 1}/dense_{layer}"):
            block, dense = name.split("/")
            mine, theirs = (each["params"][block][dense] for each in (fixup, usual))
            # Both are roundings of one product, and the keys are those of the same names.
            np.testing.assert_allclose(mine["kernel"], expected * theirs["kernel"], rtol=1e-6)
            assert "bias" not in mine
    assert not fixup["params"]["block_0"][f"dense_{branch_layers - 1}"]["kernel"].any()
    assert not fixup["params"]["head"]["kernel"].any()
    scalars = {name: v for name, v in fixup["params"]["block_0"].items() if "dense" not in name}
    assert all(value.shape == () for value in scalars.values())
    assert {name: float(value) for name, value in scalars.items()} == {
        "branch_scale": 1.0,
        **{f"input_bias_{layer}": 0.0 for layer in range(branch_layers)},
        **{f"activation_bias_{layer}": 0.0 for layer in range(branch_layers - 1)},
    }


def count(model, x):
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), x, train=False))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))


def test_parameter_counts():
    kernels = 9 * (3 * 16 + 6 * 16**2 + 16 * 32 + 5 * 32**2 + 32 * 64 + 5 * 64**2)
    outputs = 64 * 10 + 10
    # In each of 9 blocks four biases and a multiplier; one bias after the first convolution, one
    # before the outputs.
    assert count(ResNet(20, **FIXUP), IMAGES) == kernels + outputs + 9 * 5 + 2
    plain = ResNet(20)
    assert count(ResNet(20, **SKIP), IMAGES) == count(plain, IMAGES) + 9
    zero = ResNet(20, norm=BatchNorm, residual_start="zero_scale")
    assert count(zero, IMAGES) == count(ResNet(20, norm=BatchNorm), IMAGES) == 269_722
    bare = count(SMALL(norm=None), TOKENS)
    assert count(SMALL(**SKIP), TOKENS) == count(SMALL(**FIXUP), TOKENS) == bare + 2 * 3
    assert count(MLP(**SKIP), VECTORS) == count(MLP(), VECTORS) + 4


@pytest.mark.parametrize("layers", [2, 8, 32, 128])
def test_a_step_of_fixup_moves_the_function_as_far_at_every_depth(layers):
    width, rate = 64, 0.01
    model = ResidualMLP(width, layers, residual_start="fixup", blocks="scan")
    x = VECTORS[:1]
    variables = drawn(model, x, seed=layers)
    head = jax.random.normal(jax.random.key(3), (width, 10)) / width**0.5
    params = {**variables["params"], "head": {"kernel": head, "bias": jnp.zeros(10)}}
    stream = x @ params["embed"]["kernel"]
    error = jax.nn.softmax(stream @ head) - jax.nn.one_hot(0, 10)

    @jax.jit
    def step(params):
        def outputs(params):
            return model.apply({"params": params}, x, train=True)

        slopes = jax.grad(
            lambda params: losses.cross_entropy(outputs(params), jnp.zeros(1, int)).sum()
        )(params)
        blocks = jax.tree.map(lambda p, g: p - rate * g, params["blocks"], slopes["blocks"])
        return outputs({**params, "blocks": blocks}) - outputs(params)

    # Each branch adds -rate h h^T delta, with h = f(L^(-1/2) W x) and delta the gradient at the
    # stream, the same in all. E[f(w x)^2] = |x|^2 / n under He: L branches add -rate |x|^2 delta.
    expected = -rate * (stream**2).sum() * (error @ head.T @ head)
    ratio = float((step(params) * expected).sum() / (expected**2).sum())
    # E[f^4] / E[f^2]^2 = 6 for ReLU: a relative variance of 5 for each of L n units. Five standard
    # deviations: 6e-7.
    assert abs(ratio - 1) < 5 * (5 / (layers * width)) ** 0.5


def test_the_numbers_take_a_tenth_of_the_rate():
    rate, model = 0.1, MLP(**FIXUP)
    tenth = optimizers.sgd(rate / 10)
    optimizer = optimizers.by_layer(
        {"*branch_scale*": tenth, "*input_bias*": tenth, "*activation_bias*": tenth,
         "*": optimizers.sgd(rate)}
    )  # fmt: skip
    params = drawn(model, VECTORS)["params"]
    slopes = jax.tree.map(jnp.ones_like, params)
    updates, _ = optimizer.update(slopes, optimizer.init(params), params)
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        expected = rate / 10 if update.ndim == 0 else rate
        np.testing.assert_allclose(update, -expected, rtol=1e-6, err_msg=str(path))
    assert sum(update.ndim == 0 for update in jax.tree.leaves(updates)) == 4 * 4 + 1


@pytest.mark.parametrize(("inputs", "model"), all_named())
def test_bfloat16_keeps_float32_parameters_and_outputs(inputs, model):
    half = model.clone(dtype=jnp.bfloat16)
    variables = jax.eval_shape(lambda: half.init(jax.random.key(0), INPUTS[inputs], train=False))
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    outputs, found = jax.eval_shape(
        lambda variables: half.apply(
            variables, INPUTS[inputs], train=False, capture_intermediates=True
        ),
        variables,
    )
    assert outputs.dtype == jnp.float32
    blocks = [
        leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(found)
        if "block" in str(path) and len(path) == 4
    ]
    assert blocks
    assert {leaf.dtype for leaf in blocks} == {jnp.dtype("bfloat16")}


@pytest.mark.parametrize(
    ("text", "make"),
    [
        ("residual_start must be one of scaled, zero_scale, skip_init, fixup, got 'zero'",
         lambda: ResNet(8, residual_start="zero")),
        ("ResNet .*'zero_scale' must have a norm at the end .* got norm=None; pass a norm, or",
         lambda: ResNet(8, residual_start="zero_scale")),
        ("'zero_scale' must have a norm at the end .* got norms elsewhere; pass .*'inside', or",
         lambda: MLP(norm=LAYER_NORM, residual_start="zero_scale")),
        ("Transformer .*'zero_scale' must .* elsewhere",
         lambda: SMALL(residual_start="zero_scale")),
        ("'scaled' must have no norm at the end",
         lambda: SMALL(**ZERO | {"residual_start": "scaled"})),
        ("'scaled' must have no norm at the end",
         lambda: ResNet(8, norm=BatchNorm, residual_start="scaled")),
        ("ResNet .*'fixup' must have no norms, .*BatchNorm.*; pass norm=None",
         lambda: ResNet(8, norm=BatchNorm, residual_start="fixup")),
        ("Transformer .*'fixup' must have no norms", lambda: SMALL(residual_start="fixup")),
        ("'fixup' starts with a head of zeros, .* pass tied_head=False",
         lambda: SMALL(**FIXUP, tied_head=True)),
        ("must have norms with a scale, got use_scale=False",
         lambda: drawn(MLP(**ZERO | {"norm": functools.partial(nn.LayerNorm, use_scale=False)}),
                       VECTORS)),
        ("must have norms that take scale_init",
         lambda: drawn(MLP(**ZERO | {"norm": lambda name: nn.LayerNorm(name=name)}), VECTORS)),
    ],
)  # fmt: skip
def test_refuses_a_start_that_the_norms_undo(text, make):
    with pytest.raises(ValueError, match=text):
        make()
