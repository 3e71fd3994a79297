"""What holds of every norm: what it changes, what it is blind to, what it refuses."""

import functools
import subprocess

import chex
import drawn
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import STRICT_PYTHON, with_devices

from jaxdl import activations, data, losses, models, optimizers, training
from jaxdl.layers import BatchNorm
from jaxdl.layers.norm import apply_norm
from jaxdl.models.block import activate

EPSILON = float(jnp.finfo(jnp.float32).eps)

MODELS = {
    "mlp": models.MLP([6, 5, 3], norm=BatchNorm),
    "convnet": models.ConvNet([4], [5, 3], norm=BatchNorm),
    "resnet": models.ResNet(8, 3, norm=BatchNorm),
}


def images(batch=12, seed=0, dtype=np.float32):
    draw = np.random.default_rng(seed)
    return jnp.asarray(1 + 2 * draw.normal(size=(batch, 4, 4, 2)), dtype)


@functools.cache
def variables_of(name):
    model = MODELS[name]
    return drawn.variables_of(model, images())


@pytest.mark.parametrize("name", MODELS)
def test_training_moves_the_statistics_alone_and_evaluation_nothing(name):
    model, variables = MODELS[name], variables_of(name)

    @functools.partial(jax.jit, static_argnames="train")
    def apply(variables, x, train):
        return model.apply(variables, x, train=train, mutable=True)[1]

    trained = apply(variables, images(), train=True)
    assert set(trained) == set(variables) == {"params", "batch_stats"}
    chex.assert_trees_all_equal(trained["params"], variables["params"])
    chex.assert_trees_all_equal_shapes_and_dtypes(trained, variables)
    before, after = (jax.tree.leaves(tree["batch_stats"]) for tree in (variables, trained))
    assert all((new != old).any() for new, old in zip(after, before, strict=True))
    chex.assert_trees_all_equal(apply(trained, images(seed=1), train=False), trained)


@pytest.mark.parametrize("name", MODELS)
def test_an_evaluation_of_parts_is_that_of_the_whole(name):
    model, variables = MODELS[name], variables_of(name)
    step = jax.jit(training.make_eval_step(model, losses.cross_entropy))
    x, targets = images(), jnp.arange(12) % 3
    whole = step(variables, {"inputs": x, "targets": targets})["loss"]
    parts = [
        step(variables, {"inputs": x[i::2], "targets": targets[i::2]})["loss"] for i in range(2)
    ]
    # Sums of 12 losses in another order; the losses themselves come of sums of at most 600 terms.
    np.testing.assert_allclose(sum(parts), whole, rtol=1e-5)
    # By the statistics of its batch, the whole would have another loss.
    trained = jax.jit(functools.partial(model.apply, train=True, mutable=["batch_stats"]))
    outputs, _ = trained(variables, x)
    assert abs(losses.cross_entropy(outputs, targets).sum() / whole - 1) > 1e-3


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
@pytest.mark.parametrize(
    "settings", [{}, {"cumulative": True}, {"momentum": np.float64(0.9)}], ids=str
)
@pytest.mark.parametrize("begun_by", [None, jnp.float32])
def test_a_training_step_keeps_the_form_of_the_statistics(settings, dtype, begun_by):
    # What a scan carries may not change its structure or dtype, whoever was first.
    norm = BatchNorm(**settings)
    with jax.enable_x64(True):
        x, first = jnp.ones((4, 3), dtype), jnp.ones((4, 3), begun_by or dtype)
        init = functools.partial(norm.init, train=False)
        variables = jax.eval_shape(init, jax.random.key(0), first)
        apply = functools.partial(norm.apply, train=True, mutable=["batch_stats"])
        y, updates = jax.eval_shape(apply, variables, x)
        assert y.dtype == dtype
        chex.assert_trees_all_equal_shapes_and_dtypes(
            updates["batch_stats"], variables["batch_stats"]
        )
        expected = jnp.promote_types(first.dtype, jnp.float32)
        assert {leaf.dtype for leaf in jax.tree.leaves(variables["batch_stats"])} == {expected}


