"""VGG for images of 32 x 32: 3 x 3 convolutions in five stages, each ending in a pooling."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from jaxdl.activations import relu
from jaxdl.initializers import he_normal, zeros
from jaxdl.layers import max_pool
from jaxdl.layers.inputs import compute_dtype
from jaxdl.models.block import Activation, NormFactory, check_hidden, check_widths, conv_block
from jaxdl.models.mlp import MLP

CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Convolutions of each stage, by the number of layers with weights: columns A, B, D and E."""


class VGG(nn.Module):
    """The convolutions of Simonyan and Zisserman's network, then dense layers.

    Five poolings reduce a 32 x 32 image to one position with 512 channels. The published form for
    CIFAR has one dense layer, the outputs, instead of ImageNet's three. With depth 16, BatchNorm
    and biases in its convolutions it has 14,728,266 parameters. Here biases that a norm makes
    redundant are left out: 14,724,042. The convolutions are named `conv_i` and their norms
    `norm_i`; the dense layers are an `MLP` named `head`.

    Attributes:
        depth: 11, 13, 16 or 19.
        features: the widths of the dense layers; the last is the number of outputs. (512, 512, 10)
            is nearer to ImageNet's form.
        channels: the width of the convolutions in each of the five stages.
        activation, norm, norm_position, bias_init: as in `MLP`; the dense layers have them too.
        dropout_rate: the dropout rate of the hidden dense layers, in [0, 1).
        kernel_init: initializer of every kernel.
        dtype: as in `MLP`.

    Raises:
        TypeError: a dtype that is no floating one.
        ValueError: another depth, a width below 1, a position or a rate outside the values above;
            when called, images smaller than 32 x 32.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> shapes = jax.eval_shape(
        ...     lambda: VGG(16).init(jax.random.key(0), jnp.ones((1, 32, 32, 3)), train=False))
        >>> sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
        14719818

    Source: Simonyan and Zisserman (2015), table 1.
    """

    depth: int = 16
    features: Sequence[int] = (10,)
    channels: Sequence[int] = (64, 128, 256, 512, 512)
    activation: Activation = relu
    norm: NormFactory | None = None
    norm_position: str = "before"
    dropout_rate: float = 0.0
    kernel_init: Callable[..., Array] = he_normal()
    bias_init: Callable[..., Array] | Callable[[int], Callable[..., Array]] = zeros()
    dtype: Any = None

    def __post_init__(self) -> None:
        """Refuse settings that allow no network."""
        object.__setattr__(self, "features", tuple(self.features))
        object.__setattr__(self, "channels", tuple(self.channels))
        if self.depth not in CONVOLUTIONS:
            raise ValueError(f"VGG depth must be one of {tuple(CONVOLUTIONS)}, got {self.depth}")
        check_widths("VGG features", self.features, "the last is the number of outputs")
        check_widths("VGG channels", self.channels, "one for each of the five stages")
        if len(self.channels) != 5:
            raise ValueError(f"VGG channels must be those of five stages, got {self.channels}")
        object.__setattr__(self, "dtype", compute_dtype("VGG", self.dtype))
        check_hidden("VGG", self.norm_position, self.dropout_rate)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, train: bool
    ) -> Float[Array, "batch outputs"]:
        """The outputs (logits or values); `train` switches dropout and batch statistics on."""
        if min(x.shape[1:3]) < 32:
            raise ValueError(f"VGG's five poolings need images of 32 x 32 or more, got {x.shape}")
        layer = 0
        for channels, count in zip(self.channels, CONVOLUTIONS[self.depth], strict=True):
            for _ in range(count):
                x = conv_block(
                    x,
                    layer,
                    channels,
                    activation=self.activation,
                    norm=self.norm,
                    norm_position=self.norm_position,
                    kernel_init=self.kernel_init,
                    bias_init=self.bias_init,
                    dtype=self.dtype,
                    train=train,
                )
                layer += 1
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
