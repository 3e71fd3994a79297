"""Flax Linen modules that Flax lacks, or whose numerics must be explicit."""

from jaxdl.layers.activations import Maxout, PReLU, RReLU
from jaxdl.layers.batch_norm import BatchNorm

__all__ = ["BatchNorm", "Maxout", "PReLU", "RReLU"]
