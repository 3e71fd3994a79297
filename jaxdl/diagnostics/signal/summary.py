"""A model's layers, their sizes and their cost, without computing anything."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

from jaxdl.calling import GivenMode
from jaxdl.diagnostics.signal.flops import NONE, Flops, count_flops
from jaxdl.diagnostics.signal.rows import Trace, trace_shapes
from jaxdl.showing import html_of
from jaxdl.tracing.levels import Level
from jaxdl.training.task import as_measured, scale_images


@dataclass(frozen=True)
class Summary:
    """One entry for each row of `propagation`, in order of execution, and totals; `print` shows it.

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
        state_numbers: numbers that are not learned: `batch_stats` and other collections.
        state_bytes: the size of these numbers.
        input_bytes: the size of what the model receives, after `preprocess`.
        pass_bytes: a forward and a backward pass as torchinfo counts them: twice the size of the
            values of layers with parameters, for the values and their gradients.
        hidden: modules without rows, as in `Propagation`.
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
    state_numbers: int
    state_bytes: int
    input_bytes: int
    pass_bytes: int
    hidden: tuple[str, ...] = ()

    @property
    def total_activation_bytes(self) -> int:
        """The memory that a backward pass keeps if it recomputes and shares nothing."""
        return sum(self.activation_bytes)

    @property
    def total_bytes(self) -> int:
        """The estimated total, as torchinfo adds it: inputs, both passes, and all variables."""
        return self.input_bytes + self.pass_bytes + self.parameter_bytes + self.state_bytes

    def table(self) -> Any:
        """A `rich.table.Table` of the rows, the totals below."""
        from jaxdl.diagnostics.signal.tables import summary_table

        return summary_table(self)

    def __rich__(self) -> Any:
        return self.table()

    def __str__(self) -> str:
        from jaxdl.diagnostics.signal.tables import as_text

        return as_text(self.table())

    def __repr__(self) -> str:
        from jaxdl.diagnostics.signal.tables import summary_line

        return summary_line(self)

    def _repr_html_(self) -> str:
        return html_of(repr(self), self.table())


def summary(
    model: Any,
    inputs: Any,
    *,
    train: bool = False,
    preprocess: Callable[[Any], Any] = scale_images,
    mode: GivenMode = None,
    variables: Any = None,
) -> Summary:
    """The layers of a model in order of execution: shapes, parameters, operations and memory.

    No value and no parameter is computed, so the model may be too large for the machine.

    Arguments:
        model: a model of any library, see `calling.adapt`, or a `training.Task`.
        inputs: (batch, ...), an array or a `jax.ShapeDtypeStruct`, or several as a tuple or a
            dictionary; operations and activations are counted for this batch.
        train: whether dropout and batch statistics are on.
        preprocess: a pure function of the inputs, as in `training.fit`.
        mode: how the model is told of training, as in `training.Task`.
        variables: as in `propagation`, or their shapes and dtypes; needed of a function. None takes
            the shapes of what `init` draws.

    Raises:
        TypeError: the model is no module, or an input has no shape and dtype.
        ValueError: a model without layers.

    Example:
        >>> from jaxdl import diagnostics, models
        >>> sizes = diagnostics.summary(
        ...     models.MLP([128, 10]), jax.ShapeDtypeStruct((100, 28, 28, 1), "uint8"))
        >>> sizes.names, sizes.parameters, sizes.total_parameters
        (('dense_0', 'dense_0/activation', 'dense_1'), (100480, 0, 1290), 101770)
        >>> sizes.total_flops
        Flops(forward=20326400, backward=20582400)
        >>> print(sizes)
                                     output             forward backward output
         layer              type       shape  parameters   FLOPs    FLOPs   (MB)
         ...
         total                                  101,770  20.3 M   20.6 M   0.11
        <BLANKLINE>
        total params: 101,770
        trainable params: 101,770
        non-trainable params: 0
        input size (MB): 0.31
        forward/backward pass size (MB): 0.11
        params size (MB): 0.41
        estimated total size (MB): 0.83
        1 MB is 10^6 bytes of the arrays' own dtypes.
    """
    task = as_measured(model, preprocess=preprocess, mode=mode)
    traced, variables, inputs = trace_shapes(task, inputs, train=train, variables=variables)
    params = variables.get("params", {})
    state = {name: value for name, value in variables.items() if name != "params"}
    flops, total_flops = _flops(traced)
    return Summary(
        names=tuple(row.name for row in traced.rows),
        kinds=tuple(row.kind for row in traced.rows),
        shapes=tuple(row.shape for row in traced.rows),
        parameters=tuple(row.parameters for row in traced.rows),
        flops=flops,
        activation_bytes=tuple(_bytes(row) for row in traced.rows),
        total_parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        parameter_bytes=_bytes(params),
        total_flops=total_flops,
        state_numbers=sum(leaf.size for leaf in jax.tree.leaves(state)),
        state_bytes=_bytes(state),
        input_bytes=_bytes(inputs),
        pass_bytes=2 * sum(_bytes(row) for row in traced.rows if row.has_weights),
        hidden=traced.hidden,
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


def _bytes(tree: Any) -> int:
    """The size of a tree's arrays; a row is one."""
    leaves = [tree] if hasattr(tree, "dtype") else jax.tree.leaves(tree)
    return sum(leaf.dtype.itemsize * math.prod(leaf.shape) for leaf in leaves)
