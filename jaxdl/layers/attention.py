"""Attention with several heads, of a sequence to itself or to another."""

import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxdl.checks import Count, whole_number
from jaxdl.initializers import Initializer, bind_fan_in, lecun_normal, zeros
from jaxdl.layers.inputs import check_dropout_rate, compute_dtype, floating
from jaxdl.layers.norm import apply_norm


class MultiHeadAttention(nn.Module):
    r"""Each query takes a mean of the values, weighted by how well its key fits; in several heads.

    $$\text{head}_h = \text{softmax}\left(\frac{Q_h K_h^\top}{\sqrt{d}}\right) V_h, \qquad
      Q_h = x W^Q_h + b^Q_h, \quad K_h = c W^K_h + b^K_h, \quad V_h = c W^V_h + b^V_h$$

    The heads stand side by side and a last layer mixes them. x is the sequence that asks and c the
    context that answers: x itself, or another sequence. Each head is d = features / heads wide. The
    layers `query`, `key` and `value` have kernels (inputs, heads, d), the layer `out` has (heads,
    d, features); their initializers see the true fans. The softmax is float32 at least.

    Attributes:
        heads: how many; they divide the features of x.
        dropout_rate: the share of the weights set to zero in training, in [0, 1); the others are
            divided by 1 - dropout_rate.
        normalize_qk: a factory of norms over d for queries and keys, e.g. `nn.RMSNorm` or
            `nn.LayerNorm`; it keeps the logits small. The norms are `query_norm` and `key_norm`.
        kernel_init: initializer of the kernels of queries, keys and values.
        bias_init: initializer of every bias, or a function of fan_in; see `bind_fan_in`.
        out_kernel_init: initializer of the kernel of `out`; None takes `kernel_init`.
        dtype: in which the layer computes, e.g. `jnp.bfloat16`; parameters are float32.

    Raises:
        TypeError: settings of another type; complex inputs, or a mask that holds no booleans.
        ValueError: no heads, a rate outside [0, 1); when called, heads that do not divide the
            features, inputs or a mask with other axes.

    Example:
        >>> attention = MultiHeadAttention(heads=2)
        >>> x = jax.random.normal(jax.random.key(0), (5, 3, 8))
        >>> variables = attention.init(jax.random.key(1), x, train=False)
        >>> variables["params"]["query"]["kernel"].shape
        (8, 2, 4)
        >>> causal = jnp.tri(3, dtype=bool)[None, None]
        >>> attention.apply(variables, x, mask=causal, train=False).shape
        (5, 3, 8)

    Source: Vaswani et al. (2017), section 3.2; normalize_qk: Dehghani et al. (2023), ViT-22B.
    """

    heads: Count
    dropout_rate: Any = 0.0
    normalize_qk: Any = None
    kernel_init: Initializer = lecun_normal()
    bias_init: Initializer | Callable[[int], Initializer] = zeros()
    out_kernel_init: Initializer | None = None
    dtype: Any = None

    def __post_init__(self) -> None:
        """Refuse settings that allow no attention."""
        object.__setattr__(self, "dtype", compute_dtype("MultiHeadAttention", self.dtype))
        whole_number("MultiHeadAttention heads", self.heads)
        check_norm_factory("normalize_qk", self.normalize_qk)
        check_dropout_rate("MultiHeadAttention", self.dropout_rate)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, x: Any, context: Any = None, *, mask: Any = None, train: bool
    ) -> Float[Array, "batch queries features"]:
        """What each position of `x` takes from the context.

        Arguments:
            x: (batch, queries, features).
            context: (batch, keys, inputs), of any width; None is `x` itself.
            mask: booleans (batch, heads, queries, keys), True where a query may see a key (False in
                PyTorch's masks); an axis of length 1 stands for all. A query that sees no key takes
                zeros.
            train: whether dropout is on; then apply with `rngs={"dropout": key}`.
        """
        x = _sequence("inputs", x)
        context = x if context is None else _sequence("context", context)
        (batch, length, features), count = x.shape, context.shape[1]
        check_heads("MultiHeadAttention", self.heads, features)
        if context.shape[0] != batch:
            raise ValueError(
                f"MultiHeadAttention context must have the batch of the inputs, {batch}, got "
                f"{context.shape[0]}; pass one context for each sequence"
            )
        seen = None if mask is None else _as_mask(mask, (batch, self.heads, length, count))
        queries = self._project("query", x, features)
        keys = self._project("key", context, features)
        values = self._project("value", context, features)
        if self.normalize_qk is not None:
            normalise = functools.partial(apply_norm, train=train, dtype=self.dtype)
            queries = normalise(self.normalize_qk(name="query_norm"), queries)
            keys = normalise(self.normalize_qk(name="key_norm"), keys)
        precise = jnp.promote_types(queries.dtype, jnp.float32)
        logits = jnp.einsum("bqhd,bkhd->bhqk", queries, keys, preferred_element_type=precise)
        logits = logits / math.sqrt(queries.shape[-1])
        if seen is None:
            weights = jax.nn.softmax(logits)
        else:
            # Finite, so that a query without a key gets no NaN. The second `where` gives it zeros.
            weights = jax.nn.softmax(jnp.where(seen, logits, jnp.finfo(precise).min))
            weights = jnp.where(seen, weights, 0)
        weights = weights.astype(values.dtype)
        if self.dropout_rate > 0.0:
            dropout = nn.Dropout(self.dropout_rate, name="dropout")
            weights = dropout(weights, deterministic=not train)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, values)
        return nn.DenseGeneral(
            features,
            axis=(-2, -1),
            dtype=self.dtype,
            kernel_init=self.out_kernel_init or self.kernel_init,
            bias_init=bind_fan_in(self.bias_init, features),
            name="out",
        )(mixed)

    def _project(self, name: str, x: Array, features: int) -> Float[Array, "batch length heads d"]:
        return nn.DenseGeneral(
            (self.heads, features // self.heads),
            dtype=self.dtype,
            kernel_init=self.kernel_init,
            bias_init=bind_fan_in(self.bias_init, x.shape[-1]),
            name=name,
        )(x)


def check_heads(owner: str, heads: Any, features: Any) -> None:
    """Refuse heads that do not divide the features.

    Example:
        >>> check_heads("MultiHeadAttention", 3, 8)
        Traceback (most recent call last):
        ValueError: MultiHeadAttention heads must divide the features, got 3 heads for ...
    """
    if features < 1 or features % heads:
        divisors = [str(each) for each in range(1, features + 1) if features % each == 0]
        raise ValueError(
            f"{owner} heads must divide the features, got {heads} heads for {features} features; "
            f"pass heads={' or '.join(divisors)}, or other features"
        )


def check_norm_factory(name: str, norm: Any) -> None:
    """Refuse what makes no norms: a flag, a word, a norm that is made already.

    Example:
        >>> check_norm_factory("norm", nn.RMSNorm)
        >>> check_norm_factory("norm", "rms")
        Traceback (most recent call last):
        TypeError: norm must be a factory of norms, or None, got 'rms'; pass e.g. nn.RMSNorm ...
    """
    if norm is not None and (not callable(norm) or isinstance(norm, nn.Module)):
        given = f"a {type(norm).__name__}" if isinstance(norm, nn.Module) else repr(norm)
        raise TypeError(
            f"{name} must be a factory of norms, or None, got {given}; pass e.g. nn.RMSNorm or "
            "functools.partial(nn.LayerNorm, epsilon=1e-5)"
        )


def _sequence(name: str, x: Any) -> Float[Array, "batch length features"]:
    array = floating("MultiHeadAttention", x)
    if array.ndim != 3:
        raise ValueError(
            f"MultiHeadAttention {name} must have the axes (batch, length, features), got shape "
            f"{array.shape}; a single sequence is x[None]"
        )
    return array


def _as_mask(mask: Any, shape: tuple[Any, Any, Any, Any]) -> Bool[Array, "..."]:
    """The mask; all four axes are asked for, since (5, 5) may be queries and keys or a batch."""
    seen: Array = jnp.asarray(mask)
    if seen.dtype != jnp.bool_:
        raise TypeError(
            f"mask must hold booleans, True where a query may see a key, got {seen.dtype}; pass "
            "mask.astype(bool)"
        )
    pairs = zip(seen.shape, shape, strict=False)
    if seen.ndim != 4 or any(length not in (1, whole) for length, whole in pairs):
        raise ValueError(
            f"mask must have the axes (batch, heads, queries, keys), {shape}, each whole or of "
            f"length 1, got {seen.shape}; pass padding as mask[:, None, None, :], and one mask of "
            "queries and keys as mask[None, None]"
        )
    return seen
