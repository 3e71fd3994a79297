"""Signal and gradient, measured again every few epochs of a run."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxdl.checks import Count, require_at_least
from jaxdl.diagnostics.signal.propagation import Propagation, propagation
from jaxdl.factories import factory
from jaxdl.files import as_path
from jaxdl.observers.measurement_files import npz_writer
from jaxdl.observers.probe import host_variables, make_probe, on_host
from jaxdl.training.fit.observing import Event, Observer

Report = Callable[[Event, Propagation], None]


@factory
def propagation_every(
    epochs: Count,
    report: Report | str | os.PathLike[str],
    *,
    examples: Count = 100,
    batch: Mapping[str, Any] | None = None,
    saturation: float = 0.01,
    updates: bool = True,
) -> Observer:
    """Measure `diagnostics.propagation` every few epochs, and after the last one.

    The examples are the same each time, so only the network changes. Dropout masks are a function
    of the step. Only the first process measures.

    Arguments:
        epochs: epochs between two measurements, at least 1.
        report: a function of the event and the `Propagation`. Or a folder for a file
            `propagation_<step>.npz` each time, with an array for each field, and `names`.
        examples: how many of the first training examples to use, 2 or more.
        batch: {"inputs": ..., "targets": ...} to use instead of them.
        saturation: as in `diagnostics.propagation`.
        updates: whether to measure the optimizer's next update too; False for an optimizer that
            needs more than the gradient, such as `sam`.

    Raises:
        ValueError: fewer than 1 epoch, fewer than 2 examples.

    Example:
        >>> kept = []
        >>> observers = [propagation_every(5, lambda event, measured: kept.append(measured))]
    """
    require_at_least(1, epochs=epochs)
    require_at_least(2, examples=examples)
    probe = make_probe(batch, examples)
    tell = report if callable(report) else npz_writer(as_path(report), "propagation")

    def observe(event: Event, memory: Any) -> tuple[Any, None]:
        due = event.epoch % epochs == 0 or event.epoch == event.epochs
        if event.epoch_ended and due and jax.process_index() == 0:
            tell(event, _measure(event, probe(event.setup), saturation, updates))
        return memory, None

    return Observer(observe)


def _measure(
    event: Event, batch: Mapping[str, Any], saturation: float, updates: bool
) -> Propagation:
    setup = event.setup
    return propagation(
        setup.task,
        host_variables(event),
        batch,
        optimizer=setup.optimizer if updates else None,
        opt_state=on_host(event.state.opt_state) if updates else None,
        key=jax.random.key(event.step),
        saturation=saturation,
    )
