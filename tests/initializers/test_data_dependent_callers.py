"""LSUV of tasks, modes, several inputs, models that draw, and models of other libraries."""

import dataclasses

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxdl import initializers, losses, models, training
from jaxdl.calling import Mode, adapt, random_streams
from jaxdl.initializers import lsuv

X = 3 + 4 * jax.random.normal(jax.random.key(0), (64, 12))
IMAGES = jax.random.normal(jax.random.key(1), (8, 6, 6, 3))
KEY = jax.random.key(2)
TOLERANCE = 0.05
ROUNDING = 1e-4  # of a float32 variance, in another program


def check_unit(*outputs):
    """Each has the variance 1, in NumPy's float64."""
    for each in outputs:
        variance = np.var(np.asarray(each, np.float64))
        assert abs(variance - 1) <= TOLERANCE + ROUNDING


class Gated(nn.Module):
    """In one mode its first layer's outputs are three times as large."""

    learns: bool | None = None

    @nn.compact
    def __call__(self, x, learning: bool | None = None):
        x = nn.Dense(16, name="first")(x)
        x = 3 * x if (self.learns if learning is None else learning) else x
        return nn.Dense(8, name="second")(x)


class OffSwitch(nn.Module):
    """The same, told of evaluation."""

    @nn.compact
    def __call__(self, x, frozen: bool):
        return Gated(not frozen, name="gated")(x)


GATED = Gated().init(KEY, X, False)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("mode", ["learning", "learns", Mode("learning"), Mode("learns")])
def test_a_mode_of_any_name(mode, train):
    scaled = lsuv(Gated(), GATED, X, mode=mode, train=train)
    check_unit(Gated().apply(scaled, X, train))
    other = Gated().apply(scaled, X, not train)
    assert not 0.2 < np.var(other) < 5  # 9 times, or a ninth


def test_a_mode_that_is_off_in_training():
    variables = {"params": {"gated": GATED["params"]}}
    scaled = lsuv(OffSwitch(), variables, X, mode=Mode("frozen", in_training=False))
    check_unit(OffSwitch().apply(scaled, X, True))


def test_no_mode_at_all():
    check_unit(Gated(True).apply(lsuv(Gated(True), GATED, X, mode=False), X))
    with pytest.raises(ValueError, match="mode must name an argument or a field of Gated"):
        lsuv(Gated(), GATED, X, mode="training")


def halves(inputs):
    return inputs / 2


def test_a_task_has_its_own_mode_and_preprocess():
    task = training.Task(Gated(), losses.mean_squared_error, preprocess=halves, mode="learning")
    scaled = lsuv(task, GATED, X)
    check_unit(Gated().apply(scaled, X / 2, False))
    with pytest.raises(ValueError, match=r"a Task has its own \['mode'\], got them again; set"):
        lsuv(task, GATED, X, mode="learning")
    # uint8 images become what `fit` makes of them.
    images = np.random.default_rng(0).integers(0, 256, (16, 6, 6, 3), np.uint8)
    model = models.MLP([9, 4])
    task = training.Task(model, losses.mean_squared_error)
    scaled = lsuv(task, task.init(KEY, training.scale_images(jnp.asarray(images))), images)
    check_unit(model.apply(scaled, jnp.asarray(images / 255, jnp.float32), train=False))


class Two(nn.Module):
    @nn.compact
    def __call__(self, left, right):
        return nn.Dense(8, name="a")(left) * 2, nn.Dense(8, name="b")(right)


@pytest.mark.parametrize("inputs", [(X, X**2), {"right": X**2, "left": X}], ids=["tuple", "names"])
def test_two_inputs(inputs):
    variables = Two().init(KEY, X, X)
    left, right = Two().apply(lsuv(Two(), variables, inputs), X, X**2)
    check_unit(left / 2, right)


