"""Batch normalisation: its statistics, its running averages, its gradient."""

import functools
import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import with_devices

from jaxdl.layers import BatchNorm, NoisyBatchNorm


def batch(shape=(16, 3), mean=0.0, scale=1.0, dtype=np.float32, seed=0):
    draw = np.random.default_rng(seed)
    return jnp.asarray(mean + scale * draw.normal(size=shape), dtype)


def train(norm, x, variables=None):
    variables = variables or init(norm, x)
    apply = functools.partial(norm.apply, train=True, mutable=["batch_stats"])
    y, updates = jax.jit(apply)(variables, x)
    return y, {**variables, **updates}


def init(norm, x):
    return jax.jit(functools.partial(norm.init, train=False))(jax.random.key(0), x)


@pytest.mark.parametrize("shape", [(16, 3), (4, 5, 5, 3), (2, 7, 3)])
def test_equals_the_formula_in_float64(shape):
    x = batch(shape, mean=2, scale=3)
    y, after = train(BatchNorm(), x)
    values = np.asarray(x, np.float64).reshape(-1, shape[-1])
    mean, var = values.mean(0), values.var(0)
    expected = (values - mean) / np.sqrt(var + 1e-5)
    np.testing.assert_allclose(y.reshape(-1, shape[-1]), expected, rtol=1e-5, atol=1e-5)
    count = len(values)
    np.testing.assert_allclose(after["batch_stats"]["mean"], 0.1 * mean, rtol=1e-5)
    np.testing.assert_allclose(
        after["batch_stats"]["var"], 0.9 + 0.1 * var * count / (count - 1), rtol=1e-5
    )


@pytest.mark.parametrize("unbiased", [True, False])
def test_the_running_variance_is_unbiased_or_not(unbiased):
    x = batch((2, 1))
    _, after = train(BatchNorm(unbiased_variance=unbiased, momentum=0.0), x)
    np.testing.assert_allclose(
        after["batch_stats"]["var"], np.var(x, axis=0, ddof=int(unbiased)), rtol=1e-6
    )


def test_a_large_mean_does_not_hide_the_spread():
    # E[x^2] - E[x]^2 at mean 1e4 leaves about 1 % of float32's digits: a spread of 0.25 for 1.
    y, _ = train(BatchNorm(), batch((1000, 1), mean=1e4))
    # Inputs at 1e4 are themselves rounded to 2^-10, a thousandth of the spread.
    assert float(y.std()) == pytest.approx(1.0, abs=1e-3)


def test_low_precision_inputs_have_float32_statistics():
    x = batch((256, 2), mean=3, dtype=jnp.bfloat16)
    y, after = train(BatchNorm(momentum=0.0), x)
    assert y.dtype == jnp.bfloat16
    assert after["batch_stats"]["mean"].dtype == jnp.float32
    np.testing.assert_allclose(
        after["batch_stats"]["mean"], np.asarray(x, np.float64).mean(0), rtol=1e-6
    )


def test_evaluation_uses_the_running_statistics_and_moves_nothing():
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), batch(), train=False)
    _, variables = train(norm, batch(mean=5), variables)
    y, updates = norm.apply(variables, batch(), train=False, mutable=["batch_stats"])
    stats = variables["batch_stats"]
    np.testing.assert_allclose(
        y, (batch() - stats["mean"]) / jnp.sqrt(stats["var"] + 1e-5), rtol=1e-5, atol=1e-6
    )
    chex.assert_trees_all_equal(updates["batch_stats"], stats)


def test_init_leaves_the_statistics_at_zero_and_one():
    stats = BatchNorm().init(jax.random.key(0), batch(mean=5), train=True)["batch_stats"]
    np.testing.assert_array_equal(stats["mean"], 0)
    np.testing.assert_array_equal(stats["var"], 1)


