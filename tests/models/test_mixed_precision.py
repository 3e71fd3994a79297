"""Models that compute in half precision: what is rounded, and what stays in float32."""

import functools
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl import data, diagnostics, layers, losses, metrics, models, optimizers, training
from jaxdl.jaxprs import equations

KEY = jax.random.key(0)
IMAGES = jax.random.normal(KEY, (4, 32, 32, 3))
NORM = layers.BatchNorm
ATTENTION = {"features": 8, "layers": 2, "heads": 2, "length": 6}

MODELS: dict[str, tuple[Any, Any]] = {
    "mlp": (models.MLP([8, 8, 3], norm=NORM, dropout_rate=0.5), IMAGES[:, :2, :2]),
    "mlp, layer norm after": (
        models.MLP([8, 3], norm=nn.LayerNorm, norm_position="after"),
        IMAGES[:, :2, :2],
    ),
    "convnet": (models.ConvNet([4, 4], [8, 3], norm=NORM), IMAGES[:, :8, :8]),
    "vgg": (models.VGG(11, (3,), (4, 4, 4, 4, 4), norm=NORM), IMAGES),
    "resnet": (models.ResNet(8, 3, norm=NORM), IMAGES[:, :8, :8]),
    "resnet, projected": (models.ResNet(18, 3, norm=nn.GroupNorm), IMAGES[:, :4, :4]),
    "transformer": (
        models.Transformer(vocabulary=7, normalize_qk=nn.RMSNorm, **ATTENTION),
        jnp.arange(12).reshape(2, 6) % 7,
    ),
    "transformer, scanned": (
        models.Transformer(
            vocabulary=7, norm_position="after", blocks="scan", tied_head=True, **ATTENTION
        ),
        jnp.arange(12).reshape(2, 6) % 7,
    ),
    "transformer of vectors": (
        models.Transformer(None, positions="sinusoidal", blocks="remat", **ATTENTION),
        jax.random.normal(KEY, (2, 6, 8)),
    ),
}
every_model = pytest.mark.parametrize(("model", "inputs"), MODELS.values(), ids=MODELS.keys())
halves = pytest.mark.parametrize("half", [jnp.bfloat16, jnp.float16], ids=["bfloat16", "float16"])


def half_of(model, dtype=jnp.bfloat16):
    return model.clone(dtype=dtype)


def dtypes(tree):
    return {
        leaf.dtype.name
        for leaf in jax.tree.leaves(tree)
        if hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)
    }


def squared(outputs, targets):
    return jnp.mean(jnp.square(outputs), tuple(range(1, outputs.ndim)))


@every_model
def test_products_are_of_half_numbers_and_outputs_are_not(model, inputs):
    model = half_of(model)
    variables = jax.eval_shape(functools.partial(model.init, KEY, inputs, train=False))
    assert dtypes(variables) == {"float32"}
    program = jax.make_jaxpr(functools.partial(model.apply, train=False))(variables, inputs)
    assert [each.dtype for each in program.out_avals] == [jnp.float32]
    products = [
        equation
        for equation in equations(program.jaxpr)
        if equation.primitive.name in ("dot_general", "conv_general_dilated")
    ]
    assert products
    for equation in products:
        assert {each.aval.dtype for each in equation.invars} == {jnp.dtype(jnp.bfloat16)}
    # Softmaxes and the deviations of norms.
    for equation in equations(program.jaxpr):
        if equation.primitive.name in ("exp", "rsqrt", "sqrt"):
            assert equation.invars[0].aval.dtype == jnp.float32


def two_steps(model, inputs):
    """The fields of the state before two steps and after them, and a function that takes them."""
    optimizer = optax.chain(optimizers.adamw(1e-3), optimizers.ema())
    task = training.Task(model, squared)
    step = training.make_train_step(task, optimizer)

    def start():
        return vars(training.init_state(KEY, task, optimizer, inputs))

    def both(fields):
        batch = {"inputs": inputs, "targets": jnp.zeros(len(inputs))}
        state, _ = step(training.TrainState(**fields), batch)
        state, measured = step(state, batch)
        return vars(state), measured

    return start, both


