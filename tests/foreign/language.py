"""Networks for sequences of tokens, in the shapes of public code."""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from foreign.vision import of_layers
from foreign.zoo import BATCH, Foreign, normal, tokens, unstacked

from jaxdl import losses

VOCABULARY, LENGTH, WIDTH = 11, 5, 8


def sinusoids(length: int) -> jax.Array:
    angles = jnp.arange(length)[:, None] / 100.0 ** (jnp.arange(WIDTH) / WIDTH)
    return jnp.where(jnp.arange(WIDTH) % 2, jnp.cos(angles), jnp.sin(angles))


class Feed(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(WIDTH, name="wo")(nn.relu(nn.Dense(2 * WIDTH, name="wi")(x)))


class EncoderDecoder(nn.Module):
    """As Flax's example for WMT: padding and causal masks, dropout, two inputs."""

    @nn.compact
    def __call__(self, inputs, targets, deterministic: bool = True):
        embed = nn.Embed(
            VOCABULARY, WIDTH, embedding_init=nn.initializers.normal(1.0), name="embed"
        )
        drop = nn.Dropout(0.1, deterministic=deterministic, name="drop")

        def attention(name: str) -> nn.Module:
            return nn.MultiHeadDotProductAttention(
                2, use_bias=False, dropout_rate=0.1, deterministic=deterministic, name=name
            )

        def norm(name: str) -> nn.Module:
            return nn.LayerNorm(name=name)

        mask = nn.make_attention_mask(inputs > 0, inputs > 0)
        x = drop(embed(inputs) + sinusoids(inputs.shape[1]))
        y = norm("encoder_norm_0")(x)
        x = x + attention("encoder_attention")(y, mask=mask)
        x = x + Feed(name="encoder_feed")(norm("encoder_norm_1")(x))
        encoded = norm("encoder_norm")(x)

        shifted = jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1]
        causal = nn.combine_masks(
            nn.make_causal_mask(targets), nn.make_attention_mask(targets > 0, targets > 0)
        )
        across = nn.make_attention_mask(targets > 0, inputs > 0)
        x = embed(shifted) + sinusoids(targets.shape[1])
        x = x + attention("decoder_attention")(norm("decoder_norm_0")(x), mask=causal)
        y = norm("decoder_norm_1")(x)
        x = x + attention("cross_attention")(y, encoded, mask=across)
        x = x + Feed(name="decoder_feed")(norm("decoder_norm_2")(x))
        return nn.Dense(VOCABULARY, name="logits")(norm("decoder_norm")(x))


class DecoderBlock(nn.Module):
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, mask):
        sharded = nn.with_partitioning(nn.initializers.lecun_normal(), ("embed", "heads"))
        q, k, v = jnp.split(
            nn.Dense(3 * WIDTH, kernel_init=sharded, dtype=self.dtype, name="qkv")(
                nn.RMSNorm(dtype=self.dtype, name="norm_attention")(x)
            ).reshape(*x.shape[:2], 2, -1),
            3,
            -1,
        )
        y = nn.dot_product_attention(q, k, v, mask=mask, dtype=self.dtype).reshape(x.shape)
        x = x + nn.DenseGeneral(WIDTH, dtype=self.dtype, name="out")(y)
        y = nn.RMSNorm(dtype=self.dtype, name="norm_mlp")(x)
        gate = nn.silu(nn.Dense(2 * WIDTH, use_bias=False, dtype=self.dtype, name="gate")(y))
        y = gate * nn.Dense(2 * WIDTH, use_bias=False, dtype=self.dtype, name="up")(y)
        return x + nn.Dense(WIDTH, use_bias=False, dtype=self.dtype, name="down")(y)


class Decoder(nn.Module):
    """A causal language model with tied embedding and partitioned parameters.

    `lift`: how its two blocks run: "jit", "scan" or "none".
    """

    lift: str
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, ids):
        init = nn.with_partitioning(nn.initializers.normal(0.02), ("vocabulary", "embed"))
        embed = nn.Embed(VOCABULARY, WIDTH, embedding_init=init, dtype=self.dtype, name="embed")
        x = embed(ids)
        mask = nn.make_causal_mask(ids, dtype=bool)
        if self.lift == "scan":
            x, _ = nn.scan(
                lambda block, x, mask: (block(x, mask), None),
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=nn.broadcast,
                length=2,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )(DecoderBlock(self.dtype, name="blocks"), x, mask)
        else:
            block = nn.jit(DecoderBlock) if self.lift == "jit" else DecoderBlock
            for layer in range(2):
                x = block(self.dtype, name=f"blocks_{layer}")(x, mask)
        x = nn.RMSNorm(dtype=self.dtype, name="norm")(x)
        return embed.attend(x).astype(jnp.float32)


