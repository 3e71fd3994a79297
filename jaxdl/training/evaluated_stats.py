"""The running statistics that belong to the parameters that a run evaluates."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxdl.calling import name_of
from jaxdl.training.state import TrainState
from jaxdl.training.statistics import (
    Moments,
    combined,
    moments_program,
    recalibrate,
    with_moments,
)
from jaxdl.training.task import Task, examples_in


def with_room(task: Task, state: TrainState) -> TrainState:
    """The state with a place for the statistics: at first a copy of the run's own.

    Raises:
        ValueError: a model without running statistics.
    """
    if not state.batch_stats:
        raise ValueError(
            "recalibrate=True needs a model with running statistics, got "
            f"{name_of(task.model)} without 'batch_stats'; leave it out, or add a norm that has "
            "some, such as layers.BatchNorm"
        )
    if state.evaluated_stats:
        return state
    # Copies, because a buffer used twice could not be donated.
    return replace(state, evaluated_stats=jax.tree.map(jnp.copy, state.batch_stats))


def recalibrated_over(task: Task, state: TrainState, batches: Iterable[Any]) -> TrainState:
    """The state with the statistics of what it evaluates; see `training.recalibrate`."""
    exact = recalibrate(task, state.evaluated, batches)
    return replace(state, evaluated_stats=exact["batch_stats"])


def recalibrated(task: Task, state: TrainState, inputs: Any, batch_size: int) -> TrainState:
    """The same for all examples of a split in memory, as a pure function.

    Full batches go through a loop, then the smaller last one. Their moments are combined in their
    own type, float32 at least.

    Arguments:
        task: what is learned.
        state: whose `evaluated_stats` are set.
        inputs: of all examples, (n, ...), as arrays.
        batch_size: examples in a batch, in which each norm takes its own statistics.
    """
    settings = (task.model, task.mode, task.preprocess, task.evaluation_seed or 0)
    moments_of, keeps_unbiased = moments_program(*settings)
    variables, examples = state.evaluated, examples_in(inputs)
    full = examples // batch_size * batch_size
    parts = []
    if full:
        stacked = jax.tree.map(
            lambda leaf: leaf[:full].reshape(-1, batch_size, *leaf.shape[1:]), inputs
        )
        found = lax.map(lambda batch: moments_of(variables, batch), stacked)
        parts.append({path: _together(each) for path, each in found.items()})
    if full < examples:
        parts.append(moments_of(variables, jax.tree.map(lambda leaf: leaf[full:], inputs)))
    total = parts[0]
    for new in parts[1:]:
        total = {path: combined(total[path], new[path]) for path in total}
    exact = with_moments(variables, total, keeps_unbiased)
    return replace(state, evaluated_stats=exact["batch_stats"])


def _together(batches: Moments) -> Moments:
    """The moments of all batches, which lie along the first axis."""
    number = batches.number.sum(0)
    mean = (batches.number * batches.mean).sum(0) / jnp.maximum(number, 1)
    apart = batches.number * jnp.abs(batches.mean - mean) ** 2
    return Moments(number, mean, (batches.squares + apart).sum(0))
