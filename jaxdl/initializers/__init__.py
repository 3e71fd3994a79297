"""How weights start: `init(key, shape, dtype=jnp.float32) -> Array`, JAX's own protocol."""

from jaxdl.initializers.fans import Fans, bind_fan_in, compute_fans
from jaxdl.initializers.gains import backward_gain, gain, variance_preserving_gain
from jaxdl.initializers.protocol import Initializer
from jaxdl.initializers.random import (
    glorot_normal,
    glorot_uniform,
    he_normal,
    he_uniform,
    kaiming_normal,
    kaiming_uniform,
    lecun_normal,
    lecun_uniform,
    normal,
    torch_bias,
    torch_kernel,
    truncated_normal,
    uniform,
    variance_scaling,
    xavier_normal,
    xavier_uniform,
)
from jaxdl.initializers.structured import constant, ones, zeros

__all__ = [
    "Fans",
    "Initializer",
    "backward_gain",
    "bind_fan_in",
    "compute_fans",
    "constant",
    "gain",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "normal",
    "ones",
    "torch_bias",
    "torch_kernel",
    "truncated_normal",
    "uniform",
    "variance_preserving_gain",
    "variance_scaling",
    "xavier_normal",
    "xavier_uniform",
    "zeros",
]
