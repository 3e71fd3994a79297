"""What a run tells its observers, what they remember, and what they may ask for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxdl.data.types import Dataset
from jaxdl.training.fit.history import EpochMeasurements, History, join
from jaxdl.training.fit.measuring import Evaluation, split_of
from jaxdl.training.fit.moment import Moment
from jaxdl.training.fit.programs import Programs
from jaxdl.training.state import TrainState
from jaxdl.training.task import Task


@dataclass(frozen=True, eq=False)
class Setup:
    """What does not change while a run lasts.

    Attributes:
        task: the model, its loss and metrics, and how it is called.
        dataset: the data that `fit` was given.
        optimizer: the gradient transformation.
        config: the settings of `fit` that can be written down, e.g. {"epochs": 5}.
    """

    task: Task
    dataset: Dataset
    optimizer: optax.GradientTransformation
    config: Mapping[str, Any] = field(default_factory=dict)


Evaluate = Callable[[Literal["train", "validation", "test"]], dict[str, float]]
"""(split) -> the means of loss and metrics, with the current state."""


@dataclass(frozen=True, eq=False)
class Event:
    """What an observer is given: where the run stands, between two compiled calls.

    Attributes:
        step: updates made, `int(state.step)`.
        steps: the step at which the run ends, if nothing stops it.
        epoch: epochs finished, those before a resume included; 1 at the first epoch's end.
        epochs: the argument of `fit`.
        epoch_ended: whether an epoch ends here; False at a position inside one.
        state: the current state. The next call may overwrite its arrays: copy what you keep.
        measured: the measurements of the epoch that ends here; None inside an epoch.
        measurements: the measurements of all finished epochs of the run, this one included.
        evaluate: (split) -> the means over a split, with this state.
        setup: task, data, optimizer: the fixed parts.
    """

    step: int
    steps: int
    epoch: int
    epochs: int
    epoch_ended: bool
    state: TrainState
    measured: EpochMeasurements | None
    measurements: Sequence[EpochMeasurements]
    evaluate: Evaluate
    setup: Setup

    @property
    def history(self) -> History:
        """The history of the finished epochs."""
        return join(self.measurements)

    def __repr__(self) -> str:
        place = f"epoch {self.epoch} of {self.epochs}, step {self.step:,} of {self.steps:,}"
        return f"Event({place}, measured={self.measured!r})"


@dataclass(frozen=True, eq=False)
class Change:
    """What an observer may return: another state to go on from, or a reason to stop.

    Attributes:
        state: the state to go on from, or to end with.
        stop: the reason to end the run here.
    """

    state: TrainState | None = None
    stop: str | None = None


def _nothing(state: Any) -> tuple[()]:
    return ()


def _done() -> None:
    return None


def _anything(setup: Setup) -> None:
    return None


@dataclass(frozen=True)
class Observer:
    """An observer with a memory: `observe` takes the memory and returns the new one, as in optax.

    Attributes:
        observe: (event, memory) -> (memory, change or None).
        init: (state) -> memory, a pytree of arrays whose structure, shapes and dtypes never change.
            `fit` stores it in every checkpoint, so a resumed run continues as if never killed.
            `init` touches no file, because a resumed run calls it too.
        check: refuses a run that the observer cannot serve, before anything is compiled.
        close: called once when the run ends, also after an error.
        name: what it is, with its settings. A run that goes on from a checkpoint must have the same
            names in the same order. By default it is the name of `observe`.

    Example:
        >>> import jax.numpy as jnp
        >>> count = Observer(lambda event, seen: (seen + 1, None), lambda state: jnp.zeros(()))
        >>> count.observe(None, count.init(None))[0].item()
        1.0
    """

    observe: Callable[[Event, Any], tuple[Any, Change | None]]
    init: Callable[[Any], Any] = _nothing
    check: Callable[[Setup], None] = _anything
    close: Callable[[], None] = _done
    name: str = ""


def as_observer(observer: Observer | Callable[[Event], Change | None]) -> Observer:
    """Make an observer of a function of the event, to be called at the end of each epoch.

    Raises:
        TypeError: neither an observer nor a function.

    Example:
        >>> as_observer(lambda event: Change(stop="seen enough")).init(None)
        ()
    """
    if isinstance(observer, Observer):
        return observer
    if not callable(observer):
        raise TypeError(
            f"an observer must be an Observer or a function of an Event, got {observer!r}; "
            "call the factory, e.g. observers.early_stopping(patience=3)"
        )

    def observe(event: Event, memory: Any) -> tuple[Any, Change | None]:
        return memory, observer(event) if event.epoch_ended else None

    return Observer(observe)


class Notified(NamedTuple):
    """The result of telling every observer of one event.

    Attributes:
        memories: one for each observer.
        state: the last state that an observer asked for; None if none did.
        stop: the first reason to end the run; None to go on.
        errors: the errors raised. An observer that raises keeps its old memory.
    """

    memories: tuple[Any, ...]
    state: TrainState | None
    stop: str | None
    errors: tuple[Exception, ...]


def notify(observers: Sequence[Observer], memories: Sequence[Any], event: Event) -> Notified:
    """Tell each observer in turn; each sees the state that those before it asked for.

    If an observer raises, the others are still told. All memories then belong to the same moment
    and can be saved.

    Raises:
        ValueError: the numbers of memories and of observers differ.
    """
    kept: list[Any] = []
    errors: list[Exception] = []
    state: TrainState | None = None
    stop: str | None = None
    for observer, memory in zip(observers, memories, strict=True):
        change = None
        try:
            memory, change = observer.observe(event, memory)
        except Exception as error:
            errors.append(error)
        kept.append(memory)
        if change is not None and change.state is not None:
            state = change.state
            event = replace(event, state=state)
        if change is not None and stop is None:
            stop = change.stop
    return Notified(tuple(kept), state, stop, tuple(errors))


def tell(
    observers: Sequence[Observer],
    setup: Setup,
    moment: Moment,
    programs: Programs,
    measure: Evaluation,
    *,
    steps: int,
    epoch_ended: bool,
) -> tuple[Moment, Exception | None]:
    """Tell all observers of a moment of a run, and do what they ask for.

    Arguments:
        observers: each has its memory in the moment.
        setup, steps, epoch_ended: as in `Event`.
        moment: where the run stands.
        programs: what checks a state and copies it to the devices.
        measure: what measures a split.

    Returns:
        The moment to go on from, or to end with; the error that ends the run, if one was raised.

    Raises:
        ValueError: an observer returned a state that is not finite, or of another structure.
    """
    now = moment.state
    event = Event(
        step=moment.step,
        steps=steps,
        epoch=len(moment.epochs),
        epochs=setup.config["epochs"],
        epoch_ended=epoch_ended,
        state=now,
        measured=moment.epochs[-1] if epoch_ended else None,
        measurements=moment.epochs,
        evaluate=lambda split: measure(now.evaluated, split_of(setup.dataset, split)),
        setup=setup,
    )
    memories, given, stop, errors = notify(observers, moment.memories, event)
    after = replace(moment, memories=memories, stopped=stop)
    if given is not None:
        _check_change(now, given, programs)
        # The position in the data stays, even if the observer returns an older state.
        step = given.step if stop is not None else jnp.asarray(moment.step, jnp.int32)
        after = replace(after, state=programs.layout.replicate(replace(given, step=step)))
    if len(errors) > 1:
        return after, ExceptionGroup(f"observers at step {moment.step}", list(errors))
    return after, errors[0] if errors else None


def _check_change(before: TrainState, given: TrainState, programs: Programs) -> None:
    def kinds(tree: TrainState) -> list[Any]:
        return [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]

    structures = [str(jax.tree.structure(tree)) for tree in (given, before)]
    if structures[0] != structures[1] or kinds(given) != kinds(before):
        raise ValueError(
            "the state of a Change must have the run's structure, shapes and dtypes, got another; "
            "make it from event.state.replace(...)"
        )
    if programs.became_nonfinite(before, given):
        raise ValueError(
            "the state of a Change must be finite, got NaN or infinity; return no state"
        )
