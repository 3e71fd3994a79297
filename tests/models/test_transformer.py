"""The transformer: what each position sees, its parts, three kinds of blocks; it learns to copy."""

import functools

import chex
import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import variables_of

from jaxdl import data, initializers, losses, optimizers, training
from jaxdl.calling import require_mode
from jaxdl.layers import BatchNorm, PReLU
from jaxdl.models import Transformer, stack_blocks, unstack_blocks

TOKENS = jax.random.randint(jax.random.key(0), (3, 6), 0, 11)
VECTORS = jax.random.normal(jax.random.key(1), (2, 5, 8))
REAL = jnp.arange(6) < jnp.array([6, 4, 1])[:, None]
SMALL = {"vocabulary": 11, "features": 8, "layers": 3, "heads": 2, "hidden": 12, "length": 7}
KINDS = ("plain", "remat", "scan")
# Sums of at most 12 terms in three blocks; gradients are sums over 18 positions, too.
ROUNDING = {"rtol": 1e-4, "atol": 1e-5}


def evaluated(model):
    return jax.jit(functools.partial(model.apply, train=False))


def shapes(model, inputs=TOKENS):
    return jax.eval_shape(lambda: model.init(jax.random.key(0), inputs, train=False))


def without_branches(variables):
    """Blocks that start with norms, and whose branches give zeros, are shortcuts."""

    def cut(path, leaf):
        layer = [part.key for part in path][-2]
        return jnp.zeros_like(leaf) if layer in ("out", "dense_1") else leaf

    return jax.tree_util.tree_map_with_path(cut, variables)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("positions", ["learned", "sinusoidal", None])
def test_embedding_positions_and_head_are_those_of_the_equation(positions, tied):
    model = Transformer(**SMALL, positions=positions, tied_head=tied, embedding_scale=1.5)
    variables = without_branches(variables_of(model, TOKENS))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    table = params["embed"]["embedding"]
    x = 1.5 * table[np.asarray(TOKENS)]
    if positions == "learned":
        assert params["positions"].shape == (7, 8)
        x = x + params["positions"][:6]
    elif positions == "sinusoidal":
        for i in range(6):
            for j in range(4):
                angle = i / 10_000 ** (2 * j / 8)
                x[:, i, 2 * j : 2 * j + 2] += np.sin(angle), np.cos(angle)
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    x = x * params["norm"]["scale"] + params["norm"]["bias"]
    if tied:
        assert "head" not in params
        expected = x @ table.T
    else:
        expected = x @ params["head"]["kernel"] + params["head"]["bias"]
    np.testing.assert_allclose(evaluated(model)(variables, TOKENS), expected, **ROUNDING)


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        # As published for GPT-2: 124 M and 355 M, the head tied.
        ({"features": 768, "layers": 12, "heads": 12}, 124_439_808),
        ({"features": 1024, "layers": 24, "heads": 16}, 354_823_168),
    ],
)
@pytest.mark.parametrize("blocks", ["plain", "scan"])
def test_parameter_counts_are_the_published_ones(settings, count, blocks):
    model = Transformer(50_257, **settings, length=1024, tied_head=True, blocks=blocks)
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes(model)["params"])) == count


@pytest.mark.parametrize(
    ("settings", "mask"),
    [({}, None), ({"norm_position": "after", "causal": False}, REAL)],
)
def test_all_kinds_of_blocks_are_the_same_function(settings, mask):
    models = {kind: Transformer(**SMALL, **settings, blocks=kind) for kind in KINDS}
    variables = variables_of(models["plain"], TOKENS)
    upstream = jax.random.normal(jax.random.key(2), (3, 6, 11))

    @functools.partial(jax.jit, static_argnums=0)
    def run(model, variables):
        outputs, back = jax.vjp(
            lambda variables: model.apply(variables, TOKENS, mask, train=False), variables
        )
        return outputs, back(upstream)[0]

    results = {
        kind: run(model, stack_blocks(variables) if kind == "scan" else variables)
        for kind, model in models.items()
    }
    chex.assert_trees_all_close(results["remat"], results["plain"], **ROUNDING)
    outputs, gradients = results["scan"]
    chex.assert_trees_all_close((outputs, unstack_blocks(gradients)), results["plain"], **ROUNDING)


