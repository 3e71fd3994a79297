"""Initial weights: `init(key, shape, dtype=jnp.float32) -> Array`, JAX's own protocol."""

from jaxdl.initializers.data_dependent import lsuv
from jaxdl.initializers.fans import Fans, bind_fan_in, compute_fans
from jaxdl.initializers.gains import backward_gain, gain, variance_preserving_gain
from jaxdl.initializers.isometries import delta_orthogonal
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
from jaxdl.initializers.redraw import apply
from jaxdl.initializers.structured import (
    constant,
    dirac,
    identical_features,
    identity,
    ones,
    orthogonal,
    sparse,
    zero_hadamard,
    zeros,
)
from jaxdl.initializers.transfer import Transferred, TransferReport, transfer
from jaxdl.initializers.whitening import patch_second_moment, whitening
from jaxdl.public import public_names

__all__ = [
    "Fans",
    "Initializer",
    "TransferReport",
    "Transferred",
    "apply",
    "backward_gain",
    "bind_fan_in",
    "compute_fans",
    "constant",
    "delta_orthogonal",
    "dirac",
    "gain",
    "glorot_normal",
    "glorot_uniform",
    "he_normal",
    "he_uniform",
    "identical_features",
    "identity",
    "kaiming_normal",
    "kaiming_uniform",
    "lecun_normal",
    "lecun_uniform",
    "lsuv",
    "normal",
    "ones",
    "orthogonal",
    "patch_second_moment",
    "sparse",
    "torch_bias",
    "torch_kernel",
    "transfer",
    "truncated_normal",
    "uniform",
    "variance_preserving_gain",
    "variance_scaling",
    "whitening",
    "xavier_normal",
    "xavier_uniform",
    "zero_hadamard",
    "zeros",
]

__dir__ = public_names(globals())