def test_the_gradient_is_the_formula_of_the_paper():
    x, upstream = batch(scale=2), batch(seed=1)
    norm = BatchNorm(use_scale=False, use_bias=False)
    gradient = jax.jit(
        jax.grad(lambda x: jnp.vdot(upstream, train(norm, x, {"batch_stats": STATS})[0]))
    )(x)
    values, g = np.asarray(x, np.float64), np.asarray(upstream, np.float64)
    deviation = np.sqrt(values.var(0) + 1e-5)
    normed = (values - values.mean(0)) / deviation
    expected = (g - g.mean(0) - normed * (g * normed).mean(0)) / deviation
    np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-6)


STATS = {"mean": jnp.zeros(3), "var": jnp.ones(3)}


def test_statistics_are_averaged_over_a_named_axis():
    x = batch((4, 8, 3), mean=1)
    norm = BatchNorm(axis_name="devices", momentum=0.0)
    variables = {"batch_stats": STATS, "params": {"scale": jnp.ones(3), "bias": jnp.zeros(3)}}
    y, updates = jax.jit(
        jax.vmap(
            lambda x: norm.apply(variables, x, train=True, mutable=["batch_stats"]),
            axis_name="devices",
        )
    )(x)
    whole, after = train(BatchNorm(momentum=0.0), x.reshape(32, 3), variables)
    np.testing.assert_allclose(y.reshape(32, 3), whole, rtol=1e-5, atol=1e-5)
    for name in ("mean", "var"):
        for device in range(4):
            np.testing.assert_allclose(
                updates["batch_stats"][name][device], after["batch_stats"][name], rtol=1e-5
            )


def test_refuses_one_value_per_feature_in_training():
    with pytest.raises(ValueError, match="at least two values per feature"):
        train(BatchNorm(), batch((1, 3)))
    train(BatchNorm(), batch((1, 2, 3)))


