"""Many steps in one compiled call, with the same bits for any number of steps in a call.

A source holds one batch a row, as the indices of its examples or as stacked batches. One compiled
program runs the rows from `start` to `stop`, which are its arguments. The same program takes every
step, so the results do not depend on how the steps are divided into calls.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Int

from jaxdl.training.state import TrainState
from jaxdl.training.steps import TrainStep, take
from jaxdl.training.task import Batch, examples_in

Source = Mapping[str, Any]
"""{"arrays": a batch of all examples, "order": (steps, batch)}, or {"batches": arrays by name, each
(steps, batch, ...)}."""

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
        batch = jax.tree.map(
            lambda array: lax.dynamic_index_in_dim(array, index, keepdims=False), source["batches"]
        )
    return batch


def make_loop(
    train_step: TrainStep,
) -> Callable[[TrainState, Source, Index, Index], tuple[TrainState, dict[str, Array]]]:
    """(state, source, start, stop) -> (state, metrics): a loop over the rows start to stop.

    The metrics have a row for every row of the source. It is zero where no step was taken.

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
        rows = examples_in(source["order"] if "order" in source else source["batches"])
        measured = {
            name: jnp.zeros((rows, *value.shape), value.dtype) for name, value in values.items()
        }

        def body(index: Array, carry: Any) -> Any:
            state, measured = carry
            # A source of one row gives the same batch in every iteration. XLA would then move work
            # on the batch out of the loop, and the last bits would change. The barrier ties the
            # batch to the step.
            batch, _ = lax.optimization_barrier((batch_at(source, index), state.step))
            state, values = train_step(state, batch)
            return state, {
                name: lax.dynamic_update_index_in_dim(rows, values[name], index, 0)
                for name, rows in measured.items()
            }

        state, measured = lax.fori_loop(start, stop, body, (state, measured))
        return state, measured

    return loop


def make_single(
    train_step: TrainStep,
) -> Callable[[TrainState, Source, Index], tuple[TrainState, dict[str, Array]]]:
    """(state, source, index) -> (state, metrics): the step of one row, without a loop."""

    def single(
        state: TrainState, source: Source, index: Index
    ) -> tuple[TrainState, dict[str, Array]]:
        return train_step(state, batch_at(source, index))

    return single
