"""`fold` gives the same function, or refuses: oracle, the evaluated model with its norms."""

import functools
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdl import losses, models, training
from jaxdl.calling import call_model
from jaxdl.layers import BatchNorm
from jaxdl.layers.norm import apply_norm
from jaxdl.training import fold

VECTORS = jax.random.normal(jax.random.key(0), (6, 4))
KEY = jax.random.key(9)
IMAGES = jax.random.normal(jax.random.key(1), (3, 8, 8, 4))


class Own(nn.Module):
    """A model of one's own: what stands where is `forward`, which is told of norms by `normed`."""

    forward: Any
    norm: Any = BatchNorm

    @nn.compact
    def __call__(self, x, *, train):
        def normed(x, name="norm", **settings):
            if self.norm is None:
                return x
            return apply_norm(self.norm(name=name, **settings), x, train=train)

        # In each model the bias is left out before a norm.
        return self.forward(x, normed, functools.partial(nn.Dense, use_bias=self.norm is None))


def disturbed(model, x):
    """Variables of which none has the value of `init`."""
    variables = model.init(jax.random.key(2), x, train=False)
    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    moved = [
        leaf + 0.3 * jax.random.uniform(key, leaf.shape, leaf.dtype)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, moved)


def check_is_same(model, x, inputs=None):
    variables = disturbed(model, x)
    folded, without = fold(model, variables, inputs)
    assert set(without) == {"params"}
    expected = model.apply(variables, x, train=False)
    found = folded.apply(without, x, train=False)
    assert found.dtype == expected.dtype
    # The parameters are near 1/2, so no sum cancels by much: sums of up to 72 float32 products,
    # each way, in at most two layers; 2^-24 is the roundoff.
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(found, expected, atol=4 * 72 * 2.0**-24 * scale)
    # Without the norms the model is another one, so that the comparison says something.
    plain = {"params": jax.tree.map(jnp.ones_like, without["params"])}
    assert not np.allclose(folded.apply(plain, x, train=False), expected, rtol=0.1)


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


def convolution(**settings):
    def forward(x, normed, dense):
        return normed(nn.Conv(8, (3, 3), name="first", **settings)(x))

    return forward


def transposed(**settings):
    def forward(x, normed, dense):
        return normed(nn.ConvTranspose(6, (3, 3), name="first", **settings)(x))

    return forward


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


def after_an_activation(x, normed, dense):
    return normed(nn.relu(dense(5, name="first")(x)))


def after_a_sum(x, normed, dense):
    return normed(x + dense(4, name="first")(x))


def after_a_pooling(x, normed, dense):
    return normed(nn.max_pool(nn.Conv(5, (3, 3), name="first")(x), (2, 2)))


def before_the_layer(x, normed, dense):
    return nn.Dense(5, name="first")(normed(x))


def before_a_padded_convolution(x, normed, dense):
    return nn.Conv(5, (3, 3), name="second")(nn.relu(normed(x)))


def after_a_reshape(x, normed, dense):
    return normed(dense(4, name="first")(x).reshape(-1, 2, 2))


def after_a_layer_norm(x, normed, dense):
    return normed(nn.LayerNorm(name="between")(dense(5, name="first")(x)))


def after_a_norm(x, normed, dense):
    return normed(normed(dense(5, name="first")(x), "first_norm"))


def after_dropout_that_is_on(x, normed, dense):
    return normed(nn.Dropout(0.5, deterministic=False)(dense(5, name="first")(x)))


def layer_used_twice(x, normed, dense):
    layer = nn.Dense(4, name="first")
    return normed(layer(layer(x)))


def layer_with_two_norms(x, normed, dense):
    layer = nn.Dense(4, name="first")
    return normed(layer(x), "a") + normed(layer(2 * x), "b")


def two_norms_of_one_output(x, normed, dense):
    h = dense(4, name="first")(x)
    return normed(h, "a") * normed(h, "b")


def output_read_elsewhere(x, normed, dense):
    h = dense(4, name="first")(x)
    return h + nn.relu(normed(h))


def output_returned(x, normed, dense):
    h = dense(4, name="first")(x)
    return normed(h), h


