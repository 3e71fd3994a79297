"""Flax Linen modules that Flax lacks, or whose numerics must be explicit."""

from jaxdl.layers.activation_layers import Maxout, PReLU, RReLU
from jaxdl.layers.attention import MultiHeadAttention
from jaxdl.layers.batch_norm import BatchNorm
from jaxdl.layers.noisy_batch_norm import NoisyBatchNorm
from jaxdl.layers.pooling import max_pool
from jaxdl.public import public_names

__all__ = [
    "BatchNorm",
    "Maxout",
    "MultiHeadAttention",
    "NoisyBatchNorm",
    "PReLU",
    "RReLU",
    "max_pool",
]

__dir__ = public_names(globals())