def test_a_rematerialised_block_draws_the_same_dropout_twice():
    rngs = {"dropout": jax.random.key(3)}
    plain, remat = (Transformer(**SMALL, dropout_rate=0.4, blocks=kind) for kind in KINDS[:2])
    variables = variables_of(plain, TOKENS)

    @functools.partial(jax.jit, static_argnums=0)
    def slope(model):
        def loss(variables):
            return (model.apply(variables, TOKENS, train=True, rngs=rngs) ** 2).mean()

        return jax.value_and_grad(loss)(variables)

    chex.assert_trees_all_close(slope(remat), slope(plain), **ROUNDING)


def test_each_layer_of_a_scan_has_parameters_and_dropout_of_its_own():
    model = Transformer(**SMALL, dropout_rate=0.4, blocks="scan")
    init = jax.jit(functools.partial(model.init, train=False))
    variables = init(jax.random.key(0), TOKENS)
    kernels = variables["params"]["blocks"]["dense_0"]["kernel"]
    assert kernels.shape == (3, 8, 12)
    # Lecun's variance is 1 / fan_in; that of 96 normal values errs by 14 %, five times: 1e-6.
    assert all(0.25 < 8 * kernel.var() < 1.75 for kernel in kernels)
    assert len(np.unique(kernels)) == kernels.size

    @jax.jit
    def dropped(key):
        return model.apply(
            variables,
            TOKENS,
            train=True,
            rngs={"dropout": key},
            capture_intermediates=lambda module, _: isinstance(module, nn.Dropout),
            mutable=["intermediates"],
        )[1]["intermediates"]["blocks"]["dropout_hidden"]["__call__"][0]

    masks = dropped(jax.random.key(1)) == 0
    # 216 units, of which 0.48 differ between two masks: all equal with probability 0.52^216.
    assert (masks[0] != masks[1]).any()
    assert (masks[1] != masks[2]).any()


@pytest.mark.parametrize("blocks", KINDS)
def test_its_mode_is_recognised(blocks):
    model = Transformer(**SMALL, dropout_rate=0.1, blocks=blocks)
    variables = variables_of(model, TOKENS)
    require_mode(model, variables, TOKENS)
    with pytest.raises(flax.errors.InvalidRngError):
        model.apply(variables, TOKENS, train=True)
    # In evaluation no dropout draws, and all are off.
    np.testing.assert_array_equal(
        evaluated(model)(variables, TOKENS),
        evaluated(model.clone(dropout_rate=0.0))(variables, TOKENS),
    )


def test_dropout_stands_where_pytorch_has_it_and_after_the_embedding():
    model = Transformer(**SMALL, dropout_rate=0.5)

    @jax.jit
    def dropped():
        return model.apply(
            variables_of(model, TOKENS),
            TOKENS,
            train=True,
            rngs={"dropout": jax.random.key(1)},
            capture_intermediates=lambda module, _: isinstance(module, nn.Dropout),
            mutable=["intermediates"],
        )[1]["intermediates"]

    found = jax.tree_util.tree_leaves_with_path(dropped())
    names = {"/".join(part.key for part in path[:-2]): leaf for path, leaf in found}
    block = ("attention/dropout", "dropout_0", "dropout_1", "dropout_hidden")
    assert set(names) == {"dropout", *(f"block_{i}/{each}" for i in range(3) for each in block)}
    # At least 144 values: none is zero with probability 2^-144.
    assert all((leaf == 0).any() for leaf in names.values())


