"""Padding in a batch: the norm is that of the batch without it."""

import functools
import subprocess
import sys

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import with_devices

from jaxdl import training
from jaxdl.layers import BatchNorm, NoisyBatchNorm

# Sums of up to 100 terms, in another order and number.
TOLERANCE = {"float64": 1e-13, "float32": 1e-5, "bfloat16": float(jnp.finfo(jnp.bfloat16).eps)}

EXAMPLES = np.array([True, False, True, True, False, True])
POSITIONS = np.arange(7) < np.array([7, 3, 0, 1, 5, 2])[:, None]

# Shape, feature axis, mask.
LAYOUTS = {
    "examples": ((6, 3), -1, EXAMPLES),
    "examples of length 1": ((6, 3), -1, EXAMPLES[:, None]),
    "images": ((6, 4, 4, 3), -1, EXAMPLES),
    "positions": ((6, 7, 3), -1, POSITIONS),
    "positions, features first": ((6, 3, 7), 1, POSITIONS[:, None]),
}


def padded(shape, axis, mask, dtype, junk):
    """Values with `junk` where the mask is false, the places that count, and a gradient."""
    draw = np.random.default_rng(0)
    which = mask.reshape(mask.shape + (1,) * (len(shape) - mask.ndim))
    which = np.broadcast_to(which, shape)
    x, upstream = (2 + 3 * draw.normal(size=(2, *shape))).astype(np.float64)
    return jnp.asarray(np.where(which, x, junk), dtype), which, jnp.asarray(upstream, dtype)


def statistics(features, dtype):
    wide = jnp.promote_types(dtype, jnp.float32)
    return {"mean": jnp.full(features, 0.5, wide), "var": jnp.full(features, 2, wide)}


def params(features, dtype):
    wide = jnp.promote_types(dtype, jnp.float32)
    return {"scale": jnp.arange(1, features + 1, dtype=wide), "bias": jnp.ones(features, wide)}


@functools.partial(jax.jit, static_argnames=("norm", "train"))
def run(norm, params, stats, x, upstream, mask=None, train=True):
    def apply(params, x):
        variables = {"params": params, "batch_stats": stats}
        return norm.apply(variables, x, train=train, mask=mask, mutable=["batch_stats"])

    y, pull, updates = jax.vjp(apply, params, x, has_aux=True)
    return y, *pull(upstream), updates["batch_stats"]


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("junk", [0.0, 1e30, np.nan, np.inf])
@pytest.mark.parametrize(
    ("layout", "dtype"),
    [*((each, "float32") for each in LAYOUTS), ("images", "bfloat16"), ("positions", "float64")],
)
def test_equals_the_norm_of_the_batch_without_padding(layout, dtype, junk, train):
    shape, axis, mask = LAYOUTS[layout]
    with jax.enable_x64(dtype == "float64"):
        x, which, upstream = padded(shape, axis, mask, dtype, junk)
        stats, own = statistics(3, dtype), params(3, dtype)
        norm = BatchNorm(feature_axis=axis)
        y, of_params, of_x, after = run(norm, own, stats, x, upstream, mask, train)

        def compressed(array):
            array, there = (np.moveaxis(np.asarray(each), axis, -1) for each in (array, which))
            return jnp.asarray(array[there].reshape(-1, 3), dtype)

        expected = run(BatchNorm(), own, stats, compressed(x), compressed(upstream), train=train)
        assert y.dtype == of_x.dtype == dtype
        got = compressed(y), of_params, compressed(of_x), after
        for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
            one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
            tolerance = TOLERANCE[dtype if one.ndim > 1 else str(np.dtype(stats["mean"].dtype))]
            largest = np.abs(other).max()
            np.testing.assert_allclose(one, other, rtol=tolerance, atol=tolerance * largest)
        assert (np.asarray(y, np.float64)[~which] == 0).all()
        assert (np.asarray(of_x, np.float64)[~which] == 0).all()


