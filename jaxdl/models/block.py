"""What every hidden layer has in common: a norm before or after an activation."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
from jaxtyping import Array

from jaxdl.layers.norm import apply_norm, removes_bias

NormFactory = Callable[..., nn.Module]


def needs_bias(norm: Any, norm_position: str) -> bool:
    """Whether a layer keeps its bias: not directly before a norm that would subtract it again."""
    return norm is None or norm_position == "after" or not removes_bias(norm)


def activate(
    x: Array,
    activation: Callable[[Array], Array],
    norm: Any,
    norm_position: str,
    *,
    train: bool,
) -> Array:
    """The activation of `x`, with a norm (or None) before or after it."""
    if norm is None:
        return activation(x)
    if norm_position == "before":
        return activation(apply_norm(norm, x, train=train))
    return apply_norm(norm, activation(x), train=train)


def check_widths(name: str, widths: Sequence[int], fix: str) -> None:
    """Refuse an empty list of widths, and a width below 1."""
    if not widths or any(width < 1 for width in widths):
        raise ValueError(
            f"{name} must name at least one width, each 1 or more, got {tuple(widths)}; {fix}"
        )


def check_hidden(model: str, norm_position: str, dropout_rate: float) -> None:
    """Refuse a norm that stands nowhere, and a dropout that leaves nothing."""
    if norm_position not in ("before", "after"):
        raise ValueError(
            f"{model} norm_position must be 'before' or 'after' the activation, "
            f"got {norm_position!r}"
        )
    if not 0.0 <= dropout_rate < 1.0:
        raise ValueError(
            f"{model} dropout_rate must lie in [0, 1), got {dropout_rate}; "
            "it is the share of units set to zero"
        )
