"""How a run's functions are compiled and called on the backend at hand, decided in one place."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jax import lax
from jaxtyping import Array, Key

from jaxdl.data.streaming import stream
from jaxdl.data.types import Arrays
from jaxdl.training.calls import Source, make_loop, make_single
from jaxdl.training.evaluation import make_batch_sums, means
from jaxdl.training.feeding import Streamed, put_on_device
from jaxdl.training.nonfinite import became_nonfinite
from jaxdl.training.parallel import AXIS, ONE_DEVICE, Layout
from jaxdl.training.state import TrainState, init_state
from jaxdl.training.steps import (
    Augment,
    Batch,
    PerExample,
    TrainStep,
    make_eval_step,
    make_train_step,
)

Piece = tuple[Mapping[str, Array], slice | None]
"""Metrics on the device and which of their rows count; None for those of a single step."""

# XLA's CPU backend sends products, convolutions and reductions to YNNPACK where it can. On an
# MLP's step of batch 100 Eigen's threaded product, the older path, is a tenth faster; whole AVX-512
# vectors, where there are any, save 2 %.
YNN = "xla_cpu_experimental_ynn_fusion_type"
CPU_COMPILER_OPTIONS = {YNN: "", "xla_cpu_prefer_vector_width": 512}

# Eigen's gradient for a convolution's kernel takes a half to a third of YNNPACK's time. But sums
# over the positions of many images, as batch norms need them, take ten times as long without
# YNNPACK; over a batch of vectors they are faster without. The order of execution that needs the
# least memory saves a tenth of ResNet-20's step, in pages that need not be fetched.
CPU_CONVOLUTION_OPTIONS = CPU_COMPILER_OPTIONS | {
    YNN: "LIBRARY_FUSION_TYPE_REDUCE",
    "xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED",
}

# The initial state is computed once: its compilation is all its cost, in seconds and memory.
# Without optimisation, and without the emitters that take 45 MB to compile random numbers.
CPU_INIT_OPTIONS = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}

# Examples a call of the evaluation step; the result does not depend on it.
EVALUATION_BATCH = 1000


@functools.cache
def compiler_options(*, convolutional: bool = False) -> dict[str, Any]:
    """The options that `fit` compiles a step with; those of the backend that XLA's version knows.

    For a loop of one's own: on a CPU a convolutional step takes up to twice as long without.

    Arguments:
        convolutional: whether the step has convolutions in it.

    Example:
        >>> step = jax.jit(lambda x: x + 1, compiler_options=compiler_options())
        >>> step(1).item()
        2
    """
    if jax.default_backend() != "cpu":
        return {}
    return _known_options(CPU_CONVOLUTION_OPTIONS if convolutional else CPU_COMPILER_OPTIONS)


@functools.cache
def init_options() -> dict[str, Any]:
    """The same for the program that computes the initial state."""
    return _known_options(CPU_INIT_OPTIONS) if jax.default_backend() == "cpu" else {}


def _known_options(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if _is_known(name, value)}


@functools.cache
def _is_known(name: str, value: Any) -> bool:
    try:
        jax.jit(lambda x: x, compiler_options={name: value}).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


@dataclass(frozen=True)
class Programs:
    """What a run calls, compiled at the first call of each shape.

    Attributes:
        layout: where state and batches lie.
        train_step: the pure train step of one device, not compiled.
        init: (key, sample_inputs) -> state.
        loops, singles: `make_loop` and `make_single` of the step, compiled; by whether the devices
            share the batches of the source.
            Loops leave the state that they are given as it was, to singles it is donated.
        became_nonfinite: (state before, state after) -> flag.
        batch_sums: (variables, arrays) -> the sums of each evaluation batch.
        stacked_sums: (variables, batches) -> the same, of batches laid one after another.
    """

    layout: Layout
    train_step: TrainStep
    init: Callable[[Key[Array, ""], Any], TrainState]
    loops: Mapping[bool, Callable[..., tuple[TrainState, dict[str, Array]]]]
    singles: Mapping[bool, Callable[..., tuple[TrainState, dict[str, Array]]]]
    became_nonfinite: Callable[[TrainState, TrainState], Array]
    batch_sums: Callable[..., dict[str, Array]]
    stacked_sums: Callable[..., dict[str, Array]]

    def run(
        self, state: TrainState, source: Source, rows: range, *, batch: int, looped: bool
    ) -> tuple[TrainState, list[Piece]]:
        """Take the steps of these rows: in one call, or, `looped` being false, in one each."""
        shared = self.layout.divides(batch)
        if looped:
            state, measured = self.loops[shared](state, source, rows.start, rows.stop)
            return state, [(measured, slice(rows.start, rows.stop))]
        pieces: list[Piece] = []
        for row in rows:
            state, measured = self.singles[shared](state, source, row)
            pieces.append((measured, None))
        return state, pieces

    def place(self, arrays: Arrays) -> list[Any]:
        """A split on the devices, for `measure`."""
        if self.layout.mesh is None:
            return [put_on_device(arrays)]
        size = self.layout.devices * -(-EVALUATION_BATCH // self.layout.devices)
        full = len(arrays) // size * size
        parts = [np.arange(full).reshape(-1, size), np.arange(full, len(arrays))[None]]
        return [self.layout.put_stack(arrays, order) for order in parts if order.size]

    def measure(
        self, variables: Mapping[str, Any], placed: Sequence[Any], examples: int
    ) -> dict[str, float]:
        """The mean loss and metrics over all examples of a split that was placed."""
        sums = self.batch_sums if self.layout.mesh is None else self.stacked_sums
        return means(joined([(sums(variables, part), slice(None)) for part in placed]), examples)

    def measure_stream(self, variables: Mapping[str, Any], streamed: Streamed) -> dict[str, float]:
        """`measure` of a split that is read batch by batch."""
        batches = stream(
            streamed.source,
            range(len(streamed)),
            batch_size=min(EVALUATION_BATCH, len(streamed)),
            decode=streamed.decode,
            device=None if self.layout.mesh is None else self.layout.replicated,
            prefetch=streamed.prefetch,
            threads=streamed.threads,
        )
        pieces = [(self.batch_sums(variables, batch), slice(None)) for batch in batches]
        return means(joined(pieces), len(streamed))


def joined(pieces: Sequence[Piece]) -> dict[str, np.ndarray]:
    """The metrics on the host, a row for each step."""
    on_host = jax.device_get([measured for measured, _ in pieces])
    return {
        name: np.concatenate(
            [
                values[name][None] if rows is None else values[name][rows]
                for values, (_, rows) in zip(on_host, pieces, strict=True)
            ]
        )
        for name in on_host[0]
    }


def compile_programs(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    loss: PerExample,
    metrics: Mapping[str, PerExample],
    preprocess: Callable[[Array], Array],
    *,
    augment: Augment | None = None,
    layout: Layout = ONE_DEVICE,
) -> Programs:
    """The programs of a run; runs with the same (equal, hashable) arguments share them."""
    arguments = (model, optimizer, loss, tuple(metrics.items()), preprocess, augment, layout)
    try:
        hash(arguments)
    except TypeError:
        return _build_programs(*arguments)
    return _shared_programs(*arguments)


def _build_programs(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    loss: PerExample,
    metrics: tuple[tuple[str, PerExample], ...],
    preprocess: Callable[[Array], Array],
    augment: Augment | None,
    layout: Layout,
) -> Programs:
    def step_over(axis_name: str | None) -> TrainStep:
        return make_train_step(
            model,
            optimizer,
            loss,
            dict(metrics),
            preprocess=preprocess,
            augment=augment,
            axis_name=axis_name,
        )

    alone = step_over(None)
    eval_step = make_eval_step(model, loss, dict(metrics), preprocess=preprocess)
    options = compiler_options()

    def by_sharing(
        make: Callable[[TrainStep], Callable[..., Any]], positions: int, donate: bool
    ) -> dict[bool, Any]:
        compile_ = functools.partial(layout.compile, positions=positions, donate=donate)
        # On a CPU the steps that are dispatched one by one are those with convolutions.
        one = compile_(make(alone), compiler_options(convolutional=make is make_single))
        if not layout.mapped:
            return {True: one, False: one}
        return {True: compile_(make(step_over(AXIS)), {}, mapped=True), False: one}

    return Programs(
        layout=layout,
        train_step=alone,
        init=jax.jit(
            lambda key, sample: init_state(key, model, optimizer, sample),
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


_shared_programs = functools.lru_cache(maxsize=32)(_build_programs)


def scan_is_fast(train_step: TrainStep, state: TrainState, batch: Batch) -> bool:
    """`loops_well` of a step; tracing it also reports what cannot be run before anything is."""
    return loops_well(jax.make_jaxpr(train_step)(state, batch))


def loops_well(jaxpr: Any) -> bool:
    """False for a step with a convolution on a CPU: inside a loop it is 25 times slower there."""
    return jax.default_backend() != "cpu" or "conv_general_dilated" not in str(jaxpr)


def batch_shapes(arrays: Batch, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes and dtypes of a batch of `arrays`."""
    return {
        name: jax.ShapeDtypeStruct((batch_size, *array.shape[1:]), array.dtype)
        for name, array in arrays.items()
    }
