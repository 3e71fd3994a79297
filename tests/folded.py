"""Models with norms that are folded, and what a folded one is compared with."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.layers import BatchNorm
from jaxdl.layers.norm import apply_norm
from jaxdl.training import fold

VECTORS = jax.random.normal(jax.random.key(0), (6, 4))
KEY = jax.random.key(9)
IMAGES = jax.random.normal(jax.random.key(1), (3, 8, 8, 4))


class Own(nn.Module):
    """A model of one's own: what stands where is `forward`, which is told of norms by `normed`."""

    forward: Any
    norm: Any = BatchNorm

    @nn.compact
    def __call__(self, x, *, train):
        def normed(x, name="norm", **settings):
            if self.norm is None:
                return x
            return apply_norm(self.norm(name=name, **settings), x, train=train)

        # In each model the bias is left out before a norm.
        return self.forward(x, normed, functools.partial(nn.Dense, use_bias=self.norm is None))


def disturbed(model, x):
    """Variables of which none has the value of `init`."""
    variables = model.init(jax.random.key(2), x, train=False)
    leaves, structure = jax.tree.flatten(variables)
    keys = jax.random.split(jax.random.key(3), len(leaves))
    moved = [
        leaf + 0.3 * jax.random.uniform(key, leaf.shape, leaf.dtype)
        for leaf, key in zip(leaves, keys, strict=True)
    ]
    return jax.tree.unflatten(structure, moved)


def check_is_same(model, x, inputs=None):
    variables = disturbed(model, x)
    folded, without = fold(model, variables, inputs)
    assert set(without) == {"params"}
    expected = model.apply(variables, x, train=False)
    found = folded.apply(without, x, train=False)
    assert found.dtype == expected.dtype
    # The parameters are near 1/2, so no sum cancels by much: sums of up to 72 float32 products,
    # each way, in at most two layers; 2^-24 is the roundoff.
    scale = float(jnp.abs(expected).max())
    np.testing.assert_allclose(found, expected, atol=4 * 72 * 2.0**-24 * scale)
    # Without the norms the model is another one, so that the comparison says something.
    plain = {"params": jax.tree.map(jnp.ones_like, without["params"])}
    assert not np.allclose(folded.apply(plain, x, train=False), expected, rtol=0.1)


def convolution(**settings):
    def forward(x, normed, dense):
        return normed(nn.Conv(8, (3, 3), name="first", **settings)(x))

    return forward


def transposed(**settings):
    def forward(x, normed, dense):
        return normed(nn.ConvTranspose(6, (3, 3), name="first", **settings)(x))

    return forward


class Lifted(nn.Module):
    """Blocks that are stacked, or in a branch."""

    kind: str
    norm: Any = BatchNorm

    @nn.compact
    def __call__(self, x, *, train):
        class Block(nn.Module):
            norm: Any

            @nn.compact
            def __call__(self, x, _=None):
                x = nn.Dense(4, use_bias=self.norm is None, name="dense")(x)
                return (x if self.norm is None else self.norm(name="norm")(x, train=False)), None

        stacked = {"params": 0, "batch_stats": 0}
        if self.kind == "scan":
            lifted = nn.scan(Block, stacked, split_rngs={"params": True}, length=2)
            return lifted(self.norm, name="blocks")(x, None)[0]
        if self.kind == "vmap":
            lifted = nn.vmap(
                Block, variable_axes=stacked, split_rngs={"params": True}, axis_size=2, in_axes=None
            )
            return lifted(self.norm, name="blocks")(x)[0]
        if self.kind == "layers":  # several layers, and one norm for all
            lifted = nn.vmap(
                Block, variable_axes={"params": 0, "batch_stats": None},
                split_rngs={"params": True}, axis_size=2, in_axes=None,
            )  # fmt: skip
            return lifted(self.norm, name="blocks")(x)[0]
        if self.kind == "examples":  # one block, called for each example
            lifted = nn.vmap(
                Block, variable_axes={"params": None, "batch_stats": None},
                split_rngs={"params": False},
            )  # fmt: skip
            return lifted(self.norm, name="blocks")(x)[0]
        made = Block(self.norm, name="blocks")
        if self.is_initializing():
            return made(x)[0]
        return nn.cond(x[0, 0] > 0, lambda m, x: m(x)[0], lambda m, x: x, made, x)
