"""A model's layers, their sizes and their cost, without computing anything."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from jaxtyping import Array

from jaxdl.diagnostics.signal.flops import NONE, Flops, count_flops
from jaxdl.diagnostics.signal.hidden import hidden_blocks
from jaxdl.diagnostics.signal.recording import parameter_counts, parameters_of
from jaxdl.diagnostics.signal.rows import Trace, trace_shapes
from jaxdl.training.task import scale_images


@dataclass(frozen=True)
class Summary:
    """One entry for each layer in order of execution, and totals; `print` shows it as a table.

    The layers are the rows of `propagation`, and the blocks that a lifted transformation hides
    (`nn.remat`, `nn.scan`, the cell of an `nn.RNN`), whose values are those of one turn.

    Attributes:
        names: the rows' names; of a hidden block its path.
        kinds: the modules' classes, or "activation".
        shapes: the values' shapes, the batch axis included.
        parameters: learned numbers of the row's module; 0 where an earlier row counts them.
        flops: operations of the matrix products and convolutions since the row before;
            `flops.count_flops` says what counts. Those of a hidden block are the next row's.
        activation_bytes: the size of the row's value.
        total_parameters: parameters of the model, those held by containers included.
        parameter_bytes: the size of these parameters.
        total_flops: operations of a forward pass over this batch, and of its backward pass.
        state_numbers: numbers that are not learned: `batch_stats` and other collections.
        state_bytes: the size of these numbers.
        input_bytes: the size of what the model receives, after `preprocess`.
        pass_bytes: a forward and a backward pass as torchinfo counts them: twice the size of the
            values of layers with parameters, for the values and their gradients.
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


def summary(
    model: nn.Module,
    inputs: Any,
    *,
    train: bool = False,
    preprocess: Callable[[Array], Array] = scale_images,
) -> Summary:
    """The layers of a model in order of execution: shapes, parameters, operations and memory.

    No value and no parameter is computed, so the model may be too large for the machine.

    Arguments:
        model: a Linen module.
        inputs: (batch, ...), an array or a `jax.ShapeDtypeStruct`, or several as a tuple or a
            dictionary; operations and activations are counted for this batch.
        train: whether dropout and batch statistics are on.
        preprocess: a pure function of the inputs, as in `training.fit`.

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
    traced, variables, inputs = trace_shapes(model, inputs, train=train, preprocess=preprocess)
    params = variables.get("params", {})
    state = {name: value for name, value in variables.items() if name != "params"}
    flops, total_flops = _flops(traced, variables, inputs)
    layers = [
        _Layer(row.name, row.kind, row, count, bool(parameters_of(params, row)), operations)
        for row, count, operations in zip(
            traced.rows, parameter_counts(params, traced.rows), flops, strict=True
        )
    ]
    for block in reversed(hidden_blocks(model, variables, inputs, traced.rows, train=train)):
        if block.is_part:
            part = layers[block.row]
            layers[block.row] = part._replace(
                parameters=part.parameters + block.parameters, has_weights=True
            )
        else:
            name = "/".join(block.path) or block.kind
            layers.insert(
                block.row, _Layer(name, block.kind, block.value, block.parameters, True, NONE)
            )
    if not layers:
        raise ValueError(
            "a model must compute at least one array in a module, "
            f"got {type(model).__name__}, which computes none; pass a model with layers"
        )
    return Summary(
        names=tuple(layer.name for layer in layers),
        kinds=tuple(layer.kind for layer in layers),
        shapes=tuple(layer.value.shape for layer in layers),
        parameters=tuple(layer.parameters for layer in layers),
        flops=tuple(layer.flops for layer in layers),
        activation_bytes=tuple(_bytes(layer.value) for layer in layers),
        total_parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        parameter_bytes=_bytes(params),
        total_flops=total_flops,
        state_numbers=sum(leaf.size for leaf in jax.tree.leaves(state)),
        state_bytes=_bytes(state),
        input_bytes=_bytes(inputs),
        pass_bytes=2 * sum(_bytes(layer.value) for layer in layers if layer.has_weights),
    )


class _Layer(NamedTuple):
    name: str
    kind: str
    value: Any
    parameters: int
    has_weights: bool
    flops: Flops


def _flops(traced: Trace, variables: Any, inputs: Any) -> tuple[tuple[Flops, ...], Flops]:
    """The operations of each segment that ends in a row, and of the whole program."""
    jaxpr = traced.program.jaxpr
    is_param = jax.tree.map(lambda _: False, (dict(variables), inputs))
    is_param[0]["params"] = jax.tree.map(lambda _: True, variables.get("params", {}))
    # The key, the last argument, is not learned.
    learned = [*jax.tree.leaves(is_param), False]
    depends = {variable for variable, known in zip(jaxpr.invars, learned, strict=True) if known}
    pieces = []
    for segment in traced.segments:
        flops, gives = count_flops(
            segment.program, [variable in depends for variable in segment.reads]
        )
        depends.update(v for v, given in zip(segment.gives, gives, strict=True) if given)
        pieces.append(flops)
    return tuple(pieces[:-1]), Flops(*(sum(each) for each in zip(*pieces, strict=True)))


def _bytes(tree: Any) -> int:
    """The size of a tree's arrays; a row is one."""
    leaves = [tree] if hasattr(tree, "dtype") else jax.tree.leaves(tree)
    return sum(leaf.dtype.itemsize * math.prod(leaf.shape) for leaf in leaves)