class Noisy(nn.Module):
    """Noise that is drawn in evaluation too, from a stream with a name of its own."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(16, name="first")(x)
        x = x + 2 * jax.random.normal(self.make_rng("noise"), x.shape)
        return nn.Dense(8, name="second")(x)


def test_a_model_that_draws_in_evaluation():
    variables = Noisy().init({"params": KEY, "noise": KEY}, X)
    with pytest.raises(ValueError, match="key must be given for Noisy, which draws random numbers"):
        lsuv(Noisy(), variables, X)
    check_unit(Noisy().apply(lsuv(Noisy(), variables, X, key=KEY), X, rngs=random_streams(KEY)))
    task = training.Task(Noisy(), losses.mean_squared_error, evaluation_seed=5)
    scaled = lsuv(task, variables, X)
    check_unit(task.outputs(scaled, X, train=False)[0])
    with pytest.raises(TypeError, match=r"key must be made by jax\.random\.key"):
        lsuv(Noisy(), variables, X, key=0)
    with pytest.raises(ValueError, match="key must be given for Noisy"):
        lsuv(dataclasses.replace(task, evaluation_seed=None), variables, X)


def test_dropout_is_on_in_training():
    model = models.MLP([32, 32, 4], dropout_rate=0.5)
    variables = model.init(KEY, X, train=False)
    scaled = lsuv(model, variables, X, train=True, key=KEY)
    check_unit(model.apply(scaled, X, train=True, rngs={"dropout": KEY}))
    with pytest.raises(ValueError, match="key must be given for MLP"):
        lsuv(model, variables, X, train=True)


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(3, 5, (3, 3), rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.norm = nnx.BatchNorm(5, rngs=rngs)
        self.head = nnx.Linear(5, 4, rngs=rngs)

    def hidden(self, x):
        return self.conv(x)

    def __call__(self, x):
        return self.head(self.dropout(nnx.relu(self.norm(self.conv(x)))).mean((1, 2)))


def test_layers_of_nnx():
    model = NnxNet(nnx.Rngs(0))
    before = np.array(model.conv.kernel.get_value())
    scaled = adapt(model).module(lsuv(model, None, IMAGES))
    scaled.eval()
    check_unit(scaled.hidden(IMAGES), scaled(IMAGES))
    ratio = np.asarray(scaled.conv.kernel.get_value()) / before
    np.testing.assert_allclose(ratio, ratio.ravel()[0], rtol=1e-6)  # the direction is kept
    np.testing.assert_array_equal(model.conv.kernel.get_value(), before)
    with pytest.raises(ValueError, match="key must be given for NnxNet"):
        lsuv(model, None, IMAGES, train=True)
    trained = adapt(model).module(lsuv(model, None, IMAGES, train=True, key=KEY))
    check_unit(trained.hidden(IMAGES))


class EquinoxNet(eqx.Module):
    embedding: eqx.nn.Embedding
    conv: eqx.nn.Conv2d
    norm: eqx.nn.LayerNorm
    head: eqx.nn.Linear

    def __init__(self, key):
        self.embedding = eqx.nn.Embedding(7, 6, key=key)
        self.conv = eqx.nn.Conv2d(6, 5, 3, key=key)
        self.norm = eqx.nn.LayerNorm((4, 4))
        self.head = eqx.nn.Linear(16, 8, key=key)

    def hidden(self, image):
        embedded = jax.vmap(self.embedding)(image[0, 0].astype(int))
        return self.conv(image + embedded[:, :, None])

    def __call__(self, image):
        return jax.vmap(self.head)(jax.vmap(self.norm)(self.hidden(image)).reshape(5, 16))


@pytest.mark.parametrize("settings", [{}, {"orthogonal_key": KEY}], ids=["kept", "orthogonal"])
def test_layers_of_equinox(settings):
    images = jax.random.uniform(KEY, (16, 6, 6, 6), maxval=7)
    model = EquinoxNet(jax.random.key(3))
    # Two scalings of the head: its bias is not zero.
    scaled = adapt(model).module(lsuv(model, None, images, **settings))
    check_unit(jax.vmap(scaled.hidden)(images), jax.vmap(scaled)(images))
    for same in ("embedding", "norm"):
        np.testing.assert_array_equal(getattr(scaled, same).weight, getattr(model, same).weight)
    if settings:
        weight = np.asarray(scaled.head.weight, np.float64)
        product = weight @ weight.T  # eight rows of length 16
        np.testing.assert_allclose(product / product[0, 0], np.eye(8), atol=1e-5)
        flat = np.asarray(scaled.conv.weight, np.float64).reshape(5, -1)
        product = flat @ flat.T
        np.testing.assert_allclose(product / product[0, 0], np.eye(5), atol=1e-5)
    else:
        ratio = np.asarray(scaled.conv.weight / model.conv.weight)
        np.testing.assert_allclose(ratio, ratio.ravel()[0], rtol=1e-6)


class Pair:
    """As `haiku.transform` gives."""

    @staticmethod
    def init(rng, x):
        del rng
        return {"kernel": jnp.ones((x.shape[-1], 2))}

    @staticmethod
    def apply(params, rng, x):
        del rng
        return x @ params["kernel"]


class Generated(nn.Module):
    """A layer whose kernel is an input of the model."""

    @nn.compact
    def __call__(self, x, kernel):
        dense = nn.Dense(3, name="own")
        y = dense(x)
        return nn.Dense(3, parent=None).apply({"params": {"kernel": kernel, "bias": y[0]}}, x)


def test_a_kernel_that_is_an_input_is_no_layer():
    kernel = jnp.ones((12, 3))
    variables = Generated().init(KEY, X, kernel)
    scaled = lsuv(Generated(), variables, (X, kernel))
    own = scaled["params"]["own"]
    check_unit(X @ own["kernel"] + own["bias"])


@pytest.mark.parametrize(
    ("model", "variables", "error", "got"),
    [
        (Pair(), {"kernel": jnp.ones((12, 2))}, ValueError, "named kernel, got kernel of apply"),
        (lambda p, x: x @ p[0], [jnp.ones((12, 2))], ValueError, "named kernel, got 0 of <lambda>"),
        (nn.Dense, GATED, TypeError, "model must be a module"),
        (Gated(), None, TypeError, r"variables must be what model\.init returned"),
        (Gated(), GATED["params"], TypeError, r"variables must be .* got \['first', 'second'\]"),
    ],
    ids=["pair", "function", "class", "none", "parameters"],
)
def test_what_has_no_layers_to_see_is_refused(model, variables, error, got):
    with pytest.raises(error, match=got):
        lsuv(model, variables, X)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (NnxNet(nnx.Rngs(0)), "NnxNet"),
        (EquinoxNet(KEY), "EquinoxNet"),
        (Pair(), "apply"),
        (training.Task(Pair(), losses.mean_squared_error), "apply"),
    ],
)
def test_apply_refuses_models_of_other_libraries(model, name):
    rule = {nn.Dense: initializers.he_normal()}
    with pytest.raises(TypeError, match=f"a Flax Linen module, got {name} of another library"):
        initializers.apply(model, GATED, rule, KEY, IMAGES)


def test_apply_takes_a_task_and_a_mode():
    rule = {nn.Dense: initializers.he_normal()}
    expected = initializers.apply(Gated(False), GATED, rule, KEY, X, mode=False)
    task = training.Task(Gated(), losses.mean_squared_error, mode="learning")
    for found in (
        initializers.apply(Gated(), GATED, rule, KEY, X, mode="learns"),
        initializers.apply(task, GATED, rule, KEY, X),
    ):
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    with pytest.raises(ValueError, match=r"a Task has its own \['mode'\]"):
        initializers.apply(task, GATED, rule, KEY, X, mode="learning")
