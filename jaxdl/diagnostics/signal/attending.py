"""How an attention spreads its weights over the keys."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Var
from jaxtyping import Array, Float

from jaxdl.diagnostics.signal.rows import Trace
from jaxdl.jaxprs import Segment
from jaxdl.tracing.sites import Site

ONE_KEY = 0.99
"""From this weight on a query attends to one key."""

MASKED = -9e3
"""Logits of masked keys are -1e4 in half precision, -1e9 and less elsewhere, or -inf."""


class Attended(NamedTuple):
    r"""What one attention's weights and logits show.

    Attributes:
        largest_logit: the largest |logit| of a key that is not masked.
        entropy: the mean of -sum_k w_k log w_k over the queries that see a key, in nats: 0 on one
            key, log n on n keys alike.
        on_one_key: the share of queries with a weight of `ONE_KEY` or more on one key, among those
            that see two keys or more; NaN where there are none, as the next two.
        least_entropy: the least entropy of a query that sees two keys or more, in nats.
        normalized_entropy: the mean over these queries of the entropy over log n, where n is the
            number of keys that the query sees: from 0, one key, to 1, all alike.
    """

    largest_logit: Float[Array, "..."]
    entropy: Float[Array, "..."]
    on_one_key: Float[Array, "..."]
    least_entropy: Float[Array, "..."]
    normalized_entropy: Float[Array, "..."]


def attended(weights: Array, logits: Array, axis: int) -> Attended:
    """The measures of softmax(logits) along the axis of the keys.

    Example:
        >>> logits = jnp.array([[3.0, 3.0], [50.0, 0.0]])
        >>> found = attended(jnp.array([[0.5, 0.5], [1.0, 0.0]]), logits, 1)
        >>> [round(each.item(), 3) for each in found]
        [50.0, 0.347, 0.5, 0.0, 0.5]
    """
    weights, logits = weights.astype(jnp.float32), logits.astype(jnp.float32)
    visible = logits > MASKED
    # A weight of a key that looks masked counts where the query sees another: a huge logit.
    visible |= (weights > 0) & visible.any(axis, keepdims=True)
    logs = jnp.log(jnp.where(weights > 0, weights, 1))
    # Rounded weights may sum to a little over 1, and one key has an entropy of 0, not -0.
    entropy = jnp.abs((weights * logs).sum(axis))
    keys = visible.sum(axis)
    several = keys > 1
    on_one = several & (weights.max(axis) >= ONE_KEY)
    return Attended(
        largest_logit=jnp.where(visible, jnp.abs(logits), 0).max(),
        entropy=jnp.mean(entropy, where=visible.any(axis)),
        on_one_key=on_one.sum() / several.sum(),
        least_entropy=jnp.where(several.any(), jnp.where(several, entropy, jnp.inf).min(), jnp.nan),
        normalized_entropy=jnp.mean(entropy / jnp.log(jnp.maximum(keys, 2)), where=several),
    )


def attended_at(
    site: Site, weights: Array, segment: Segment, before: Mapping[Var, Any]
) -> Attended | None:
    """The measures of a site's value in a replay, see `OnSite`; None if it is no attention."""
    if site.logits is None:
        return None
    logits = before.get(site.logits)
    if logits is None:
        made = [site.logits]
        program = segment.program.replace(outvars=made)
        inner = replace(segment, gives=tuple(made), program=program)
        (logits,) = inner.run([before[variable] for variable in segment.reads])
    stop = jax.lax.stop_gradient
    return attended(stop(weights), stop(logits), site.keys)


def attended_by_row(traced: Trace, found: Sequence[Attended | None]) -> Attended:
    """By row what was found at its site, of all times together; NaN in rows without attention."""

    def by_row(name: str, reduce: Any) -> Array:
        of_sites = [
            jnp.full(count, jnp.nan, jnp.float32)
            if each is None
            else reduce(getattr(each, name).reshape(count, -1), axis=1)
            for each, count in zip(found, traced.layers(), strict=True)
        ]
        return traced.in_order(jnp.concatenate(of_sites))

    return Attended(
        by_row("largest_logit", jnp.max),
        by_row("entropy", jnp.mean),
        by_row("on_one_key", jnp.nanmean),
        by_row("least_entropy", jnp.nanmin),
        by_row("normalized_entropy", jnp.nanmean),
    )
