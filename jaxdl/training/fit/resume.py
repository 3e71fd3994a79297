"""Save a moment of a run as a checkpoint, and restore it."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxdl.training.checkpoints.identity import identify
from jaxdl.training.checkpoints.store import Store
from jaxdl.training.fit.batches import Plan
from jaxdl.training.fit.history import EpochMeasurements
from jaxdl.training.fit.layouts import Layout, local
from jaxdl.training.fit.loop import Moment


def identity_of(moment: Moment, plan: Plan, layout: Layout, metrics: list[str]) -> dict[str, Any]:
    """What a later run must share to go on from this one's checkpoints."""
    config = {
        "examples": plan.examples,
        "batch_size": plan.batch_size,
        "drop_last": plan.drop_last,
        "metrics": metrics,
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
