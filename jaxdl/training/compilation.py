"""How a run's functions are compiled and called on the backend at hand, decided in one place."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from jaxtyping import Array, Key

from jaxdl.training.evaluation import make_batch_sums, means
from jaxdl.training.state import TrainState, init_state
from jaxdl.training.steps import (
    Batch,
    PerExample,
    TrainStep,
    make_eval_step,
    make_train_epoch,
    make_train_step,
    take,
)

# XLA's CPU backend sends a matrix product to YNNPACK where it can. On an MLP's step of batch 100
# Eigen's threaded product, the older path, is a tenth faster; whole AVX-512 vectors, where there
# are any, save 2 %.
CPU_COMPILER_OPTIONS = {
    "xla_cpu_experimental_ynn_fusion_type": "",
    "xla_cpu_prefer_vector_width": 512,
}

# The initial state is computed once: its compilation is all its cost, in seconds and memory.
# Without optimisation, and without the emitters that take 45 MB to compile random numbers.
CPU_INIT_OPTIONS = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}

# Steps written out in one turn of the loop: on a CPU each turn costs copies and a condition.
# Two save 2 to 4 % of an MLP's epoch; four save no more, and compile for longer.
UNROLL_ON_CPU = 2

# Examples a call of the evaluation step; the result does not depend on it.
EVALUATION_BATCH = 1000


@functools.cache
def compiler_options() -> dict[str, Any]:
    """The options for the default backend, none where this version of XLA does not know them."""
    return _known_options(CPU_COMPILER_OPTIONS) if jax.default_backend() == "cpu" else {}


def _known_options(options: dict[str, Any]) -> dict[str, Any]:
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return options


@dataclass(frozen=True)
class Programs:
    """What a run calls, compiled at the first call of each shape.

    Attributes:
        train_step: the pure train step, not compiled.
        init: (key, sample_inputs) -> state.
        epoch: (state, arrays, order of shape (steps, batch)) -> (state, metrics (steps,));
            the state is donated.
        step: (state, arrays, indices (batch,)) -> (state, metrics); the state is donated.
        batch_sums: (variables, arrays) -> the sums of each evaluation batch.
    """

    train_step: TrainStep
    init: Callable[[Key[Array, ""], Any], TrainState]
    epoch: Callable[..., tuple[TrainState, dict[str, Array]]]
    step: Callable[..., tuple[TrainState, dict[str, Array]]]
    batch_sums: Callable[..., dict[str, Array]]

    def run_epoch(
        self, state: TrainState, arrays: Batch, order: np.ndarray, batch_size: int, scanned: bool
    ) -> tuple[TrainState, dict[str, np.ndarray]]:
        """Train on `arrays` in this order; the examples that fill no batch are a step at the end.

        Returns the state and the metrics of each step, on the host.
        """
        full = len(order) // batch_size
        batches = order[: full * batch_size].reshape(full, batch_size)
        pieces = []
        if scanned and full:
            state, measured = self.epoch(state, arrays, batches)
            pieces.append(measured)
        else:
            for indices in batches:
                state, measured = self.step(state, arrays, indices)
                pieces.append(measured)
        if full * batch_size < len(order):
            state, measured = self.step(state, arrays, order[full * batch_size :])
            pieces.append(measured)
        on_host = jax.device_get(pieces)
        return state, {
            name: np.concatenate([np.atleast_1d(piece[name]) for piece in on_host])
            for name in on_host[0]
        }

    def measure(self, variables: Mapping[str, Any], arrays: Batch) -> dict[str, float]:
        """The mean loss and metrics over all examples of `arrays`."""
        return means(self.batch_sums(variables, arrays), len(arrays["inputs"]))


def compile_programs(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    loss: PerExample,
    metrics: Mapping[str, PerExample],
    preprocess: Callable[[Array], Array],
) -> Programs:
    """The programs of a run; runs with the same (equal, hashable) arguments share them."""
    arguments = (model, optimizer, loss, tuple(metrics.items()), preprocess)
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
) -> Programs:
    train_step = make_train_step(model, optimizer, loss, dict(metrics), preprocess=preprocess)
    eval_step = make_eval_step(model, loss, dict(metrics), preprocess=preprocess)
    on_cpu = jax.default_backend() == "cpu"
    jit = functools.partial(jax.jit, compiler_options=compiler_options())
    return Programs(
        train_step=train_step,
        init=jax.jit(
            lambda key, sample: init_state(key, model, optimizer, sample),
            compiler_options=_known_options(CPU_INIT_OPTIONS) if on_cpu else {},
        ),
        epoch=jit(
            make_train_epoch(train_step, unroll=UNROLL_ON_CPU if on_cpu else 1), donate_argnums=0
        ),
        step=jit(
            lambda state, arrays, indices: train_step(state, take(arrays, indices)),
            donate_argnums=0,
        ),
        batch_sums=jit(make_batch_sums(eval_step, EVALUATION_BATCH)),
    )


_shared_programs = functools.lru_cache(maxsize=32)(_build_programs)


def scan_is_fast(train_step: TrainStep, state: TrainState, batch: Batch) -> bool:
    """False for a step with a convolution on a CPU: inside a loop it is 25 times slower there.

    Tracing the step for this also reports what cannot be run before anything is.
    """
    jaxpr = str(jax.make_jaxpr(train_step)(state, batch))
    return jax.default_backend() != "cpu" or "conv_general_dilated" not in jaxpr


def batch_shapes(arrays: Batch, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """The shapes and dtypes of a batch of `arrays`."""
    return {
        name: jax.ShapeDtypeStruct((batch_size, *array.shape[1:]), array.dtype)
        for name, array in arrays.items()
    }
