"""Many steps in one compiled call, the same bits however they are shared out over calls.

A batch is a row of a source: row i of the order in which a set's examples are taken, or the i-th
of batches laid one after another. One program runs rows `start` to `stop`, both of them arguments:
since whatever the calls, it is the same program that takes every step, the results are the same.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from jaxdl.training.state import TrainState
from jaxdl.training.steps import Batch, TrainStep, take

Source = Mapping[str, Any]
"""{"arrays": a batch of all examples, "order": (steps, batch)}, or {"batches": (steps, batch, ...)
arrays by name}."""

Index = Int[Array, ""] | int


def batch_at(source: Source, index: Index) -> Batch:
    """The batch of one step.

    Example:
        >>> arrays = {"inputs": jnp.arange(4) * 10}
        >>> batch_at({"arrays": arrays, "order": jnp.array([[3, 0], [1, 2]])}, 0)["inputs"].tolist()
        [30, 0]
    """
    if "order" in source:
        batch = take(source["arrays"], source["order"][index])
    else:
        batch = {
            name: lax.dynamic_index_in_dim(array, index, keepdims=False)
            for name, array in source["batches"].items()
        }
    return batch


def make_loop(
    train_step: TrainStep,
) -> Callable[[TrainState, Source, Index, Index], tuple[TrainState, dict[str, Array]]]:
    """(state, source, start, stop) -> (state, metrics): the steps of rows start to stop in a loop.

    The metrics have a row for every row of the source, zero where no step was taken.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxdl import losses, models, optimizers, training
        >>> model, optimizer = models.MLP([1]), optimizers.sgd(0.1)
        >>> batches = {"inputs": jnp.ones((5, 4, 2)), "targets": jnp.ones((5, 4, 1))}
        >>> state = training.init_state(jax.random.key(0), model, optimizer, jnp.ones((1, 2)))
        >>> step = training.make_train_step(model, optimizer, losses.mean_squared_error)
        >>> state, measured = jax.jit(make_loop(step))(state, {"batches": batches}, 1, 4)
        >>> int(state.step), measured["loss"].shape
        (3, (5,))
    """

    def loop(
        state: TrainState, source: Source, start: Index, stop: Index
    ) -> tuple[TrainState, dict[str, Array]]:
        values = jax.eval_shape(lambda state: train_step(state, batch_at(source, 0))[1], state)
        rows = len(source["order"] if "order" in source else source["batches"]["inputs"])
        measured = {
            name: jnp.zeros((rows, *value.shape), value.dtype) for name, value in values.items()
        }

        def turn(index: Array, carry: Any) -> Any:
            state, measured = carry
            # Of a source of one row the batch is the same in every turn: tied to the state, what
            # is computed of it stays in the loop, and the bits those of any other source.
            batch, _ = lax.optimization_barrier((batch_at(source, index), state.step))
            state, values = train_step(state, batch)
            return state, {
                name: lax.dynamic_update_index_in_dim(rows, values[name], index, 0)
                for name, rows in measured.items()
            }

        state, measured = lax.fori_loop(start, stop, turn, (state, measured))
        return state, measured

    return loop


def make_single(
    train_step: TrainStep,
) -> Callable[[TrainState, Source, Index], tuple[TrainState, dict[str, Array]]]:
    """(state, source, index) -> (state, metrics): the step of one row, for a step no loop suits."""

    def single(
        state: TrainState, source: Source, index: Index
    ) -> tuple[TrainState, dict[str, Array]]:
        return train_step(state, batch_at(source, index))

    return single
