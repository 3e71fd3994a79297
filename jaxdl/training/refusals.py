"""What a `Run` refuses before anything is compiled."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.calling import require_mode
from jaxdl.checks import is_traced, require_key
from jaxdl.data.given import as_dataset
from jaxdl.loss_targets import name_of_loss, taken_by
from jaxdl.training.fields import check_held
from jaxdl.training.state import TrainState
from jaxdl.training.task import Batch, PerExample, Task, as_batch, examples_in, per_example


def checked_data(key: Any, data: Any, orders: Any, batch_size: int) -> tuple[Batch, dict[str, Any]]:
    """The training split and the others. Refuse what no run can be made of.

    Raises:
        TypeError: what is no key or no data.
        ValueError: splits whose inputs differ, fewer examples than a batch, orders of another
            length or beyond the examples.
    """
    require_key(key)
    if not isinstance(data, Mapping) or "inputs" in data:
        dataset = as_dataset(data)
        splits = {"train": dataset.train, "validation": dataset.validation, "test": dataset.test}
        data = {name: split for name, split in splits.items() if split is not None}
    if "train" not in data or "measure" in data:
        raise TypeError(
            'data must be {"train": ..., and the splits to evaluate by other names than '
            f'"measure"}}, a Dataset or (x, y), got {sorted(data)}; name the training examples '
            '"train"'
        )
    batches = {name: checked_split(split, f"the {name} split") for name, split in data.items()}
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


def checked_split(split: Any, where: str) -> dict[str, Any]:
    """A split in memory, as a batch of all its examples. Refuse what no run can read rightly.

    Arguments:
        where: what it is, for the message, e.g. "the test split".

    Raises:
        TypeError: as in `as_batch`.
        ValueError: fields of different lengths, no examples; weights that are negative, not finite
            or all 0; as in `check_held`.

    Example:
        >>> checked_split({"inputs": np.ones((5, 2)), "targets": np.ones(4)}, "the test split")
        Traceback (most recent call last):
        ...
        ValueError: the test split must have as many targets as inputs, got 5 inputs and 4 targets;
        leave the others out
    """
    batch = as_batch(split, where)
    counts = {
        field: [jnp.shape(leaf)[:1] for leaf in jax.tree.leaves(values)]
        for field, values in batch.items()
    }
    lengths = {length for found in counts.values() for length in found}
    if len(lengths) > 1 and () not in lengths:
        got = " and ".join(f"{n} {field}" for field, found in counts.items() for (n,) in found)
        raise ValueError(
            f"{where} must have as many targets as inputs, got {got}; leave the others out"
        )
    if not examples_in(batch):
        raise ValueError(f"{where} must have examples, got none; pass None for no split")
    check_held(batch, where)
    _check_weights(batch.get("weights"), where)
    return batch


def _check_weights(weights: Any, where: str) -> None:
    """Refuse weights with which no mean can be taken; traced ones and shapes pass."""
    if weights is None or is_traced(weights) or isinstance(weights, jax.ShapeDtypeStruct):
        return
    values = np.asarray(weights).astype(np.float64)
    bad = ~(np.isfinite(values) & (values >= 0))
    if bad.any():
        place = tuple(map(int, np.argwhere(bad)[0]))
        raise ValueError(
            f"the weights of {where} must be finite and at least 0, got {values[place]} at example "
            f"{place[0]}; give an example that must not count the weight 0"
        )
    if not values.any():
        raise ValueError(
            f"the weights of {where} must not all be 0, got {len(values)} zeros, of which no mean "
            "can be taken; give the examples that count a weight above 0"
        )


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
    """The shapes of the outputs for a batch of the train split.

    Refuse a mode that does not reach the model, inputs of other splits that differ in shape, and
    a loss or metric that cannot be computed of a split.

    Arguments:
        task: what is learned.
        variables: the shapes of the model's.
        splits: the batches by name, "train" among them; shapes are enough.
        size: the examples of a step.
    """
    shapes = {name: _first(split, size) for name, split in splits.items()}
    train = shapes["train"]
    preprocessed = jax.eval_shape(task.preprocess, train["inputs"])
    require_mode(task.model, variables, preprocessed, task.mode)

    def outputs(variables: Any, batch: Any) -> Any:
        return task.outputs(variables, task.preprocess(batch["inputs"]), train=False)[0]

    def measured(variables: Any, batch: Any) -> None:
        given = outputs(variables, batch)
        for name, function in task.measured.items():
            per_example(name, function, given, batch)

    for name, split in shapes.items():
        axes = [_axes(batch["inputs"]) for batch in (train, split)]
        if axes[0] != axes[1]:
            raise ValueError(
                f"the inputs of every split must be alike, got {axes[0]} to train on and {axes[1]} "
                f"in {name!r}; prepare both in the same way"
            )
        if _kinds(split) != _kinds(train):  # the train split's loss is traced with the step
            jax.eval_shape(measured, variables, split)
    return jax.eval_shape(outputs, variables, train)


def checked_evaluation(task: Task, variables: Mapping[str, Any], split: Any) -> dict[str, Any]:
    """A split to evaluate, as a batch. Refuse what `checked_split` and `check_labels` refuse."""
    batch = checked_split(split, "the split")
    if not any(map(is_traced, jax.tree.leaves(batch))):
        outputs = jax.eval_shape(
            lambda inputs: task.outputs(variables, task.preprocess(inputs), train=False)[0],
            batch["inputs"],
        )
        check_labels("evaluated", outputs, batch["targets"], task.loss, batch.get("weights"))
    return batch


def check_labels(
    name: str, outputs: Any, targets: Any, loss: PerExample, weights: Any = None
) -> None:
    """Refuse targets that the loss cannot have; traced ones pass, and trees.

    Labels must be among the classes, unless the loss gives them no weight. Of other targets the
    losses of this library say which they take (`loss_targets`). An example of weight 0 may have
    any.
    Targets that are not finite are left to the step that meets them.

    Arguments:
        name: the split's name.
        outputs: the shape of the outputs for a batch.
        targets: the split's targets, not their shapes alone.
        loss: is asked what a label outside weighs, and which targets it takes.
        weights: of the examples, if the split has some.

    Raises:
        ValueError: a label below 0, or one for which the model has no output; a target that the
            loss does not take.
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
    elif outputs.ndim == targets.ndim:
        _check_taken(name, targets, loss, weights)