def test_stacking_and_unstacking_are_inverses():
    variables = shapes(Transformer(**SMALL))
    filled = jax.tree.map(lambda leaf: np.arange(leaf.size).reshape(leaf.shape), variables)
    stacked = stack_blocks(filled)
    expected = shapes(Transformer(**SMALL, blocks="scan"))
    assert jax.tree.map(np.shape, stacked) == jax.tree.map(np.shape, expected)
    chex.assert_trees_all_equal(unstack_blocks(stacked), filled)
    with pytest.raises(ValueError, match=r"must have block_0 in params, got .*'blocks'.*'plain'"):
        stack_blocks(stacked)
    with pytest.raises(ValueError, match=r"must have blocks in params, got .*'block_0'.*'scan'"):
        unstack_blocks(filled)


@pytest.mark.parametrize("position", ["before", "after"])
@pytest.mark.parametrize("causal", [True, False])
def test_a_causal_model_never_sees_the_future(causal, position):
    model = Transformer(
        None, features=8, layers=2, heads=2, causal=causal, norm_position=position, outputs=3
    )
    variables = variables_of(model, VECTORS)

    @jax.jit
    def slopes(x):
        return jax.jacobian(lambda x: model.apply(variables, x[None], train=False)[0])(x)

    reached = np.abs(slopes(VECTORS[0])).max((1, 3)) > 0  # (position out, position in)
    np.testing.assert_array_equal(reached, np.tri(5, dtype=bool) if causal else True)


@pytest.mark.parametrize("causal", [True, False])
def test_padding_changes_nothing(causal):
    model = Transformer(**SMALL, causal=causal)
    variables = variables_of(model, TOKENS)
    apply = evaluated(model)
    outputs = apply(variables, TOKENS, REAL)
    other = jnp.where(REAL, TOKENS, (TOKENS + 5) % 11)
    np.testing.assert_array_equal(outputs[REAL], apply(variables, other, REAL)[REAL])
    for nothing in (-1, -100, 11):
        outside = apply(variables, jnp.where(REAL, TOKENS, nothing), REAL)
        np.testing.assert_array_equal(outputs[REAL], outside[REAL])
    # As the sequence alone, which is shorter.
    np.testing.assert_allclose(
        outputs[1, :4], apply(variables, TOKENS[1:2, :4])[0], rtol=0, atol=1e-5
    )


def test_padding_may_hold_nan():
    model = Transformer(None, features=8, layers=2, heads=2)
    variables, real = variables_of(model, VECTORS), np.asarray(REAL)[:2, :5]

    @jax.jit
    def slope(x):
        def loss(variables, x):
            return (model.apply(variables, x, real, train=False)[real] ** 2).sum()

        return jax.value_and_grad(loss, (0, 1))(variables, x)

    holes = jnp.where(real[..., None], VECTORS, jnp.nan)
    chex.assert_trees_all_equal(slope(holes), slope(VECTORS))
    assert not slope(holes)[1][1][~real].any()


def test_padding_on_the_left_is_no_way_to_the_future():
    # The first queries see no key at all.
    model = Transformer(None, features=8, layers=2, heads=2, positions=None)
    variables, real = variables_of(model, VECTORS), jnp.arange(5)[None] >= 2

    @jax.jit
    def slopes(x):
        return jax.jacobian(lambda x: model.apply(variables, x[None], real, train=False)[0])(x)

    reached = np.abs(slopes(VECTORS[0])).max((1, 3)) > 0
    np.testing.assert_array_equal(reached, np.tri(5) * real[0] > 0)


def test_scaled_branches_start_smaller_by_the_root_of_their_number():
    model = functools.partial(Transformer, **SMALL)
    usual, scaled = (
        model(residual_start=each).init(jax.random.key(0), TOKENS, train=False)
        for each in (None, "scaled")
    )

    def expected(path, leaf):
        *_, layer, name = (part.key for part in path if hasattr(part, "key"))
        return leaf / 6**0.5 if name == "kernel" and layer in ("out", "dense_1") else leaf

    chex.assert_trees_all_close(
        scaled, jax.tree_util.tree_map_with_path(expected, usual), rtol=1e-6
    )


