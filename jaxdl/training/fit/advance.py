"""Take the steps of one call. If one is not finite, return to the last good state."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from jaxdl.training.fit.batches import Reader
from jaxdl.training.fit.history import SKIPPED
from jaxdl.training.fit.programs import Piece, Programs, joined
from jaxdl.training.state import TrainState, copied

# A signal is answered after the call in progress, so calls are short.
CALL_SECONDS = 2.0
FIRST_CALL_STEPS = 64


class Advanced(NamedTuple):
    """The result of some steps.

    Attributes:
        state: after the last good step.
        measured: the metrics of the good steps, on the host.
        bad: whether a step was not finite and ends the run. It is the one after the good steps. If
            every step was good when the call was repeated, there are as many as were asked for.
    """

    state: TrainState
    measured: dict[str, np.ndarray]
    bad: bool


def advance(
    programs: Programs,
    reader: Reader,
    state: TrainState,
    epoch: int,
    steps: range,
    *,
    looped: bool,
    skip: bool,
) -> Advanced:
    """Take these steps of an epoch. The state given is not overwritten.

    Arguments:
        programs: what to call.
        reader: where batches come from.
        looped: whether one compiled call takes many steps.
        skip: whether a step that is not finite is skipped (only the count of steps changes) or ends
            the run.

    The state before is kept until the result is known to be finite. If it is not, the steps are
    repeated from there one by one. A finite call is never repeated.
    """
    before, state, measured, finite = _attempt(programs, reader, state, epoch, steps, looped)
    if finite:
        return Advanced(state, _flagged(measured, [False] * len(steps), skip), bad=False)

    state = before
    rows: list[dict[str, np.ndarray]] = []
    skipped: list[bool] = []
    for step in steps:
        only = range(step, step + 1)
        good, state, measured, finite = _attempt(programs, reader, state, epoch, only, looped)
        if not finite and not skip:
            return Advanced(good, _concatenate(rows, measured), bad=True)
        if not finite:
            state = replace(good, step=good.step + 1)
        rows.append(measured)
        skipped.append(not finite)
    # No step was bad this time: the two attempts differ, so end the run, unless it skips.
    return Advanced(state, _flagged(_concatenate(rows, measured), skipped, skip), bad=not skip)


def next_limit(limit: int, taken: int, seconds: float) -> int:
    """The most steps of the next call, from the time of the last: about `CALL_SECONDS` each.

    Example:
        >>> next_limit(64, 64, 0.1), next_limit(64, 64, 5.0), next_limit(64, 10, 0.1)
        (128, 32, 64)
    """
    if taken == limit and seconds < CALL_SECONDS / 2:
        return 2 * limit
    return max(1, limit // 2) if seconds > 2 * CALL_SECONDS else limit


def _attempt(
    programs: Programs, reader: Reader, state: TrainState, epoch: int, steps: range, looped: bool
) -> tuple[TrainState, TrainState, dict[str, np.ndarray], bool]:
    """The state before and after these steps, their metrics, and whether all is finite."""
    # A single step overwrites its state. The caller's own stays: an error may need it.
    before, state = state, state if looped else copied(state)
    pieces: list[Piece] = []
    while steps:
        source, rows, batch = reader.read(epoch, steps)
        shared = programs.layout.divides(batch)
        if looped:
            state, values = programs.loops[shared](state, source, rows.start, rows.stop)
            pieces.append((values, slice(rows.start, rows.stop)))
        else:
            for row in rows:
                state, values = programs.singles[shared](state, source, row)
                pieces.append((values, None))
        del source  # free its batches before the next are made
        steps = steps[len(rows) :]
    flag = programs.became_nonfinite(before, state)
    measured = joined(pieces)
    return before, state, measured, bool(np.isfinite(measured["loss"]).all()) and not flag


def _flagged(
    measured: dict[str, np.ndarray], skipped: list[bool], skip: bool
) -> dict[str, np.ndarray]:
    return measured | {SKIPPED: np.array(skipped, np.float32)} if skip else measured


def _concatenate(
    rows: list[dict[str, np.ndarray]], like: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    return {
        name: np.concatenate([values[:0], *(measured[name] for measured in rows)])
        for name, values in like.items()
    }
