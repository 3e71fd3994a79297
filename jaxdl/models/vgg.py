"""VGG for images of 32 x 32: 3 x 3 convolutions in five stages, each ending in a pooling."""

from collections.abc import Callable, Sequence

import flax.linen as nn
from jaxtyping import Array, Float

from jaxdl.activations import relu
from jaxdl.initializers import he_normal, zeros
from jaxdl.layers import max_pool
from jaxdl.models.block import Activation, NormFactory, check_hidden, check_widths, conv_block
from jaxdl.models.mlp import MLP

CONVOLUTIONS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Of each stage, by the number of layers with weights in the ImageNet form: columns A, B, D, E."""


class VGG(nn.Module):
    """The convolutions of Simonyan and Zisserman's network, and dense layers on what is left.

    Five poolings leave one position of 512 channels of a 32 x 32 image. The published form for
    CIFAR has one dense layer, the outputs, in the place of ImageNet's three: 14,728,266
    parameters for depth 16 with BatchNorm and the biases of its convolutions; here they are left
    out where a norm makes them redundant (14,724,042). The convolutions are named `conv_i`, their
    norms `norm_i`, the dense layers are an `MLP` named `head`.

    Attributes:
        depth: 11, 13, 16 or 19.
        features: the widths of the dense layers, the last being the outputs; (512, 512, 10) is
            nearer to ImageNet's form.
        channels: of the convolutions of each of the five stages; narrower ones make smaller runs.
        activation: an elementwise function, or a module, as for `MLP`.
        norm: a factory of norm modules, as for `MLP`; hidden dense layers have it as well.
        norm_position: the norm stands "before" or "after" the activation.
        dropout_rate: of the hidden dense layers, in [0, 1).
        kernel_init: initializer of every kernel.
        bias_init: initializer of every bias, or a function of fan_in that returns one.

    Raises:
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

    def __post_init__(self) -> None:
        """Refuse settings no network can be built from."""
        object.__setattr__(self, "features", tuple(self.features))
        object.__setattr__(self, "channels", tuple(self.channels))
        if self.depth not in CONVOLUTIONS:
            raise ValueError(f"VGG depth must be one of {tuple(CONVOLUTIONS)}, got {self.depth}")
        check_widths("VGG features", self.features, "the last is the number of outputs")
        check_widths("VGG channels", self.channels, "one for each of the five stages")
        if len(self.channels) != 5:
            raise ValueError(f"VGG channels must be those of five stages, got {self.channels}")
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
            name="head",
        )(x, train=train)
