"""The blocks that a lifted transformation hides: their values belong to an inner program."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from flax.traverse_util import flatten_dict

from jaxdl.calling import call_model
from jaxdl.diagnostics.signal.rows import ACTIVATION, Row

Path = tuple[str, ...]


@dataclass(frozen=True)
class Block:
    """A module that holds parameters which no row counts.

    Attributes:
        path: the module's place in the parameters.
        kind: the module's class.
        value: shape and dtype of its first output; of one turn, if it runs in a loop.
        row: the row that it is a part of, as the cell is of an `nn.RNN`; else the row before which
            it runs.
        is_part: whether it is a part of that row.
        parameters: the learned numbers of the module and of those inside it.
    """

    path: Path
    kind: str
    value: jax.ShapeDtypeStruct
    row: int
    is_part: bool
    parameters: int


def hidden_blocks(
    model: nn.Module, variables: Mapping[str, Any], inputs: Any, rows: Sequence[Row], *, train: bool
) -> list[Block]:
    """The largest modules without a row that hold parameters, in order of execution.

    Parameters of a container, which has rows inside it, belong to no block. A model that is one
    `nn.jit` shows no module inside it, and is one block. `variables` and `inputs` may be shapes and
    dtypes.
    """
    paths = [None if row.kind == ACTIVATION else row.path for row in rows]
    seen = {path[:length] for path in paths if path is not None for length in range(len(path) + 1)}
    calls = _calls(model, variables, inputs, train)
    order = {path: place for place, path in enumerate(calls)}
    found: dict[Path, Block] = {}
    for (*place, _), leaf in flatten_dict(dict(variables.get("params", {}))).items():
        prefixes = [tuple(place[:length]) for length in range(len(place) + 1)]
        hidden = [path for path in (*prefixes[1:], ()) if path not in seen and path in calls]
        if not set(paths).isdisjoint(prefixes) or not hidden:
            continue  # a row counts them, or they are a container's own
        path = hidden[0]
        call = calls[path]
        around = [paths.index(outer) for outer in call.within if outer in paths]
        later = [row for row, other in enumerate(paths) if order.get(other, -1) > order[path]]
        row = (around or later or [len(rows)])[0]
        block = found.get(path, Block(path, call.kind, call.value, row, bool(around), 0))
        found[path] = replace(block, parameters=block.parameters + leaf.size)
    return sorted(found.values(), key=lambda block: order[block.path])


class _Call(NamedTuple):
    kind: str
    value: jax.ShapeDtypeStruct
    within: tuple[Path, ...]


def _calls(
    model: nn.Module, variables: Mapping[str, Any], inputs: Any, train: bool
) -> dict[Path | None, _Call]:
    """The first call of each module that gives an array, in order of their ends."""
    calls: dict[Path | None, _Call] = {}
    running: list[Path] = []

    def watch(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        module = context.module
        running.append(module.path)
        outputs = call(*args, **kwargs)
        running.pop()
        note(module.path, module, outputs)
        return outputs

    def note(path: Path, module: nn.Module, outputs: Any) -> None:
        arrays = [leaf for leaf in jax.tree.leaves(outputs) if isinstance(leaf, jax.Array)]
        if arrays and path not in calls:
            value = jax.ShapeDtypeStruct(arrays[0].shape, arrays[0].dtype)
            calls[path] = _Call(type(module).__name__, value, tuple(running))

    def forward(variables: Any, inputs: Any, key: Any) -> None:
        with nn.intercept_methods(watch):
            outputs, _ = call_model(
                model, variables, inputs, train=train, dropout_key=key, moving=True
            )
        note((), model, outputs)

    jax.eval_shape(forward, dict(variables), inputs, jax.eval_shape(lambda: jax.random.key(0)))
    return calls
