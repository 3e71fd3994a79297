"""Shared by hidden layers: a norm before or after an activation, and checks."""

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array

from jaxdl.initializers import bind_fan_in
from jaxdl.layers import convolution
from jaxdl.layers.inputs import check_dropout_rate
from jaxdl.layers.norm import apply_norm, removes_bias

NormFactory = Callable[..., nn.Module]
Activation = Callable[[Array], Array]
"""A function of one array, or a module such as `PReLU()`."""


def needs_bias(norm: Any, norm_position: str) -> bool:
    """Whether a layer keeps its bias: not directly before a norm that would subtract it again."""
    return norm is None or norm_position == "after" or not removes_bias(norm)


def activate(
    x: Array,
    activation: Activation,
    norm: Any,
    norm_position: str,
    *,
    layer: int | str,
    train: bool,
    dtype: Any = None,
) -> Array:
    """The activation of `x`, with a norm (or None) before or after it, which gives this dtype.

    If the activation is a module, the layer uses a copy of it, `activation_{layer}`.
    """
    if isinstance(activation, nn.Module):
        activation = activation.copy(name=f"activation_{layer}")
        if "train" in inspect.signature(type(activation).__call__).parameters:
            activation = functools.partial(activation, train=train)
    if norm is None:
        return activation(x)
    if norm_position == "before":
        return activation(apply_norm(norm, x, train=train, dtype=dtype))
    return apply_norm(norm, activation(x), train=train, dtype=dtype)


def conv_block(
    x: Array,
    layer: int,
    channels: int,
    *,
    window: tuple[int, int] = (3, 3),
    activation: Activation,
    norm: NormFactory | None,
    norm_position: str,
    kernel_init: Callable[..., Array],
    bias_init: Any,
    dtype: Any,
    train: bool,
) -> Array:
    """A convolution `conv_{layer}` that keeps the size, its norm `norm_{layer}`, the activation.

    Call it inside a compact method, whose module owns the layers.
    """
    normalise = None if norm is None else norm(name=f"norm_{layer}")
    x = nn.Conv(
        channels,
        window,
        use_bias=needs_bias(normalise, norm_position),
        kernel_init=kernel_init,
        bias_init=bind_fan_in(bias_init, math.prod(window) * x.shape[-1]),
        dtype=dtype,
        conv_general_dilated=convolution.convolve,
        name=f"conv_{layer}",
    )(x)
    return activate(x, activation, normalise, norm_position, layer=layer, train=train, dtype=dtype)


def as_outputs(x: Array, dtype: Any) -> Array:
    """The outputs of a model that computes in this dtype: float32 at least, for loss and metrics.

    Example:
        >>> as_outputs(jnp.ones(2, jnp.bfloat16), jnp.bfloat16).dtype
        dtype('float32')
    """
    return x if dtype is None else x.astype(jnp.promote_types(dtype, jnp.float32))


def check_widths(name: str, widths: Sequence[int], fix: str) -> None:
    """Refuse an empty list of widths, and a width below 1."""
    if not widths or any(width < 1 for width in widths):
        raise ValueError(
            f"{name} must name at least one width, each 1 or more, got {tuple(widths)}; {fix}"
        )


def check_hidden(model: str, norm_position: str, dropout_rate: float) -> None:
    """Refuse an unknown position of the norm, and a dropout rate outside [0, 1)."""
    if norm_position not in ("before", "after"):
        raise ValueError(
            f"{model} norm_position must be 'before' or 'after' the activation, "
            f"got {norm_position!r}"
        )
    check_dropout_rate(model, dropout_rate)
