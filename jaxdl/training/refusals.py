"""What a `Run` refuses before anything is compiled."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.calling import require_mode
from jaxdl.checks import is_traced, require_key
from jaxdl.data.types import Dataset
from jaxdl.training.state import TrainState
from jaxdl.training.task import Batch, PerExample, Task, as_batch, examples_in


def checked_data(key: Any, data: Any, orders: Any, batch_size: int) -> tuple[Batch, dict[str, Any]]:
    """The training split and the others. Refuse what no run can be made of.

    Raises:
        TypeError: what is no key or no data.
        ValueError: splits whose inputs differ, fewer examples than a batch, orders of another
            length or beyond the examples.
    """
    require_key(key)
    if isinstance(data, Dataset):
        splits = {"train": data.train, "validation": data.validation, "test": data.test}
        data = {name: split for name, split in splits.items() if split is not None}
    if not isinstance(data, Mapping) or "train" not in data or "measure" in data:
        got = sorted(data) if isinstance(data, Mapping) else type(data).__name__
        raise TypeError(
            'data must be {"train": ..., and the splits to evaluate by other names than '
            f'"measure"}}, or a Dataset, got {got}; name the training examples "train"'
        )
    batches = {name: as_batch(split) for name, split in data.items()}
    train = batches.pop("train")
    examples = examples_in(train)
    kinds = [_kinds(split["inputs"]) for split in (train, *batches.values())]
    for name, kind in zip(batches, kinds[1:], strict=True):
        if kind != kinds[0]:
            raise ValueError(
                f"the inputs of every split must be alike, got {kinds[0]} to train on and "
                f"{kind} in {name!r}; prepare both in the same way"
            )
    if batch_size > examples:
        raise ValueError(
            f"batch_size must be at most the {examples} training examples, got "
            f"{batch_size}; pass a smaller batch_size to make_run"
        )
    shape, dtype = orders.shape, orders.dtype
    fix = f"make them with training.orders(key, epochs, {examples})"
    if len(shape) != 2 or shape[1] != examples or not jnp.issubdtype(dtype, jnp.integer):
        raise ValueError(
            f"orders must be integers of shape (epochs, {examples}), a row an epoch, got "
            f"{dtype} of shape {shape}; {fix}"
        )
    if not is_traced(orders) and np.size(orders):
        low, high = int(np.min(orders)), int(np.max(orders))
        if low < 0 or high >= examples:
            raise ValueError(
                f"orders must hold indices from 0 to {examples - 1}, got {low} to {high}; {fix}"
            )
    return train, batches


def require_start(start: Any) -> None:
    """Refuse a start that is no state.

    Raises:
        TypeError: `start` is neither a `TrainState` nor None.

    Example:
        >>> require_start({"params": {}})
        Traceback (most recent call last):
        ...
        TypeError: start must be a TrainState, got dict; pass run.init(key, train)
    """
    if start is not None and not isinstance(start, TrainState):
        raise TypeError(
            f"start must be a TrainState, got {type(start).__name__}; pass run.init(key, train)"
        )


def checked_outputs(
    task: Task, variables: Mapping[str, Any], splits: Mapping[str, Any], size: int
) -> Any:
    """The shapes of the outputs for a batch.

    Refuse a mode that does not reach the model, and outputs that do not belong to the targets.

    Arguments:
        task: what is learned.
        variables: the shapes of the model's.
        splits: the batches by name, all with inputs of the same kind; shapes are enough.
        size: the examples of a step.
    """
    shapes = {name: _first(split, size) for name, split in splits.items()}
    inputs = jax.eval_shape(task.preprocess, shapes["train"]["inputs"])
    require_mode(task.model, variables, inputs, task.mode)
    outputs = jax.eval_shape(
        lambda variables, inputs: task.outputs(variables, inputs, train=False)[0],
        variables,
        inputs,
    )
    for batch in shapes.values():
        check_targets(outputs, batch["targets"])
    return outputs


def check_targets(outputs: Any, targets: Any) -> None:
    """Refuse outputs that cannot belong to the targets; the shapes of both, for a batch.

    Raises:
        ValueError: (batch, 1) outputs for (batch,) targets or the other way round, which a loss
            could broadcast to (batch, batch).
    """
    if not (hasattr(outputs, "shape") and hasattr(targets, "shape")):
        return  # several outputs or targets: only the loss knows what they mean
    trailing = {outputs.shape[1:], targets.shape[1:]}
    if not np.issubdtype(targets.dtype, np.integer) and trailing == {(), (1,)}:
        raise ValueError(
            f"outputs and targets must have the same shape, got {outputs.shape} and "
            f"{targets.shape}, which a loss would broadcast; add or remove the last axis"
        )


def check_labels(name: str, outputs: Any, targets: Any, loss: PerExample) -> None:
    """Refuse labels outside the classes, unless the loss gives them no weight; traced ones pass.

    Arguments:
        name: the split's name.
        outputs: the shape of the outputs for a batch.
        targets: the split's targets, not their shapes alone.
        loss: is asked what a label outside weighs.

    Raises:
        ValueError: a label below 0, or one for which the model has no output.
    """
    if not (hasattr(outputs, "shape") and hasattr(targets, "shape")) or is_traced(targets):
        return
    classes = outputs.shape[-1] if outputs.ndim == targets.ndim + 1 else 1
    if classes > 1 and np.issubdtype(targets.dtype, np.integer):
        labels = np.asarray(targets)
        outside = (labels < 0) | (labels >= classes)
        for label in np.unique(labels[outside]):
            if _weighs_nothing(loss, outputs, label):
                outside &= labels != label
        if outside.any():
            place = int(np.argwhere(outside)[0][0])
            raise ValueError(
                f"labels must be in 0..{classes - 1}, as the model has {classes} outputs, "
                f"got {labels[outside].flat[0]} at example {place} of the {name} split; "
                "give the model an output for each class"
            )


def _weighs_nothing(loss: PerExample, outputs: Any, label: Any) -> bool:
    """Whether the loss ignores an example that has this label alone."""
    output = jax.ShapeDtypeStruct((1, *outputs.shape[1:]), outputs.dtype)
    labels = np.full(output.shape[:-1], label)
    if not isinstance(jax.eval_shape(loss, output, labels), tuple):
        return False  # nothing is compiled for a loss that has no weights
    _, weights = loss(jnp.zeros(output.shape, output.dtype), jnp.asarray(labels))
    return not np.asarray(weights).any()


def _first(split: Batch, size: int) -> Any:
    """The shapes of the first examples."""
    return jax.eval_shape(lambda arrays: jax.tree.map(lambda array: array[:size], arrays), split)


def _kinds(tree: Any) -> str:
    return str(jax.tree.map(lambda leaf: f"{leaf.dtype}{list(leaf.shape[1:])}", tree))
