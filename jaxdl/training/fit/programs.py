"""The compiled programs of a run: its initial state, its steps, its evaluation."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Key

from jaxdl.compiling import (
    compiler_options,
    init_options,
    once_for_equal,
    side_by_side_options,
)
from jaxdl.training.evaluation import make_batch_sums
from jaxdl.training.fit.layouts import AXIS, ONE_DEVICE, Layout
from jaxdl.training.fit.nonfinite import became_nonfinite
from jaxdl.training.loops import make_loop, make_single
from jaxdl.training.state import TrainState, init_state
from jaxdl.training.steps import TrainStep, make_eval_step, make_train_step
from jaxdl.training.task import Task, of_examples

Piece = tuple[Mapping[str, Any], slice | None]
"""Metrics on the device, and the slice of rows to use; None for a single step, without rows."""

# Examples in a call of the evaluation step; it changes the means by rounding only.
EVALUATION_BATCH = 1000


@dataclass(frozen=True)
class Programs:
    """What a run calls, compiled at the first call of each shape.

    Attributes:
        layout: where state and batches lie.
        train_step: the pure train step of one device, not compiled.
        init: (key, sample_inputs) -> state.
        loops, singles: `make_loop` and `make_single` of the step, compiled. The key says whether
            the devices share the batches. A loop copies the state. A single step may overwrite it.
        became_nonfinite: (state before, state after) -> flag.
        batch_sums: (variables, arrays) -> the sums of each evaluation batch.
        stacked_sums: (variables, source) -> the same for stacked batches.
        outputs: (variables, inputs) -> the model's outputs in evaluation, of raw inputs.
    """

    layout: Layout
    train_step: TrainStep
    init: Callable[[Key[Array, ""], Any], TrainState]
    loops: Mapping[bool, Callable[..., tuple[TrainState, dict[str, Array]]]]
    singles: Mapping[bool, Callable[..., tuple[TrainState, dict[str, Array]]]]
    became_nonfinite: Callable[[TrainState, TrainState], Array]
    batch_sums: Callable[..., dict[str, Any]]
    stacked_sums: Callable[..., dict[str, Any]]
    outputs: Callable[[Mapping[str, Any], Any], Any]


def joined(pieces: Sequence[Piece]) -> dict[str, Any]:
    """The metrics on the host, one row per step."""
    on_host = jax.device_get([measured for measured, _ in pieces])
    rows = [rows for _, rows in pieces]

    def concatenated(*values: np.ndarray) -> np.ndarray:
        return np.concatenate(
            [
                value[None] if part is None else value[part]
                for value, part in zip(values, rows, strict=True)
            ]
        )

    metrics: dict[str, Any] = jax.tree.map(concatenated, *on_host)
    return metrics


def compile_programs(
    task: Task,
    optimizer: optax.GradientTransformation,
    layout: Layout = ONE_DEVICE,
    train_step: TrainStep | None = None,
) -> Programs:
    """The programs of a run. Runs with equal, hashable arguments share them.

    Arguments:
        train_step: takes the place of the task's own.
    """
    return _build(of_examples(task), optimizer, layout, train_step)


@once_for_equal
def _build(
    task: Task,
    optimizer: optax.GradientTransformation,
    layout: Layout,
    train_step: TrainStep | None,
) -> Programs:
    def step_over(axis_name: str | None) -> TrainStep:
        return train_step or make_train_step(task, optimizer, axis_name=axis_name)

    alone = step_over(None)
    eval_step = make_eval_step(task)
    choose = compiler_options if layout.devices == 1 else side_by_side_options
    options = choose()

    def by_sharing(
        make: Callable[[TrainStep], Callable[..., Any]], positions: int, donate: bool
    ) -> dict[bool, Any]:
        compile_ = functools.partial(layout.compile, positions=positions, donate=donate)
        # On a CPU only steps with convolutions are dispatched one by one.
        one = compile_(make(alone), choose(convolutional=make is make_single))
        if not layout.mapped:
            return {True: one, False: one}
        return {True: compile_(make(step_over(AXIS)), {}, mapped=True), False: one}

    return Programs(
        layout=layout,
        train_step=alone,
        init=jax.jit(
            lambda key, sample: init_state(key, task, optimizer, sample),
            compiler_options=init_options(),
        ),
        loops=by_sharing(make_loop, 2, donate=False),
        singles=by_sharing(make_single, 1, donate=True),
        became_nonfinite=jax.jit(became_nonfinite),
        batch_sums=jax.jit(make_batch_sums(eval_step, EVALUATION_BATCH), compiler_options=options),
        stacked_sums=jax.jit(
            lambda variables, stack: lax.map(
                lambda batch: eval_step(variables, batch), stack["batches"]
            ),
            compiler_options=options,
        ),
        outputs=jax.jit(
            lambda variables, inputs: task.outputs(variables, task.preprocess(inputs), train=False)[
                0
            ],
            compiler_options=options,
        ),
    )
