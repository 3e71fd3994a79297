"""The transformer: blocks of attention and two dense layers, over tokens or vectors."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdl.activations import gelu, identity
from jaxdl.checks import Count, require_choice, require_positive, whole_number
from jaxdl.initializers import Initializer, bind_fan_in, lecun_normal, variance_scaling, zeros
from jaxdl.layers.attention import check_heads, check_norm_factory
from jaxdl.layers.inputs import check_dropout_rate, compute_dtype
from jaxdl.models.block import Activation, as_outputs
from jaxdl.models.repeated_blocks import KINDS, POSITIONS, through_blocks
from jaxdl.models.residual_start import check_residual_start, zero_under_fixup
from jaxdl.models.sequences import (
    as_padding_mask,
    as_tokens,
    as_vectors,
    sinusoidal_positions,
    who_sees,
)
from jaxdl.models.transformer_block import TransformerBlock, drop, make_norm


class Transformer(nn.Module):
    r"""Embedded tokens, or vectors, through blocks of attention and dense layers.

    $$x_0 = s E_t + P, \qquad x_l = \text{block}_l(x_{l-1}), \qquad y = W^\top N(x_L) + b$$

    t are the tokens, E the table `embed`, s the `embedding_scale`, P the positions; the last norm
    N, `norm`, is there unless norms stand "after". Each block has two branches F, attention and two
    dense layers: x + F(N(x)) if norms stand "before", N(x + F(x)) if "after", x + N(F(x)) if
    "inside". With `causal` no position sees a later one: outputs may predict the next token.

    Attributes:
        vocabulary: the number of tokens, 0 to vocabulary - 1; None: the inputs are vectors.
        features: the width of the sequence between blocks.
        layers: the number of blocks.
        heads: of each attention; they divide the features.
        hidden: the width between the two dense layers of a block; None takes 4 features.
        outputs: the width of the last layer, `head`; None takes the vocabulary. Without either
            there is no head: the outputs are the last block's (or norm's) vectors.
        causal: whether this is a decoder, or else an encoder, which sees the whole sequence.
        positions: "learned" is a parameter, "sinusoidal" the table of `sinusoidal_positions`; None
            leaves the order to the mask.
        length: the longest sequence that learned positions take.
        norm: a factory of norms, as in `MLP`, or None. A batch norm sees later positions and
            padding, too.
        norm_position: norms stand "before" each branch, "after" each sum, or "inside", at the end
            of each branch; "before" and "inside" have one after all blocks, too.
        normalize_qk: as in `MultiHeadAttention`.
        activation: an elementwise function or a module, as in `MLP`.
        dropout_rate: the rate for the embedded inputs, the weights of attention, the hidden units
            and the branches, in [0, 1).
        tied_head: whether the logits are x E^T, so that tokens and outputs share the table.
        residual_start: how the L = 2 layers branches start. "scaled" divides the last kernel of
            each by sqrt(L): then all together add the variance of one. With the others each block
            starts as its shortcut: "zero_scale" (norms "inside", of scale 0); "skip_init" (x + a
            F(x), where a, `branch_scale_0` and `branch_scale_1`, is learned and starts at 0);
            "fixup" (without norms: a starts at 1, the last kernel of each branch and the head at 0,
            the branches' other kernels are divided by sqrt(L), and their biases are 0; each layer
            keeps its bias, which can do what the paper's single number before the layer does).
            The rate of these numbers is set as in `ResidualMLP`'s example.
        blocks: "plain"; "remat" computes a block again for its gradient, which saves memory;
            "scan" compiles one block for all, whose parameters `blocks` have a first axis of
            layers (`stack_blocks`, `unstack_blocks`). All three are the same function.
        embedding_scale: s; Vaswani et al. take sqrt(features).
        kernel_init, bias_init: as in `MLP`.
        embedding_init: initializer of the table and of learned positions, (rows, features); by
            default the variance is 1 / features, with which tied logits start at variance 1.
        dtype: as in `MLP`; the sequence between the blocks has it too. Softmaxes are float32.

    Raises:
        TypeError: settings of another type; when called, tokens that are no integers, a mask
            without booleans.
        ValueError: a count below 1, heads that do not divide the features, an unknown word, a rate
            outside [0, 1), a scale that is not positive, a tied head without its table, or with
            "fixup", which would zero it; a start that does not fit the norms; when called, inputs
            of another shape or longer than the learned positions.

    Example:
        >>> import jax
        >>> model = Transformer(vocabulary=11, features=8, layers=2, heads=2)
        >>> tokens = jnp.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])
        >>> variables = model.init(jax.random.key(0), tokens, train=False)
        >>> model.apply(variables, tokens, train=False).shape
        (2, 5, 11)

    Source: Vaswani et al. (2017); norms before: Xiong et al. (2020); tied_head: Press and Wolf
    (2017); "scaled": Radford et al. (2019), GPT-2, section 2.3; the other starts: `ResidualMLP`.
    """

    vocabulary: Count
    features: Count = 128
    layers: Count = 4
    heads: Count = 4
    hidden: Count = None
    outputs: Count = None
    causal: bool = True
    positions: Any = "learned"
    length: Count = 512
    norm: Any = functools.partial(nn.LayerNorm, epsilon=1e-5)
    norm_position: Any = "before"
    normalize_qk: Any = None
    activation: Activation = gelu
    dropout_rate: Any = 0.0
    tied_head: bool = False
    residual_start: Any = None
    blocks: Any = "plain"
    embedding_scale: Any = 1.0
    kernel_init: Initializer = lecun_normal()
    bias_init: Initializer | Callable[[int], Initializer] = zeros()
    embedding_init: Initializer = variance_scaling(1.0, "fan_out", "normal")
    dtype: Any = None

    def __post_init__(self) -> None:
        """Refuse settings that allow no network."""
        object.__setattr__(self, "dtype", compute_dtype("Transformer", self.dtype))
        for name in ("vocabulary", "features", "layers", "heads", "hidden", "outputs", "length"):
            count = getattr(self, name)
            if count is not None or name not in ("vocabulary", "hidden", "outputs"):
                whole_number(f"Transformer {name}", count)
        check_heads("Transformer", self.heads, self.features)
        check_norm_factory("Transformer norm", self.norm)
        check_norm_factory("Transformer normalize_qk", self.normalize_qk)
        require_choice("Transformer norm_position", self.norm_position, POSITIONS)
        require_choice("Transformer blocks", self.blocks, KINDS)
        if self.positions is not None:
            require_choice("Transformer positions", self.positions, ("learned", "sinusoidal"))
        check_dropout_rate("Transformer", self.dropout_rate)
        require_positive("Transformer embedding_scale", self.embedding_scale)
        if self.tied_head and (self.vocabulary is None or self.outputs is not None):
            raise ValueError(
                "tied_head takes its outputs from the vocabulary, got "
                f"vocabulary={self.vocabulary} and outputs={self.outputs}; leave outputs out, or "
                "pass tied_head=False"
            )
        check_residual_start(
            "Transformer",
            self.residual_start,
            self.norm,
            norm_ends_branch=self.norm_position == "inside",
        )
        if self.tied_head and self.residual_start == "fixup":
            raise ValueError(
                "residual_start='fixup' starts with a head of zeros, and a tied head would take "
                "the tokens with it; pass tied_head=False, or residual_start='skip_init'"
            )
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Any, mask: Any = None, *, train: bool
    ) -> Float[Array, "batch length outputs"]:
        """The outputs (logits or values) of each position; `train` switches dropout on.

        Arguments:
            x: tokens (batch, length), or vectors (batch, length, features). Where a token is not
                of the vocabulary, the outputs are NaN.
            mask: booleans (batch, length), False for padding (True in PyTorch's masks), which no
                position sees; it may hold anything.
        """
        embed: nn.Embed | None = None
        if self.vocabulary is not None:
            embed = nn.Embed(
                self.vocabulary,
                self.features,
                embedding_init=self.embedding_init,
                dtype=self.dtype,
                name="embed",
            )
            tokens = as_tokens(x)
            # Out of range is NaN, so that it is seen. Below 0 would count from the table's end.
            x = embed(jnp.where(tokens < 0, self.vocabulary, tokens)) * self.embedding_scale
        x = as_vectors(x, self.features)
        x = x if self.dtype is None else x.astype(self.dtype)
        real = None if mask is None else as_padding_mask(mask, x.shape[:2])
        if real is not None:
            # A weight of zero does not stop a NaN, as of padding tokens outside of the vocabulary.
            x = jnp.where(real[..., None], x, 0)
        x = drop(self._positioned(x), self.dropout_rate, "dropout", train)
        x = self._through_blocks(x, who_sees(real, x.shape[1], causal=self.causal), train)
        if self.norm_position != "after":
            x = make_norm(self.norm, "norm", train, self.dtype)(x)
        outputs = self.vocabulary if self.outputs is None else self.outputs
        head: Callable[[Array], Array]
        if embed is not None and self.tied_head:
            head = embed.attend
        elif outputs is None:
            head = identity
        else:
            bias_init = zero_under_fixup(self.residual_start, self.bias_init)
            head = nn.Dense(
                outputs,
                kernel_init=zero_under_fixup(self.residual_start, self.kernel_init),
                bias_init=bind_fan_in(bias_init, self.features),
                dtype=self.dtype,
                name="head",
            )
        return as_outputs(head(x), self.dtype)

    def _positioned(self, x: Array) -> Array:
        length = x.shape[1]
        if self.positions is None:
            return x
        if self.positions == "sinusoidal":
            return x + sinusoidal_positions(length, self.features).astype(x.dtype)
        if length > self.length:
            raise ValueError(
                f"Transformer inputs must be no longer than its {self.length} learned positions, "
                f"got a length of {length}; pass length={length} or positions='sinusoidal'"
            )
        table = self.param("positions", self.embedding_init, (self.length, self.features))
        return x + table[:length].astype(x.dtype)

    def _through_blocks(self, x: Array, seen: Array | None, train: bool) -> Array:
        settings = {
            "branches": 2 * self.layers,
            "heads": self.heads,
            "hidden": self.hidden or 4 * self.features,
            "norm": self.norm,
            "norm_position": self.norm_position,
            "normalize_qk": self.normalize_qk,
            "activation": self.activation,
            "dropout_rate": self.dropout_rate,
            "residual_start": self.residual_start,
            "kernel_init": self.kernel_init,
            "bias_init": self.bias_init,
            "dtype": self.dtype,
        }
        return through_blocks(TransformerBlock, settings, self.blocks, self.layers, x, seen, train)
