"""A run between two calls: how its measurements grow, and how it is saved and restored."""

import itertools
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


def identity_of(moment: Moment, plan: Plan, layout: Layout, metrics: Sequence[str]) -> Any:
    """What a later run must share to go on from this one's checkpoints.

    Arguments:
        metrics: the names of the history's columns, beside the loss.
    """
    config = {
        "examples": plan.examples,
        "batch_size": plan.batch_size,
        "drop_last": plan.drop_last,
        "metrics": list(metrics),
        "key": np.asarray(jax.random.key_data(moment.state.key)).tolist(),
    }
    return identify(_tree(moment), config=config, layout=layout.describe())


def save(store: Store, moment: Moment) -> None:
    """Save a moment in the store."""
    store.save(moment.step, _tree(moment), _extra(moment))


def restore(store: Store, start: Moment, layout: Layout) -> Moment:
    """The newest moment in the store, or `start` itself where there is none."""
    here = jax.tree.map(local, _tree(start))
    found = store.restore(here)
    if found is None:
        return start
    step, tree, extra = found
    tree = layout.replicate(tree)
    return replace(
        start,
        step=step,
        state=tree["state"],
        memories=tree["memories"],
        epochs=_epochs(extra),
        steps=_rows(extra["steps"], sum(extra["counts"]), None),
        seconds=extra["seconds"],
        stopped=extra["stopped"],
    )


def _tree(moment: Moment) -> dict[str, Any]:
    return {"state": moment.state, "memories": moment.memories}


def _extra(moment: Moment) -> dict[str, Any]:
    history = moment.history
    return {
        "counts": [len(epoch.steps["loss"]) for epoch in moment.epochs],
        "steps": dict(history.steps),
        "train": dict(history.train),
        "validation": dict(history.validation),
        "epoch_seconds": history.seconds,
        "seconds": moment.seconds,
        "stopped": moment.stopped,
    }


def _epochs(extra: Mapping[str, Any]) -> tuple[EpochMeasurements, ...]:
    def row(values: Mapping[str, np.ndarray], epoch: int) -> dict[str, float]:
        return {name: float(column[epoch]) for name, column in values.items()}

    ends = [0, *itertools.accumulate(extra["counts"])]
    return tuple(
        EpochMeasurements(
            steps=_rows(extra["steps"], ends[epoch], ends[epoch + 1]),
            train=row(extra["train"], epoch),
            validation=row(extra["validation"], epoch),
            seconds=float(extra["epoch_seconds"][epoch]),
        )
        for epoch in range(len(extra["counts"]))
    )


def _rows(steps: Mapping[str, np.ndarray], start: int, stop: int | None) -> dict[str, np.ndarray]:
    rows = {name: np.asarray(values)[start:stop] for name, values in steps.items()}
    return rows if any(len(values) for values in rows.values()) else {}
