"""A small convolutional network: convolutions that halve the image, and an MLP on top."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from jaxdl.activations import relu
from jaxdl.initializers import lecun_normal, zeros
from jaxdl.layers import max_pool
from jaxdl.layers.inputs import compute_dtype
from jaxdl.models.block import Activation, NormFactory, check_hidden, check_widths, conv_block
from jaxdl.models.mlp import MLP


class ConvNet(nn.Module):
    """Convolutions with an activation and 2 x 2 max-pooling each, then dense layers.

    Convolution l is named `conv_l`, its norm `norm_l`; the dense layers are an `MLP` named `head`.
    A convolution keeps the image's size ("SAME" padding), the pooling halves it, rounding down.

    Attributes:
        channels: the width of every convolution.
        features: the widths of the dense layers; the last is the number of outputs.
        window: the height and width of the convolutions.
        activation, norm, norm_position, bias_init: as in `MLP`; the dense layers have them too.
        dropout_rate: the dropout rate of the hidden dense layers, in [0, 1).
        kernel_init: initializer of every kernel, of shape (*window, in, out) or (fan_in, fan_out).
        dtype: as in `MLP`.

    Raises:
        TypeError: a dtype that is no floating one.
        ValueError: a width below 1, a position or a rate outside the values above; when called, an
            image that is too small for the poolings.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = ConvNet([8, 16], [10])
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 28, 28, 1)), train=False)
        >>> variables["params"]["head"]["dense_0"]["kernel"].shape
        (784, 10)

    Source: LeCun et al. (1998), for the architecture.
    """

    channels: Sequence[int]
    features: Sequence[int]
    window: tuple[int, int] = (3, 3)
    activation: Activation = relu
    norm: NormFactory | None = None
    norm_position: str = "before"
    dropout_rate: float = 0.0
    kernel_init: Callable[..., Array] = lecun_normal()
    bias_init: Callable[..., Array] | Callable[[int], Callable[..., Array]] = zeros()
    dtype: Any = None

    def __post_init__(self) -> None:
        """Refuse settings that allow no network."""
        object.__setattr__(self, "channels", tuple(self.channels))
        object.__setattr__(self, "features", tuple(self.features))
        check_widths("ConvNet channels", self.channels, "one for each convolution")
        check_widths("ConvNet features", self.features, "the last is the number of outputs")
        object.__setattr__(self, "dtype", compute_dtype("ConvNet", self.dtype))
        check_hidden("ConvNet", self.norm_position, self.dropout_rate)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, train: bool
    ) -> Float[Array, "batch outputs"]:
        """The outputs (logits or values); `train` switches dropout and batch statistics on."""
        if min(x.shape[1:3]) < 2 ** len(self.channels):
            raise ValueError(
                f"images must be at least {2 ** len(self.channels)} pixels wide and high for "
                f"{len(self.channels)} poolings, got {x.shape}; name fewer channels"
            )
        for layer, width in enumerate(self.channels):
            x = conv_block(
                x,
                layer,
                width,
                window=self.window,
                activation=self.activation,
                norm=self.norm,
                norm_position=self.norm_position,
                kernel_init=self.kernel_init,
                bias_init=self.bias_init,
                dtype=self.dtype,
                train=train,
            )
            x = max_pool(x)
        return MLP(
            self.features,
            activation=self.activation,
            norm=self.norm,
            norm_position=self.norm_position,
            dropout_rate=self.dropout_rate,
            kernel_init=self.kernel_init,
            bias_init=self.bias_init,
            dtype=self.dtype,
            name="head",
        )(x, train=train)
