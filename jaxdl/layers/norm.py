"""What a model must know of its norm: how to call it, and whether it undoes a bias."""

import inspect
from typing import Any

import flax.linen as nn
from jaxtyping import Array

from jaxdl.layers.batch_norm import BatchNorm


def apply_norm(norm: Any, x: Array, *, train: bool) -> Array:
    """Call `norm` on `x`, telling it of training in the words that it knows.

    jaxdl's norms take `train`, Flax's BatchNorm `use_running_average`, and norms without running
    statistics (LayerNorm, GroupNorm, RMSNorm) neither.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([[1.0, 3.0]])
        >>> norm = nn.LayerNorm(use_scale=False, use_bias=False)
        >>> y = nn.apply(lambda norm: apply_norm(norm, x, train=True), norm)({})
        >>> y.round(3).tolist()
        [[-1.0, 1.0]]
    """
    known = inspect.signature(type(norm).__call__).parameters
    if "train" in known:
        return norm(x, train=train)
    if "use_running_average" in known:
        return norm(x, use_running_average=not train)
    return norm(x)


def removes_bias(norm: Any) -> bool:
    """Whether `norm` subtracts each feature's own mean, so that a bias before it has no effect.

    True for batch and instance norms. LayerNorm and GroupNorm subtract a mean over several
    features, and a bias of each feature survives that.

    Example:
        >>> removes_bias(BatchNorm()), removes_bias(nn.LayerNorm())
        (True, False)
    """
    return isinstance(norm, (BatchNorm, nn.BatchNorm, nn.InstanceNorm))