class Biased(nn.Module):
    """A dense layer with the bias that the norm behind it makes redundant."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dense(5, name="dense")(x)
        return BatchNorm(name="norm")(x, train=train)


def test_a_bias_before_the_norm_has_no_gradient():
    draw = np.random.default_rng(0)
    x, upstream = (jnp.asarray(draw.normal(size=(32, n)), jnp.float32) for n in (4, 5))
    model = Biased()
    variables = jax.jit(functools.partial(model.init, train=False))(jax.random.key(0), x)

    @functools.partial(jax.jit, static_argnames="train")
    def gradient(params, train):
        def loss(params):
            variables_ = {**variables, "params": params}
            y, _ = model.apply(variables_, x, train=train, mutable=["batch_stats"])
            return jnp.vdot(upstream, y)

        return jax.grad(loss)(params)["dense"]["bias"]

    hidden = np.asarray(nn.Dense(5).apply({"params": variables["params"]["dense"]}, x), np.float64)
    deviation, g = hidden.std(0), np.asarray(upstream, np.float64)
    normed = (hidden - hidden.mean(0)) / deviation
    # The terms whose sum is zero: g_i, the mean of g, and the part along the normed values. A sum
    # of 32 of them is off by at most 32 rounding errors of their sizes' sum.
    terms = np.abs(g) + np.abs(g.mean(0)) + np.abs(normed * (g * normed).mean(0))
    bound = 32 * EPSILON * terms.sum(0) / deviation
    assert (np.abs(gradient(variables["params"], train=True)) < bound).all()
    assert (np.abs(gradient(variables["params"], train=False)) > 100 * bound).all()


def kernel_gradient(norm):
    """(loss, gradient) of the first kernel, as a function of it, and that kernel."""
    model = models.MLP([6, 3], norm=norm, activation=activations.tanh)
    init = jax.jit(functools.partial(model.init, train=False))
    variables = init(jax.random.key(0), images(32))
    x, targets = images(32), jnp.arange(32) % 3

    @jax.jit
    @jax.value_and_grad
    def loss(kernel):
        params = variables["params"] | {"dense_0": variables["params"]["dense_0"]}
        params["dense_0"] = params["dense_0"] | {"kernel": kernel}
        outputs, _ = model.apply(
            {**variables, "params": params}, x, train=True, mutable=["batch_stats"]
        )
        return losses.cross_entropy(outputs, targets).mean()

    return loss, variables["params"]["dense_0"]["kernel"]


# Sums over 32 inputs and over 32 examples: 64 roundings of one part in 2^24, of terms that cancel
# to no less than a tenth of their size.
TOLERANCE = 640 * EPSILON / 2


def along(gradient, kernel):
    """The share of each unit's gradient that lies along its weights."""
    sizes = jnp.linalg.norm(gradient, axis=0) * jnp.linalg.norm(kernel, axis=0)
    return jnp.abs((gradient * kernel).sum(0)) / sizes


def test_the_loss_is_blind_to_the_size_of_weights_before_a_norm():
    # Exactly so without epsilon, which is added to a variance that grows with the weights.
    loss, kernel = kernel_gradient(functools.partial(BatchNorm, epsilon=0.0))
    value, gradient = loss(kernel)
    for factor in (0.1, 0.7, 10.0, 100.0):
        scaled, of_scaled = loss(factor * kernel)
        np.testing.assert_allclose(scaled, value, rtol=TOLERANCE)
        np.testing.assert_allclose(
            factor * of_scaled, gradient, rtol=0, atol=TOLERANCE * float(jnp.abs(gradient).max())
        )
    assert (along(gradient, kernel) < TOLERANCE).all()


def test_without_a_norm_the_size_of_the_weights_matters():
    loss, kernel = kernel_gradient(None)
    value, gradient = loss(kernel)
    assert abs(loss(10 * kernel)[0] / value - 1) > 100 * TOLERANCE
    assert (along(gradient, kernel) > 100 * TOLERANCE).any()


