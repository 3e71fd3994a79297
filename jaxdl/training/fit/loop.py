"""The loop of a run: take steps, record the metrics, tell the observers, save."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.training.fit.advance import Advance, Advanced
from jaxdl.training.fit.batches import Plan
from jaxdl.training.fit.history import EpochMeasurements, History, epoch_means, join
from jaxdl.training.fit.layouts import any_process
from jaxdl.training.fit.nonfinite import NonFiniteError
from jaxdl.training.fit.observing import Event, Observer, Setup, notify
from jaxdl.training.fit.progress import Bar
from jaxdl.training.fit.signals import exit_status
from jaxdl.training.state import TrainState

# A signal is answered after the call in progress, so calls are short.
CALL_SECONDS = 2.0
FIRST_CALL_STEPS = 64


@dataclass(frozen=True)
class Moment:
    """A run between two calls: all that it needs to go on, and its measurements.

    Attributes:
        step: the updates made. The state's step is smaller if a stopped run returned to an older
            state.
        state: the `TrainState`.
        memories: one for each observer.
        epochs: the measurements of the epochs that ended.
        steps: the metrics of the steps since the last epoch's end.
        seconds: the time that those steps took.
        stopped: why the run ended early; None if it did not.
    """

    step: int
    state: TrainState
    memories: tuple[Any, ...] = ()
    epochs: tuple[EpochMeasurements, ...] = ()
    steps: Mapping[str, np.ndarray] = field(default_factory=dict)
    seconds: float = 0.0
    stopped: str | None = None

    @property
    def history(self) -> History:
        """All measurements so far."""
        return join(self.epochs, self.steps)


@dataclass(frozen=True)
class Setting:
    """The fixed parts of a run.

    Attributes:
        setup: what observers are told of the run.
        plan: the steps of an epoch.
        advance: (state, epoch, steps of the epoch) -> the result of these steps.
        validate: (variables) -> the validation means; empty without a validation split.
        evaluate: (variables, split) -> the means over a split.
        diagnose: (state, epoch, step of the epoch) -> the first quantity that is not finite.
        became_nonfinite: (state before, state after) -> whether a number stopped being finite.
        replicate: copies a state to the run's devices.
        observers: they are told of epochs' ends and of checkpoints.
        epochs: the argument of `fit`.
        end: the step at which the run ends.
        steps_per_call: the most steps in a call; None to choose by time.
        checkpoint_every: steps between checkpoints; None to save at epochs' ends.
        save: saves a moment; None without a folder.
        wait: returns when the last save is on disk.
        received: () -> the signal that came, or 0.
        stop_on_nonfinite: whether to stop instead of raising.
        result: (moment) -> the run's `Result`.
        bar: updates the progress bar.
    """

    setup: Setup
    plan: Plan
    advance: Advance
    validate: Callable[[Any], dict[str, float]]
    evaluate: Callable[[Any, str], dict[str, float]]
    diagnose: Callable[[TrainState, int, int], str]
    became_nonfinite: Callable[[TrainState, TrainState], Any]
    replicate: Callable[[Any], Any]
    observers: Sequence[Observer]
    epochs: int
    end: int
    steps_per_call: int | None
    checkpoint_every: int | None
    save: Callable[[Moment], None] | None
    wait: Callable[[], None]
    received: Callable[[], int]
    stop_on_nonfinite: bool
    result: Callable[[Moment], Any]
    bar: Bar


def run_to_end(setting: Setting, moment: Moment) -> Moment:
    """Run from a moment until the last epoch, an observer, a fault or a signal ends the run.

    Raises:
        NonFiniteError: a step was not finite, and `stop_on_nonfinite` is false.
        SystemExit: a signal came; the moment has been saved.
        Exception: an observer raised it; the moment has been saved.
    """
    per_epoch = len(setting.plan.sizes)
    saved = -1
    limit = setting.steps_per_call or (FIRST_CALL_STEPS if jax.process_count() == 1 else per_epoch)

    def save(moment: Moment) -> None:
        nonlocal saved
        if setting.save is not None:
            setting.save(moment)
            saved = moment.step

    def saved_for_good(moment: Moment) -> Moment:
        if saved != moment.step:
            save(moment)
        setting.wait()
        return moment

    while moment.step < setting.end and moment.stopped is None:
        epoch, at = divmod(moment.step, per_epoch)
        ahead = min(limit, per_epoch - at, _until_checkpoint(setting, moment.step) or limit)
        started = time.perf_counter()
        advanced = setting.advance(moment.state, epoch, range(at, at + ahead))
        seconds = time.perf_counter() - started
        if setting.steps_per_call is None and jax.process_count() == 1:
            limit = _next_limit(limit, ahead, seconds)
        moment = _extended(moment, advanced, seconds)
        if advanced.bad is not None:
            moment = _not_finite(setting, moment, epoch, advanced.bad, saved_for_good)
            break
        ended = moment.step % per_epoch == 0
        every = setting.checkpoint_every
        checkpoint = every is not None and moment.step % every == 0
        sizes = setting.plan.sizes[at : at + ahead]
        if ended:
            moment = _epoch_closed(setting, moment)
        setting.bar(
            sum(sizes), moment.epochs[-1].train if ended else epoch_means(advanced.steps, sizes)
        )
        if ended or checkpoint:
            moment = _tell_observers(setting, moment, ended, saved_for_good)
        if checkpoint or (ended and every is None):
            save(moment)
        signal = any_process(setting.received()) if setting.save is not None else 0
        if signal:
            saved_for_good(moment)
            raise SystemExit(exit_status(signal))
    return saved_for_good(moment)


def _until_checkpoint(setting: Setting, step: int) -> int | None:
    every = setting.checkpoint_every
    return None if every is None else every - step % every


def _next_limit(limit: int, taken: int, seconds: float) -> int:
    if taken == limit and seconds < CALL_SECONDS / 2:
        return 2 * limit
    return max(1, limit // 2) if seconds > 2 * CALL_SECONDS else limit


def _extended(moment: Moment, advanced: Advanced, seconds: float) -> Moment:
    before = moment.steps or {name: values[:0] for name, values in advanced.steps.items()}
    taken = len(advanced.steps["loss"])
    return replace(
        moment,
        step=moment.step + taken,
        state=advanced.state,
        steps={
            name: np.concatenate([before[name], values]) for name, values in advanced.steps.items()
        },
        seconds=moment.seconds + seconds,
    )


def _epoch_closed(setting: Setting, moment: Moment) -> Moment:
    # A run that began inside an epoch has only the epoch's last steps.
    sizes = setting.plan.sizes[-len(moment.steps["loss"]) :]
    measured = EpochMeasurements(
        steps=moment.steps,
        train=epoch_means(moment.steps, sizes),
        validation=setting.validate(moment.state.evaluated),
        seconds=moment.seconds,
    )
    return replace(moment, epochs=(*moment.epochs, measured), steps={}, seconds=0.0)


def _tell_observers(
    setting: Setting, moment: Moment, ended: bool, saved_for_good: Callable[[Moment], Moment]
) -> Moment:
    """Tell the observers, and do what they ask for."""
    state = moment.state
    event = Event(
        step=moment.step,
        steps=setting.end,
        epoch=len(moment.epochs),
        epochs=setting.epochs,
        epoch_ended=ended,
        state=state,
        measured=moment.epochs[-1] if ended else None,
        measurements=moment.epochs,
        evaluate=lambda split: setting.evaluate(state.evaluated, split),
        setup=setting.setup,
    )
    said = notify(setting.observers, moment.memories, event)
    after = replace(moment, memories=said.memories, stopped=said.stop)
    if said.state is not None:
        given = _checked_state(setting, moment, said.state)
        # The position in the data stays, even if the observer returns an older state.
        step = given.step if said.stop is not None else jnp.asarray(moment.step, jnp.int32)
        after = replace(after, state=setting.replicate(replace(given, step=step)))
    if said.errors:
        saved_for_good(after)
        error = (
            said.errors[0]
            if len(said.errors) == 1
            else ExceptionGroup(f"observers at step {moment.step}", list(said.errors))
        )
        error.result = setting.result(after)  # type: ignore[attr-defined]
        raise error
    return after


def _checked_state(setting: Setting, moment: Moment, state: TrainState) -> TrainState:
    def kinds(tree: TrainState) -> list[Any]:
        return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]

    structures = [str(jax.tree.structure(tree)) for tree in (state, moment.state)]
    if structures[0] != structures[1] or kinds(state) != kinds(moment.state):
        raise ValueError(
            "the state of a Change must have the run's structure, shapes and dtypes, got another; "
            "make it from event.state.replace(...)"
        )
    if setting.became_nonfinite(moment.state, state):
        raise ValueError(
            "the state of a Change must be finite, got NaN or infinity; return no state"
        )
    return state


def _not_finite(
    setting: Setting,
    moment: Moment,
    epoch: int,
    bad: int,
    saved_for_good: Callable[[Moment], Moment],
) -> Moment:
    """End the run at the moment before a step that is not finite."""
    if moment.step % len(setting.plan.sizes) == bad:
        quantity = setting.diagnose(moment.state, epoch, bad)
    else:
        quantity = "a number that was finite when computed again"
    error = NonFiniteError(moment.step, quantity)
    moment = replace(moment, stopped=f"step {moment.step}: {quantity} was not finite")
    if setting.stop_on_nonfinite:
        return moment
    saved_for_good(replace(moment, stopped=None))
    error.result = setting.result(moment)
    raise error
