"""The compiled programs of a run: its initial state, its steps, its evaluation."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Key

from jaxdl.compiling import compiler_options, init_options, once_for_equal
from jaxdl.data.streamed import as_streamed
from jaxdl.data.streaming import stream
from jaxdl.data.types import Arrays
from jaxdl.forking import require_own_threads
from jaxdl.training.evaluation import make_batch_sums, means
from jaxdl.training.fit.batches import put_on_device
from jaxdl.training.fit.layouts import AXIS, ONE_DEVICE, Layout
from jaxdl.training.fit.nonfinite import became_nonfinite
from jaxdl.training.loops import make_loop, make_single
from jaxdl.training.state import TrainState, init_state
from jaxdl.training.steps import TrainStep, make_eval_step, make_train_step
from jaxdl.training.task import Task

Piece = tuple[Mapping[str, Any], slice | None]
"""Metrics on the device, and the slice of rows to use; None for a single step, without rows."""

# Examples in a call of the evaluation step; it changes the means by rounding only.
EVALUATION_BATCH = 1000


class Placed(NamedTuple):
    """A split on the devices: its parts, and the number of its examples."""

    parts: list[Any]
    examples: int


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
    """

    layout: Layout
    train_step: TrainStep
    init: Callable[[Key[Array, ""], Any], TrainState]
    loops: Mapping[bool, Callable[..., tuple[TrainState, dict[str, Array]]]]
    singles: Mapping[bool, Callable[..., tuple[TrainState, dict[str, Array]]]]
    became_nonfinite: Callable[[TrainState, TrainState], Array]
    batch_sums: Callable[..., dict[str, Any]]
    stacked_sums: Callable[..., dict[str, Any]]

    def place(self, arrays: Arrays) -> Placed:
        """Put a split on the devices, for `measure`."""
        if self.layout.mesh is None:
            return Placed([put_on_device(arrays)], len(arrays))
        size = self.layout.devices * -(-EVALUATION_BATCH // self.layout.devices)
        full = len(arrays) // size * size
        parts = [np.arange(full).reshape(-1, size), np.arange(full, len(arrays))[None]]
        stacks = [self.layout.put_stack(arrays, order) for order in parts if order.size]
        return Placed(stacks, len(arrays))

    def measure(self, variables: Mapping[str, Any], split: Any) -> dict[str, float]:
        """The mean loss and metrics over all examples of a split; none without a split.

        Arguments:
            split: placed on the devices, in memory, or read batch by batch.
        """
        if split is None:
            return {}
        require_own_threads("evaluate")
        if isinstance(split, Arrays):
            split = self.place(split)
        if isinstance(split, Placed):
            sums = self.batch_sums if self.layout.mesh is None else self.stacked_sums
            pieces = [(sums(variables, part), slice(None)) for part in split.parts]
            return means(joined(pieces), split.examples)
        streamed = as_streamed(split)
        batches = stream(
            streamed.source,
            range(len(streamed)),
            batch_size=min(EVALUATION_BATCH, len(streamed)),
            decode=streamed.decode,
            device=None if self.layout.mesh is None else self.layout.replicated,
            prefetch=streamed.prefetch,
            threads=streamed.threads,
        )
        return means(
            joined([(self.batch_sums(variables, batch), slice(None)) for batch in batches]),
            len(streamed),
        )


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
    task: Task, optimizer: optax.GradientTransformation, layout: Layout = ONE_DEVICE
) -> Programs:
    """The programs of a run. Runs with equal, hashable arguments share them."""
    return _build(task, optimizer, layout)


@once_for_equal
def _build(task: Task, optimizer: optax.GradientTransformation, layout: Layout) -> Programs:
    def step_over(axis_name: str | None) -> TrainStep:
        return make_train_step(task, optimizer, axis_name=axis_name)

    alone = step_over(None)
    eval_step = make_eval_step(task)
    options = compiler_options()

    def by_sharing(
        make: Callable[[TrainStep], Callable[..., Any]], positions: int, donate: bool
    ) -> dict[bool, Any]:
        compile_ = functools.partial(layout.compile, positions=positions, donate=donate)
        # On a CPU only steps with convolutions are dispatched one by one.
        one = compile_(make(alone), compiler_options(convolutional=make is make_single))
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
    )
