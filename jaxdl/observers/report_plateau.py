"""Report the metric of each epoch to the optimizer's plateau."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.checks import require_choice
from jaxdl.data.streamed import as_streamed
from jaxdl.data.types import Arrays
from jaxdl.factories import factory
from jaxdl.observers.chosen_metric import Split, check_metric, known_mode, metric_of
from jaxdl.optimizers.plateau import PlateauState, report_metric
from jaxdl.training.fit.batches import batch_shapes, example_shapes
from jaxdl.training.fit.observing import Change, Event, Observer, Setup

_report = jax.jit(report_metric)


@factory
def report_plateau(metric: str = "loss", *, split: Split = "validation") -> Observer:
    """Lower the learning rate when the metric stops improving: the rate must be a `plateau`.

    It calls `optimizers.report_metric` at the end of each epoch. `optimizers.plateau` sets what
    counts as improvement, and how far the rate falls. The optimizer's state holds all the memory.

    Arguments:
        metric: "loss" or the name of a metric of the run.
        split: "validation", or "train" for the means over the epoch's steps.

    Raises:
        ValueError: from `fit`, if the metric is not measured, there is no validation split, the
            optimizer has no plateau, or the plateau waits for a metric of jaxdl to fall that should
            rise, or the reverse. Of another metric the plateau's mode is believed.

    Example:
        >>> from jaxdl import optimizers
        >>> optimizer = optimizers.adam(optimizers.plateau(1e-3, mode="max", patience=5))
        >>> observers = [report_plateau("accuracy")]
    """
    require_choice("split", split, ("validation", "train"))

    def check(setup: Setup) -> None:
        check_metric(setup, metric, split)
        # Raises an error if the state holds no plateau; nothing is computed.
        jax.eval_shape(lambda: report_metric(setup.optimizer.init(_params(setup)), 0.0))
        known = known_mode(setup, metric)
        modes = {"max" if is_max else "min" for is_max in _are_max(setup)}
        if known is not None and modes != {known}:
            word = "rise" if known == "max" else "fall"
            raise ValueError(
                f"the plateau must have mode={known!r}, as {metric!r} should {word}, got mode="
                f"{(modes - {known}).pop()!r}; pass optimizers.plateau(..., mode={known!r})"
            )

    def observe(event: Event, memory: Any) -> tuple[Any, Change | None]:
        if not event.epoch_ended:
            return memory, None
        value = jnp.asarray(metric_of(event, metric, split), jnp.float32)
        opt_state = _report(event.state.opt_state, value)
        return memory, Change(state=replace(event.state, opt_state=opt_state))

    return Observer(observe, check=check)


def _are_max(setup: Setup) -> list[bool]:
    """Whether each plateau of the optimizer waits for a rise."""

    def is_plateau(node: Any) -> bool:
        return isinstance(node, PlateauState)

    def settings() -> list[Any]:
        nodes = jax.tree.leaves(setup.optimizer.init(_params(setup)), is_leaf=is_plateau)
        return [node.settings.is_max for node in nodes if is_plateau(node)]

    # The compiler drops the parameters, on which no mode depends.
    return [bool(is_max) for is_max in jax.jit(settings)()]


def _params(setup: Setup) -> Any:
    """The first parameters, to be traced: an optimizer may look at their names."""
    train, task = setup.dataset.train, setup.task
    shapes = example_shapes(train if isinstance(train, Arrays) else as_streamed(train))
    sample = jax.eval_shape(task.preprocess, batch_shapes(shapes, 1)["inputs"])
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), sample)
    return task.init(jax.random.key(0), zeros)["params"]
