"""Norms with running statistics, of this library, Flax Linen and NNX: what a call of one says."""

import inspect
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jaxdl.calling.nnx_kinds import is_of_nnx
from jaxdl.layers import BatchNorm
from jaxdl.layers.inputs import as_mask


def is_batch_norm(module: Any) -> bool:
    """Whether a module keeps running statistics that are understood here."""
    if isinstance(module, BatchNorm):
        return module.track_running_stats
    return isinstance(module, nn.BatchNorm) or is_of_nnx(module, "BatchNorm")


def feature_axis(module: Any) -> Any:
    """The axis that is not reduced."""
    return module.feature_axis if isinstance(module, BatchNorm) else module.axis


def arguments_of_norm(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The arguments of a call by name, the norm first; what was not given has its default."""
    bound = inspect.signature(type(module).__call__).bind(module, *args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


def uses_running(module: Any, called_with: Mapping[str, Any]) -> bool:
    """Whether a call normalises by the running statistics, as in evaluation."""
    if isinstance(module, BatchNorm):
        return module.freeze_statistics or not called_with.get("train", True)
    given = called_with.get("use_running_average")
    return bool(module.use_running_average if given is None else given)


def which_count(module: Any, x: Array, called_with: Mapping[str, Any]) -> Array | None:
    """Which values count: a mask has the leading axes of the inputs here, and the last in Flax."""
    mask = called_with.get("mask")
    if mask is None:
        return None
    return (
        as_mask(mask, x.shape) if isinstance(module, BatchNorm) else jnp.broadcast_to(mask, x.shape)
    )


def running_mean(module: Any) -> Array | None:
    """The running mean that a module holds; None if it was called without statistics."""
    held: Array
    if is_of_nnx(module, "BatchNorm"):
        held = module.mean.get_value()
        return held
    if not module.has_variable("batch_stats", "mean"):
        return None
    held = module.get_variable("batch_stats", "mean")
    return held


def put_back(module: Any, mean: Array) -> None:
    """Give a module the running mean that it had, so that its next call reads this again."""
    if is_of_nnx(module, "BatchNorm"):
        module.mean.set_value(mean)
    elif module.is_mutable_collection("batch_stats"):
        module.put_variable("batch_stats", "mean", mean)
