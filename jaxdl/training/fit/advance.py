"""Take steps of an epoch. If one is not finite, return to the last good state."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.training.fit.batches import Feed, Rows
from jaxdl.training.fit.history import SKIPPED
from jaxdl.training.fit.programs import Piece, Programs, joined
from jaxdl.training.state import TrainState


class Advanced(NamedTuple):
    """The result of some steps.

    Attributes:
        state: after the last good step.
        steps: the metrics of the good steps, on the host.
        bad: the step of the epoch that was not finite and ends the run; None if there was none.
    """

    state: TrainState
    steps: dict[str, np.ndarray]
    bad: int | None


Advance = Callable[[TrainState, int, range], Advanced]
"""(state, epoch, steps of the epoch) -> their result. The state may be overwritten."""


def make_advance(programs: Programs, feed: Feed, *, looped: bool, skip: bool) -> Advance:
    """Make the function that takes steps in compiled calls.

    Arguments:
        programs: what to call.
        feed: where batches come from. Consecutive steps read on; any other step reopens it.
        looped: whether one call takes many steps.
        skip: whether a step that is not finite is skipped (only the count of steps changes) or ends
            the run.

    The state before a call is kept until the result is known to be finite. If it is not, the call
    is repeated from there step by step. A finite call is never repeated.
    """
    reading: Iterator[Rows] = iter(())
    current: Rows | None = None
    position: tuple[int, int] | None = None
    keeps = looped

    def run(state: TrainState, epoch: int, steps: range) -> tuple[TrainState, list[Piece]]:
        nonlocal reading, current, position
        if position != (epoch, steps.start):
            _close(reading)
            reading, current = feed(epoch, steps.start), None
        pieces: list[Piece] = []
        step = steps.start
        while step < steps.stop:
            if current is None or step >= current.steps.stop:
                current = None  # free its batches before the next are made
                current = next(reading)
            first, stop = current.steps.start, min(steps.stop, current.steps.stop)
            rows = range(step - first, stop - first)
            state, more = programs.run(
                state, current.source, rows, batch=current.batch, looped=looped
            )
            pieces += more
            step = stop
        position = (epoch, step)
        return state, pieces

    def replay(state: TrainState, epoch: int, steps: range) -> Advanced:
        """Take the same steps one by one; skip a step that is not finite, or end there."""
        taken: list[dict[str, np.ndarray]] = []
        skipped: list[bool] = []
        for step in steps:
            good = state if keeps else _copy(state)
            state, pieces = run(state, epoch, range(step, step + 1))
            measured = joined(pieces)
            bad = not (np.isfinite(measured["loss"]).all() and stays_finite(good, state))
            if bad and not skip:
                return Advanced(good, _concatenate(taken, measured), step)
            if bad:
                state = replace(good, step=good.step + 1)
            taken.append(measured)
            skipped.append(bad)
        # No step was bad this time: the two attempts differ, so end the run, unless it skips.
        return Advanced(
            state, flagged(_concatenate(taken, measured), skipped), None if skip else steps.stop
        )

    def stays_finite(before: TrainState, after: TrainState) -> bool:
        return not programs.became_nonfinite(before, after)

    def flagged(measured: dict[str, np.ndarray], skipped: list[bool]) -> dict[str, np.ndarray]:
        return measured | {SKIPPED: np.array(skipped, np.float32)} if skip else measured

    def advance(state: TrainState, epoch: int, steps: range) -> Advanced:
        before = state if keeps else _copy(state)
        state, pieces = run(state, epoch, steps)
        flag = programs.became_nonfinite(before, state)
        measured = joined(pieces)
        if np.isfinite(measured["loss"]).all() and not flag:
            return Advanced(state, flagged(measured, [False] * len(steps)), None)
        return replay(before, epoch, steps)

    return advance


def _copy(state: TrainState) -> TrainState:
    copied: TrainState = jax.tree.map(jnp.copy, state)
    return copied


def _concatenate(
    taken: list[dict[str, np.ndarray]], like: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    return {
        name: np.concatenate([values[:0], *(measured[name] for measured in taken)])
        for name, values in like.items()
    }


def _close(rows: Iterator[Rows]) -> None:
    close = getattr(rows, "close", None)
    if close is not None:
        close()
