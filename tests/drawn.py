"""Variables of a model, drawn with NumPy: nothing is compiled for them."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np


def variables_of(model: nn.Module, inputs: jax.Array, seed: int = 0) -> dict[str, Any]:
    """Variables of the shapes that `model.init` gives.

    A kernel of fan-in n has a standard deviation of n^(-1/2), biases and means one of 0.1;
    scales and variances are uniform in (0.5, 1.5).
    """
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), inputs, train=False))
    draw = np.random.default_rng(seed)

    def values(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = path[-1].key
        if name in ("scale", "var"):
            drawn = draw.uniform(0.5, 1.5, leaf.shape)
        else:
            drawn = draw.normal(size=leaf.shape)
            drawn *= np.prod(leaf.shape[:-1]) ** -0.5 if leaf.ndim > 1 else 0.1
        return jnp.asarray(drawn, leaf.dtype)

    return jax.tree_util.tree_map_with_path(values, shapes)
