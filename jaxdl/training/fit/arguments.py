"""What `fit` refuses before anything is compiled."""

import os
import tempfile
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
from jaxtyping import Array, Key

from jaxdl.calling import require_mode
from jaxdl.checks import is_traced, require_at_least, require_like
from jaxdl.compiling import loops_well
from jaxdl.data.types import Arrays, Dataset
from jaxdl.training.fit.batches import Plan, Streamed, batch_shapes, example_shapes
from jaxdl.training.fit.moment import Moment
from jaxdl.training.fit.observing import Setup
from jaxdl.training.fit.recipe import PARTS
from jaxdl.training.refusals import check_labels, check_targets
from jaxdl.training.state import TrainState, init_state
from jaxdl.training.steps import TrainStep
from jaxdl.training.task import as_batch


def check_run(dataset: Dataset, train: Arrays | Streamed, epochs: int, batch_size: int) -> None:
    """Refuse splits, numbers of epochs and batch sizes that allow no run."""
    splits = {"train": train, "validation": dataset.validation}
    for name, split in splits.items():
        if isinstance(split, Arrays):
            counts = {
                part: [len(leaf) for leaf in jax.tree.leaves(values)]
                for part, values in as_batch(split).items()
            }
            if len({count for parts in counts.values() for count in parts}) != 1:
                got = " and ".join(
                    f"{count} {part}" for part, found in counts.items() for count in found
                )
                raise ValueError(
                    f"the {name} split of {dataset.name} must have as many targets as inputs, "
                    f"got {got}"
                )
        if split is not None and not len(split):
            raise ValueError(f"the {name} split of {dataset.name} must have examples, got none")
    require_at_least(1, epochs=epochs, batch_size=batch_size)
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


def check_folder(folder: str | os.PathLike[str] | None) -> None:
    """Refuse a checkpoint folder that cannot be made or written to."""
    if folder is None:
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(
            f"checkpoint_dir must be a folder that can be written, got {folder} ({error}); "
            "pass another folder"
        ) from error


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
        warnings.warn(
            f"the run in {folder} was stopped and takes no further step: {moment.stopped}; "
            "to train on, pass its result's state to fit, and another folder",
            stacklevel=3,
        )


def check_shapes(
    setup: Setup,
    train: Arrays | Streamed,
    plan: Plan,
    train_step: TrainStep,
    key: Key[Array, ""],
    state: TrainState | None,
) -> tuple[Any, bool]:
    """Trace every batch size of a run: errors of shape then come before anything is compiled.

    Returns:
        The shapes of one example's inputs, preprocessed; whether the steps run well in a loop.
    """
    task, shapes = setup.task, example_shapes(train)

    def preprocessed(examples: int) -> Any:
        return jax.eval_shape(task.preprocess, batch_shapes(shapes, examples)["inputs"])

    def traced(sample: Any, batch: Mapping[str, Any]) -> tuple[Any, Any]:
        start = init_state(key, task, setup.optimizer, sample) if state is None else state
        outputs, _ = task.outputs(start.variables, task.preprocess(batch["inputs"]), train=False)
        return outputs, train_step(start, batch)[1]

    sample = preprocessed(1)
    if state is not None:
        expected = jax.eval_shape(lambda x: vars(init_state(key, task, setup.optimizer, x)), sample)
        require_like("state", vars(state), expected)
    variables = jax.eval_shape(task.init, key, sample) if state is None else state.variables
    require_mode(task.model, variables, preprocessed(max(plan.sizes)), task.mode)
    looped = True
    for size in sorted(set(plan.sizes)):
        batch = batch_shapes(shapes, size)
        jaxpr, (outputs, _) = jax.make_jaxpr(traced, return_shape=True)(sample, batch)
        looped = looped and loops_well(jaxpr)
        for name, split in {"train": train, "validation": setup.dataset.validation}.items():
            if split is not None:
                check_targets(outputs, batch["targets"])
            if isinstance(split, Arrays):
                check_labels(name, outputs, split.targets, task.loss)
    return sample, looped