@halves
@every_model
def test_all_that_training_keeps_is_float32(model, inputs, half):
    start, both = two_steps(half_of(model, half), inputs)
    before = jax.eval_shape(start)
    after, measured = jax.eval_shape(both, before)
    chex.assert_trees_all_equal_shapes_and_dtypes(after, before)
    assert dtypes(after) == dtypes(measured) == {"float32"}


@pytest.mark.parametrize("name", ["mlp", "resnet", "transformer"])
def test_steps_are_finite_and_move_every_parameter(name):
    model, inputs = MODELS[name]
    start, both = two_steps(half_of(model), inputs)
    before = jax.jit(start)()
    after, _ = jax.jit(both)(before)
    for old, new in zip(*map(jax.tree.leaves, (before["params"], after["params"])), strict=True):
        assert np.isfinite(new).all()
        assert not np.array_equal(old, new)


@every_model
def test_float32_by_name_is_the_program_of_the_default(model, inputs):
    variables = jax.eval_shape(functools.partial(model.init, KEY, inputs, train=False))
    named, default = (
        str(jax.make_jaxpr(functools.partial(each.apply, train=False))(variables, inputs))
        for each in (half_of(model, jnp.float32), model)
    )
    assert named == default


def test_equal_dtypes_make_equal_models():
    by_name, by_type = (models.MLP([3], dtype=each) for each in ("bfloat16", jnp.bfloat16))
    assert by_name == by_type
    assert hash(by_name) == hash(by_type)


@pytest.mark.parametrize(
    "make",
    [
        functools.partial(models.MLP, [3]),
        functools.partial(models.ConvNet, [3], [3]),
        models.VGG,
        models.ResNet,
        functools.partial(models.Transformer, 7),
        functools.partial(layers.MultiHeadAttention, 2),
        functools.partial(layers.Maxout, 2),
    ],
)
@pytest.mark.parametrize("dtype", ["sixteen", jnp.int8, 16, nn.Dense])
def test_a_dtype_that_is_none_is_refused(make, dtype):
    with pytest.raises(TypeError, match=r"dtype must be a floating dtype, or None, got"):
        make(dtype=dtype)


def test_layers_compute_in_their_dtype():
    x = jax.random.normal(KEY, (2, 3, 8))
    maxout = layers.Maxout(4, dtype=jnp.bfloat16)
    attention = layers.MultiHeadAttention(2, dtype=jnp.bfloat16, normalize_qk=nn.LayerNorm)
    assert maxout.init_with_output(KEY, x)[0].dtype == jnp.bfloat16
    assert attention.init_with_output(KEY, x, train=False)[0].dtype == jnp.bfloat16


def test_batch_statistics_are_exact_at_a_large_mean():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x, *, train):
            x = layers.BatchNorm(momentum=0.0, unbiased_variance=False, name="norm")(x, train=train)
            return nn.Dense(3, dtype=jnp.bfloat16)(x)

    draw = 1e4 + np.random.default_rng(0).normal(size=(256, 5))
    variables = Net().init(KEY, jnp.ones((1, 5)), train=False)
    for dtype in (jnp.float32, jnp.bfloat16):
        x = jnp.asarray(draw, dtype)
        _, moved = Net().apply(variables, x, train=True, mutable=["batch_stats"])
        stats, exact = moved["batch_stats"]["norm"], np.asarray(x, np.float64)
        assert stats["var"].dtype == jnp.float32
        np.testing.assert_allclose(stats["mean"], exact.mean(0), rtol=2**-23)
        # Deviations are exact but for the mean's rounding, 2^-11 of a deviation of 1 or more.
        np.testing.assert_allclose(stats["var"], exact.var(0), rtol=1e-5)


