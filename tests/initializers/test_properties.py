"""What every initializer keeps: shape, dtype, purity, and one result however it is run."""

import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from processes import with_devices

from jaxdl import initializers as ini

DENSE, CONV = (6, 10), (3, 3, 4, 8)
RANDOM = {
    "normal": ini.normal(0.1, 0.5),
    "uniform": ini.uniform(-1.0, 1.0),
    "truncated_normal": ini.truncated_normal(0.0, 0.5),
    "variance_scaling": ini.variance_scaling(2.0, "fan_avg", "truncated_normal"),
    "lecun_normal": ini.lecun_normal(),
    "lecun_uniform": ini.lecun_uniform(),
    "glorot_normal": ini.glorot_normal(),
    "glorot_uniform": ini.glorot_uniform(),
    "he_normal": ini.he_normal(),
    "he_uniform": ini.he_uniform(),
    "torch_kernel": ini.torch_kernel(),
    "torch_bias": ini.torch_bias(10),
    "orthogonal": ini.orthogonal(),
    "delta_orthogonal": ini.delta_orthogonal(),
    "sparse": ini.sparse(0.4),
    "identical_features": ini.identical_features(),
}
FIXED = {
    "zeros": ini.zeros(),
    "ones": ini.ones(),
    "constant": ini.constant(0.25),
    "identity": ini.identity(),
    "dirac": ini.dirac(groups=2),
    "zero_hadamard": ini.zero_hadamard(),
    "whitening": ini.whitening(np.diag(np.arange(1.0, 37.0))),
}
EVERY = RANDOM | FIXED
DTYPES = [jnp.float16, jnp.bfloat16, jnp.float32, jnp.float64]


def shape_of(name):
    return DENSE if name in ("identity", "sparse") else CONV


def test_every_initializer_has_its_row():
    helpers = {"gain", "backward_gain", "variance_preserving_gain", "bind_fan_in", "compute_fans"}
    others = helpers | {"Fans", "Initializer", "apply", "lsuv", "transfer"}
    others |= {"TransferReport", "Transferred", "patch_second_moment"}
    aliases = {name for name in ini.__all__ if name.startswith(("xavier_", "kaiming_"))}
    assert set(EVERY) == set(ini.__all__) - others - aliases


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: jnp.dtype(d).name)
@pytest.mark.parametrize("name", EVERY)
def test_shape_and_dtype_are_those_asked_for(key, name, dtype):
    with jax.enable_x64(dtype == jnp.float64):
        weights = EVERY[name](key, shape_of(name), dtype)
        chex.assert_shape(weights, shape_of(name))
        chex.assert_type(weights, dtype)
        chex.assert_tree_all_finite(weights)
        # A half-precision result is the float32 one, rounded once.
        if jnp.finfo(dtype).bits == 16:
            rounded = EVERY[name](key, shape_of(name)).astype(dtype)
            np.testing.assert_array_equal(np.asarray(weights), np.asarray(rounded))


@pytest.mark.parametrize("name", EVERY)
def test_float32_is_the_default_even_with_64_bit_types_on(key, name):
    with jax.enable_x64(True):
        chex.assert_type(EVERY[name](key, shape_of(name)), jnp.float32)


@pytest.mark.parametrize("name", EVERY)
def test_the_key_alone_decides(key, name):
    shape = shape_of(name)
    first, again = EVERY[name](key, shape), EVERY[name](key, shape)
    chex.assert_trees_all_equal(first, again)
    other = EVERY[name](jax.random.key(1), shape)
    assert np.array_equal(first, other) == (name in FIXED)


# A compiled or batched program may fuse a multiplication and an addition, or batch a QR: a few
# roundings of numbers of at most 3.
ROUNDING = 3 * 8 * 2.0**-23


@pytest.mark.parametrize("name", EVERY)
def test_vmap_over_keys_gives_the_same_weights(key, name):
    shape, keys = shape_of(name), jax.random.split(key, 3)
    expected = jnp.stack([EVERY[name](k, shape) for k in keys])
    mapped = jax.vmap(lambda k: EVERY[name](k, shape))(keys)
    chex.assert_trees_all_close(mapped, expected, atol=ROUNDING)


def test_jit_gives_the_same_weights(key):
    def every(key):
        return {name: init(key, shape_of(name)) for name, init in EVERY.items()}

    chex.assert_trees_all_close(jax.jit(every)(key), every(key), atol=ROUNDING)


@pytest.mark.parametrize("name", EVERY)
def test_a_dtype_that_would_lose_the_weights_is_refused(key, name):
    shape = shape_of(name)
    with pytest.raises(ValueError, match="floating type, got int32"):
        EVERY[name](key, shape, jnp.int32)
    with pytest.raises(ValueError, match="jax_enable_x64"):
        EVERY[name](key, shape, jnp.float64)


SHARDED = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from jaxdl import initializers as ini

assert jax.device_count() == 8
mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
families = [
    ini.normal(), ini.uniform(-1.0, 1.0), ini.truncated_normal(), ini.he_normal(),
    ini.orthogonal(), ini.sparse(0.4), ini.identical_features(),
]
draw = lambda key: [family(key, (16, 24)) for family in families]
key = jax.random.key(0)
alone = jax.jit(draw)(key)
for spec in (P("a", "b"), P(None, ("a", "b"))):
    layout = NamedSharding(mesh, spec)
    for split, whole in zip(jax.jit(draw, out_shardings=layout)(key), alone, strict=True):
        assert split.sharding == layout and len(split.sharding.device_set) == 8
        np.testing.assert_allclose(np.asarray(split), np.asarray(whole), atol=3 * 8 * 2.0**-23)
print("same weights")
"""


def test_the_weights_do_not_depend_on_how_many_devices_hold_them():
    done = subprocess.run(
        [sys.executable, "-c", SHARDED],
        env=with_devices(8),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == "same weights", done.stderr