def test_a_cumulative_average_weighs_all_batches_alike():
    norm, batches = BatchNorm(cumulative=True), [batch(mean=m, seed=m) for m in range(4)]
    variables = norm.init(jax.random.key(0), batches[0], train=False)
    for x in batches:
        _, variables = train(norm, x, variables)
    stats = variables["batch_stats"]
    assert stats["count"] == 4
    means = np.mean([np.mean(x, 0) for x in batches], 0)
    variances = np.mean([np.var(x, 0, ddof=1) for x in batches], 0)
    np.testing.assert_allclose(stats["mean"], means, rtol=1e-5)
    np.testing.assert_allclose(stats["var"], variances, rtol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_axis_may_hold_the_features(axis):
    x = batch((4, 5, 6), mean=2)
    y, after = train(BatchNorm(feature_axis=axis), x)
    moved, expected = train(BatchNorm(), jnp.moveaxis(x, axis, -1))
    # The same sums in another order.
    np.testing.assert_allclose(jnp.moveaxis(y, axis, -1), moved, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(after, expected, rtol=1e-5)


def test_virtual_batches_are_batches_of_their_own():
    x = batch((12, 3, 2), mean=1)
    norm = BatchNorm(virtual_batch_size=4, momentum=0.0)
    y, after = train(norm, x)
    parts = [train(BatchNorm(momentum=0.0), part) for part in jnp.split(x, 3)]
    np.testing.assert_allclose(y, jnp.concatenate([y for y, _ in parts]), rtol=1e-5, atol=1e-6)
    for name in ("mean", "var"):
        np.testing.assert_allclose(
            after["batch_stats"][name],
            np.mean([after["batch_stats"][name] for _, after in parts], 0),
            rtol=1e-5,
        )


IN_GROUPS = """
import jax, jax.numpy as jnp, numpy as np
from jaxdl.layers import BatchNorm
x = jnp.asarray(np.random.default_rng(0).normal(1, 1, (4, 8, 3)), jnp.float32)
variables = BatchNorm().init(jax.random.key(0), x, train=False)
def apply(norm, x):
    return norm.apply(variables, x, train=True, mutable=["batch_stats"])
norm = BatchNorm(axis_name="devices", axis_index_groups=[[0, 1], [2, 3]], momentum=0.0)
y, updates = jax.pmap(lambda x: apply(norm, x), axis_name="devices")(x)
for pair in (slice(0, 2), slice(2, 4)):
    whole, after = apply(BatchNorm(momentum=0.0), x[pair].reshape(16, 3))
    np.testing.assert_allclose(y[pair].reshape(16, 3), whole, rtol=1e-5, atol=1e-5)
    for name, values in updates["batch_stats"].items():
        for device in values[pair]:
            np.testing.assert_allclose(device, after["batch_stats"][name], rtol=1e-5)
"""


def test_groups_of_devices_share_their_statistics():
    subprocess.run([sys.executable, "-c", IN_GROUPS], env=with_devices(4), check=True)


OVER_A_MESH = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from jaxdl.layers import BatchNorm

norm = BatchNorm(momentum=0.0)
x = 100 + jax.random.normal(jax.random.key(0), (4, 3, 2))
variables = norm.init(jax.random.key(1), x, train=False)

def derivatives(x):
    y, back, updates = jax.vjp(
        lambda x: norm.apply(variables, x, train=True, mutable=["batch_stats"]), x, has_aux=True
    )
    return y, updates["batch_stats"], back(jnp.cos(y))[0]

alone = derivatives(x)
for kind in AxisType.Auto, AxisType.Explicit:
    mesh = jax.make_mesh((2,), ("devices",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("devices")))
        found = jax.jit(derivatives)(split)
    assert found[0].sharding.spec[0] == "devices"
    # The mean, near 100, is rounded to 2^-18; so is y, of size 1.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2.0**-16), found, alone)
"""


def test_a_mesh_of_automatic_or_explicit_axes_has_one_batch():
    subprocess.run([sys.executable, "-c", OVER_A_MESH], env=with_devices(2), check=True)


@pytest.mark.parametrize("frozen", ["scale", "bias"])
def test_what_is_frozen_has_no_gradient(frozen):
    norm, x = BatchNorm(**{f"freeze_{frozen}": True}), batch()
    variables = init(norm, x)

    def loss(params):
        y, _ = norm.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return jnp.sum(jnp.sin(y))

    gradients = jax.grad(loss)(variables["params"])
    for name, gradient in gradients.items():
        assert bool((gradient == 0).all()) == (name == frozen)


def test_forgotten_collections_are_named():
    norm, x = BatchNorm(), batch()
    variables = init(norm, x)
    with pytest.raises(ValueError, match=r"mutable=\['batch_stats'\]\) and keep"):
        norm.apply(variables, x, train=True)
    for train_, mutable in ((False, False), (True, ["batch_stats"])):
        with pytest.raises(ValueError, match="without 'batch_stats'; apply the model to"):
            norm.apply({"params": variables["params"]}, x, train=train_, mutable=mutable)


@pytest.mark.parametrize(
    ("settings", "shape", "text"),
    [
        ({"momentum": 1.5}, (4, 3), r"momentum must lie in \[0, 1\]"),
        ({"epsilon": -1.0}, (4, 3), "epsilon must be 0 or more"),
        ({"virtual_batch_size": 0}, (4, 3), "virtual_batch_size must be at least 1"),
        ({"virtual_batch_size": 3}, (4, 3), "virtual_batch_size must divide the batch"),
        ({"virtual_batch_size": 1}, (4, 3), "at least two values per feature"),
        ({"axis_index_groups": [[0], [1]]}, (4, 3), "go with an axis_name"),
        ({"axis_name": "d", "axis_index_groups": [[0], [1, 2]]}, (4, 3), "groups of one size"),
        ({}, (0, 3), "needs values to normalise"),
        ({}, (4, 0), "needs values to normalise"),
    ],
)
def test_refuses_what_has_no_statistics(settings, shape, text):
    with pytest.raises(ValueError, match=text):
        train(BatchNorm(**settings), jnp.zeros(shape))


def test_noise_moves_the_outputs_and_leaves_evaluation_alone():
    x = batch((2000, 3), mean=2)
    norm, plain = NoisyBatchNorm(), BatchNorm()
    variables = init(norm, x)
    inner = {name: tree["norm"] for name, tree in variables.items()}
    np.testing.assert_array_equal(
        norm.apply(variables, x, train=False), plain.apply(inner, x, train=False)
    )
    rngs = {"dropout": jax.random.key(1)}
    y, _ = norm.apply(variables, x, train=True, mutable=["batch_stats"], rngs=rngs)
    steady, _ = train(plain, x, inner)
    # y = s z + m with z of mean 0 and variance 1: the mean is m's, U(-0.5, 0.5), and over 2,000
    # examples it is known to 1.3/sqrt(2000) = 0.03; s lies in (1, 1.25).
    assert (jnp.abs(y.mean(0)) < 0.5 + 5 * 0.03).all()
    assert jnp.abs(y.mean(0)).max() > 5 * 0.03
    slope = jnp.mean(y * steady, 0)
    assert ((slope > 1 - 0.15) & (slope < 1.25 + 0.15)).all()
    other = {"dropout": jax.random.key(2)}
    z, _ = norm.apply(variables, x, train=True, mutable=["batch_stats"], rngs=other)
    assert not np.allclose(y.mean(0), z.mean(0), atol=0.03)


def test_an_images_positions_share_their_noise():
    x = batch((6, 4, 4, 3))
    norm = NoisyBatchNorm()
    variables = init(norm, x)
    rngs = {"dropout": jax.random.key(1)}
    y, _ = norm.apply(variables, x, train=True, mutable=["batch_stats"], rngs=rngs)
    steady, _ = train(BatchNorm(), x, {name: tree["norm"] for name, tree in variables.items()})
    # Within an image and a feature the outputs are one line of the undisturbed ones.
    for image, before in zip(y, steady, strict=True):
        for feature in range(3):
            line = np.polyfit(before[..., feature].ravel(), image[..., feature].ravel(), 1)
            fitted = np.polyval(line, before[..., feature])
            np.testing.assert_allclose(image[..., feature], fitted, atol=1e-5)


def test_noise_refuses_ranges_that_are_none():
    with pytest.raises(ValueError, match="stddev_range 1 or more"):
        NoisyBatchNorm(stddev_range=0.5)


def test_frozen_statistics_are_those_of_evaluation_in_training():
    x = batch((6, 3), mean=2, scale=3)
    variables = init(BatchNorm(), x)
    variables["batch_stats"] = {"mean": jnp.array([1.0, -2, 0]), "var": jnp.array([4.0, 1, 0.25])}
    frozen = BatchNorm(freeze_statistics=True)
    y, after = train(frozen, x, variables)
    np.testing.assert_array_equal(
        y, jax.jit(functools.partial(BatchNorm().apply, train=False))(variables, x)
    )
    chex.assert_trees_all_equal(after["batch_stats"], variables["batch_stats"])
    # Nothing of the batch's own is read: an example's outputs do not depend on the others.
    np.testing.assert_allclose(train(frozen, x[:1], variables)[0], y[:1], rtol=1e-6)

    def total(params):
        return frozen.apply({**variables, "params": params}, x, train=True).sum()

    # d/d gamma of sum(gamma z + beta) is the sum of z = (x - mu) / sqrt(var + epsilon).
    gradient = jax.grad(total)(variables["params"])
    z = (np.float64(x) - [1, -2, 0]) / np.sqrt(np.array([4, 1, 0.25]) + 1e-5)
    np.testing.assert_allclose(gradient["scale"], z.sum(0), rtol=1e-5)
    np.testing.assert_array_equal(gradient["bias"], 6)


def test_frozen_statistics_must_be_there():
    with pytest.raises(ValueError, match="got track_running_stats=False"):
        BatchNorm(freeze_statistics=True, track_running_stats=False)
