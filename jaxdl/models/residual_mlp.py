"""The multilayer perceptron with shortcuts: blocks of dense layers, each added to its input."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Float

from jaxdl.activations import relu
from jaxdl.checks import Count, require_choice, whole_number
from jaxdl.initializers import Initializer, bind_fan_in, he_normal, lecun_normal, zeros
from jaxdl.layers.attention import check_norm_factory
from jaxdl.layers.inputs import check_dropout_rate, compute_dtype
from jaxdl.layers.norm import apply_norm
from jaxdl.models.block import Activation, NormFactory, activate, as_outputs, needs_bias
from jaxdl.models.repeated_blocks import KINDS, POSITIONS, through_blocks
from jaxdl.models.residual_start import (
    check_residual_start,
    inner_init,
    last_init,
    scale_branch,
    shift,
    zero_scaled,
    zero_under_fixup,
)
from jaxdl.models.transformer_block import drop, make_norm


class DenseBlock(nn.Module):
    r"""Dense layers as a branch F beside a shortcut.

    $$x + F(N(x)) \;\text{("before")}, \quad N(x + F(x)) \;\text{("after")}, \quad
      x + N(F(x)) \;\text{("inside")}, \qquad F(x) = W_m \phi(\dots \phi(W_1 x))$$

    Attributes:
        branches: the number of blocks of the whole network, L.
        hidden, branch_layers, activation, norm, norm_position, dropout_rate, residual_start,
            kernel_init, linear_kernel_init, bias_init, dtype: as in `ResidualMLP`.
    """

    branches: Count
    hidden: Count
    branch_layers: Count
    activation: Activation
    norm: NormFactory | None
    norm_position: str
    dropout_rate: Any
    residual_start: str | None
    kernel_init: Initializer
    linear_kernel_init: Initializer
    bias_init: Any
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "batch features"], train: bool) -> Float[Array, "..."]:
        """The sum."""
        start, before = self.residual_start, self.norm_position == "before"
        zero, norm = start == "zero_scale", None
        if self.norm is not None:
            norm = zero_scaled(self.norm, "norm") if zero else self.norm(name="norm")

        def normed(y: Array, here: bool) -> Array:
            if norm is None or not here:
                return y
            return apply_norm(norm, y, train=train, dtype=self.dtype)

        y, last = normed(x, before), self.branch_layers - 1
        inner = inner_init(start, self.kernel_init, self.branches, self.branch_layers)
        for layer in range(last):
            y = self._dense(layer, self.hidden, y, inner)
            y = shift(self, start, y, f"activation_bias_{layer}")
            y = activate(y, self.activation, None, "before", layer=layer, train=train)
            y = drop(y, self.dropout_rate, f"dropout_{layer}", train)
        # A bias directly before a norm that subtracts each feature's mean is redundant.
        use_bias = self.norm_position != "inside" or needs_bias(norm, "before")
        kernel_init = last_init(start, self.linear_kernel_init, self.branches)
        y = self._dense(last, x.shape[-1], y, kernel_init, use_bias)
        y = scale_branch(self, start, normed(y, self.norm_position == "inside"))
        return normed(x + y, self.norm_position == "after")

    def _dense(
        self, layer: int, width: int, x: Array, kernel_init: Initializer, use_bias: bool = True
    ) -> Array:
        x = shift(self, self.residual_start, x, f"input_bias_{layer}")
        return nn.Dense(
            width,
            use_bias=use_bias and self.residual_start != "fixup",
            kernel_init=kernel_init,
            bias_init=bind_fan_in(self.bias_init, x.shape[-1]),
            dtype=self.dtype,
            name=f"dense_{layer}",
        )(x)


class ResidualMLP(nn.Module):
    r"""Dense layers in branches, each added to what it gets.

    $$x_0 = W_e^\top x + b_e, \qquad x_l = x_{l-1} + F_l(x_{l-1}), \qquad
      y = W^\top N(x_L) + b, \qquad F(x) = W_m^\top \phi(\dots \phi(W_1^\top x + b_1)) + b_m$$

    The norm N before the outputs is there if norms stand "before" or "inside". Inputs of shape
    (batch, ...) are flattened. The layers are `embed`, `block_0` and so on, each with `dense_0` to
    `dense_{m-1}` and `norm`, then `norm` and `head`.

    With the default initializers and ReLU each branch keeps the variance of its input, so that
    without a norm the stream's variance doubles in every block: `diagnostics.residual_stream` has
    the laws for the other norms and starts.

    Attributes:
        features: the width of the stream between blocks.
        layers: the number of blocks, L.
        hidden: the width inside the branches; None takes the features.
        outputs: the number of outputs.
        branch_layers: m, the dense layers of each branch, 2 or more.
        activation: as in `MLP`; after every layer of a branch but the last.
        norm: a factory of norms, as in `MLP`.
        norm_position: the norm stands "before" each branch, "after" each sum, or "inside", at the
            end of each branch: x + F(N(x)), N(x + F(x)), x + N(F(x)).
        dropout_rate: the share of a branch's hidden units set to zero in training, in [0, 1).
        residual_start: how the branches start; the model is a sum of x and of
            "scaled": branches whose last kernel is divided by sqrt(L), so that L of them together
            add the variance of one;
            "zero_scale": branches that end in a norm ("inside") of scale 0;
            "skip_init": branches times a learned number `branch_scale`, at first 0;
            "fixup": branches with the last kernel 0, the others times L^(-1 / (2 m - 2)), times a
            `branch_scale` of 1, with numbers in place of the layers' biases (`input_bias_i` before
            each layer, `activation_bias_i` before each activation), and a head of 0; no norms.
            With the last three, each block starts as its shortcut. Fixup's numbers take a tenth of
            the rate: see the example.
        blocks: "plain", "remat" or "scan", as in `Transformer`.
        kernel_init: initializer of the kernels before an activation.
        linear_kernel_init: of the others: `embed`, the last of each branch, `head`.
        bias_init, dtype: as in `MLP`.

    Raises:
        TypeError: settings of another type.
        ValueError: a count below 1, fewer than 2 layers in a branch, an unknown word, a rate
            outside [0, 1), a start that does not fit the norms.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxdl.optimizers import by_layer, sgd
        >>> model = ResidualMLP(features=8, layers=2, residual_start="fixup")
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 4)), train=False)
        >>> model.apply(variables, jnp.ones((5, 4)), train=False).shape
        (5, 10)
        >>> rate = 0.1
        >>> optimizer = by_layer({
        ...     "*/branch_scale": sgd(rate / 10), "*input_bias*": sgd(rate / 10),
        ...     "*activation_bias*": sgd(rate / 10), "*": sgd(rate)})
        >>> state = optimizer.init(variables["params"])

    Source: He, Zhang, Ren and Sun (2016); "scaled": Radford et al. (2019); "zero_scale": Goyal et
    al. (2017), section 5.1; "skip_init": De and Smith (2020), section 4; "fixup": Zhang, Dauphin
    and Ma (2019), section 3; norms "inside": Liu et al. (2022), Swin Transformer V2, section 3.2.
    """

    features: Count = 128
    layers: Count = 4
    hidden: Count = None
    outputs: Count = 10
    branch_layers: Count = 2
    activation: Activation = relu
    norm: Any = None
    norm_position: Any = "before"
    dropout_rate: Any = 0.0
    residual_start: Any = None
    blocks: Any = "plain"
    kernel_init: Initializer = he_normal()
    linear_kernel_init: Initializer = lecun_normal()
    bias_init: Initializer | Callable[[int], Initializer] = zeros()
    dtype: Any = None

    def __post_init__(self) -> None:
        """Refuse settings that allow no network."""
        object.__setattr__(self, "dtype", compute_dtype("ResidualMLP", self.dtype))
        for name in ("features", "layers", "hidden", "outputs", "branch_layers"):
            if name != "hidden" or self.hidden is not None:
                least = 2 if name == "branch_layers" else 1
                whole_number(f"ResidualMLP {name}", getattr(self, name), least)
        check_norm_factory("ResidualMLP norm", self.norm)
        require_choice("ResidualMLP norm_position", self.norm_position, POSITIONS)
        require_choice("ResidualMLP blocks", self.blocks, KINDS)
        check_dropout_rate("ResidualMLP", self.dropout_rate)
        check_residual_start(
            "ResidualMLP",
            self.residual_start,
            self.norm,
            norm_ends_branch=self.norm_position == "inside",
        )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch ..."], *, train: bool
    ) -> Float[Array, "batch outputs"]:
        """The outputs (logits or values); `train` switches dropout and batch statistics on."""
        x = x.reshape(x.shape[0], -1)
        x = self._linear("embed", self.features, x, self.linear_kernel_init, self.bias_init)
        settings = {
            "branches": self.layers,
            "hidden": self.hidden or self.features,
            "branch_layers": self.branch_layers,
            "activation": self.activation,
            "norm": self.norm,
            "norm_position": self.norm_position,
            "dropout_rate": self.dropout_rate,
            "residual_start": self.residual_start,
            "kernel_init": self.kernel_init,
            "linear_kernel_init": self.linear_kernel_init,
            "bias_init": self.bias_init,
            "dtype": self.dtype,
        }
        x = through_blocks(DenseBlock, settings, self.blocks, self.layers, x, train)
        if self.norm_position != "after":
            x = make_norm(self.norm, "norm", train, self.dtype)(x)
        start = self.residual_start
        x = shift(self, start, x, "input_bias")
        kernel_init = zero_under_fixup(start, self.linear_kernel_init)
        bias_init = zero_under_fixup(start, self.bias_init)
        x = self._linear("head", self.outputs, x, kernel_init, bias_init)
        return as_outputs(x, self.dtype)

    def _linear(
        self, name: str, width: int, x: Array, kernel_init: Initializer, bias_init: Any
    ) -> Array:
        return nn.Dense(
            width,
            kernel_init=kernel_init,
            bias_init=bind_fan_in(bias_init, x.shape[-1]),
            dtype=self.dtype,
            name=name,
        )(x)
