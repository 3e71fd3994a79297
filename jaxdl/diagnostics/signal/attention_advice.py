"""Attentions whose logits grow, or whose queries attend to one key alone."""

import numpy as np

from jaxdl.diagnostics.signal.findings import Advice
from jaxdl.diagnostics.signal.propagation import Propagation

# Nine of ten queries attend to one key alone: the weights pass no gradient back to the logits.
# Trained heads may do so; at the start, or in all heads at once, it ends learning.
ONE_KEY_FRACTION = 0.9
# From this difference of two logits on, the smaller weight is 0 in float32: it is below the
# smallest normal number, exp(-87.3).
LARGE_LOGIT = -float(np.log(np.finfo(np.float32).tiny))
# Ten times the logits make weights of 1 : 1000 from weights of 1 : 2.
LOGIT_GROWTH = 10.0
# The weights must show it: what all logits of a query have in common changes none of them.
ENTROPY_LEFT = 0.5


def one_hot(measured: Propagation, before: Propagation | None) -> Advice | None:
    """The advice if most queries of an attention attend to one key alone."""
    if measured.on_one_key is None:
        return None
    share = np.nan_to_num(np.asarray(measured.on_one_key))
    row = int(np.argmax(share))
    if share[row] < ONE_KEY_FRACTION:
        return None
    name, others = measured.names[row], int(np.sum(share >= ONE_KEY_FRACTION)) - 1
    also = f" ({others} other attentions do so too)" if others else ""
    earlier = None if before is None else before.on_one_key
    grew = before is not None and _growth(measured, before)[row] >= LOGIT_GROWTH
    if earlier is not None and (earlier[row] < ONE_KEY_FRACTION or grew):
        also += f", {earlier[row]:.0%} before"
        change = against_growth(measured, row)
    elif is_normalized(measured, row):
        change = "start the scales of its norms of queries and keys smaller"
    else:
        change = (
            "divide the logits by the root of the head's width, normalise queries and keys, or "
            "start their kernels smaller"
        )
    return Advice(
        "one-hot attention",
        name,
        float(share[row]),
        f"{share[row]:.0%} of the queries in {name} attend to one key alone{also}, with logits up "
        f"to {np.asarray(measured.largest_logit)[row]:.1e}: {change}.",
    )


def growing_logits(measured: Propagation, before: Propagation | None) -> Advice | None:
    """The advice if the logits of an attention grew so large that its weights lost their spread."""
    if before is None or measured.largest_logit is None or before.largest_logit is None:
        return None
    now, then = (np.asarray(each.largest_logit, np.float64) for each in (measured, before))
    left, had = (np.asarray(each.normalized_entropy, np.float64) for each in (measured, before))
    growth = _growth(measured, before)
    grew = (now >= LARGE_LOGIT) & (growth >= LOGIT_GROWTH) & (left < ENTROPY_LEFT * had)
    if not grew.any():
        return None
    row = int(np.argmax(np.where(grew, growth, 0)))
    name, others = measured.names[row], int(grew.sum()) - 1
    also = f" ({others} other attentions' grew so too)" if others else ""
    return Advice(
        "growing logits",
        name,
        float(growth[row]),
        f"The largest logit in {name} grew from {then[row]:.2g} to {now[row]:.2g}{also}, and the "
        f"entropy of its weights fell from {100 * had[row]:.2g} % to {100 * left[row]:.2g} % of "
        f"that of even weights: {against_growth(measured, row)}.",
    )


def _growth(measured: Propagation, before: Propagation) -> np.ndarray:
    """By row, the factor of the largest logit."""
    now, then = (np.asarray(each.largest_logit, np.float64) for each in (measured, before))
    with np.errstate(divide="ignore", invalid="ignore"):
        growth: np.ndarray = now / then
    return growth


def against_growth(measured: Propagation, row: int) -> str:
    """What to change where training made the logits of an attention large."""
    slower = "lower the learning rate or warm it up longer, and go on from a state before it"
    if is_normalized(measured, row):
        return f"the scales of its norms of queries and keys grew, so {slower}"
    return f"normalise queries and keys, or {slower}"


def is_normalized(measured: Propagation, row: int) -> bool:
    """Whether the queries and keys of an attention come from norms."""
    feeds = [feed for feed in measured.feeds[row] if feed >= 0]
    return bool(feeds) and all("Norm" in measured.kinds[feed] for feed in feeds)
