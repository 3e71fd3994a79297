"""What `fit` refuses before anything is compiled."""

import inspect
import os
import tempfile
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Key

from jaxdl.checks import is_traced, require_like, whole_number
from jaxdl.compiling import loops_well
from jaxdl.data.streamed import Streamed, as_streamed
from jaxdl.data.streaming import RandomAccess
from jaxdl.data.types import Arrays, Dataset
from jaxdl.files import as_path, differences
from jaxdl.notices import notice
from jaxdl.training.checkpoints.packing import describe
from jaxdl.training.fit.batches import Plan, batch_shapes, example_shapes
from jaxdl.training.fit.layouts import Layout
from jaxdl.training.fit.moment import Moment
from jaxdl.training.fit.observing import Setup
from jaxdl.training.fit.recipe import PARTS
from jaxdl.training.fit.trained_inputs import example_of
from jaxdl.training.refusals import check_labels, checked_outputs, checked_split
from jaxdl.training.state import TrainState, init_state, run_key
from jaxdl.training.steps import TrainStep
from jaxdl.training.task import Batch, as_batch


def checked_splits(dataset: Dataset) -> tuple[Arrays | Streamed, dict[str, Arrays | Streamed]]:
    """The training split, and all splits by name: in memory, or read batch by batch.

    Raises:
        TypeError: a split that is none; as in `checked_split`.
        ValueError: as in `checked_split`.
    """
    splits: dict[str, Arrays | Streamed] = {}
    for name in ("train", "validation", "test"):
        split, where = getattr(dataset, name), f"the {name} split of {dataset.name}"
        if split is None and name != "train":
            continue
        if isinstance(split, Arrays):
            checked_split(split, where)
            splits[name] = split
            continue
        if isinstance(split, _NO_SOURCES) or not isinstance(split, Streamed | RandomAccess):
            raise TypeError(
                f"{where} must be data.Arrays, got {type(split).__name__}; pass (x, y), "
                "Arrays(inputs, targets), whose arrays may be memory-mapped files, or a "
                "data.Streamed"
            )
        if not len(split):
            raise ValueError(f"{where} must have examples, got none")
        streamed = as_streamed(split)
        if isinstance(streamed.source, Arrays):
            as_batch(streamed.source, where)
        splits[name] = streamed
    return splits["train"], splits


# They have a length and can be indexed, and are no lists of examples.
_NO_SOURCES = (Mapping, tuple, np.ndarray, jax.Array)


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
    # Statistics that another run has recalibrated are those of its own last parameters.
    return replace(state, key=run_key(key), evaluated_stats={})


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


def check_train_step(train_step: Any, layout: Layout) -> None:
    """Refuse a train step of the user's own that cannot be called, or that pmap would map."""
    if train_step is None:
        return
    if not callable(train_step):
        raise TypeError(
            "train_step must be a function (state, batch) -> (state, metrics), got "
            f"{train_step!r}; pass one like that of training.make_train_step"
        )
    if layout.mapped:
        raise ValueError(
            "a train_step of your own must run under jit, got parallel='pmap', which would give "
            "each device a step of its own; pass parallel='auto'"
        )


def counted(train_step: Any) -> TrainStep | None:
    """The user's own step, which need not count: its state's step is one more than before."""
    if train_step is None:
        return None

    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Any]:
        try:
            inspect.signature(train_step).bind(state, batch)
        except TypeError as error:
            raise TypeError(f"{_RULE}, got one that cannot be called so: {error}") from None
        result = train_step(state, batch)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise TypeError(f"{_RULE}, got a step that returns a {type(result).__name__}")
        after, measured = result
        if not isinstance(after, TrainState):
            raise TypeError(
                f"{_RULE}, got a {type(after).__name__} first; make it with state.replace(...)"
            )
        return replace(after, step=state.step + 1), measured

    return step


_RULE = "a train step must be a function (state, batch) that returns (state, metrics)"


class Checked(NamedTuple):
    """What tracing the steps of a run tells.

    Attributes:
        sample: the shapes of one example's inputs, preprocessed.
        example: the shapes of one example's inputs, as stored.
        looped: whether the steps run well in a loop.
        measured: the names of what a step measures.
    """

    sample: Any
    example: Any
    looped: bool
    measured: tuple[str, ...]


def check_shapes(
    setup: Setup,
    splits: Mapping[str, Arrays | Streamed],
    plan: Plan,
    train_step: TrainStep,
    key: Key[Array, ""],
    state: TrainState | None,
) -> Checked:
    """Trace every batch size of a run: errors of shape then come before anything is compiled.

    Arguments:
        splits: by name. The targets of those in memory are looked at, and one example of a stream.
    """
    task = setup.task
    shapes = {name: example_shapes(split) for name, split in splits.items()}

    def start_of(sample: Any) -> Any:
        start = init_state(key, task, setup.optimizer, sample) if state is None else state
        return vars(start), start.variables

    sample = jax.eval_shape(task.preprocess, batch_shapes(shapes["train"], 1)["inputs"])
    if state is not None:
        expected = jax.eval_shape(lambda x: vars(init_state(key, task, setup.optimizer, x)), sample)
        require_like("state", vars(state), expected)
    before, variables = jax.eval_shape(start_of, sample)
    outputs = checked_outputs(task, variables, shapes, max(plan.sizes))
    for name, split in splits.items():
        if isinstance(split, Arrays):
            check_labels(name, outputs, split.targets, task.loss, split.weights)
    looped, measured = True, dict[str, Any]()

    def traced(start: dict[str, Any], batch: Batch) -> Any:
        after, numbers = train_step(TrainState(**start), batch)
        return vars(after), numbers

    for size in sorted(set(plan.sizes)):
        jaxpr, (after, measured) = jax.make_jaxpr(traced, return_shape=True)(
            before, batch_shapes(shapes["train"], size)
        )
        looped = looped and loops_well(jaxpr)
        _check_step(before, after, measured)
    example = example_of(batch_shapes(shapes["train"], 1)["inputs"])
    # A traced dict comes back sorted.
    names = task.measured if {*measured} == {*task.measured} else measured
    return Checked(sample, example, looped, tuple(names))


def _check_step(before: Any, after: Any, measured: Any) -> None:
    """Refuse what a train step of the user's own must not return."""
    different = "; ".join(differences(describe(before), describe(after)))
    if different or str(jax.tree.structure(before)) != str(jax.tree.structure(after)):
        raise ValueError(
            "a train step must return a state like the one it is given, got another: "
            f"{different or 'its structure'}; make it with state.replace(...)"
        )
    shapes = {name: leaf.shape for name, leaf in measured.items()}
    if "loss" not in shapes or any(shapes.values()):
        raise ValueError(
            'a train step must return numbers by name, "loss" among them, got '
            f"{shapes}; return (state, {{'loss': loss}})"
        )
