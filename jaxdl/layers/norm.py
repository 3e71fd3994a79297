"""What a model must know of its norm: how to call it, and whether it removes a bias."""

import inspect
import math
from collections.abc import Iterable
from typing import Any

import flax.linen as nn
from jaxtyping import Array

from jaxdl.layers.batch_norm import BatchNorm
from jaxdl.layers.noisy_batch_norm import NoisyBatchNorm


def apply_norm(norm: Any, x: Array, *, train: bool, dtype: Any = None) -> Array:
    """Call `norm` on `x`, with the keyword for training that it takes.

    jaxdl's norms take `train`, Flax's BatchNorm `use_running_average`, and norms without running
    statistics (LayerNorm, GroupNorm, RMSNorm) take neither.

    Norms compute in float32 at least. The outputs of Flax's have the dtype of their parameters,
    too, unless `dtype` is given.

    Raises:
        ValueError: groups that do not divide the channels; a norm of Flax whose statistics are over
            no value, or over one value, whose deviation from its mean is zero.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> x = jnp.array([[1.0, 3.0]])
        >>> norm = nn.LayerNorm(use_scale=False, use_bias=False)
        >>> y = nn.apply(lambda norm: apply_norm(norm, x, train=True), norm)({})
        >>> y.round(3).tolist()
        [[-1.0, 1.0]]
    """
    check_inputs(norm, x.shape, train=train)
    known = inspect.signature(type(norm).__call__).parameters
    if "train" in known:
        normed: Array = norm(x, train=train)
    elif "use_running_average" in known:
        normed = norm(x, use_running_average=not train)
    else:
        normed = norm(x)
    return normed if dtype is None else normed.astype(dtype)


def removes_bias(norm: Any) -> bool:
    """Whether `norm` subtracts each feature's own mean, so that a bias before it has no effect.

    True for batch and instance norms. LayerNorm and GroupNorm subtract a mean over several
    features, so the bias of a feature survives.

    Example:
        >>> removes_bias(BatchNorm()), removes_bias(nn.LayerNorm())
        (True, False)
    """
    return isinstance(norm, (BatchNorm, NoisyBatchNorm, nn.BatchNorm, nn.InstanceNorm))


def check_inputs(norm: Any, shape: tuple[Any, ...], *, train: bool) -> None:
    """Refuse inputs that a norm of Flax cannot group, or would turn into zeros or NaN.

    Example:
        >>> check_inputs(nn.InstanceNorm(), (8, 5, 5, 3), train=True)
        >>> check_inputs(nn.InstanceNorm(), (8, 3), train=True)
        Traceback (most recent call last):
        ValueError: InstanceNorm needs at least two values per statistic, got 1 ...
    """
    if isinstance(norm, nn.GroupNorm):
        _check_groups(norm, shape[-1])
    count = values_per_statistic(norm, shape, train=train)
    # RMSNorm subtracts no mean: a single value becomes its sign.
    needed = 1 if isinstance(norm, nn.RMSNorm) else 2
    if count is not None and count < needed:
        raise ValueError(
            f"{type(norm).__name__} needs at least {'one value' if needed == 1 else 'two values'} "
            f"per statistic, got {count} from inputs of shape {shape}, "
            f"{'which is none' if count == 0 else 'whose outputs are all zero'}; {_remedy(norm)}"
        )


def values_per_statistic(norm: Any, shape: tuple[Any, ...], *, train: bool) -> int | None:
    """The number of values in each mean; None for a norm that is not Flax's, or has no minimum.

    Example:
        >>> values_per_statistic(nn.GroupNorm(num_groups=2), (8, 5, 5, 6), train=True)
        75
    """
    axes = range(len(shape))

    def over(reduced: Iterable[int]) -> int:
        return math.prod(shape[axis] for axis in reduced)

    def named(value: Any) -> set[int]:
        return {axis % len(shape) for axis in ([value] if isinstance(value, int) else value)}

    if isinstance(norm, (nn.LayerNorm, nn.RMSNorm)):
        return over(named(norm.reduction_axes))
    if isinstance(norm, nn.InstanceNorm):
        return over(set(axes[1:]) - named(norm.feature_axes))
    if isinstance(norm, nn.GroupNorm):
        reduced = set(axes[1:]) if norm.reduction_axes is None else named(norm.reduction_axes)
        groups = shape[-1] // norm.group_size if norm.group_size else norm.num_groups
        return over(reduced) // max(groups or 1, 1)
    if isinstance(norm, nn.BatchNorm) and train and norm.axis_name is None:
        return over(set(axes) - named(norm.axis))
    return None


def _check_groups(norm: nn.GroupNorm, channels: int) -> None:
    """Refuse groups that do not divide the channels. Flax refuses neither or both settings."""
    if (norm.num_groups is None) == (norm.group_size is None):
        return
    name = "num_groups" if norm.group_size is None else "group_size"
    given = getattr(norm, name)
    if given < 1 or channels % given:
        divisors = [str(each) for each in range(1, channels + 1) if channels % each == 0]
        raise ValueError(
            f"GroupNorm {name} must divide the channels, got {given} for {channels} channels; "
            f"pass a {name} of {' or '.join(divisors)}"
        )


def _remedy(norm: Any) -> str:
    if isinstance(norm, nn.InstanceNorm):
        return "it is for images; for dense layers pass nn.LayerNorm or BatchNorm"
    if isinstance(norm, nn.BatchNorm):
        return "pass a larger batch or train=False"
    if isinstance(norm, nn.GroupNorm):
        return "pass fewer groups"
    return "normalise a wider layer"
