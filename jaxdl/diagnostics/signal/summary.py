"""A model's layers, their sizes and their cost, without computing anything."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl.calling import GivenMode
from jaxdl.diagnostics.signal.flops import NONE, Flops, count_flops
from jaxdl.diagnostics.signal.levels import Level
from jaxdl.diagnostics.signal.rows import Trace, trace_shapes
from jaxdl.training.task import Task, as_measured, scale_images


@dataclass(frozen=True)
class Summary:
    """One entry for each row of `propagation`, in order of execution, and totals.

    Attributes:
        names: the rows' names.
        kinds: the modules' classes, or "activation".
        shapes: the values' shapes, the batch axis included.
        parameters: learned numbers of the row's module; 0 where an earlier row counts them.
        flops: operations of the matrix products and convolutions since the row before;
            `flops.count_flops` says what counts.
        activation_bytes: the size of the row's value.
        total_parameters: parameters of the model, those held by containers included.
        parameter_bytes: the size of these parameters.
        total_flops: operations of a forward pass over this batch, and of its backward pass.
    """

    names: tuple[str, ...]
    kinds: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    parameters: tuple[int, ...]
    flops: tuple[Flops, ...]
    activation_bytes: tuple[int, ...]
    total_parameters: int
    parameter_bytes: int
    total_flops: Flops

    @property
    def total_activation_bytes(self) -> int:
        """The memory that a backward pass keeps if it recomputes and shares nothing."""
        return sum(self.activation_bytes)

    def table(self) -> Any:
        """A `rich.table.Table` of the rows, the totals below."""
        from jaxdl.diagnostics.signal.tables import summary_table

        return summary_table(self)

    def __rich__(self) -> Any:
        return self.table()


def summary(
    model: nn.Module | Task,
    inputs: Any,
    *,
    train: bool = False,
    preprocess: Callable[[Any], Any] = scale_images,
    mode: GivenMode = None,
) -> Summary:
    """The layers of a model in order of execution: shapes, parameters, operations and memory.

    No value and no parameter is computed, so the model may be too large for the machine.

    Arguments:
        model: a Linen module, or a `training.Task`.
        inputs: (batch, ...), an array or a `jax.ShapeDtypeStruct`; operations and activations are
            counted for this batch.
        train: whether dropout and batch statistics are on.
        preprocess: a pure function of the inputs, as in `training.fit`.
        mode: how the model is told of training, as in `training.Task`.

    Raises:
        TypeError: the model is no module.
        ValueError: a model without layers.

    Example:
        >>> from jaxdl import diagnostics, models
        >>> sizes = diagnostics.summary(
        ...     models.MLP([128, 10]), jax.ShapeDtypeStruct((100, 28, 28, 1), jnp.uint8))
        >>> sizes.names, sizes.parameters, sizes.total_parameters
        (('dense_0', 'dense_0/activation', 'dense_1'), (100480, 0, 1290), 101770)
        >>> sizes.total_flops
        Flops(forward=20326400, backward=20582400)
    """
    task = as_measured(model, preprocess=preprocess, mode=mode)
    traced, variables, inputs = trace_shapes(task, inputs, train=train)
    params = variables.get("params", {})
    flops, total_flops = _flops(traced)
    leaves = jax.tree.leaves(params)
    return Summary(
        names=tuple(row.name for row in traced.rows),
        kinds=tuple(row.kind for row in traced.rows),
        shapes=tuple(row.shape for row in traced.rows),
        parameters=tuple(row.parameters for row in traced.rows),
        flops=flops,
        activation_bytes=tuple(_bytes(row) for row in traced.rows),
        total_parameters=sum(leaf.size for leaf in leaves),
        parameter_bytes=sum(_bytes(leaf) for leaf in leaves),
        total_flops=total_flops,
    )


def _flops(traced: Trace) -> tuple[tuple[Flops, ...], Flops]:
    """The operations of the code up to each row, and of the whole program."""
    of_site: dict[int, Flops] = {}
    total = _count(traced.top, of_site, 1)
    layers = traced.layers()
    return tuple(
        Flops(*(part // layers[row.site] for part in of_site[row.site])) for row in traced.rows
    ), total


def _count(level: Level, of_site: dict[int, Flops], times: int) -> Flops:
    """The operations of a level that runs some times; those up to each site go into `of_site`."""
    total = NONE
    for step in level.steps:
        learned = [level.is_learned(variable) for variable in step.segment.reads]
        flops = NONE.plus(count_flops(step.segment.program, learned)[0], times)
        if step.site is not None:
            of_site[step.site] = flops
        total = total.plus(flops)
        if step.scan is not None:
            total = total.plus(_count(step.scan, of_site, times * step.scan.length))
    return total


def _bytes(array: Any) -> int:
    return int(jnp.dtype(array.dtype).itemsize * math.prod(array.shape))