@halves
def test_a_strangers_module_trains_in_half_precision(half):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return nn.Dense(3, dtype=half)(nn.relu(nn.Dense(8, dtype=half)(x)))

    x = jax.random.normal(KEY, (32, 5))
    labels = jnp.argmax(x[:, :3], -1)
    split = data.Arrays(np.asarray(x), np.asarray(labels))
    result = training.fit(
        Net(),
        data.Dataset("own", split, split, None, ("a", "b", "c")),
        optimizers.adam(0.05),
        loss=losses.cross_entropy,
        metrics=[metrics.accuracy],
        epochs=20,
        batch_size=16,
        key=KEY,
        progress=False,
    )
    assert dtypes(result.state.params) == dtypes(result.state.opt_state) == {"float32"}
    assert result.history.validation["loss"][-1] < result.history.validation["loss"][0] / 2


@halves
def test_instruments_measure_in_float32(half):
    model, inputs = models.MLP([32, 32, 3]), jax.random.normal(KEY, (64, 20))
    variables = model.init(KEY, inputs, train=False)
    batch = {"inputs": inputs, "targets": jnp.arange(64) % 3}
    full, less = (
        diagnostics.propagation(each, variables, batch, loss=losses.cross_entropy)
        for each in (model, half_of(model, half))
    )
    assert dtypes(vars(less)) == {"float32"}
    assert less.names == full.names
    # Three products of 8 significant bits, each rounded by at most 2^-9 in operands and result.
    np.testing.assert_allclose(less.stddev, full.stddev, rtol=3 * 3 * 2**-9)
    np.testing.assert_allclose(less.gradient_stddev, full.gradient_stddev, rtol=6 * 3 * 2**-9)


def test_the_loss_curve_on_digits_differs_less_than_that_of_another_seed():
    digits = data.split(data.load("digits"), key=KEY)
    splits = {"train": digits.train, "validation": digits.validation}
    seeds = range(5)
    keys = jax.vmap(jax.random.key)(jnp.arange(len(seeds)))
    orders = jnp.stack(
        [training.orders(jax.random.key(seed), 8, len(digits.train.targets)) for seed in seeds]
    )

    def curves(dtype):
        task = training.Task(models.MLP([64, 10], norm=NORM, dtype=dtype), losses.cross_entropy)
        run = training.make_run(task, optimizers.adam(1e-3), batch_size=64)
        runs = jax.jit(
            jax.vmap(lambda key, order: run(key, splits, order)[1]["validation"]["loss"])
        )
        return np.asarray(runs(keys, orders), np.float64)

    full, half = curves(None), curves(jnp.bfloat16)
    assert (full[:, -1] < full[:, 0] / 2).all()
    # Rounding is noise that the seed's own exceeds: the mean of five has a fifth of its variance.
    band = full.std(0, ddof=1) / np.sqrt(len(seeds))
    assert (np.abs((half - full).mean(0)) < band).all()


def test_the_first_loss_differs_by_the_rounding_of_the_logits():
    model, inputs = models.MLP([64, 10]), jax.random.normal(KEY, (128, 20))
    variables = model.init(KEY, inputs, train=False)
    labels = jnp.arange(128) % 10
    full, half = (
        np.float64(each.apply(variables, inputs, train=False)) for each in (model, half_of(model))
    )
    loss = functools.partial(losses.cross_entropy, targets=labels)
    # |softmax - onehot| is at most sqrt(2): so is the loss's slope in the logits.
    limit = np.sqrt(2) * np.linalg.norm(full - half, axis=-1)
    difference = np.abs(np.float64(loss(jnp.asarray(full))) - np.float64(loss(jnp.asarray(half))))
    assert (difference <= limit + 1e-6).all()
    # Two products, each of operands and results rounded by 2^-9, of rows whose norm is about 20.
    assert np.abs(full - half).max() < 2 * 3 * 2**-9 * np.abs(full).max() * 2
