"""What a run computes, as digests by name: the identity that a checkpoint keeps of it."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key

from jaxdl.data.streamed import Streamed
from jaxdl.data.types import Arrays
from jaxdl.fingerprints import data_digest, fingerprint
from jaxdl.training.checkpoints.identity import (
    DATA,
    OBSERVERS,
    OPTIMIZER,
    SCHEDULES,
    SETTINGS,
    STEP,
    VALIDATION,
)
from jaxdl.training.fit.batches import Plan, batch_shapes, example_shapes, read
from jaxdl.training.fit.layouts import local
from jaxdl.training.fit.moment import Moment
from jaxdl.training.fit.observing import Observer, Setup
from jaxdl.training.state import TrainState
from jaxdl.training.steps import TrainStep, extra_arguments
from jaxdl.training.task import Task, per_example

PARTS = (
    "initialization", "preprocess", "augment", "model", "loss", "metrics", OPTIMIZER, STEP,
    OBSERVERS, DATA, VALIDATION,
)  # fmt: skip
"""What a run may be asked to accept as changed."""

_ROWS = 64
_ROWS_OF_A_STREAM = 2


def recipe_of(
    setup: Setup,
    train: Arrays | Streamed,
    plan: Plan,
    sample: Any,
    train_step: TrainStep,
    key: Key[Array, ""],
    moment: Moment,
    given: bool,
    observers: Sequence[Observer],
) -> dict[str, str]:
    """The digests of what a run computes, by the names of `PARTS`, and of its schedules.

    Nothing is compiled: each part is traced with the shapes of the first batch.

    Arguments:
        sample: the shapes of one example's inputs, preprocessed.
        moment: where the run starts.
        given: whether its state was given, so that where it comes from is not known.
    """
    task, start = setup.task, moment.state
    batch = batch_shapes(example_shapes(train), plan.sizes[0])
    inputs = jax.eval_shape(task.preprocess, batch["inputs"])

    def update(gradients: Any, opt_state: Any, params: Any, value: Any) -> Any:
        tx = optax.with_extra_args_support(setup.optimizer)
        extra = extra_arguments(
            tx.update, value=value, gradient=gradients,
            value_of=optax.tree.norm, gradient_of=lambda params: params,
        )  # fmt: skip
        return tx.update(gradients, opt_state, params, **extra)

    def measured(names: list[str]) -> Callable[..., Any]:
        return lambda outputs, batch: [
            per_example(name, task.measured[name], outputs, batch) for name in names
        ]

    made = jax.eval_shape(
        lambda variables, inputs: task.outputs(variables, inputs, train=False)[0],
        start.variables,
        inputs,
    )
    value = jax.ShapeDtypeStruct((), jnp.float32)
    step = fingerprint(lambda *given: train_step(*given)[0], start, batch, counts=_is_count)
    optimizer = fingerprint(
        update, start.params, start.opt_state, start.params, value, counts=_is_count
    )
    recipe = {
        **recipe_of_model(task, start, batch["inputs"]),
        "augment": ""
        if task.augment is None
        else fingerprint(task.augment, start.key, inputs).program,
        "loss": fingerprint(measured(["loss"]), made, batch).program,
        "metrics": fingerprint(measured(sorted({*task.measured} - {"loss"})), made, batch).program,
        OPTIMIZER: optimizer.program,
        SCHEDULES: optimizer.schedules,
        STEP: step.program,
        OBSERVERS: "; ".join(
            _name(observer)
            for observer, memory in zip(observers, moment.memories, strict=True)
            if jax.tree.leaves(memory)
        ),
        DATA: data_digest(_sample(train)),
    }
    if setup.dataset.validation is not None:
        recipe[VALIDATION] = data_digest(_sample(setup.dataset.validation))
    if not given:
        recipe["initialization"] = fingerprint(task.init, key, sample).program
        # A rate that the optimizer holds in its state, so that its program does not show it.
        held = [leaf for leaf in jax.tree.leaves(start.opt_state) if leaf.shape == ()]
        recipe[SETTINGS] = data_digest(jax.tree.map(local, held))
    return recipe


def recipe_of_model(task: Task, state: TrainState, inputs: Any) -> dict[str, str]:
    """The digests of what a model computes of a batch's raw inputs, in both modes."""

    def outputs(variables: Any, inputs: Any, key: Any) -> Any:
        trained = task.outputs(variables, inputs, train=True, key=key)
        return trained, task.outputs(variables, inputs, train=False)[0]

    def shape_of(leaf: Any) -> jax.ShapeDtypeStruct:
        # Where an array lies, and what it may be cast to, is no matter of the model.
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)

    seen = jax.eval_shape(task.preprocess, inputs)
    variables, key = jax.tree.map(shape_of, (state.variables, state.key))
    return {
        "preprocess": fingerprint(task.preprocess, inputs).program,
        "model": fingerprint(outputs, variables, seen, key).program,
    }


def _name(observer: Observer) -> str:
    made = observer.observe
    return observer.name or f"{made.__module__}.{getattr(made, '__qualname__', '')}"


def _is_count(leaf: Any) -> bool:
    return leaf.shape == () and jnp.issubdtype(leaf.dtype, jnp.integer)


def _sample(split: Any) -> Any:
    """Some examples, evenly spaced. A source that draws anew at each reading has none."""
    held = isinstance(split, Arrays)
    count = min(len(split), _ROWS if held else _ROWS_OF_A_STREAM)
    indices = np.linspace(0, len(split) - 1, count).astype(np.int64)
    if held:
        return read(split, indices)
    streamed = split if isinstance(split, Streamed) else Streamed(split)
    examples = [read(streamed, indices) for _ in range(2)]
    again = data_digest(examples[0]) == data_digest(examples[1])
    return examples[0] if again else len(split)
