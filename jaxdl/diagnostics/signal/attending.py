"""How an attention spreads its weights over the keys."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Var
from jaxtyping import Array, Float

from jaxdl.diagnostics.signal.rows import Trace
from jaxdl.jaxprs import Segment
from jaxdl.tracing.sites import Site

ONE_KEY = 0.99
"""From this weight on a query attends to one key."""

FAR = 4.0
"""A mask puts a logit further below its query's largest than this many times any logit's size."""

UNDERFLOW = -float(np.log(np.finfo(np.float32).tiny))
"""A key this far below its query's largest, 87.3, has a weight of 0 in float32."""

MASKED = -9e3
"""Logits of queries without a key are -1e4 in half precision, -1e9 and less elsewhere, or -inf."""

WHOLE = -(2.0**24)
"""Below it float32 has no fractions, so no logit that a model computes in earnest lies there."""


class Attended(NamedTuple):
    r"""What one attention's weights and logits show.

    Attributes:
        largest_logit: the largest |logit| of a key that is not masked. NaN, as all that follows, if
            one of them is.
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

    A logit that all keys of a query share changes no weight, so masks are found by differences. A
    key is masked if its weight is exactly 0 and its logit is -inf, NaN, or further below the
    query's largest than `FAR` times L, where L is the largest |logit| of all keys with a weight,
    and at least `UNDERFLOW`. A query is masked as a whole if all its logits are below `MASKED`, and
    as far below the largest of another query, or below `WHOLE`.

    So a mask of -1000 is told from logits up to 160, and one of -1e4 from logits up to 1,600. What
    cannot be told apart: a smaller mask from keys that a query just does not look at, whose logits
    count then; a key without a weight that is FAR times L lower, from a masked one; and a query
    whose keys all have a mask above MASKED, from one that sees them all alike.

    Example:
        >>> logits = jnp.array([[3.0, 3.0], [50.0, 0.0]])
        >>> found = attended(jnp.array([[0.5, 0.5], [1.0, 0.0]]), logits, 1)
        >>> [round(each.item(), 3) for each in found]
        [50.0, 0.347, 0.5, 0.0, 0.5]
    """
    weights, logits = weights.astype(jnp.float32), logits.astype(jnp.float32)
    visible = _visible(weights, logits, axis)
    logs = jnp.log(jnp.where(weights > 0, weights, 1))
    # Rounded weights may sum to a little over 1, and one key has an entropy of 0, not -0.
    entropy = jnp.abs((weights * logs).sum(axis))
    keys = visible.sum(axis)
    several = keys > 1
    on_one = several & (weights.max(axis) >= ONE_KEY)
    largest = jnp.where(visible, jnp.abs(logits), 0).max()
    return Attended(
        largest_logit=largest,
        entropy=jnp.mean(entropy, where=visible.any(axis)),
        on_one_key=jnp.where(jnp.isfinite(largest), on_one.sum() / several.sum(), jnp.nan),
        least_entropy=jnp.where(several.any(), jnp.where(several, entropy, jnp.inf).min(), jnp.nan),
        normalized_entropy=jnp.mean(entropy / jnp.log(jnp.maximum(keys, 2)), where=several),
    )


class WeightsAndLogits(NamedTuple):
    """What an attention is measured from, together with others."""

    weights: Array
    logits: Array


def _visible(weights: Array, logits: Array, axis: int) -> Array:
    """Which keys each query sees; all of those whose weights are NaN."""
    weighed = weights > 0
    # What a mask hides may be NaN; a NaN that counts makes the query's weights NaN.
    logits = jnp.where(jnp.isnan(logits) & (weights == 0), -jnp.inf, logits)
    highest = logits.max(axis, keepdims=True)
    top = jnp.where(weighed, logits, -jnp.inf).max()
    no_key = (highest <= MASKED) & ((highest - top <= MASKED) | (highest <= WHOLE))
    size = jnp.where(weighed & ~no_key, jnp.abs(logits), 0).max()
    near = highest - logits <= FAR * jnp.maximum(size, UNDERFLOW)
    return ~no_key & ((weights != 0) | near)


def attended_at(
    site: Site, weights: Array, segment: Segment, before: Mapping[Var, Any]
) -> WeightsAndLogits | Attended | None:
    """What a site's value in a replay is measured from, see `OnSite`; None if it is no attention.

    Of a scan's layers the measures themselves: what they are taken from stays inside.
    """
    if site.logits is None:
        return None
    logits = before.get(site.logits)
    if logits is None:
        made = [site.logits]
        program = segment.program.replace(outvars=made)
        inner = replace(segment, gives=tuple(made), program=program)
        (logits,) = inner.run([before[variable] for variable in segment.reads])
    stop = jax.lax.stop_gradient
    found = WeightsAndLogits(stop(weights), stop(logits))
    is_alone = site.level.above is None and not site.mapped
    return found if is_alone else attended(*found, site.keys)


def layers_first(
    traced: Trace, found: Sequence[WeightsAndLogits | Attended | None]
) -> list[WeightsAndLogits | Attended | None]:
    """What was found in a replay, the measures of a scan's layers with a first axis of layers."""
    return [
        Attended(*(traced.by_layer(site, values) for values in each))
        if isinstance(each, Attended)
        else each
        for site, each in zip(traced.sites, found, strict=True)
    ]


def attended_by_row(traced: Trace, found: Sequence[WeightsAndLogits | Attended | None]) -> Attended:
    """By row what was found at its site, of all times together; NaN in rows without attention."""
    starts = np.cumsum([0, *traced.layers()])
    place = np.zeros(starts[-1], int)
    measured = [Attended(*[jnp.full(1, jnp.nan, jnp.float32)] * len(Attended._fields))]
    alike: dict[Any, list[int]] = {}
    count = 1
    for number, each in enumerate(found):
        rows = traced.layers()[number]
        if isinstance(each, WeightsAndLogits):
            kinds = [(part.shape, part.dtype) for part in each]
            alike.setdefault((*kinds, traced.sites[number].keys), []).append(number)
        elif each is not None:
            measured.append(_of_all_times(each, rows))
            place[starts[number] : starts[number + 1]] = range(count, count + rows)
            count += rows
    # A deep network has many attentions of one shape, which one program measures.
    for (*_, axis), numbers in alike.items():
        together = jax.tree.map(lambda *each: jnp.stack(each), *(found[each] for each in numbers))
        measured.append(jax.vmap(functools.partial(attended, axis=axis))(*together))
        place[starts[numbers]] = range(count, count + len(numbers))
        count += len(numbers)
    place = place[traced.order()]
    return Attended(*(jnp.concatenate(parts)[place] for parts in zip(*measured, strict=True)))


def _of_all_times(found: Attended, layers: int) -> Attended:
    def over_times(values: Array, reduce: Any) -> Array:
        together: Array = reduce(values.reshape(layers, -1), axis=1)
        return together

    largest = over_times(found.largest_logit, jnp.max)

    def of_seen(values: Array, reduce: Any) -> Array:
        """Times without a query that has a choice do not count, but those that diverged do."""
        return jnp.where(jnp.isfinite(largest), over_times(values, reduce), jnp.nan)

    return Attended(
        largest,
        over_times(found.entropy, jnp.mean),
        of_seen(found.on_one_key, jnp.nanmean),
        of_seen(found.least_entropy, jnp.nanmin),
        of_seen(found.normalized_entropy, jnp.nanmean),
    )