def test_torch_initialisers_reach_each_layer_with_its_own_fan_in():
    model = Transformer(
        **SMALL,
        kernel_init=initializers.torch_kernel(),
        bias_init=initializers.torch_bias,
    )
    params = model.init(jax.random.key(0), TOKENS, train=False)["params"]
    layers = params["block_0"] | params["block_0"]["attention"] | {"head": params["head"]}
    for name in ("query", "key", "value", "out", "dense_0", "dense_1", "head"):
        bound = (12 if name == "dense_1" else 8) ** -0.5
        for values in layers[name].values():
            # Of 8 uniform values the largest lies below 0.1 with probability 1e-8.
            assert 0.1 * bound < jnp.abs(values).max() <= bound


def test_initializers_of_flax_fit():
    init = nn.initializers.normal(0.02)
    model = Transformer(**SMALL, kernel_init=init, embedding_init=init, residual_start="scaled")
    params = jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), TOKENS)[
        "params"
    ]
    # The deviation of 88 normal values errs by 8 %, five times: 6e-7.
    assert params["embed"]["embedding"].std() == pytest.approx(0.02, rel=0.4)


@pytest.mark.parametrize("blocks", KINDS)
@pytest.mark.parametrize(
    ("norm", "position"),
    [
        (None, "before"),
        (nn.RMSNorm, "after"),
        (BatchNorm, "before"),
        (nn.BatchNorm, "before"),
        (nn.BatchNorm, "after"),
    ],
)
def test_every_norm_and_activation_module_fits_every_kind_of_block(norm, position, blocks):
    model = Transformer(
        **SMALL, norm=norm, norm_position=position, activation=PReLU(), blocks=blocks,
        normalize_qk=nn.RMSNorm,
    )  # fmt: skip
    variables = shapes(model)
    outputs, updates = jax.eval_shape(
        lambda variables: model.apply(variables, TOKENS, train=True, mutable=["batch_stats"]),
        variables,
    )
    assert outputs.shape == (3, 6, 11)
    assert bool(updates) == (norm in (BatchNorm, nn.BatchNorm))
    assert ("norm" in variables["params"]) == (norm is not None and position == "before")


def test_a_batch_norm_is_not_folded_into_a_layer_that_does_not_follow_it():
    model = Transformer(**SMALL, norm=BatchNorm)
    with pytest.raises(ValueError, match="norm block_0/norm_0 must directly follow a Dense"):
        training.fold(model, variables_of(model, TOKENS), TOKENS)


def test_a_token_outside_of_the_vocabulary_is_nan():
    model = Transformer(**SMALL)
    variables = variables_of(model, TOKENS)
    for wrong in (-1, 11):
        outputs = evaluated(model)(variables, TOKENS.at[1, 2].set(wrong))
        finite = np.isfinite(outputs)
        assert not finite[1, 2:].any()
        assert finite[[0, 2]].all()


def test_small_and_unsigned_tokens_are_tokens():
    model = Transformer(300, features=8, layers=1, heads=2)
    variables = variables_of(model, TOKENS)
    apply = evaluated(model)
    for dtype in (np.int8, np.uint8, np.uint16):
        np.testing.assert_array_equal(
            apply(variables, TOKENS.astype(dtype)), apply(variables, TOKENS)
        )


def test_equal_settings_make_equal_models():
    assert Transformer(**SMALL) == Transformer(**SMALL)
    assert hash(Transformer(**SMALL)) == hash(Transformer(**SMALL))


