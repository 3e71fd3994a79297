"""`fold` refuses what is not provably the same function, and says which norm and why."""

import functools
from typing import Any

import equinox as eqx
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from folded import IMAGES, KEY, VECTORS, Lifted, Own, disturbed, transposed

from jaxdl import losses, models, training
from jaxdl.layers import BatchNorm
from jaxdl.training import fold


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


def test_folded_numbers_that_are_not_finite_are_refused():
    model = models.MLP([4, 1], norm=functools.partial(BatchNorm, epsilon=0.0))
    variables = disturbed(model, VECTORS)
    variables["batch_stats"]["norm_0"]["var"] = jnp.zeros(4)
    with pytest.raises(ValueError, match="the kernel of dense_0 must be finite with norm norm_0"):
        fold(model, variables)


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
