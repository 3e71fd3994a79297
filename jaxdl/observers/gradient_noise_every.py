"""The gradient's noise, measured again every few epochs of a run."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.checks import Count, require_at_least
from jaxdl.diagnostics.noise.gradient_noise import GradientNoise, gradient_noise
from jaxdl.diagnostics.noise.noise_average import NoiseAverage, average_noise
from jaxdl.diagnostics.objective import groups
from jaxdl.factories import factory
from jaxdl.observers.probe import check_measurement, host_variables, make_probe
from jaxdl.training.fit.observing import Event, Observer, Setup
from jaxdl.training.state import TrainState

Report = Callable[[Event, GradientNoise, NoiseAverage], None]


@factory
def gradient_noise_every(
    epochs: Count,
    report: Report,
    *,
    examples: Count = 100,
    batch: Mapping[str, Any] | None = None,
    layers: Any = None,
    small_batch: Count = 1,
    batch_size: Count | None = None,
    train: bool = True,
    decay: float = 0.9,
) -> Observer:
    """Measure `diagnostics.gradient_noise` every few epochs, and after the last one.

    The examples are the same each time, so only the network changes. Dropout masks are a function
    of the step. Only the first process measures. The average along the run is kept in checkpoints.

    Arguments:
        epochs: epochs between two measurements, at least 1.
        report: a function of the event, the `GradientNoise`, and its `NoiseAverage` along the run.
        examples: how many of the first training examples to use, 2 or more.
        batch: {"inputs": ..., "targets": ...} to use instead of them.
        layers: as in `diagnostics.gradient_noise`.
        small_batch: the same; more than 1 for a network with batch norms in training.
        batch_size: the same.
        train: the same.
        decay: of the average, as in `diagnostics.average_noise`.

    Raises:
        ValueError: fewer than 1 epoch, fewer than 2 examples, `decay` outside of [0, 1); from
            `fit`, before its first step, what `diagnostics.gradient_noise` refuses.

    Example:
        >>> kept = []
        >>> observers = [gradient_noise_every(5, lambda *measured: kept.append(measured))]
    """
    require_at_least(1, epochs=epochs, small_batch=small_batch)
    if batch is None:
        require_at_least(2 * small_batch, examples=examples)
    if not 0 <= decay < 1:
        raise ValueError(f"decay must lie in [0, 1), got {decay}; 0.9 reaches back over about 10")
    probe = make_probe(batch, examples)

    def init(state: TrainState | None) -> NoiseAverage:
        count = 1 if state is None else len(groups(state.params, layers))
        nothing = jnp.zeros(count, jnp.float32)
        return NoiseAverage(nothing, nothing, nothing)

    def observe(event: Event, memory: NoiseAverage) -> tuple[NoiseAverage, None]:
        due = event.epoch % epochs == 0 or event.epoch == event.epochs
        if event.epoch_ended and due and jax.process_index() == 0:
            measured = measure(event.setup, host_variables(event), event.step)
            memory = average_noise(measured, memory, decay=decay)
            report(event, measured, memory)
        return memory, None

    def measure(setup: Setup, variables: Any, step: int) -> GradientNoise:
        return gradient_noise(
            setup.task,
            variables,
            probe(setup),
            layers=layers,
            small_batch=small_batch,
            batch_size=batch_size,
            train=train,
            key=jax.random.key(step),
        )

    def check(setup: Setup) -> None:
        check_measurement(setup, lambda variables: measure(setup, variables, 0))

    return Observer(observe, init, check)
