"""Logits and weights of attentions, measured again every few epochs of a run."""

import os
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxdl.checks import Count, whole_number
from jaxdl.diagnostics.signal.attentions import Attention, attention
from jaxdl.factories import factory
from jaxdl.files import as_path
from jaxdl.observers.measurement_files import npz_writer
from jaxdl.observers.probe import check_measurement, host_variables, make_probe
from jaxdl.training.fit.observing import Event, Observer, Setup

Report = Callable[[Event, Attention], None]


@factory
def attention_every(
    epochs: Count,
    report: Report | str | os.PathLike[str],
    *,
    examples: Count = 100,
    batch: Mapping[str, Any] | None = None,
) -> Observer:
    """Measure `diagnostics.attention` every few epochs, and after the last one.

    The examples are the same each time, so only the network changes. Dropout is off. Only the first
    process measures.

    Arguments:
        epochs: epochs between two measurements, at least 1.
        report: a function of the event and the `Attention`. Or a folder for a file
            `attention_<step>.npz` each time, with an array for each field.
        examples: how many of the first training examples to use, at least 1.
        batch: {"inputs": ...} to use instead of them.

    Raises:
        TypeError: a number that is not whole.
        ValueError: fewer than 1 epoch or example; from `fit`, before its first step, a
            model without attention.

    Example:
        >>> import functools
        >>> from jaxdl import data, losses, models, optimizers, training
        >>> made = data.copying(jax.random.key(0), copied=4, gap=2, examples=64)
        >>> kept = []
        >>> result = training.fit(
        ...     models.Transformer(10, features=8, layers=1, heads=2, outputs=8, length=11),
        ...     made, optimizers.adam(0.01), epochs=4, batch_size=16, key=jax.random.key(1),
        ...     loss=functools.partial(losses.cross_entropy, ignored=data.IGNORED),
        ...     observers=[attention_every(2, lambda event, seen: kept.append(seen))])
        >>> [seen.names for seen in kept]
        [('block_0/attention/weights',), ('block_0/attention/weights',)]
    """
    epochs, examples = whole_number("epochs", epochs), whole_number("examples", examples)
    probe = make_probe(batch, examples)
    tell = report if callable(report) else npz_writer(as_path(report), "attention")

    def observe(event: Event, memory: Any) -> tuple[Any, None]:
        due = event.epoch % epochs == 0 or event.epoch == event.epochs
        if event.epoch_ended and due and jax.process_index() == 0:
            tell(event, measure(event.setup, host_variables(event), event.step))
        return memory, None

    def measure(setup: Setup, variables: Any, step: int) -> Attention:
        key = jax.random.key(step)
        return attention(setup.task, variables, probe(setup), train=False, key=key)

    def check(setup: Setup) -> None:
        check_measurement(setup, lambda variables: measure(setup, variables, 0))

    return Observer(observe, check=check)
