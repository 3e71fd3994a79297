"""What goes into a transformer: tokens or vectors, their positions, and who sees whom."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jaxdl.layers.inputs import floating


def sinusoidal_positions(length: int, features: int) -> Float[Array, "length features"]:
    r"""Waves of wavelengths from 2 pi to 20,000 pi, which tell a position without parameters.

    $$P_{i, 2j} = \sin(i / 10000^{2j / \text{features}}), \qquad
      P_{i, 2j+1} = \cos(i / 10000^{2j / \text{features}})$$

    Example:
        >>> print(sinusoidal_positions(2, 4).round(3))
        [[0.    1.    0.    1.   ]
         [0.841 0.54  0.01  1.   ]]

    Source: Vaswani et al. (2017), section 3.5.
    """
    pair = np.arange(features) // 2
    angle = np.arange(length)[:, None] / 10_000 ** (2 * pair / features)
    return jnp.asarray(np.where(np.arange(features) % 2, np.cos(angle), np.sin(angle)), jnp.float32)


def as_tokens(x: Any) -> Int[Array, "batch length"]:
    """The tokens as int32; refuse what are none."""
    tokens: Array = jnp.asarray(x)
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(
            f"Transformer tokens must be integers, got {tokens.dtype}; pass int32 (images in uint8 "
            "become floats in `fit`), or vocabulary=None for vectors"
        )
    if tokens.ndim != 2:
        raise ValueError(
            f"Transformer tokens must have the axes (batch, length), got shape {tokens.shape}; "
            "a single sequence is x[None]"
        )
    return tokens.astype(jnp.int32)


def as_vectors(x: Any, features: int) -> Float[Array, "batch length features"]:
    """The inputs in a floating dtype; refuse another width."""
    vectors = floating("Transformer", x)
    if vectors.ndim != 3 or vectors.shape[-1] != features:
        raise ValueError(
            f"Transformer inputs must have the shape (batch, length, {features}), got "
            f"{vectors.shape}; pass features={vectors.shape[-1] if vectors.ndim else 1} or vectors "
            "of that width, or a vocabulary for tokens"
        )
    return vectors


def as_padding_mask(mask: Any, shape: tuple[Any, Any]) -> Bool[Array, "batch length"]:
    """The mask of what counts; refuse another shape, and what holds no booleans."""
    real: Array = jnp.asarray(mask)
    if real.dtype != jnp.bool_:
        raise TypeError(
            f"mask must hold booleans, False for padding, got {real.dtype}; pass mask.astype(bool)"
        )
    if real.shape != shape:
        raise ValueError(
            f"mask must have the shape (batch, length) of the inputs, {shape}, got {real.shape}; "
            "pass True for each token that counts"
        )
    return real


def who_sees(
    real: Bool[Array, "batch length"] | None, length: int, *, causal: bool
) -> Bool[Array, "..."] | None:
    """Who sees whom, (batch or 1, 1, queries or 1, keys); None if all see all.

    Example:
        >>> who_sees(None, 2, causal=True)[0, 0].tolist()
        [[True, False], [True, True]]
    """
    earlier = jnp.tri(length, dtype=bool)[None, None] if causal else None
    if real is None:
        return earlier
    keys = real[:, None, None, :]
    return keys if earlier is None else keys & earlier
