"""A tree worth a checkpoint, and whether it came back."""

from pathlib import Path
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.training import checkpoints
from jaxdl.training.checkpoints.identity import identify

EXTRA = {"epochs": [1, 2], "best": 0.1 + 0.2, "note": None}


def parts_of(step: int) -> dict[str, Any]:
    """Distinct for every step, and of several dtypes, ranks and kinds of key."""
    key = jax.random.key(step)
    state = {
        "kernel": jax.random.normal(key, (300, 40)),
        "half": jax.random.normal(key, (5,), jnp.bfloat16),
        "count": jnp.asarray(step, jnp.int32),
        "mask": jax.random.bernoulli(key, shape=(9,)),
        "key": key,
        "keys": jax.random.split(jax.random.key(step, impl="rbg"), 3),
        "none": jnp.zeros((0, 3)),
    }
    return {"state": state, "observers": ({"best": jnp.asarray(step / 3)}, ()), "nobody": ()}


def same_bits(left: Any, right: Any) -> None:
    chex.assert_trees_all_equal_shapes_and_dtypes(left, right)

    def data(x: jax.Array) -> np.ndarray:
        x = jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
        return np.ravel(np.asarray(x)).view(np.uint8)

    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(data(one), data(other))


def identity() -> dict[str, Any]:
    return identify(parts_of(0), config={"batch_size": 4})


def save_steps(folder: Path, steps: range) -> None:
    with checkpoints.open(folder, identity()) as store:
        for step in steps:
            store.save(step, parts_of(step), extra=EXTRA, lines=[line_of(step)])


def line_of(step: int) -> dict[str, Any]:
    return {"steps": {"loss": [step / 7, float(np.float32(0.1))]}}