@pytest.mark.parametrize(
    ("error", "text", "settings"),
    [
        (ValueError, "Transformer heads must divide the features, got 3 heads for 8", {"heads": 3}),
        (ValueError, "Transformer layers must be at least 1, got 0", {"layers": 0}),
        (ValueError, "Transformer vocabulary must be at least 1, got 0", {"vocabulary": 0}),
        (TypeError, "Transformer hidden must be a whole number, got 12.5", {"hidden": 12.5}),
        (TypeError, "Transformer features must be a whole number, got None", {"features": None}),
        (ValueError, "positions must be one of learned, sinusoidal, got 'rotary'",
         {"positions": "rotary"}),
        (ValueError, "positions must be one of learned, sinusoidal, got True", {"positions": True}),
        (ValueError, "blocks must be one of plain, remat, scan, got 'loop'", {"blocks": "loop"}),
        (ValueError, "norm_position must be one of before, after, inside, got 'pre'",
         {"norm_position": "pre"}),
        (ValueError, r"Transformer dropout_rate must lie in \[0, 1\), got 1", {"dropout_rate": 1}),
        (ValueError, "embedding_scale must be finite and positive, got 0", {"embedding_scale": 0}),
        (TypeError, "norm must be a factory of norms, or None, got 'layer'", {"norm": "layer"}),
        (TypeError, "norm must be a factory .* got a LayerNorm", {"norm": nn.LayerNorm()}),
        (TypeError, "normalize_qk must be a factory .* got True", {"normalize_qk": True}),
        (ValueError, "tied_head .* got vocabulary=None and outputs=3",
         {"vocabulary": None, "outputs": 3, "tied_head": True}),
        (ValueError, "tied_head .* outputs=3; leave outputs", {"outputs": 3, "tied_head": True}),
    ],
)  # fmt: skip
def test_refuses_settings(error, text, settings):
    with pytest.raises(error, match=text):
        Transformer(**SMALL | settings)


@pytest.mark.parametrize(
    ("error", "text", "settings", "inputs", "mask"),
    [
        (TypeError, "tokens must be integers, got float32; .* vocabulary=None for vectors", {},
         TOKENS / 255, None),
        (TypeError, "tokens must be integers, got bool", {}, TOKENS > 5, None),
        (ValueError, r"tokens must have the axes .* \(6,\); .* x\[None\]", {}, TOKENS[0], None),
        (ValueError, "no longer than its 7 learned positions, got a length of 8; pass length=8", {},
         jnp.zeros((1, 8), int), None),
        (ValueError, r"the shape \(batch, length, 8\), got \(2, 5, 7\); pass features=7",
         {"vocabulary": None}, VECTORS[..., :7], None),
        (ValueError, r"\(batch, length, 8\), got \(5, 8\)", {"vocabulary": None}, VECTORS[0], None),
        (TypeError, "needs real inputs", {"vocabulary": None}, VECTORS + 1j, None),
        (TypeError, "mask must hold booleans, False for padding, got int32", {}, TOKENS,
         REAL.astype(int)),
        (ValueError, r"mask must have the shape .* \(3, 6\), got \(6,\)", {}, TOKENS, REAL[0]),
    ],
)  # fmt: skip
def test_refuses_inputs(error, text, settings, inputs, mask):
    with pytest.raises(error, match=text):
        Transformer(**SMALL | settings).init(jax.random.key(0), inputs, mask, train=False)


CLASSES, COPIED = 8, 4


def copies(seed, count):
    """Random tokens, then the same again; a target is the next token of the second half."""
    half = np.random.default_rng(seed).integers(0, CLASSES, (count, COPIED))
    whole = np.concatenate([half, half], 1).astype(np.int32)
    targets = np.where(np.arange(2 * COPIED) < COPIED, -1, whole)[:, 1:]
    return data.Arrays(whole[:, :-1], targets)


def test_it_learns_to_copy():
    model = Transformer(
        CLASSES, features=32, layers=2, heads=2, length=2 * COPIED, dropout_rate=0.05
    )
    steps, batch_size = 60, 64
    dataset = data.Dataset("copies", copies(0, steps * batch_size), None, copies(1, 256))
    result = training.fit(
        model,
        dataset,
        optimizers.adam(5e-3),
        loss=functools.partial(losses.cross_entropy, ignored=-1),
        epochs=1,
        batch_size=batch_size,
        key=jax.random.key(0),
    )
    # Nobody who does not look back is below log(8): the tokens are uniform and independent. A mean
    # below half of that copies more than half of each new token's bits.
    assert result.evaluate("test")["loss"] < np.log(CLASSES) / 2
