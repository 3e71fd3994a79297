"""A run between two calls: how its measurements grow, and how it is saved and restored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from jaxdl.training.checkpoints.identity import identify
from jaxdl.training.checkpoints.store import Store
from jaxdl.training.fit.batches import Plan
from jaxdl.training.fit.history import EpochMeasurements, History, epoch_means, join
from jaxdl.training.fit.layouts import Layout, local
from jaxdl.training.state import TrainState


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

    def after(
        self, state: TrainState, measured: Mapping[str, np.ndarray], seconds: float
    ) -> "Moment":
        """The moment after some more steps, with their metrics and the time that they took."""
        before = self.steps or {name: values[:0] for name, values in measured.items()}
        return replace(
            self,
            step=self.step + len(measured["loss"]),
            state=state,
            steps={
                name: np.concatenate([before[name], values]) for name, values in measured.items()
            },
            seconds=self.seconds + seconds,
        )

    def epoch_closed(self, plan: Plan, validation: Mapping[str, float]) -> "Moment":
        """This moment with its steps counted as an epoch, whose validation means are given."""
        # A run that began inside an epoch has only the epoch's last steps.
        sizes = plan.sizes[-len(self.steps["loss"]) :]
        train = epoch_means(self.steps, sizes)
        measured = EpochMeasurements(self.steps, train, validation, self.seconds)
        return replace(self, epochs=(*self.epochs, measured), steps={}, seconds=0.0)


def identity_of(
    moment: Moment,
    plan: Plan,
    layout: Layout,
    metrics: Sequence[str],
    validation: int | None,
    recipe: Mapping[str, str],
) -> Any:
    """What a later run must share to go on from this one's checkpoints.

    Arguments:
        metrics: the names of the history's columns, beside the loss.
        validation: the number of examples of the validation split; None without one.
        recipe: what the run computes, as digests by name.
    """
    config = {
        "examples": plan.examples,
        "batch_size": plan.batch_size,
        "drop_last": plan.drop_last,
        "metrics": list(metrics),
        "validation examples": validation,
        "key": np.asarray(jax.random.key_data(moment.state.key)).tolist(),
    }
    return identify(_parts(moment), config=config, recipe=recipe, layout=layout.describe())


def save(store: Store, moment: Moment, since: Moment, end: int, about: Mapping[str, Any]) -> None:
    """Save a moment in the store, which has the measurements of the moment `since`.

    Arguments:
        end: the step at which the run ends, if nothing stops it.
        about: what the checkpoint says of the run.
    """
    newest = moment.steps or (moment.epochs[-1].steps if moment.epochs else {})
    dtypes = {name: str(values.dtype) for name, values in newest.items()}
    extra = {
        "seconds": moment.seconds,
        "stopped": moment.stopped,
        "end": end,
        "dtypes": dtypes,
        **about,
    }
    store.save(moment.step, _parts(moment), extra=extra, lines=_lines(moment, since))


def restore(store: Store, start: Moment, layout: Layout) -> tuple[Moment, int]:
    """The newest moment in the store and the end that its run had; `start` where there is none."""
    found = store.restore(jax.tree.map(local, _parts(start)))
    if found is None:
        return start, start.step
    parts, extra = layout.replicate(found.parts), found.extra
    epochs, steps = measurements(found.lines, extra["dtypes"])
    remembered = iter(parts["observers"])
    moment = replace(
        start,
        step=found.step,
        state=TrainState(**parts["state"]),
        memories=tuple(next(remembered) if _holds(own) else own for own in start.memories),
        epochs=epochs,
        steps=steps,
        seconds=extra["seconds"],
        stopped=extra["stopped"],
    )
    return moment, extra["end"]


def _parts(moment: Moment) -> dict[str, Any]:
    """The state, and what those observers remember that remember something."""
    return {"state": vars(moment.state), "observers": [*filter(_holds, moment.memories)]}


def _holds(memory: Any) -> bool:
    return bool(jax.tree.leaves(memory))


def _lines(moment: Moment, since: Moment) -> list[dict[str, Any]]:
    """What was measured since then: a line for each epoch's end, and one for the steps after it."""
    done, known = len(since.epochs), len(since.steps.get("loss", ()))
    lines = []
    for epoch in moment.epochs[done:]:
        means = {"train": epoch.train, "validation": epoch.validation, "seconds": epoch.seconds}
        lines.append({"steps": _rows(epoch.steps, known), "epoch": means})
        known = 0
    if len(moment.steps.get("loss", ())) > known:
        lines.append({"steps": _rows(moment.steps, known)})
    return lines


def _rows(steps: Mapping[str, np.ndarray], start: int) -> dict[str, list[float]]:
    return {name: values[start:].tolist() for name, values in steps.items()}


def measurements(
    lines: Sequence[Mapping[str, Any]], dtypes: Mapping[str, str]
) -> tuple[tuple[EpochMeasurements, ...], dict[str, np.ndarray]]:
    """The epochs, and the steps after the last, of the lines that `save` wrote."""
    epochs: list[EpochMeasurements] = []
    steps: dict[str, list[float]] = {}

    def arrays() -> dict[str, np.ndarray]:
        return {name: np.array(values, np.dtype(dtypes[name])) for name, values in steps.items()}

    for line in lines:
        for name, values in line["steps"].items():
            steps.setdefault(name, []).extend(values)
        if "epoch" in line:
            epochs.append(EpochMeasurements(steps=arrays(), **line["epoch"]))
            steps = {}
    return tuple(epochs), arrays()
