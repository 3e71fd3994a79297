"""Report the metric of each epoch to the optimizer's plateau."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxdl.checks import require_choice
from jaxdl.data.streamed import as_streamed
from jaxdl.data.types import Arrays
from jaxdl.factories import factory
from jaxdl.observers.chosen_metric import Split, check_metric, metric_of
from jaxdl.optimizers.plateau import report_metric
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
        ValueError: from `fit`, if the metric is not measured, there is no validation split, or the
            optimizer has no plateau.

    Example:
        >>> from jaxdl import optimizers
        >>> optimizer = optimizers.adam(optimizers.plateau(1e-3, patience=5))
        >>> observers = [report_plateau("loss")]
    """
    require_choice("split", split, ("validation", "train"))

    def check(setup: Setup) -> None:
        check_metric(setup, metric, split)
        # Raises an error if the state holds no plateau; nothing is computed.
        jax.eval_shape(lambda: report_metric(setup.optimizer.init(_params(setup)), 0.0))

    def observe(event: Event, memory: Any) -> tuple[Any, Change | None]:
        if not event.epoch_ended:
            return memory, None
        value = jnp.asarray(metric_of(event, metric, split), jnp.float32)
        opt_state = _report(event.state.opt_state, value)
        return memory, Change(state=replace(event.state, opt_state=opt_state))

    return Observer(observe, check=check)


def _params(setup: Setup) -> Any:
    """The first parameters, to be traced: an optimizer may look at their names."""
    train, task = setup.dataset.train, setup.task
    shapes = example_shapes(train if isinstance(train, Arrays) else as_streamed(train))
    sample = jax.eval_shape(task.preprocess, batch_shapes(shapes, 1)["inputs"])
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), sample)
    return task.init(jax.random.key(0), zeros)["params"]