def tied_kernel(x, normed, dense):
    layer = nn.Dense(5, name="first")
    h = nn.relu(normed(layer(x)))
    return h @ layer.variables["params"]["kernel"].T


def normalised_weights(x, normed, dense):
    return normed(nn.WeightNorm(nn.Dense(5, name="first"), variable_filter={"kernel"})(x))


def another_class_of_layer(x, normed, dense):
    return normed(nn.DenseGeneral(5, name="first")(x))


class Doubled(nn.Dense):
    @nn.compact
    def __call__(self, inputs):
        return jnp.square(super().__call__(inputs))


def derived_layer(x, normed, dense):
    return normed(Doubled(5, name="first")(x))


def rounded_product(*args, **settings):
    return jnp.round(jax.lax.dot_general(*args, **settings))


def another_product(x, normed, dense):
    return normed(nn.Dense(5, dot_general=rounded_product, name="first")(x))


@pytest.mark.parametrize(
    ("forward", "x", "got"),
    [
        (after_an_activation, VECTORS, "norm norm must directly follow .* operation relu before"),
        (after_a_sum, VECTORS, "norm norm must directly follow .* operation add before"),
        (after_a_pooling, IMAGES, "norm norm must directly follow .* reduce_window_max before"),
        (before_the_layer, VECTORS, "norm norm must directly follow .* an input of the model"),
        (before_a_padded_convolution, IMAGES, "norm norm must directly .* an input of the model"),
        (after_a_reshape, VECTORS, "norm norm must directly follow .* operation reshape before"),
        (after_a_layer_norm, VECTORS, "norm norm must directly follow .* operation add before"),
        (after_a_norm, VECTORS, "norm norm must directly follow .* norm first_norm before it"),
        (after_dropout_that_is_on, VECTORS, "norm norm must directly follow .* before it"),
        (layer_used_twice, VECTORS, "norm norm .* kernel of first, got one that is read 2 times"),
        (layer_with_two_norms, VECTORS, "norm a .* kernel of first, got one that is read 2 times"),
        (two_norms_of_one_output, VECTORS, "norm a must be all .* layer first, got 2 readers"),
        (output_read_elsewhere, VECTORS, "norm norm must be all that reads .* got 2 readers"),
        (output_returned, VECTORS, "norm norm must be all that reads .* got 2 readers"),
        (tied_kernel, VECTORS, "norm norm .* kernel of first, got one that is read 2 times"),
        (normalised_weights, VECTORS, "norm norm .* kernel of first, got one that the model comp"),
        (another_class_of_layer, VECTORS, "norm norm must directly follow a Dense"),
        (derived_layer, VECTORS, "norm norm must directly follow a Dense"),
        (another_product, VECTORS, "norm norm must directly follow a Dense"),
        (transposed(transpose_kernel=True), IMAGES, "norm norm must directly follow a Dense"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
@pytest.mark.parametrize("norm", [BatchNorm, nn.BatchNorm])
def test_a_norm_without_a_layer_of_its_own_is_refused_by_name(forward, x, got, norm):
    model = Own(forward, norm)
    variables = jax.eval_shape(
        lambda: model.init({"params": jax.random.key(0), "dropout": KEY}, x, train=False)
    )
    with pytest.raises(ValueError, match=f"to be folded, {got}.*; use the model as it is"):
        fold(model, variables, x)


def settings(**given):
    """A norm with other settings than its factory's, after a convolution or a dense layer."""

    def forward(x, normed, dense):
        layer = nn.Conv(4, (3, 3), name="first") if x.ndim > 2 else dense(4, name="first")
        return normed(layer(x), **given)

    return forward


class Halved(BatchNorm):
    @nn.compact
    def __call__(self, x, *, train):
        return super().__call__(x, train=train) / 2


@pytest.mark.parametrize(
    ("norm", "x", "got"),
    [
        (functools.partial(BatchNorm, feature_axis=1), IMAGES, "the last axis.* got axis 1"),
        (functools.partial(nn.BatchNorm, axis=(1, -1)), IMAGES, r"the last axis.* axis \(1, -1\)"),
        (functools.partial(nn.BatchNorm, dtype=jnp.float16), VECTORS, "got float16 from float32"),
        (Halved, VECTORS, "be a BatchNorm of jaxdl.layers or Flax, got a Halved"),
    ],
)
def test_a_norm_that_is_more_than_a_factor_of_units_is_refused(norm, x, got):
    model = Own(settings(), norm)
    # As many positions as channels: the shapes alone would not tell the axes apart.
    x = x[:, :4, :4] if x.ndim > 2 else x
    with pytest.raises(ValueError, match=f"to be folded, norm norm must .*{got}; use the model"):
        fold(model, disturbed(model, x), x)


def test_a_norm_with_a_mask_or_the_batchs_own_statistics_is_refused():
    def masked(x, normed, dense):
        return BatchNorm(name="norm")(dense(4)(x), train=False, mask=x[:, 0] > 0)

    def always_training(x, normed, dense):
        return nn.BatchNorm(use_running_average=False, name="norm")(dense(4)(x))

    for forward, got in ((masked, "have no mask"), (always_training, "use its running statistics")):
        model = Own(forward)
        variables = model.init(jax.random.key(0), VECTORS, train=False)
        with pytest.raises(ValueError, match=f"norm norm must {got}"):
            fold(model, variables, VECTORS)


class Lifted(nn.Module):
    """Blocks that are stacked, or in a branch."""

    kind: str
    norm: Any = BatchNorm

    @nn.compact
    def __call__(self, x, *, train):
        class Block(nn.Module):
            norm: Any

            @nn.compact
            def __call__(self, x, _=None):
                x = nn.Dense(4, use_bias=self.norm is None, name="dense")(x)
                return (x if self.norm is None else self.norm(name="norm")(x, train=False)), None

        stacked = {"params": 0, "batch_stats": 0}
        if self.kind == "scan":
            lifted = nn.scan(Block, stacked, split_rngs={"params": True}, length=2)
            return lifted(self.norm, name="blocks")(x, None)[0]
        if self.kind == "vmap":
            lifted = nn.vmap(
                Block, variable_axes=stacked, split_rngs={"params": True}, axis_size=2, in_axes=None
            )
            return lifted(self.norm, name="blocks")(x)[0]
        if self.kind == "layers":  # several layers, and one norm for all
            lifted = nn.vmap(
                Block, variable_axes={"params": 0, "batch_stats": None},
                split_rngs={"params": True}, axis_size=2, in_axes=None,
            )  # fmt: skip
            return lifted(self.norm, name="blocks")(x)[0]
        if self.kind == "examples":  # one block, called for each example
            lifted = nn.vmap(
                Block, variable_axes={"params": None, "batch_stats": None},
                split_rngs={"params": False},
            )  # fmt: skip
            return lifted(self.norm, name="blocks")(x)[0]
        made = Block(self.norm, name="blocks")
        if self.is_initializing():
            return made(x)[0]
        return nn.cond(x[0, 0] > 0, lambda m, x: m(x)[0], lambda m, x: x, made, x)


def test_one_block_that_is_mapped_over_examples_is_folded():
    check_is_same(Lifted("examples"), VECTORS, VECTORS)


def test_mapped_layers_of_one_norm_are_refused():
    model = Lifted("layers", functools.partial(BatchNorm, use_scale=False, use_bias=False))
    with pytest.raises(ValueError, match=r"blocks/norm must have one layer, got several in a vmap"):
        fold(model, disturbed(model, VECTORS), VECTORS)


def test_a_norm_after_the_activation_of_our_models_is_refused():
    for model in (
        models.MLP([4, 1], norm=BatchNorm, norm_position="after"),
        models.MLP([4, 1], norm=nn.BatchNorm, norm_position="after"),
    ):
        with pytest.raises(ValueError, match=r"norm norm_0 must directly .* operation relu"):
            fold(model, disturbed(model, VECTORS))
    for norm in (nn.LayerNorm, functools.partial(BatchNorm, track_running_stats=False)):
        model = models.MLP([4, 1], norm=norm)
        with pytest.raises(ValueError, match="keep running statistics, got MLP without"):
            fold(model, disturbed(model, VECTORS))


@pytest.mark.parametrize("kind", ["scan", "vmap", "branch"])
def test_norms_in_scans_vmaps_and_branches_are_refused(kind):
    model = Lifted(kind)
    with pytest.raises(ValueError, match="norm blocks/norm must stand plainly in the model"):
        fold(model, disturbed(model, VECTORS), VECTORS)


def test_a_norm_whose_output_is_not_used_is_refused():
    def forward(x, normed, dense):
        normed(nn.Dense(4)(x))
        return x

    model = Own(forward)
    with pytest.raises(ValueError, match=r"norm norm must stand plainly .* output is not used"):
        fold(model, disturbed(model, VECTORS), VECTORS)


class Differs(nn.Module):
    """A model that without norms is not itself without its norms."""

    how: str
    norm: Any = BatchNorm

    @nn.compact
    def __call__(self, x, *, train):
        use_bias = self.how != "no bias" and self.norm is None
        x = nn.Dense(4, use_bias=use_bias, name="first")(x)
        if self.norm is not None or self.how == "error":
            x = self.norm(name="norm")(x, train=train)
            x = nn.LayerNorm(name="other")(x) if self.how == "norm" else x
        slope = jnp.array([0.1, 0.2, 0.3, 0.4]) if self.norm is None else jnp.ones(4)
        x = jnp.where(x < 0, slope * x, x) if self.how == "constant" else nn.relu(x)
        if self.how == "function" and self.norm is None:
            x = jnp.tanh(x)
        a, b = (nn.Dense(4, name=name)(x) for name in ("a", "b"))
        swapped = self.how == "wires" and self.norm is None
        return (b, a) if swapped else (a, b)


@pytest.mark.parametrize(
    ("how", "got"),
    [
        ("no bias", r"got other operations \(do its layers have biases then\?\)"),
        ("error", "got an error when it was called: 'NoneType' object is not callable"),
        ("norm", r"got a model without other \(LayerNorm\), too"),
        ("constant", "got other operations"),
        ("function", "got other operations"),
        ("wires", "got other operations"),
    ],
)
def test_a_model_that_differs_without_norms_is_refused(how, got):
    model = Differs(how)
    with pytest.raises(ValueError, match=f"Differs with norm=None must be itself .*{got}"):
        fold(model, disturbed(model, VECTORS), VECTORS)
    same = Differs("nothing")
    folded, without = fold(same, disturbed(same, VECTORS), VECTORS)
    np.testing.assert_allclose(
        folded.apply(without, VECTORS, train=False)[0],
        same.apply(disturbed(same, VECTORS), VECTORS, train=False)[0],
        rtol=1e-5, atol=1e-5,
    )  # fmt: skip


def test_other_epsilons_of_one_factory_are_each_norms_own():
    def norm(name):
        return BatchNorm(epsilon=1.0 if name == "norm_1" else 1e-5, name=name)

    check_is_same(models.MLP([5, 6, 3], norm=norm), VECTORS)


def test_folded_numbers_that_are_not_finite_are_refused():
    model = models.MLP([4, 1], norm=functools.partial(BatchNorm, epsilon=0.0))
    variables = disturbed(model, VECTORS)
    variables["batch_stats"]["norm_0"]["var"] = jnp.zeros(4)
    with pytest.raises(ValueError, match="the kernel of dense_0 must be finite with norm norm_0"):
        fold(model, variables)


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


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.first = nnx.Linear(4, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.first(x))


class EquinoxNet(eqx.Module):
    norm: eqx.nn.BatchNorm

    def __call__(self, x, state):
        return self.norm(x, state)


@pytest.mark.parametrize(
    ("model", "error", "got"),
    [
        (NnxNet(nnx.Rngs(0)), TypeError, "Flax Linen module.* got NnxNet; use a module of another"),
        (EquinoxNet(eqx.nn.BatchNorm(3, "batch", mode="batch")), TypeError, "got EquinoxNet"),
        (training.Task(models.MLP([1]), losses.cross_entropy), TypeError, "got Task.* task.model"),
        (lambda params, x: x, TypeError, "got function"),
        (nn.Dense(3), ValueError, "a field norm=BatchNorm .* got Dense with norm=None"),
        (models.MLP([4, 1]), ValueError, "got MLP with norm=None"),
    ],
)
def test_what_has_no_norm_to_leave_out_is_refused(model, error, got):
    with pytest.raises(error, match=got):
        fold(model, {"params": {}, "batch_stats": {}})