class LSTM(nn.Module):
    """Two layers of Flax's fast cell, with its carries of zeros."""

    plain: bool = False

    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(VOCABULARY, WIDTH, name="embed")(ids)
        for layer in range(2):
            cell = nn.OptimizedLSTMCell(WIDTH, name=f"lstm_{layer}")
            if self.plain:
                carry = cell.initialize_carry(jax.random.key(0), x[:, 0].shape)
                steps = []
                for time in range(x.shape[1]):
                    carry, y = cell(carry, x[:, time])
                    steps.append(y)
                x = jnp.stack(steps, 1)
            else:
                x = nn.RNN(cell, name=f"rnn_{layer}")(x)
        return nn.Dense(VOCABULARY, name="logits")(x)


def with_uses_in_the_cell(rows: Any) -> Any:
    """A cell state c is also used in the cell, h = o tanh(c): dh/dc = o (1 - tanh(c)^2)."""
    for path in ("lstm_0", "lstm_1"):
        c, h = rows[f"{path}[0]"], rows[f"{path}[1]"]
        slope = h.values / np.tanh(c.values) * (1 - np.tanh(c.values) ** 2)
        rows[f"{path}[0]"] = c._replace(gradients=c.gradients + h.gradients * slope)
    return rows


class GRU(nn.Module):
    """A cell under nn.scan over time, as a stranger writes it, and a head on the last state."""

    plain: bool = False

    @nn.compact
    def __call__(self, series):
        cell = nn.GRUCell(WIDTH, name="cell")
        carry = jnp.zeros((len(series), WIDTH))
        if self.plain:
            for time in range(series.shape[1]):
                carry, _ = cell(carry, series[:, time])
        else:
            carry, _ = nn.scan(
                lambda cell, carry, x: cell(carry, x),
                variable_broadcast="params",
                split_rngs={"params": False},
                in_axes=1,
                out_axes=1,
            )(cell, carry, series)
        return nn.Dense(3, name="head")(carry)


class Experts(nn.Module):
    """A mixture of three experts with a sown balancing loss."""

    plain: bool = False

    @nn.compact
    def __call__(self, ids):
        x = nn.Embed(VOCABULARY, WIDTH, name="embed")(ids)
        weights = nn.softmax(nn.Dense(3, use_bias=False, name="router")(x))
        self.sow("losses", "balance", jnp.square(weights.mean((0, 1))).sum())
        if self.plain:
            outputs = jnp.stack([Feed(name=f"experts_{n}")(x) for n in range(3)])
        else:
            outputs = nn.vmap(
                Feed,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=None,
                axis_size=3,
            )(name="experts")(x)
        x = x + jnp.einsum("btn,nbtd->btd", weights, outputs)
        return nn.Dense(VOCABULARY, name="logits")(nn.LayerNorm(name="norm")(x))


def of_members(path: str) -> str:
    """`experts_1/wi` is `experts/wi[1]` of a vmap."""
    return re.sub(r"(experts|members)_(\d+)/(.*)", r"\1/\3[\2]", path)


IDS = tokens(BATCH, LENGTH, vocabulary=VOCABULARY)
NEXT = jnp.roll(IDS, -1, 1)


def model_of(model: nn.Module, **settings: Any) -> Foreign:
    return Foreign(model, IDS, NEXT, losses.cross_entropy, **settings)


MODELS = {
    "encoder and decoder": Foreign(
        EncoderDecoder(),
        {"inputs": IDS.at[::2, -2:].set(0), "targets": NEXT},
        NEXT,
        losses.cross_entropy,
    ),
    "decoder under jit": model_of(Decoder("jit"), twin=Decoder("none")),
    "decoder in bfloat16": model_of(
        Decoder("scan", jnp.bfloat16),
        twin=Decoder("none", jnp.bfloat16),
        unstack=unstacked("blocks", 2, "blocks_{}"),
        named=of_layers,
    ),
    "lstm": model_of(
        LSTM(), twin=LSTM(plain=True), over_time=True, finish=with_uses_in_the_cell, has_names=False
    ),
    "gru": Foreign(
        GRU(),
        normal(BATCH, LENGTH, 4),
        jnp.arange(BATCH) % 3,
        losses.cross_entropy,
        twin=GRU(plain=True),
        over_time=True,
    ),
    "experts": model_of(
        Experts(),
        twin=Experts(plain=True),
        unstack=unstacked("experts", 3, "experts_{}"),
        named=of_members,
        settings={"collections": ("batch_stats",)},  # and not the sown losses
    ),
}
