"""What `fit` refuses before anything is compiled."""

import os
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from jaxdl.checks import is_traced, require_like, whole_number
from jaxdl.compiling import loops_well
from jaxdl.data.streamed import Streamed, as_streamed
from jaxdl.data.streaming import RandomAccess
from jaxdl.data.types import Arrays, Dataset
from jaxdl.files import as_path
from jaxdl.notices import notice
from jaxdl.training.fit.batches import Plan, batch_shapes, example_shapes
from jaxdl.training.fit.moment import Moment
from jaxdl.training.fit.observing import Setup
from jaxdl.training.fit.recipe import PARTS
from jaxdl.training.refusals import check_labels, checked_outputs, checked_split
from jaxdl.training.state import TrainState, init_state, run_key
from jaxdl.training.steps import TrainStep
from jaxdl.training.task import as_batch


def checked_splits(dataset: Any) -> tuple[Arrays | Streamed, dict[str, Arrays]]:
    """The training split, and the splits that are held in memory, by name.

    Raises:
        TypeError: what is no dataset, a split that is none, a streamed validation split; as in
            `checked_split`.
        ValueError: as in `checked_split`.
    """
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"dataset must be a data.Dataset, got {type(dataset).__name__}; make one: "
            'data.Dataset("mine", train=data.Arrays(inputs, targets), validation=None, test=None)'
        )
    held: dict[str, Arrays] = {}
    for name in ("train", "validation", "test"):
        split, where = getattr(dataset, name), f"the {name} split of {dataset.name}"
        if isinstance(split, Arrays):
            checked_split(split, where)
            held[name] = split
        elif split is None and name != "train":
            continue
        elif name == "validation" or isinstance(split, _NO_SOURCES) or not _is_source(split):
            raise TypeError(
                f"{where} must be data.Arrays, got {type(split).__name__}; pass Arrays(inputs, "
                "targets), whose arrays may be memory-mapped files; only the train and test "
                "splits may be streamed"
            )
        elif not len(split):
            raise ValueError(f"{where} must have examples, got none")
        elif isinstance(split, Streamed) and isinstance(split.source, Arrays):
            as_batch(split.source, where)
    return held["train"] if "train" in held else as_streamed(dataset.train), held


# They have a length and can be indexed, and are no lists of examples.
_NO_SOURCES = (Mapping, tuple, np.ndarray, jax.Array)


def _is_source(split: Any) -> bool:
    return isinstance(split, Streamed | RandomAccess)


def counts(**given: Any) -> list[int]:
    """Counts of at least 1, as Python's integers. Anything else is refused."""
    return [whole_number(name, count) for name, count in given.items()]


def of_this_run(state: Any, key: Key[Array, ""]) -> TrainState | None:
    """The state to start from, with the key of this run: orders and dropout follow from it."""
    if state is None:
        return None
    if not isinstance(state, TrainState):
        raise TypeError(
            f"state must be a TrainState, got {type(state).__name__}; pass result.state, or "
            "init_state(...)"
        )
    return replace(state, key=run_key(key))


def begun_epochs(state: TrainState | None, per_epoch: int) -> int:
    """1 for a state inside an epoch, else 0."""
    inside = state is not None and np.ndim(state.step) == 0 and int(state.step) % per_epoch > 0
    return int(inside)


def check_run(train: Arrays | Streamed, batch_size: int) -> None:
    """Refuse a batch of more examples than there are."""
    if batch_size > len(train):
        raise ValueError(
            f"batch_size must be at most the {len(train)} training examples, got {batch_size}; "
            "pass a smaller batch_size"
        )


def check_on_host(key: Any) -> None:
    """Refuse a key whose value is not known, as in a sweep, under jit or vmap."""
    if is_traced(key):
        raise TypeError(
            "fit runs from the host and cannot be traced by sweep, jit or vmap, got a traced key; "
            "make the run with training.make_run(task, optimizer, batch_size=...), which can"
        )


def checked_folder(folder: str | os.PathLike[str] | None) -> Path | None:
    """The checkpoint folder, with `~` as the home folder. Refuse one that cannot be written to."""
    if folder is None:
        return None
    path = as_path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise OSError(
            f"checkpoint_dir must be a folder that can be written, got {folder} ({error}); "
            "pass another folder"
        ) from error
    return path


def check_accepted(names: Collection[str]) -> None:
    """Refuse accepted changes that have no such name."""
    unknown = sorted({names} if isinstance(names, str) else set(names) - set(PARTS))
    if unknown:
        raise ValueError(
            f"accept_changes must hold names among {', '.join(PARTS)}, got {names!r}; "
            'pass e.g. ("optimizer",)'
        )


def check_not_over(folder: Any, moment: Moment, ended: int, end: int) -> None:
    """Refuse a run that ends before the checkpoint that it would go on from.

    A stopped run that is asked for more says why it takes no step.

    Arguments:
        ended: the step at which the run would have ended when its checkpoint was saved.
        end: the step at which it would end now.
    """
    if moment.step > end:
        raise ValueError(
            f"a run must not be over before it goes on, got {folder} at step {moment.step} of "
            f"{end}; ask for more epochs, or pass another folder"
        )
    if moment.stopped is not None and end > ended:
        notice(
            f"the run in {folder} was stopped and takes no further step: {moment.stopped}; "
            "to train on, pass its result's state to fit, and another folder",
        )


def check_shapes(
    setup: Setup,
    train: Arrays | Streamed,
    held: Mapping[str, Arrays],
    plan: Plan,
    train_step: TrainStep,
    key: Key[Array, ""],
    state: TrainState | None,
) -> tuple[Any, bool]:
    """Trace every batch size of a run: errors of shape then come before anything is compiled.

    Arguments:
        held: the splits in memory, by name. Their labels are looked at.

    Returns:
        The shapes of one example's inputs, preprocessed; whether the steps run well in a loop.
    """
    task, shapes = setup.task, example_shapes(train)

    def traced(sample: Any, batch: Mapping[str, Any]) -> Any:
        start = init_state(key, task, setup.optimizer, sample) if state is None else state
        return train_step(start, batch)[1]

    sample = jax.eval_shape(task.preprocess, batch_shapes(shapes, 1)["inputs"])
    if state is not None:
        expected = jax.eval_shape(lambda x: vars(init_state(key, task, setup.optimizer, x)), sample)
        require_like("state", vars(state), expected)
    variables = jax.eval_shape(task.init, key, sample) if state is None else state.variables
    splits = {"train": shapes} | {
        name: as_batch(split) for name, split in held.items() if name != "train"
    }
    outputs = checked_outputs(task, variables, splits, max(plan.sizes))
    for name, split in held.items():
        check_labels(name, outputs, split.targets, task.loss)
    looped = True
    for size in sorted(set(plan.sizes)):
        jaxpr = jax.make_jaxpr(traced)(sample, batch_shapes(shapes, size))
        looped = looped and loops_well(jaxpr)
    return sample, looped
