"""Stop a run that no longer improves."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxdl.checks import Count, require_at_least, require_choice, require_non_negative
from jaxdl.factories import factory
from jaxdl.observers.chosen_metric import Mode, Split, check_metric, metric_of, mode_for
from jaxdl.training.fit.observing import Change, Event, Observer, Setup
from jaxdl.training.state import TrainState


class StoppingMemory(NamedTuple):
    """What early stopping remembers.

    Attributes:
        best: the best metric so far, in float32; infinite before the first.
        best_epoch: the epoch of the best metric; 0 before the first.
        bad_epochs: the number of epochs since the best.
        state: the state at that epoch's end; an empty tuple if none is to be restored.
    """

    best: Float[Array, ""]
    best_epoch: Int[Array, ""]
    bad_epochs: Int[Array, ""]
    state: Any


@factory
def early_stopping(
    metric: str = "loss",
    *,
    mode: Mode | Any | None = None,
    patience: Count,
    min_delta: float = 0.0,
    restore_best: bool = True,
    split: Split = "validation",
) -> Observer:
    r"""End the run after `patience` epochs in a row without improvement.

    $$m_t < m_{\text{best}} - \delta \quad\text{is an improvement (above } m_{\text{best}} + \delta
      \text{ for "max")}$$

    with $\delta$ the `min_delta`. A NaN is no improvement. With `restore_best` the run ends with
    the state of its best epoch, whether it was stopped or came to its last epoch. If it was
    stopped, `state.step` is the step of that state. If it gets more epochs later, it goes on from
    that state.

    Arguments:
        metric: "loss" or the name of a metric of the run.
        mode: "min" for a metric that should fall, "max" for one that should rise. None knows it of
            the loss and of jaxdl's metrics and losses; of another metric it must be given.
        patience: epochs without improvement, at least 1.
        min_delta: in the metric's unit, 0 or more.
        restore_best: keep a copy of the best state, and end with it.
        split: "validation", or "train" for the means over the epoch's steps.

    Raises:
        TypeError: a patience that is no whole number.
        ValueError: a setting is out of range; from `fit`, the metric is not measured, there is no
            validation split, or nobody says whether the metric should rise.

    Example:
        >>> early_stopping("accuracy", mode="max", patience=3).init(None).best.item()
        -inf

    Source: Prechelt (1998), "Early stopping - but when?", criterion UP with strips of one epoch,
    counted from the best one; min_delta and restoring as in Keras.
    """
    if mode is None and metric == "loss":
        mode = "min"
    if mode is not None:
        require_choice("mode", mode, ("min", "max"))
    require_choice("split", split, ("validation", "train"))
    require_non_negative("min_delta", min_delta)
    require_at_least(1, patience=patience)

    def worst(mode: Mode | None) -> float:
        return -math.inf if mode == "max" else math.inf

    def check(setup: Setup) -> None:
        check_metric(setup, metric, split)
        if mode is None:
            mode_for(setup, metric)

    def init(state: TrainState | None) -> StoppingMemory:
        return StoppingMemory(
            best=jnp.array(worst(mode), jnp.float32),
            best_epoch=jnp.array(0, jnp.int32),
            bad_epochs=jnp.array(0, jnp.int32),
            state=_copy(state) if restore_best and state is not None else (),
        )

    def observe(event: Event, memory: StoppingMemory) -> tuple[StoppingMemory, Change | None]:
        if not event.epoch_ended:
            return memory, None
        # In float32, like the saved memory: a resumed run decides like one that never stopped.
        value = np.float32(metric_of(event, metric, split))
        known = mode_for(event.setup, metric) if mode is None else mode
        sign = -1.0 if known == "max" else 1.0
        # Before the first epoch the memory may not know the mode.
        best = float(memory.best) if int(memory.best_epoch) > 0 else worst(known)
        if sign * float(value) < sign * best - min_delta:
            memory = StoppingMemory(
                best=jnp.asarray(value),
                best_epoch=jnp.array(event.epoch, jnp.int32),
                bad_epochs=jnp.array(0, jnp.int32),
                state=_copy(event.state) if restore_best else (),
            )
        else:
            memory = memory._replace(bad_epochs=memory.bad_epochs + 1)
        stopped = int(memory.bad_epochs) >= patience
        if not stopped and event.epoch < event.epochs:
            return memory, None
        worth = restore_best and int(memory.best_epoch) > 0 and int(memory.bad_epochs) > 0
        reason = f"the {split} {metric} has not improved for {int(memory.bad_epochs)} epochs: "
        if int(memory.best_epoch) > 0:
            reason += f"best {float(memory.best):.6g} in epoch {int(memory.best_epoch)}"
        else:
            reason += f"it was {value:.6g} in epoch {event.epoch} and never finite"
        return memory, Change(_copy(memory.state) if worth else None, reason if stopped else None)

    name = (
        f"early_stopping({metric!r}, mode={mode!r}, patience={patience}, min_delta={min_delta}, "
        f"restore_best={restore_best}, split={split!r})"
    )
    return Observer(observe, init, check=check, name=name)


def _copy(state: Any) -> Any:
    """A copy, because the next call may overwrite the state's arrays."""
    return jax.tree.map(jnp.copy, state)