def test_a_mask_of_all_is_none():
    x, _, upstream = padded((6, 3), -1, EXAMPLES, "float32", 1.0)
    own, stats = params(3, "float32"), statistics(3, "float32")
    masked = run(BatchNorm(), own, stats, x, upstream, np.ones(6, bool))
    # Numbers of up to 5, summed from another origin: some roundings of 3e-7.
    plain = run(BatchNorm(), own, stats, x, upstream)
    chex.assert_trees_all_close(masked, plain, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("cumulative", [False, True])
@pytest.mark.parametrize("rows", [0, 1])
def test_a_batch_without_spread_moves_nothing(rows, cumulative):
    # PyTorch and this norm refuse a batch of one. What a mask leaves is known only when it runs.
    x, _, upstream = padded((6, 3), -1, EXAMPLES, "float32", 1.0)
    own, stats = params(3, "float32"), statistics(3, "float32")
    if cumulative:
        stats["count"] = jnp.float32(0)
    norm, mask = BatchNorm(cumulative=cumulative), np.arange(6) < rows
    y, of_params, of_x, after = run(norm, own, stats, x, upstream, mask)
    chex.assert_trees_all_equal(after, stats)
    np.testing.assert_array_equal(y, mask[:, None] * np.ones(3))  # beta
    chex.assert_tree_all_finite(of_params)
    np.testing.assert_array_equal(of_x, 0)


def test_places_of_a_named_axis_are_weighed_by_what_counts():
    x, _, upstream = padded((4, 6, 3), -1, np.ones(4, bool), "float32", 0.0)
    mask = np.arange(6) < np.array([6, 1, 0, 3])[:, None]
    x = jnp.where(mask[..., None], x + 10 * jnp.arange(4)[:, None, None], jnp.nan)
    own, stats = params(3, "float32"), statistics(3, "float32")
    norm = BatchNorm(axis_name="devices")
    together = jax.vmap(functools.partial(run, norm, own, stats), axis_name="devices")
    y, of_params, of_x, after = together(x, upstream, mask)
    expected = run(BatchNorm(), own, stats, x.reshape(24, 3), upstream.reshape(24, 3), mask.ravel())
    of_params = jax.tree.map(lambda leaf: leaf.sum(0), of_params)
    chex.assert_trees_all_close(
        (y.reshape(24, 3), of_params, of_x.reshape(24, 3)), expected[:3], rtol=1e-5, atol=1e-5
    )
    for place in range(4):
        here = jax.tree.map(lambda leaf, place=place: leaf[place], after)
        chex.assert_trees_all_close(here, expected[3], rtol=1e-5)


ON_DEVICES = """
import jax, jax.numpy as jnp, numpy as np
from jaxdl.layers import BatchNorm
x = jnp.asarray(np.random.default_rng(0).normal(1, 1, (4, 8, 3)), jnp.float32)
mask = np.arange(8) < np.array([8, 1, 0, 5])[:, None]
x = jnp.where(mask[..., None], x, jnp.nan)
variables = BatchNorm().init(jax.random.key(0), x[0], train=False)
def apply(norm, x, mask):
    return norm.apply(variables, x, train=True, mask=mask, mutable=["batch_stats"])
for groups in (None, [[0, 1], [2, 3]]):
    norm = BatchNorm(axis_name="devices", axis_index_groups=groups)
    y, updates = jax.pmap(lambda x, m: apply(norm, x, m), axis_name="devices")(x, mask)
    for group in groups or [[0, 1, 2, 3]]:
        part = np.array(group)
        rows = mask[part].ravel()
        whole, after = apply(BatchNorm(), x[part].reshape(-1, 3)[rows], None)
        np.testing.assert_allclose(y[part].reshape(-1, 3)[rows], whole, rtol=1e-5, atol=1e-5)
        assert (y[part].reshape(-1, 3)[~rows] == 0).all()
        for name, values in updates["batch_stats"].items():
            for device in values[part]:
                np.testing.assert_allclose(device, after["batch_stats"][name], rtol=1e-5)
"""


def test_devices_are_weighed_by_what_counts():
    subprocess.run([sys.executable, "-c", ON_DEVICES], env=with_devices(4), check=True)


def test_each_member_of_a_vmap_has_its_own_mask():
    x, _, upstream = padded((6, 3), -1, EXAMPLES, "float32", 5.0)
    own, stats = params(3, "float32"), statistics(3, "float32")
    masks = np.stack([EXAMPLES, ~EXAMPLES, np.zeros(6, bool)])
    together = jax.vmap(lambda mask: run(BatchNorm(), own, stats, x, upstream, mask))(masks)
    for place, mask in enumerate(masks):
        alone = run(BatchNorm(), own, stats, x, upstream, mask)
        here = jax.tree.map(lambda leaf, place=place: leaf[place], together)
        chex.assert_trees_all_close(here, alone, rtol=1e-5, atol=1e-5)


def test_virtual_batches_count_their_own_rows():
    x, _, upstream = padded((12, 3), -1, np.ones(12, bool), "float32", 0.0)
    mask = np.array([1, 1, 0, 1, 0, 0, 0, 0, 0, 1, 1, 1], bool)
    own, stats = params(3, "float32"), statistics(3, "float32")
    y, _, of_x, after = run(BatchNorm(virtual_batch_size=4), own, stats, x, upstream, mask)
    moved = []
    for rows in (np.flatnonzero(mask[:4]), 8 + np.flatnonzero(mask[8:])):
        part = run(BatchNorm(), own, stats, x[rows], upstream[rows])
        np.testing.assert_allclose(y[rows], part[0], rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(of_x[rows], part[2], rtol=1e-5, atol=1e-5)
        moved.append(part[3])
    np.testing.assert_array_equal(y[4:8], 0)  # a group of padding alone
    for name, value in after.items():
        np.testing.assert_allclose(value, (moved[0][name] + moved[1][name]) / 2, rtol=1e-5)


def test_noise_leaves_padding_at_zero():
    x, _, _ = padded((6, 3), -1, EXAMPLES, "float32", np.nan)
    norm = NoisyBatchNorm()
    variables = norm.init(jax.random.key(0), jnp.ones((6, 3)), train=False)
    apply = functools.partial(norm.apply, variables, train=True, mutable=["batch_stats"])
    y, updates = apply(x, mask=EXAMPLES, rngs={"dropout": jax.random.key(1)})
    np.testing.assert_array_equal(y[~EXAMPLES], 0)
    assert (y[EXAMPLES] != 0).all()
    inner = {name: tree["norm"] for name, tree in variables.items()}
    _, plain = BatchNorm().apply(inner, x[EXAMPLES], train=True, mutable=["batch_stats"])
    chex.assert_trees_all_close(
        updates["batch_stats"]["norm"], plain["batch_stats"], rtol=1e-5, atol=1e-6
    )


class Padded(nn.Module):
    """A norm that knows the padding, as a sequence model calls it."""

    flax: bool = False

    @nn.compact
    def __call__(self, x, mask, *, train):
        if self.flax:
            return nn.BatchNorm(name="norm")(x, use_running_average=not train, mask=mask[..., None])
        return BatchNorm(name="norm")(x, train=train, mask=mask)


@pytest.mark.parametrize("flax", [False, True])
def test_recalibration_leaves_padding_out(flax):
    x, which, _ = padded((6, 7, 3), -1, POSITIONS, "float32", 1e30)
    model = Padded(flax)
    variables = model.init(jax.random.key(0), x, POSITIONS, train=False)
    parts = [{"inputs": {"x": x[i : i + 2], "mask": POSITIONS[i : i + 2]}} for i in (0, 2, 4)]
    identity = {"preprocess": lambda inputs: inputs}
    exact = training.recalibrate(model, variables, parts, **identity)["batch_stats"]["norm"]
    values = np.asarray(x, np.float64)[which].reshape(-1, 3)
    np.testing.assert_allclose(exact["mean"], values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(exact["var"], values.var(0, ddof=0 if flax else 1), rtol=1e-5)


@pytest.mark.parametrize(
    ("mask", "error", "text"),
    [
        (np.ones(6, int), TypeError, r"must hold booleans, .* got int32; pass mask.astype\(bool\)"),
        (np.ones(3, bool), ValueError, r"leading axes of the inputs, \(6, 3\), got \(3,\)"),
        (np.ones((6, 2), bool), ValueError, r"got \(6, 2\)"),
        (np.ones((6, 3, 1), bool), ValueError, r"got \(6, 3, 1\)"),
    ],
)
def test_refuses_what_is_no_mask(mask, error, text):
    x = jnp.ones((6, 3))
    variables = BatchNorm().init(jax.random.key(0), x, train=False)
    for train in (True, False):
        with pytest.raises(error, match=text):
            BatchNorm().apply(variables, x, train=train, mask=mask, mutable=["batch_stats"])