def _check_taken(name: str, targets: Any, loss: PerExample, weights: Any) -> None:
    taken = taken_by(loss)
    numbers = jnp.issubdtype(targets.dtype, jnp.number) or targets.dtype == jnp.bool_
    if taken is None or not numbers or is_traced(weights):
        return
    values = np.asarray(targets)
    allowed = np.asarray(taken.allows(values))
    finite = np.isfinite(values).reshape(*allowed.shape, -1).all(-1)
    wrong = (~allowed & finite).reshape(len(values), -1).any(1)
    if weights is not None:
        wrong &= np.asarray(weights).reshape(len(values), -1).any(1)
    if wrong.any():
        place = int(np.argmax(wrong))
        first = np.argwhere((~allowed & finite)[place])[0]
        got = values[place][tuple(first)]
        raise ValueError(
            f"targets of {name_of_loss(loss)} must be {taken.rule}, got {got} at example {place} "
            f"of the {name} split; {taken.fix}"
        )


def _weighs_nothing(loss: PerExample, outputs: Any, label: Any) -> bool:
    """Whether the loss ignores an example that has this label alone."""
    output = jax.ShapeDtypeStruct((1, *outputs.shape[1:]), outputs.dtype)
    labels = np.full(output.shape[:-1], label)
    if not isinstance(jax.eval_shape(loss, output, labels), tuple):
        return False  # nothing is compiled for a loss that has no weights
    with jax.ensure_compile_time_eval():  # a caller may be tracing, with data that it knows
        _, weights = loss(jnp.zeros(output.shape, output.dtype), jnp.asarray(labels))
        return not np.asarray(weights).any()


def _first(split: Batch, size: int) -> Any:
    """The shapes of the first examples."""
    return jax.eval_shape(lambda arrays: jax.tree.map(lambda array: array[:size], arrays), split)


def _axes(tree: Any) -> str:
    return str(jax.tree.map(lambda leaf: list(leaf.shape[1:]), tree))


def _kinds(tree: Any) -> str:
    """The dtypes in which JAX holds the arrays, and the shapes of one example."""

    def kind(leaf: Any) -> str:
        held = leaf.dtype
        if isinstance(leaf, np.ndarray):
            held = jax.dtypes.canonicalize_dtype(held)
        return f"{held}{list(leaf.shape[1:])}"

    return str(jax.tree.map(kind, tree))