ON_DEVICES = """
import functools
import jax, jax.numpy as jnp, numpy as np
from jaxdl import losses, models, optimizers, training
from jaxdl.layers import BatchNorm
from jaxdl.layers.norm import apply_norm
from jaxdl.models.block import activate

norm = functools.partial(BatchNorm, cumulative=True)
model, optimizer = models.MLP([6, 5, 3], norm=norm, dropout_rate=0.5), optimizers.sgd(0.1)
draw = np.random.default_rng(0)
inputs = jnp.asarray(draw.normal(size=(4, 8, 4)), jnp.float32)
batch = {"inputs": inputs, "targets": jnp.arange(32).reshape(4, 8) % 3}
start = training.init_state(jax.random.key(0), model, optimizer, inputs[0])

def run(axis_name):
    step = training.make_train_step(model, optimizer, losses.cross_entropy, axis_name=axis_name)
    states = jax.pmap(step, axis_name="d", in_axes=(None, 0))(start, batch)[0]
    return jax.pmap(step, axis_name="d")(states, batch)[0]

def apart(tree):
    return max(float(np.max(np.abs(leaf - leaf[:1]))) for leaf in jax.tree.leaves(tree))

together = run("d")
assert together.batch_stats["norm_0"]["mean"].shape == (4, 6)
for tree in (together.params, together.batch_stats):
    assert apart(tree) == 0.0
name = lambda leaf: leaf.dtype.name
forms = [jax.tree.map(name, state.batch_stats) for state in (together, start)]
assert forms[0] == forms[1], forms
alone = run(None)
assert apart(alone.batch_stats) > 0.01 and apart(alone.params) > 0.001

evaluate = jax.pmap(training.make_eval_step(model, losses.cross_entropy))
same = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf[:1], leaf.shape), batch)
sums = evaluate(together.variables, same)["loss"]
assert (sums == sums[0]).all(), sums
assert (sums == evaluate(together.variables, same)["loss"]).all()
"""


@pytest.mark.slow
def test_devices_agree_on_the_statistics_under_dropout():
    # Each device drops others: the second norm's statistics would differ if they were its own.
    command = [*STRICT_PYTHON, "-c", ON_DEVICES]
    subprocess.run(command, env=with_devices(4), check=True, timeout=300)


def built(model, shape):
    return lambda: model.init(jax.random.key(0), jnp.zeros(shape), train=True)


def groups(**settings):
    return functools.partial(nn.GroupNorm, **settings)


def over(axes):
    return functools.partial(nn.LayerNorm, reduction_axes=axes)


ONE = "at least two values per statistic, got 1"
NONE = "per statistic, got 0"


@pytest.mark.parametrize(
    ("norm", "shape", "text"),
    [
        (groups(num_groups=3), (2, 4, 4, 1), "num_groups must divide the channels, got 3 for 4 cha"
         "nnels; pass a num_groups of 1 or 2 or 4"),
        (nn.GroupNorm, (2, 4, 4, 1), "got 32 for 4 channels"),
        (groups(num_groups=0), (2, 4, 4, 1), "got 0 for 4 channels"),
        (groups(num_groups=None, group_size=3), (2, 4, 4, 1), "group_size must divide .* got 3"),
        (nn.InstanceNorm, (2, 1, 1, 1), rf"InstanceNorm needs {ONE} .*\(2, 1, 1, 4\)"),
        (nn.InstanceNorm, (2, 0, 4, 1), f"InstanceNorm needs at least two values {NONE}"),
        (groups(num_groups=2), (2, 0, 4, 1), f"GroupNorm needs at least two values {NONE}"),
        (groups(num_groups=4), (2, 1, 1, 1), f"GroupNorm needs {ONE} .* pass fewer groups"),
        (nn.BatchNorm, (1, 1, 1, 1), f"BatchNorm needs {ONE} .* pass a larger batch"),
        (nn.BatchNorm, (0, 4, 4, 1), f"BatchNorm needs at least two values {NONE}"),
        (over((1, 2)), (2, 1, 1, 1), f"LayerNorm needs {ONE}"),
    ],
)  # fmt: skip
def test_norms_of_images_refuse(norm, shape, text):
    with pytest.raises(ValueError, match=text):
        built(OneConvolution(norm), shape)()


