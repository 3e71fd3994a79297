"""How an attention spreads its weights over the keys."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

ONE_KEY = 0.99
"""From this weight on a query attends to one key."""

MASKED = -9e3
"""Logits of masked keys are -1e4 in half precision, -1e9 and less elsewhere, or -inf."""


class Attended(NamedTuple):
    r"""What one attention's weights and logits show.

    Attributes:
        largest_logit: the largest |logit| of a key that is not masked.
        entropy: the mean over the queries of -sum_k w_k log w_k, in nats: 0 on one key, log n on n
            keys alike.
        on_one_key: the share of queries with a weight of `ONE_KEY` or more on one key, among those
            that see two keys or more; NaN where there are none.
    """

    largest_logit: Float[Array, "..."]
    entropy: Float[Array, "..."]
    on_one_key: Float[Array, "..."]


def attended(weights: Array, logits: Array, axis: int) -> Attended:
    """The measures of softmax(logits) along the axis of the keys.

    Example:
        >>> logits = jnp.array([[3.0, 3.0], [50.0, 0.0]])
        >>> found = attended(jnp.array([[0.5, 0.5], [1.0, 0.0]]), logits, 1)
        >>> [round(each.item(), 3) for each in found]
        [50.0, 0.347, 0.5]
    """
    weights, logits = weights.astype(jnp.float32), logits.astype(jnp.float32)
    visible = (weights > 0) | (logits > MASKED)
    logs = jnp.log(jnp.where(weights > 0, weights, 1))
    several = visible.sum(axis) > 1
    on_one = several & (weights.max(axis) >= ONE_KEY)
    return Attended(
        largest_logit=jnp.where(visible, jnp.abs(logits), 0).max(),
        entropy=-(weights * logs).sum(axis).mean(),
        on_one_key=on_one.sum() / several.sum(),
    )
