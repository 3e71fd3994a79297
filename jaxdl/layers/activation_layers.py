"""Activations that learn or draw: PReLU, RReLU and Maxout."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdl.checks import require_at_least
from jaxdl.initializers import (
    Initializer,
    bind_fan_in,
    constant,
    lecun_normal,
    zeros,
)
from jaxdl.layers.inputs import compute_dtype, floating


class PReLU(nn.Module):
    r"""The rectifier with a learned slope below zero; f'(0) = a.

    $$f(x) = \max(0, x) + a \min(0, x)$$

    The slope is the parameter `negative_slope`, of shape () or (features,). Weight decay pulls it
    towards ReLU; He et al. leave it out of the decay.

    Attributes:
        per_feature: whether each index of the last axis has its own slope, instead of one for all.
        slope_init: initializer of the slope.

    Raises:
        TypeError: complex inputs, when called: they have no order.

    Example:
        >>> prelu = PReLU()
        >>> variables = prelu.init(jax.random.key(0), jnp.zeros(3))
        >>> prelu.apply(variables, jnp.array([-4.0, 0.0, 4.0])).tolist()
        [-1.0, 0.0, 4.0]

    Source: He, Zhang, Ren and Sun (2015), equation 1.
    """

    per_feature: bool = False
    slope_init: Initializer = constant(0.25)

    @nn.compact
    def __call__(self, x: Any) -> Float[Array, "*shape"]:
        """Activate `x`, in its own dtype; integers and booleans become float32."""
        x = floating("PReLU", x)
        shape = (x.shape[-1],) if self.per_feature else ()
        slope = self.param("negative_slope", self.slope_init, shape, jnp.float32)
        # An infinite x has no part in the slope's gradient: 0 times infinity is NaN.
        return jnp.where(x > 0, x, slope.astype(x.dtype) * jnp.where(x > 0, 0, x))


class RReLU(nn.Module):
    r"""The rectifier with a random slope below zero in training, and its mean in evaluation.

    $$f(x) = \max(0, x) + a \min(0, x), \qquad a \sim U[lower, upper)$$

    In training each element draws its own slope from the stream `dropout`, as Dropout does, so
    one `rngs={"dropout": key}` serves both. The derivative at 0 is the slope.

    Attributes:
        lower: the smallest slope.
        upper: the largest slope, at least `lower`.

    Raises:
        TypeError: complex inputs, when called: they have no order.
        ValueError: slopes that are not finite or not in order.

    Example:
        >>> RReLU(0.25, 0.75).apply({}, jnp.array([-4.0, 4.0]), train=False).tolist()
        [-2.0, 4.0]

    Source: Xu et al. (2015), section 2.4, with the slopes of `torch.nn.RReLU`.
    """

    lower: float = 1 / 8
    upper: float = 1 / 3

    def __post_init__(self) -> None:
        if not -jnp.inf < self.lower <= self.upper < jnp.inf:
            raise ValueError(
                "RReLU needs finite lower <= upper, "
                f"got lower={self.lower}, upper={self.upper}; swap the slopes"
            )
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Any, *, train: bool) -> Float[Array, "*shape"]:
        """Activate `x`; with `train=True`, apply with `rngs={"dropout": key}`."""
        x = floating("RReLU", x)
        if train:
            # A half-precision generator has too few slopes for their mean to be right.
            drawn = jnp.promote_types(x.dtype, jnp.float32)
            slope = jax.random.uniform(
                self.make_rng("dropout"), x.shape, drawn, self.lower, self.upper
            ).astype(x.dtype)
        else:
            slope = jnp.asarray((self.lower + self.upper) / 2, x.dtype)
        return jnp.where(x > 0, x, slope * x)


class Maxout(nn.Module):
    r"""A dense layer whose units are each the largest of k linear pieces.

    $$h_i(x) = \max_{j \le k} \left(x^\top W_{\cdot, ij} + b_{ij}\right)$$

    A unit is convex and piecewise linear with a learned shape; k = 2 includes ReLU and the absolute
    value. The kernel of the layer `dense` is (inputs, features * pieces), with the pieces of a unit
    side by side. So an initializer sees the true fan_in. Equal pieces share the gradient.

    Attributes:
        features: units, at least 1.
        pieces: k, at least 1; k = 1 is a linear layer.
        kernel_init: initializer of the kernel.
        bias_init: initializer of the bias, or a function of fan_in; see `bind_fan_in`.
        dtype: in which the layer computes, e.g. `jnp.bfloat16`; parameters are float32.

    Raises:
        TypeError: a dtype that is no floating one; complex inputs, when called: they have no order.
        ValueError: fewer than one unit or piece.

    Example:
        >>> layer = Maxout(3, pieces=2)
        >>> variables = layer.init(jax.random.key(0), jnp.zeros((5, 4)))
        >>> layer.apply(variables, jnp.ones((5, 4))).shape
        (5, 3)

    Source: Goodfellow et al. (2013), section 3.
    """

    features: int
    pieces: int = 2
    kernel_init: Initializer = lecun_normal()
    bias_init: Initializer | Callable[[int], Initializer] = zeros()
    dtype: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "dtype", compute_dtype("Maxout", self.dtype))
        require_at_least(1, features=self.features, pieces=self.pieces)
        super().__post_init__()

    @nn.compact
    def __call__(self, x: Any) -> Float[Array, "*batch features"]:
        """The largest piece of each unit, on the last axis of `x`."""
        x = floating("Maxout", x)
        pieces = nn.Dense(
            self.features * self.pieces,
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            bias_init=bind_fan_in(self.bias_init, x.shape[-1]),
            name="dense",
        )(x)
        return jnp.max(pieces.reshape(*x.shape[:-1], self.features, self.pieces), axis=-1)