class OneConvolution(nn.Module):
    """A convolution of four channels and its norm, as the models call it."""

    norm: functools.partial

    @nn.compact
    def __call__(self, x, *, train):
        return activate(
            nn.Conv(4, (1, 1))(x), jax.nn.relu, self.norm(), "before", layer=0, train=train
        )


@pytest.mark.parametrize(
    ("norm", "width", "text"),
    [
        (nn.InstanceNorm, 4, rf"InstanceNorm needs {ONE} .*for dense layers pass nn.LayerNorm"),
        (nn.LayerNorm, 1, rf"LayerNorm needs {ONE} .*\(2, 1\).* normalise a wider layer"),
        (groups(num_groups=3), 4, "num_groups must divide the channels"),
    ],
)
def test_norms_of_dense_layers_refuse(norm, width, text):
    with pytest.raises(ValueError, match=text):
        built(models.MLP([width, 3], norm=norm), (2, 5))()


def test_a_norm_over_no_features_is_refused():
    for norm in (nn.LayerNorm(), nn.RMSNorm(), nn.GroupNorm(num_groups=1)):
        with pytest.raises(ValueError, match=f"{type(norm).__name__} needs .*{NONE}"):
            apply_norm(norm, jnp.zeros((2, 0)), train=True)


@pytest.mark.parametrize(
    "norm",
    [nn.LayerNorm, nn.RMSNorm, nn.InstanceNorm, nn.BatchNorm, groups(num_groups=2), BatchNorm],
)
def test_what_norms_can_do_is_not_refused(norm):
    # Images of 2 x 2, an example as many as its statistics need; a BatchNorm here is trained.
    jax.eval_shape(built(OneConvolution(norm), (1, 2, 2, 1)))


@pytest.mark.parametrize("name", MODELS)
def test_forgotten_collections_are_named_by_whole_models(name):
    model, variables = MODELS[name], variables_of(name)
    forgotten = {"params": variables["params"]}
    with pytest.raises(ValueError, match=r"mutable=\['batch_stats'\]\) and keep"):
        model.apply(variables, images(), train=True)
    with pytest.raises(ValueError, match="without 'batch_stats'; apply the model to"):
        model.apply(forgotten, images(), train=True, mutable=["batch_stats"])
    step = jax.jit(training.make_eval_step(model, losses.cross_entropy))
    with pytest.raises(ValueError, match="without 'batch_stats'; apply the model to"):
        step(forgotten, {"inputs": images(), "targets": jnp.arange(12) % 3})


def test_a_model_without_running_statistics_is_trained_and_measured():
    norm = functools.partial(BatchNorm, track_running_stats=False)
    model = models.MLP([6, 3], norm=norm)
    x, targets = images(), jnp.arange(12) % 3
    dataset = data.Dataset("own", data.Arrays(x, targets), None, data.Arrays(x, targets))
    result = training.fit(
        model, dataset, optimizers.sgd(0.1), loss=losses.cross_entropy, epochs=2, batch_size=6,
        key=jax.random.key(0),
    )  # fmt: skip
    assert not result.state.batch_stats
    params = result.state.params
    hidden = x.reshape(12, -1) @ params["dense_0"]["kernel"]
    normed = BatchNorm().apply(
        {"params": params["norm_0"], "batch_stats": {"mean": hidden.mean(0), "var": hidden.var(0)}},
        hidden,
        train=False,
    )
    outputs = jax.nn.relu(normed) @ params["dense_1"]["kernel"] + params["dense_1"]["bias"]
    # Sums of 32 and 12 terms.
    np.testing.assert_allclose(
        model.apply({"params": params}, x, train=False), outputs, rtol=1e-5, atol=1e-5
    )
    with pytest.raises(ValueError, match="batches must reach a batch norm of the model, got none"):
        training.recalibrate(model, result.state.variables, [x])
    with pytest.raises(ValueError, match="batch norms that keep running statistics, got MLP with"):
        training.fold(model, result.state.variables)
