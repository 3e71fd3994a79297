"""The multilayer perceptron."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from jaxdl.activations import relu
from jaxdl.initializers import bind_fan_in, lecun_normal, zeros
from jaxdl.layers.inputs import compute_dtype
from jaxdl.models.block import (
    Activation,
    NormFactory,
    activate,
    as_outputs,
    check_hidden,
    check_widths,
    needs_bias,
)


class MLP(nn.Module):
    r"""Dense layers with an activation between them; the last layer is linear.

    $$h_l = \phi(W_l^\top h_{l-1} + b_l), \qquad y = W_L^\top h_{L-1} + b_L$$

    Inputs of shape (batch, ...) are flattened. Layer l is named `dense_l`, its norm `norm_l`;
    dropout follows the activation, and the norm if it stands after the activation.

    Attributes:
        features: the width of every layer; the last is the number of outputs.
        activation: an elementwise function, e.g. `jaxdl.activations.tanh`, or a module such as
            `PReLU()`; every layer gets a copy, named `activation_l`.
        norm: a factory of norm modules, e.g. `functools.partial(BatchNorm, momentum=0.99)`; Flax's
            own LayerNorm, GroupNorm and BatchNorm fit as well.
        norm_position: the norm stands "before" or "after" the activation. A bias directly before
            a norm that subtracts each feature's mean is redundant, and left out.
        dropout_rate: the share of hidden units set to zero in training, in [0, 1); the others
            are divided by 1 - dropout_rate.
        kernel_init: initializer of every kernel, of shape (fan_in, fan_out).
        bias_init: initializer of every bias, of shape (fan_out,), or a function of fan_in that
            returns one, such as `torch_bias`.
        dtype: in which the layers compute, e.g. `jnp.bfloat16`. Parameters, statistics of norms and
            outputs are float32. None computes in the common dtype of inputs and parameters.

    Raises:
        TypeError: a dtype that is no floating one.
        ValueError: no features or one below 1, a position or a rate outside the values above.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = MLP([8, 10])
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 28, 28, 1)), train=False)
        >>> model.apply(variables, jnp.ones((5, 28, 28, 1)), train=False).shape
        (5, 10)

    Source: Goodfellow, Bengio and Courville, Deep Learning (2016), chapter 6.
    """

    features: Sequence[int]
    activation: Activation = relu
    norm: NormFactory | None = None
    norm_position: str = "before"
    dropout_rate: float = 0.0
    kernel_init: Callable[..., Array] = lecun_normal()
    bias_init: Callable[..., Array] | Callable[[int], Callable[..., Array]] = zeros()
    dtype: Any = None

    def __post_init__(self) -> None:
        """Refuse settings that allow no network."""
        # With a tuple, equal models are equal cache keys, so that runs share compiled programs.
        object.__setattr__(self, "features", tuple(self.features))
        check_widths("MLP features", self.features, "the last is the number of outputs")
        object.__setattr__(self, "dtype", compute_dtype("MLP", self.dtype))
        check_hidden("MLP", self.norm_position, self.dropout_rate)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch ..."], *, train: bool
    ) -> Float[Array, "batch outputs"]:
        """The outputs (logits or values); `train` switches dropout and batch statistics on."""
        x = x.reshape(x.shape[0], -1)
        *hidden, outputs = self.features
        for layer, width in enumerate(hidden):
            norm = None if self.norm is None else self.norm(name=f"norm_{layer}")
            x = self._dense(layer, width, x, use_bias=needs_bias(norm, self.norm_position))
            x = activate(
                x,
                self.activation,
                norm,
                self.norm_position,
                layer=layer,
                train=train,
                dtype=self.dtype,
            )
            if self.dropout_rate > 0.0:
                dropout = nn.Dropout(self.dropout_rate, name=f"dropout_{layer}")
                x = dropout(x, deterministic=not train)
        return as_outputs(self._dense(len(hidden), outputs, x), self.dtype)

    def _dense(self, layer: int, width: int, x: Array, use_bias: bool = True) -> Array:
        return nn.Dense(
            width,
            use_bias=use_bias,
            kernel_init=self.kernel_init,
            bias_init=bind_fan_in(self.bias_init, x.shape[-1]),
            dtype=self.dtype,
            name=f"dense_{layer}",
        )(x)
