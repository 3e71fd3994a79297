"""Products of Jacobians by the parameters, J J^T, with the Jacobians held or without them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxdl.diagnostics.kernel.mapped_rows import (
    flat_outputs,
    moves,
    outputs_of_model,
)
from jaxdl.diagnostics.objective import Group
from jaxdl.diagnostics.signal.rows import some_examples
from jaxdl.jaxprs import holds_primitive
from jaxdl.training.task import Task, examples_in

PIECE_NUMBERS = 2**26
"""Numbers of the Jacobians that are held at a time: a quarter of a gigabyte in float32."""

DRAWS = ("random_bits", "random_gamma", "threefry2x32", "rng_bit_generator", "rng_uniform")
"""The primitives that draw random numbers."""


class Outputs:
    """The outputs for a batch as functions of the parameters: of all examples, or of one."""

    def __init__(
        self, task: Task, variables: Mapping[str, Any], inputs: Any, train: bool, key: Any
    ) -> None:
        self.inputs = task.preprocess(jax.tree.map(jnp.asarray, inputs))
        self.examples = some_examples(self.inputs)
        rest = {name: tree for name, tree in variables.items() if name != "params"}

        def of(params: Any, inputs: Any) -> Array:
            given = {**rest, "params": params}
            made, _ = outputs_of_model(task, given, inputs, train=train, key=key)
            return flat_outputs(made, examples_in(inputs))

        self.of = of
        program, shape = jax.make_jaxpr(of, return_shape=True)(variables["params"], self.inputs)
        self.outputs = int(shape.shape[1])
        # Random numbers are drawn for the whole batch, so one example alone would get others. They
        # need no key where a model has its own, as `nnx.Rngs`.
        draws = key is not None or task.evaluation_seed is not None
        draws = draws or holds_primitive(program.jaxpr, *DRAWS)
        self.alone = not draws and not (train and moves(task, variables, self.inputs, key=key))

    def all(self, params: Any) -> Array:
        """(n, outputs)."""
        return self.of(params, self.inputs)

    def one(self, params: Any, index: Array) -> Array:
        """(outputs,)."""
        if not self.alone:
            return self.all(params)[index]
        own = jax.tree.map(lambda leaf: leaf[index][None], self.inputs)
        return self.of(params, own)[0]

    def jacobians(self, params: Any, indices: Array) -> Any:
        """By leaf, (indices, outputs, *leaf)."""
        return jax.vmap(lambda index: jax.jacrev(self.one)(params, index))(indices)


def by_jacobians(
    functions: list[Outputs], params: Any, found: tuple[Group, ...], *, full: bool,
    batch_size: int | None,
) -> Array:  # fmt: skip
    """(groups, n, m), the trace over outputs by their number, or (groups, n, m, outputs, outputs).

    Arguments:
        functions: of the batch, or of both.
        params: the point.
        found: the groups of parameters.
        full: whether all pairs of outputs are asked for.
        batch_size: examples whose Jacobians are held; None for as many as there is room for.
    """
    left, right = functions[0], functions[-1]
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    room = max(PIECE_NUMBERS // max(size * left.outputs, 1), 1)
    pieces = [min(batch_size or room, each.examples) for each in functions]
    form = "nkp,mlp->nmkl" if full else "nkp,mkp->nm"

    def product(first: Any, second: Any) -> Array:
        def of_group(group: Group) -> Any:
            parts = zip(group.take(first), group.take(second), strict=True)
            return sum(
                jnp.einsum(form, *(_flat(each) for each in pair), precision="highest")
                for pair in parts
            )

        kernel = jnp.stack([of_group(group) for group in found])
        return kernel if full else kernel / left.outputs

    if len(functions) == 1 and pieces[0] == left.examples:
        jacobians = left.jacobians(params, jnp.arange(left.examples))
        return product(jacobians, jacobians)

    def rows(indices: Array) -> Array:
        first = left.jacobians(params, indices)
        blocks = jax.lax.map(
            lambda others: product(first, right.jacobians(params, others)),
            _in_pieces(right.examples, pieces[-1]),
        )
        return _joined(blocks, axis=2, count=right.examples)

    blocks = jax.lax.map(rows, _in_pieces(left.examples, pieces[0]))
    return _joined(blocks, axis=1, count=left.examples)


def _flat(leaf: Array) -> Array:
    wide = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
    return wide.reshape(*leaf.shape[:2], -1)


def _in_pieces(count: int, piece: int) -> Array:
    """The numbers of the examples in rows; the last row is filled up with the last example."""
    rows = -(-count // piece)
    return jnp.minimum(jnp.arange(rows * piece), count - 1).reshape(rows, piece)


def _joined(blocks: Array, axis: int, count: int) -> Array:
    """Blocks, stacked in front, side by side along an axis of theirs."""
    joined = jnp.concatenate(list(blocks), axis)
    taken: Array = jax.lax.slice_in_dim(joined, 0, count, axis=axis)
    return taken


def by_products(left: Outputs, right: Outputs, params: Any) -> Array:
    """(n, m, outputs, outputs): for each output of the right a product with J^T, then with J."""
    _, forward = jax.linearize(left.all, params)

    def column(place: Array) -> Array:
        index, output = place
        _, back = jax.vjp(lambda params: right.one(params, index)[output], params)
        (direction,) = back(jnp.ones((), back_type))
        moved: Array = forward(direction)
        return moved

    back_type = jax.eval_shape(right.all, params).dtype
    pairs = jnp.stack(
        jnp.meshgrid(jnp.arange(right.examples), jnp.arange(right.outputs), indexing="ij"), -1
    ).reshape(-1, 2)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    room = max(PIECE_NUMBERS // max(size, 1), 1)
    columns = jax.lax.map(column, pairs, batch_size=min(room, len(pairs)))
    shape = (right.examples, right.outputs, left.examples, left.outputs)
    return jnp.transpose(columns.reshape(shape), (2, 0, 3, 1))
