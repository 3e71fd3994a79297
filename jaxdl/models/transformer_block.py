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


class TransformerBlock(nn.Module):
    r"""Attention, then two dense layers, each a branch F beside a shortcut.

    $$x + F(N(x)) \quad\text{("before")}, \qquad N(x + F(x)) \quad\text{("after")}$$

    The branches are `attention`, and `dense_0` and `dense_1` with the activation between; their
    norms N are `norm_0` and `norm_1`. Dropout follows the activation and each branch, and is on the
    weights of the attention, as in `torch.nn.TransformerEncoderLayer`.

    Attributes:
        last_kernel_init: initializer of the last kernel of each branch.
        heads, hidden, norm, norm_position, normalize_qk, activation, dropout_rate, kernel_init,
            bias_init, dtype: as in `Transformer`.
    """

    heads: Count
    hidden: Count
    norm: NormFactory | None
    norm_position: str
    normalize_qk: NormFactory | None
    activation: Activation
    dropout_rate: Any
    kernel_init: Initializer
    last_kernel_init: Initializer
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
        attention = MultiHeadAttention(
            self.heads,
            dropout_rate=self.dropout_rate,
            normalize_qk=self.normalize_qk,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            out_kernel_init=self.last_kernel_init,
            dtype=self.dtype,
            name="attention",
        )
        attend = functools.partial(attention, mask=seen, train=train)
        feed_forward = functools.partial(self._feed_forward, train=train)
        for index, branch in enumerate((attend, feed_forward)):
            norm = make_norm(self.norm, f"norm_{index}", train, self.dtype)
            name = f"dropout_{index}"
            if self.norm_position == "before":
                x = x + drop(branch(norm(x)), self.dropout_rate, name, train)
            else:
                x = norm(x + drop(branch(x), self.dropout_rate, name, train))
        return x

    def _feed_forward(self, x: Array, *, train: bool) -> Array:
        y = self._dense("dense_0", self.hidden, x, self.kernel_init)
        y = activate(y, self.activation, None, "before", layer=0, train=train)
        y = drop(y, self.dropout_rate, "dropout_hidden", train)
        return self._dense("dense_1", x.shape[-1], y, self.last_kernel_init)

    def _dense(self, name: str, width: int, x: Array, kernel_init: Initializer) -> Array:
        bias_init = bind_fan_in(self.bias_init, x.shape[-1])
        return nn.Dense(
            width, kernel_init=kernel_init, bias_init=bias_init, dtype=self.dtype, name=name
        )(x)


def make_norm(
    norm: NormFactory | None, name: str, train: bool, dtype: Any
) -> Callable[[Array], Array]:
    """The norm as a function of one array, or the identity; call it inside a compact method."""
    if norm is None:
        return identity
    return functools.partial(apply_norm, norm(name=name), train=train, dtype=dtype)


def drop(x: Array, rate: Any, name: str, train: bool) -> Array:
    """Dropout, or no module at rate 0; call it inside a compact method."""
    return nn.Dropout(rate, name=name)(x, deterministic=not train) if rate > 0.0 else x
