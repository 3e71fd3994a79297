"""Detect a loss or a state that is not finite, and find where it began."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from jaxdl.data.streamed import Streamed
from jaxdl.data.types import Arrays
from jaxdl.training.fit.batches import Plan, read
from jaxdl.training.fit.layouts import local
from jaxdl.training.fit.moment import Moment
from jaxdl.training.orders import epoch_order
from jaxdl.training.state import TrainState
from jaxdl.training.task import Batch, Task, as_batch, mean_over_batch, parts_of, per_example

# Examples of a stream that are looked at together.
_READ = 1000

OnNonFinite = Literal["raise", "skip", "stop"]


class Fault(NamedTuple):
    """The first quantity that was not finite, and what to do."""

    quantity: str
    fix: str = "lower the learning rate, clip the gradient"


class NonFiniteError(FloatingPointError):
    """A step that gave a loss or a state that is not finite, or a validation loss that is not.

    Attributes:
        step: its number, which is the updates made before it.
        quantity: the first that was not finite, e.g. "the output of dense_1", or "the inputs of
            example 17 of the train split".
        fix: what may help.
        result: the run up to the step before.
    """

    def __init__(self, step: int, quantity: str, fix: str = Fault("").fix) -> None:
        super().__init__(
            f"step {step} must give a finite loss and state, got {quantity} not finite; {fix}, or "
            'pass on_nonfinite="skip" or "stop"'
        )
        self.step = step
        self.quantity = quantity
        self.fix = fix
        self.result: Any = None

    def __reduce__(self) -> Any:
        """For `pickle`, which would make an error of its message alone."""
        return type(self), (self.step, self.quantity, self.fix), vars(self)


def became_nonfinite(before: TrainState, after: TrainState) -> Bool[Array, ""]:
    """Whether a number of the variables or optimizer state was finite before and is not after.

    An infinity from the start is no fault: a plateau's best value begins as one.

    Example:
        >>> from jaxdl import models, optimizers, training
        >>> before = training.init_state(
        ...     jax.random.key(0), models.MLP([1]), optimizers.sgd(0.1), jnp.ones((1, 2)))
        >>> after = before.replace(params=jax.tree.map(lambda leaf: leaf / 0, before.params))
        >>> bool(became_nonfinite(before, after)), bool(became_nonfinite(after, after))
        (True, False)
    """
    found = jnp.zeros((), bool)
    for old, new in zip(_leaves(before), _leaves(after), strict=True):
        if jnp.issubdtype(new.dtype, jnp.inexact):
            found |= jnp.any(~jnp.isfinite(new) & jnp.isfinite(old))
    return found


def first_nonfinite(task: Task, state: TrainState, batch: Batch) -> str:
    """The first quantity of a step that is not finite: an activation, the loss, a gradient, ...

    The step is repeated from the last good state, layer by layer and without compilation.

    Example:
        >>> from jaxdl import losses, models, optimizers, training
        >>> model, optimizer = models.MLP([4, 1]), optimizers.sgd(0.1)
        >>> batch = {"inputs": jnp.full((4, 2), 3e38), "targets": jnp.ones((4, 1))}
        >>> state = training.init_state(jax.random.key(0), model, optimizer, jnp.ones((1, 2)))
        >>> first_nonfinite(training.Task(model, losses.mean_squared_error), state, batch)
        'the output of dense_0'
    """
    given: dict[str, Any] = jax.tree.map(jnp.asarray, as_batch(batch))
    inputs = task.preprocess(given["inputs"])
    if not _finite(inputs):
        return "the inputs, preprocessed,"
    if task.augment is not None:
        inputs = task.augment(state.augment_key(), inputs)
        if not _finite(inputs):
            return "the augmented inputs"
    seen: list[tuple[str, Any, tuple[str, ...]]] = []

    def watch(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        name = "/".join(context.module.path) or type(context.module).__name__
        seen.append((f"the input of {name}", args, ()))
        outputs = call(*args, **kwargs)
        seen.append((f"the output of {name}", outputs, context.module.path))
        return outputs

    def run(params: Any) -> tuple[Any, Any]:
        variables = {**state.variables, "params": params}
        return task.outputs(variables, inputs, train=True, key=state.dropout_key())

    def objective(params: Any) -> Array:
        return mean_over_batch(*per_example("loss", task.loss, run(params)[0], given))

    with nn.intercept_methods(watch):
        outputs, updates = run(state.params)
    for what, values, _ in seen:
        if not _finite(values):
            return what
    if not _finite(per_example("loss", task.loss, outputs, given)):
        return "the loss"
    gradients = jax.grad(objective)(state.params)
    # Backwards: the last layer's gradient is computed first.
    for path in reversed([path for _, _, path in seen if path]):
        part = gradients
        for name in path:
            part = part.get(name, {})
        own = [leaf for leaf in part.values() if isinstance(leaf, jax.Array)]
        if not _finite(own):
            return f"the gradient of {'/'.join(path)}"
    if not _finite(gradients):
        return "the gradient"
    if not _finite(updates):
        return "a running statistic"
    return "the optimizer's update"


def diagnose(
    task: Task, state: TrainState, train: Arrays | Streamed, plan: Plan, epoch: int, left: range
) -> Fault:
    """The quantity that ended a run at its last good state.

    Arguments:
        left: the steps of the epoch that a call could not take. The first was not finite. If there
            are none, all were finite when they were repeated.
    """
    if not left:
        return Fault("a number that was finite when computed again")
    start = left[0] * plan.batch_size
    indices = epoch_order(state.key, epoch, plan.examples)[start : start + plan.sizes[left[0]]]
    here = jax.tree.map(local, state)
    try:
        batch = read(train, indices)
        quantity = first_nonfinite(task, here, batch)
    except Exception as error:
        # E.g. a model that runs only under pmap. The run's own error matters more.
        return Fault(f"the loss or the state (no more is known: {error})")
    fields = {"the inputs, preprocessed,": ["inputs"], "the loss": ["targets", "weights"]}
    for field in fields.get(quantity, []):
        if _spoiled(batch.get(field)).any():
            held, numbers = (batch, indices) if isinstance(train, Streamed) else (train, None)
            return _in_data("train", field, parts_of(held)[field], numbers)
    return Fault(quantity)


def diagnose_validation(task: Task, measured: Mapping[str, float], split: Any) -> Fault | None:
    """Why the mean loss over the validation split is not finite; None if it is."""
    if math.isfinite(measured.get("loss", 0.0)):
        return None
    for numbers, batch in _parts(split):
        for field, values in batch.items():
            held = jax.tree.map(jnp.asarray, values)
            seen = task.preprocess(held) if field == "inputs" else held
            if _spoiled(values).any() and not _finite(seen):
                return _in_data("validation", field, values, numbers)
    return Fault("the validation loss")


def _parts(split: Any) -> Iterator[tuple[np.ndarray | None, dict[str, Any]]]:
    """A split with the numbers of its examples: at once, or some at a time from a stream."""
    if not isinstance(split, Streamed):
        yield None, as_batch(split)
        return
    for start in range(0, len(split), _READ):
        numbers = np.arange(start, min(start + _READ, len(split)))
        yield numbers, split.read(numbers)


def end_of(
    moment: Moment, fault: Fault, way: OnNonFinite
) -> tuple[Moment, str, NonFiniteError | None]:
    """The last moment of a run with a fault, the reason, and the error to raise, if any."""
    reason = f"step {moment.step}: {fault.quantity} was not finite"
    if way == "stop":
        return replace(moment, stopped=reason), reason, None
    return moment, reason, NonFiniteError(moment.step, *fault)


def _in_data(split: str, field: str, values: Any, numbers: np.ndarray | None) -> Fault:
    """Numbers of the data that are not finite; `numbers` are those of the examples, if not all."""
    bad = np.flatnonzero(_spoiled(values))
    examples = bad if numbers is None else numbers[bad]
    others = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
    return Fault(
        f"the {field} of example {examples.min()}{others} of the {split} split",
        "repair the data, or leave such examples out",
    )


def _spoiled(values: Any) -> np.ndarray:
    """Which examples of a field hold NaN or infinity; none of a field that there is not."""
    spoiled = np.zeros(1, bool)
    for leaf in map(np.asarray, jax.tree.leaves(values)):
        if jnp.issubdtype(leaf.dtype, jnp.inexact):
            spoiled = spoiled | ~np.isfinite(leaf).reshape(len(leaf), -1).all(-1)
    return spoiled


def _leaves(state: TrainState) -> list[Any]:
    return jax.tree.leaves((state.variables, state.opt_state))


def _finite(tree: Any) -> bool:
    return all(
        bool(jnp.isfinite(leaf).all())
        for leaf in jax.tree.leaves(tree)
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.inexact)
    )
