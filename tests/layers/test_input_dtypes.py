"""Integers, booleans and complex numbers in every layer: right, or refused."""

import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.layers import BatchNorm, Maxout, NoisyBatchNorm, PReLU, RReLU, max_pool
from jaxdl.layers.convolution import convolve
from jaxdl.layers.norm import apply_norm

DROPOUT = {"dropout": jax.random.key(1)}


def call(layer, x):
    """The outputs of a layer and what it moved; the variables do not depend on `x`."""
    keywords = {"train": False} if "train" in type(layer).__call__.__annotations__ else {}
    shape = jax.ShapeDtypeStruct(x.shape, jnp.float32)
    like = jnp.ones(shape.shape, shape.dtype)
    variables = layer.init({"params": jax.random.key(0), **DROPOUT}, like, **keywords)
    found = []
    for train in (True, False) if keywords else (None,):
        told = {"train": train} if keywords else {}
        apply = functools.partial(layer.apply, mutable=["batch_stats"], rngs=DROPOUT, **told)
        found.append(jax.jit(apply)(variables, x))
    return found


LAYERS = {
    "BatchNorm": BatchNorm(),
    "BatchNorm, its features first": BatchNorm(feature_axis=0, use_scale=False, use_bias=False),
    "NoisyBatchNorm": NoisyBatchNorm(),
    "PReLU": PReLU(per_feature=True),
    "RReLU": RReLU(),
    "Maxout": Maxout(2),
}
INTEGERS = np.random.default_rng(0).integers(-4, 5, (6, 3))


@pytest.mark.parametrize("dtype", ["int8", "int32", "uint8", "bool"])
@pytest.mark.parametrize("name", LAYERS)
def test_whole_numbers_are_those_of_float32(name, dtype):
    x = np.abs(INTEGERS) if dtype == "uint8" else INTEGERS
    x = jnp.asarray(x.astype(dtype))
    for (y, moved), (expected, moved_too) in zip(
        call(LAYERS[name], x), call(LAYERS[name], x.astype(jnp.float32)), strict=True
    ):
        assert y.dtype == jnp.float32
        # The cast is compiled with the rest, which may then round elsewhere.
        chex.assert_trees_all_close((y, moved), (expected, moved_too), rtol=1e-6, atol=1e-6)
    # Two whole numbers would be all that integer outputs hold.
    assert len(np.unique(y)) > 2 or dtype == "bool" or name != "BatchNorm"


@pytest.mark.parametrize("name", LAYERS)
def test_complex_inputs_are_refused_with_the_way_out(name):
    owner = "NoisyBatchNorm" if name.startswith("Noisy") else type(LAYERS[name]).__name__
    with pytest.raises(TypeError, match=f"{owner} needs real inputs, got complex64; pass x.real"):
        call(LAYERS[name], jnp.ones((6, 3), jnp.complex64))


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.bool_])
def test_a_maximum_of_whole_numbers_is_one(dtype):
    x = np.random.default_rng(0).integers(0, 2 if dtype == jnp.bool_ else 100, (1, 4, 6, 2))
    y = max_pool(jnp.asarray(x.astype(dtype)))
    assert y.dtype == dtype
    np.testing.assert_array_equal(y, x.reshape(1, 2, 2, 3, 2, 2).max((2, 4)).astype(dtype))


def test_a_pool_refuses_what_has_no_order_or_is_no_image():
    with pytest.raises(TypeError, match="max_pool needs real inputs, got complex64"):
        max_pool(jnp.ones((1, 4, 4, 1), jnp.complex64))
    with pytest.raises(ValueError, match=r"\(batch, height, width, channels\), got shape \(4, 4\)"):
        max_pool(jnp.ones((4, 4)))


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.float16, jnp.float32, jnp.complex64])
def test_a_convolution_keeps_the_dtype(dtype):
    draw = np.random.default_rng(0)
    x, kernel = (draw.integers(-3, 4, shape) for shape in ((2, 5, 5, 3), (3, 3, 3, 2)))
    settings = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    arguments = jnp.asarray(x, dtype), jnp.asarray(kernel, dtype), (1, 1), "VALID"
    y = convolve(*arguments, **settings)
    assert y.dtype == dtype
    expected = jax.lax.conv_general_dilated(*arguments, **settings)
    np.testing.assert_array_equal(y, expected)


NORMS = [nn.LayerNorm, functools.partial(nn.GroupNorm, 3), nn.InstanceNorm, nn.RMSNorm]


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_, jnp.complex64])
def test_the_norms_of_flax_take_whole_and_complex_numbers(norm, dtype):
    draw = np.random.default_rng(0)
    x = draw.integers(0, 2, (4, 5, 6)).astype(bool) if dtype == jnp.bool_ else None
    if x is None:
        x = draw.integers(-9, 10, (4, 5, 6)) + 1j * draw.integers(-9, 10, (4, 5, 6))
        x = x if dtype == jnp.complex64 else x.real
    settings = {"epsilon": 0.01, "use_scale": False}
    if norm is not nn.RMSNorm:
        settings |= {"use_bias": False, "use_fast_variance": False}
    made = norm(**settings)
    y = nn.apply(lambda norm, x: apply_norm(norm, x, train=True), made)({}, jnp.asarray(x, dtype))
    assert y.dtype == (jnp.complex64 if dtype == jnp.complex64 else jnp.float32)
    values, axes = np.asarray(x, complex), (1,) if norm is nn.InstanceNorm else (-1,)
    if isinstance(norm, functools.partial):
        values, axes = values.reshape(4, 5, 3, 2), (1, 3)
    if norm is not nn.RMSNorm:
        values = values - values.mean(axes, keepdims=True)
    expected = values / np.sqrt((np.abs(values) ** 2).mean(axes, keepdims=True) + 0.01)
    # Two sums of up to 10 terms, a root and a quotient.
    np.testing.assert_allclose(y, expected.reshape(x.shape), rtol=1e-5, atol=1e-5)


def test_an_infinite_input_has_no_part_in_the_slope():
    layer, x = PReLU(), jnp.array([jnp.inf, -2.0])
    variables = layer.init(jax.random.key(0), x)
    gradient = jax.grad(lambda v: jnp.vdot(jnp.ones(2), layer.apply(v, x)))(variables)
    assert gradient["params"]["negative_slope"] == -2.0
