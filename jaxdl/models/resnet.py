"""Residual networks for images of 32 x 32: depths 20 to 56 for CIFAR, and 18."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdl.activations import relu
from jaxdl.initializers import Initializer, bind_fan_in, he_normal, zeros
from jaxdl.layers import convolution
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
from jaxdl.models.residual_start import (
    check_residual_start,
    inner_init,
    last_init,
    scale_branch,
    shift,
    zero_scaled,
    zero_under_fixup,
)

PROJECTED = {18: ((64, 128, 256, 512), 2)}
"""Channels and blocks of the stages of ImageNet's networks, here on 32 x 32 images."""


class Block(nn.Module):
    """Two convolutions beside a shortcut: y = f(x + F(x)), with f the activation.

    Attributes:
        channels: the width of both convolutions.
        stride: the stride of the first convolution; 2 halves the image.
        projection: whether a shortcut that changes shape is a 1 x 1 convolution. If not, it takes
            every second position and sets new channels to zero (option A), without parameters.
        branches: the number of blocks of the whole network, L.
        residual_start: as in `ResNet`.
        activation, norm, norm_position, kernel_init, bias_init, dtype: as in `ResNet`.
    """

    channels: int
    stride: int
    projection: bool
    branches: int
    residual_start: str | None
    activation: Activation
    norm: NormFactory | None
    norm_position: str
    kernel_init: Callable[..., Array]
    bias_init: Any
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, train: bool
    ) -> Float[Array, "batch rows columns features"]:
        """The activation of the sum."""
        start = self.residual_start
        first_init = inner_init(start, self.kernel_init, self.branches)
        final_init = last_init(start, self.kernel_init, self.branches)
        settings = {"train": train, "dtype": self.dtype}
        shifted = shift(self, start, x, "input_bias_0")
        y, norm = self._convolution(shifted, "0", 3, self.stride, first_init)
        y = shift(self, start, y, "activation_bias_0")
        y = activate(y, self.activation, norm, self.norm_position, layer=0, **settings)
        y = shift(self, start, y, "input_bias_1")
        # Without a projection no shortcut leads to new channels. Held at 0, where ReLU is flat,
        # they would never move.
        zero = start == "zero_scale" and (self.projection or x.shape[-1] == self.channels)
        y, norm = self._convolution(y, "1", 3, 1, final_init, zero)
        # The last activation follows the sum, so the norm has only one place here.
        y = activate(y, _linear, norm, "before", layer=1, **settings)
        y = shift(self, start, scale_branch(self, start, y), "activation_bias_1")
        if x.shape != y.shape and self.projection:
            x, norm = self._convolution(shifted, "shortcut", 1, self.stride, self.kernel_init)
            x = activate(x, _linear, norm, "before", layer=1, **settings)
        elif x.shape != y.shape:
            x = x[:, :: self.stride, :: self.stride]
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.channels - x.shape[-1])))
        return activate(x + y, self.activation, None, "before", layer=1, train=train)

    def _convolution(
        self,
        x: Array,
        name: str,
        window: int,
        stride: int,
        kernel_init: Initializer,
        zero_scale: bool = False,
    ) -> tuple[Array, Any]:
        norm: Any = None
        norm_name = f"norm_{name}"
        if self.norm is not None:
            norm = zero_scaled(self.norm, norm_name) if zero_scale else self.norm(name=norm_name)
        position = self.norm_position if name == "0" else "before"
        x = nn.Conv(
            self.channels,
            (window, window),
            strides=stride,
            # PyTorch's padding: at stride 2 "SAME" would pad one side only.
            padding=[((window - 1) // 2,) * 2] * 2,
            use_bias=needs_bias(norm, position) and self.residual_start != "fixup",
            kernel_init=kernel_init,
            bias_init=bind_fan_in(self.bias_init, window * window * x.shape[-1]),
            dtype=self.dtype,
            conv_general_dilated=convolution.convolve,
            name=f"conv_{name}",
        )(x)
        return x, norm


def _linear(x: Array) -> Array:
    return x


class ResNet(nn.Module):
    """Residual blocks in stages that halve the image and double the channels, then the mean.

    Depth 6n + 2 (20, 32, 44, 56, ...) is CIFAR's form: three stages of n blocks with 16, 32 and 64
    channels, and shortcuts without parameters. With BatchNorm, depth 20 has 269,722 parameters and
    depth 56 has 853,018 (published as 0.27 M and 0.85 M). Depth 18 is ImageNet's network with a
    first convolution of 3 x 3 and no first pooling: four stages of two blocks with 64 to 512
    channels and projected shortcuts, 11,173,962 parameters.

    Attributes:
        depth: 18, or 6n + 2 from 8 up.
        outputs: the number of classes or values.
        activation, norm, bias_init: as in `MLP`.
        norm_position: whether each block's first norm stands "before" or "after" the activation.
        dropout_rate: the dropout rate of the features before the outputs, in [0, 1).
        residual_start: how the L branches start. "scaled" divides the last kernel of each by
            sqrt(L); no norm. With the others each block starts as its shortcut: "zero_scale" (the
            last norm of each branch starts with scale 0, so it must take `scale_init`; but not in
            blocks that add channels without a projection, which ReLU would hold at 0); "skip_init"
            (the branch is multiplied by `branch_scale`, learned from 0; with a norm or without);
            "fixup" (no norm: the last kernel of each branch and the outputs' start at 0, the first
            of each is divided by sqrt(L), `branch_scale` starts at 1, and in place of biases a
            number, from 0, stands before each convolution and activation). The rate of these
            numbers is set as in `ResidualMLP`'s example.
        kernel_init: initializer of every kernel.
        dtype: as in `MLP`.

    Raises:
        TypeError: a dtype that is no floating one.
        ValueError: another depth, outputs below 1, a position or a rate outside the values above, a
            start that does not fit the norms.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxdl.layers import BatchNorm
        >>> model = ResNet(20, norm=BatchNorm)
        >>> shapes = jax.eval_shape(
        ...     lambda: model.init(jax.random.key(0), jnp.ones((1, 32, 32, 3)), train=False))
        >>> sum(leaf.size for leaf in jax.tree.leaves(shapes["params"]))
        269722

    Source: He, Zhang, Ren and Sun (2016), section 4.2 and table 6; starts: as in
    `ResidualMLP`.
    """

    depth: int = 20
    outputs: int = 10
    activation: Activation = relu
    norm: NormFactory | None = None
    norm_position: str = "before"
    dropout_rate: float = 0.0
    residual_start: Any = None
    kernel_init: Callable[..., Array] = he_normal()
    bias_init: Callable[..., Array] | Callable[[int], Callable[..., Array]] = zeros()
    dtype: Any = None

    def __post_init__(self) -> None:
        """Refuse settings that allow no network."""
        if self.depth not in PROJECTED and (self.depth < 8 or (self.depth - 2) % 6):
            raise ValueError(f"ResNet depth must be 18 or 6n + 2 from 8 up, got {self.depth}")
        check_widths("ResNet outputs", (self.outputs,), "it is the number of outputs")
        object.__setattr__(self, "dtype", compute_dtype("ResNet", self.dtype))
        check_hidden("ResNet", self.norm_position, self.dropout_rate)
        check_residual_start("ResNet", self.residual_start, self.norm, norm_ends_branch=True)
        super().__post_init__()

    def stages(self) -> tuple[Sequence[int], int]:
        """The channels of each stage, and its blocks."""
        return PROJECTED.get(self.depth, ((16, 32, 64), (self.depth - 2) // 6))

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], *, train: bool
    ) -> Float[Array, "batch outputs"]:
        """The outputs (logits or values); `train` switches dropout and batch statistics on."""
        (stages, blocks), start = self.stages(), self.residual_start
        norm = None if self.norm is None else self.norm(name="norm_0")
        x = nn.Conv(
            stages[0],
            (3, 3),
            use_bias=needs_bias(norm, self.norm_position) and start != "fixup",
            kernel_init=self.kernel_init,
            bias_init=bind_fan_in(self.bias_init, 9 * x.shape[-1]),
            dtype=self.dtype,
            conv_general_dilated=convolution.convolve,
            name="conv_0",
        )(x)
        x = shift(self, start, x, "activation_bias")
        settings = {"layer": 0, "train": train, "dtype": self.dtype}
        x = activate(x, self.activation, norm, self.norm_position, **settings)
        for stage, channels in enumerate(stages):
            for index in range(blocks):
                x = Block(
                    channels,
                    stride=2 if stage > 0 and index == 0 else 1,
                    projection=self.depth in PROJECTED,
                    branches=len(stages) * blocks,
                    residual_start=start,
                    activation=self.activation,
                    norm=self.norm,
                    norm_position=self.norm_position,
                    kernel_init=self.kernel_init,
                    bias_init=self.bias_init,
                    dtype=self.dtype,
                    name=f"stage_{stage}_block_{index}",
                )(x, train=train)
        x = x.mean((1, 2))
        if self.dropout_rate > 0.0:
            x = nn.Dropout(self.dropout_rate, name="dropout")(x, deterministic=not train)
        x = shift(self, start, x, "input_bias")
        bias_init = zero_under_fixup(start, self.bias_init)
        x = nn.Dense(
            self.outputs,
            kernel_init=zero_under_fixup(start, self.kernel_init),
            bias_init=bind_fan_in(bias_init, x.shape[-1]),
            dtype=self.dtype,
            name="dense",
        )(x)
        return as_outputs(x, self.dtype)
