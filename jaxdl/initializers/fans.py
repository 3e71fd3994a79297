"""How many values each unit reads and feeds: fan_in and fan_out of a kernel."""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jaxdl.initializers.protocol import Initializer


class Fans(NamedTuple):
    """The connections of one unit: values read (`fan_in`) and units fed (`fan_out`)."""

    fan_in: int
    fan_out: int


def compute_fans(shape: Sequence[int], *, groups: int = 1, transposed: bool = False) -> Fans:
    r"""Fans of a dense kernel (fan_in, fan_out) or a convolution kernel (*window, in, out).

    $$n_{in} = r \cdot c_{in}, \qquad n_{out} = r \cdot c_{out} / groups, \qquad
      r = \prod window$$

    The kernel of a grouped convolution holds the input channels of one group, and the output
    channels of all: each input feeds those of its group.

    Arguments:
        shape: the kernel's shape, at least two axes, none of them empty.
        groups: of the convolution; Flax's `feature_group_count`.
        transposed: whether the last two axes are (out, in), as in Flax's
            `ConvTranspose(transpose_kernel=True)`.

    Raises:
        ValueError: a shape with fewer than two axes, which has no fans, or with an empty one;
            groups that do not divide the output channels.

    Example:
        >>> compute_fans((784, 128))
        Fans(fan_in=784, fan_out=128)
        >>> compute_fans((3, 3, 16, 32))
        Fans(fan_in=144, fan_out=288)

    Source: He et al. (2015), section 2.2, `n = k^2 c`.
    """
    shape = tuple(shape)
    if len(shape) < 2:
        raise ValueError(
            "a kernel must have at least two axes, (..., in, out), to have a fan_in and a fan_out, "
            f"got shape {shape}; for a bias use zeros() or torch_bias(fan_in)"
        )
    if min(shape) < 1:
        raise ValueError(
            f"every axis of a kernel must hold at least one value, got shape {shape}; "
            "check the layer's width and window"
        )
    read, fed = (shape[-1], shape[-2]) if transposed else (shape[-2], shape[-1])
    if groups < 1 or fed % groups:
        raise ValueError(
            f"groups must divide the {fed} output channels, got {groups}; pass the layer's groups"
        )
    receptive_field = math.prod(shape[:-2])
    return Fans(receptive_field * read, receptive_field * fed // groups)


def bind_fan_in(bias_init: Callable[..., Any], fan_in: int) -> Initializer:
    """The initializer of a layer's bias, from an initializer or from a function of its fan_in.

    A bias of shape (fan_out,) does not know its layer's fan_in. A callable with exactly one
    required positional parameter, such as `torch_bias`, is called with the fan_in. Any other
    callable is returned unchanged.

    Arguments:
        bias_init: an initializer `(key, shape, dtype)`, or a function `fan_in -> initializer`.
        fan_in: values each unit of the layer reads.

    Example:
        >>> import jax
        >>> from jaxdl.initializers import torch_bias, zeros
        >>> init = zeros()
        >>> bind_fan_in(init, 784) is init
        True
        >>> bind_fan_in(torch_bias, 4)(jax.random.key(0), (3,)).shape
        (3,)
    """
    if _required_positional(bias_init) == 1:
        bound: Initializer = bias_init(fan_in)
        return bound
    return bias_init


def _required_positional(function: Callable[..., Any]) -> int:
    parameters = inspect.signature(function).parameters.values()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return sum(p.kind in positional and p.default is p.empty for p in parameters)
