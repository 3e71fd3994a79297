"""One block of a transformer: attention and two dense layers, each beside a shortcut."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Bool, Float

from jaxdl.activations import identity
from jaxdl.checks import Count
from jaxdl.initializers import Initializer, bind_fan_in
from jaxdl.layers.attention import MultiHeadAttention
from jaxdl.layers.norm import apply_norm
from jaxdl.models.block import Activation, NormFactory, activate
from jaxdl.models.residual_start import (
    inner_init,
    last_init,
    scale_branch,
    zero_scaled,
    zero_under_fixup,
)


class TransformerBlock(nn.Module):
    r"""Attention, then two dense layers, each a branch F beside a shortcut.

    $$x + F(N(x)) \;\text{("before")}, \qquad N(x + F(x)) \;\text{("after")}, \qquad
      x + N(F(x)) \;\text{("inside")}$$

    The branches are `attention`, and `dense_0` and `dense_1` with the activation between; their
    norms N are `norm_0` and `norm_1`. Dropout follows the activation and each branch, and is on the
    weights of the attention, as in `torch.nn.TransformerEncoderLayer`.

    Attributes:
        branches: the number of branches of the whole network, L.
        heads, hidden, norm, norm_position, normalize_qk, activation, dropout_rate, residual_start,
            kernel_init, bias_init, dtype: as in `Transformer`.
    """

    branches: Count
    heads: Count
    hidden: Count
    norm: NormFactory | None
    norm_position: str
    normalize_qk: NormFactory | None
    activation: Activation
    dropout_rate: Any
    residual_start: str | None
    kernel_init: Initializer
    bias_init: Any
    dtype: Any

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch length features"],
        seen: Bool[Array, "..."] | None,
        train: bool,  # by position: `nn.remat` and `nn.scan` take no keywords that are no arrays
    ) -> Float[Array, "batch length features"]:
        """The sequence after both branches; `seen` is the mask of `MultiHeadAttention`."""
        start = self.residual_start
        attention = MultiHeadAttention(
            self.heads,
            dropout_rate=self.dropout_rate,
            normalize_qk=self.normalize_qk,
            kernel_init=inner_init(start, self.kernel_init, self.branches),
            bias_init=zero_under_fixup(start, self.bias_init),
            out_kernel_init=last_init(start, self.kernel_init, self.branches),
            dtype=self.dtype,
            name="attention",
        )
        attend = functools.partial(attention, mask=seen, train=train)
        feed_forward = functools.partial(self._feed_forward, train=train)
        for index, branch in enumerate((attend, feed_forward)):
            zero = start == "zero_scale"
            norm = make_norm(self.norm, f"norm_{index}", train, self.dtype, zero_scale=zero)
            # The norm stands at one of three places.
            before, inside, after = (
                norm if self.norm_position == place else identity
                for place in ("before", "inside", "after")
            )
            y = inside(branch(before(x)))
            y = drop(y, self.dropout_rate, f"dropout_{index}", train)
            x = after(x + scale_branch(self, start, y, f"branch_scale_{index}"))
        return x

    def _feed_forward(self, x: Array, *, train: bool) -> Array:
        start = self.residual_start
        inner = inner_init(start, self.kernel_init, self.branches)
        y = self._dense("dense_0", self.hidden, x, inner)
        y = activate(y, self.activation, None, "before", layer=0, train=train)
        y = drop(y, self.dropout_rate, "dropout_hidden", train)
        last = last_init(start, self.kernel_init, self.branches)
        return self._dense("dense_1", x.shape[-1], y, last)

    def _dense(self, name: str, width: int, x: Array, kernel_init: Initializer) -> Array:
        bias_init = zero_under_fixup(self.residual_start, self.bias_init)
        return nn.Dense(
            width,
            kernel_init=kernel_init,
            bias_init=bind_fan_in(bias_init, x.shape[-1]),
            dtype=self.dtype,
            name=name,
        )(x)


def make_norm(
    norm: NormFactory | None, name: str, train: bool, dtype: Any, *, zero_scale: bool = False
) -> Callable[[Array], Array]:
    """The norm as a function of one array, or the identity; call it inside a compact method.

    With `zero_scale` its scale starts at 0.
    """
    if norm is None:
        return identity
    made = zero_scaled(norm, name) if zero_scale else norm(name=name)
    return functools.partial(apply_norm, made, train=train, dtype=dtype)


def drop(x: Array, rate: Any, name: str, train: bool) -> Array:
    """Dropout, or no module at rate 0; call it inside a compact method."""
    return nn.Dropout(rate, name=name)(x, deterministic=not train) if rate > 0.0 else x
