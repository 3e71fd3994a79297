r"""Products of a curvature matrix with a vector, for a batch or for a split in pieces.

$$H v = \frac{\sum_i w_i \nabla^2 \ell_i\, v}{\sum_i w_i}, \qquad
  G v = \frac{\sum_i w_i J_i^T\, \nabla^2_f \ell_i\, J_i v}{\sum_i w_i}$$

The Hessian's is the derivative of the gradient along v (Pearlmutter 1994). The Gauss-Newton
matrix's goes through the outputs f (Schraudolph 2002).
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from jaxdl.diagnostics.objective import example_losses, outputs_at
from jaxdl.training.task import Task, as_batch, examples_in, per_example, sum_over_batch

Matrix = Literal["hessian", "gauss_newton"]


class Measured(NamedTuple):
    """Which matrix is measured: what does not change while its products are made.

    Attributes:
        task: the model and its loss.
        matrix: "hessian" or "gauss_newton".
        train: whether dropout and batch statistics are on.
        batch_size: examples in a piece; None for all at once.
        dtype: what everything is computed in; None leaves it, but parameters in half precision are
            float32.
    """

    task: Task
    matrix: Matrix
    train: bool
    batch_size: int | None
    dtype: Any


class Operands(NamedTuple):
    """The arrays of which it is made: variables, batch, and the key of dropout."""

    variables: Any
    batch: Any
    key: Any


def computed_type(measured: Measured, operands: Operands) -> Any:
    """The type that is computed in.

    Raises:
        TypeError: parameters that are no real floats.
    """
    types = {jnp.result_type(leaf) for leaf in jax.tree.leaves(operands.variables["params"])}
    if wrong := sorted(str(each) for each in types if not jnp.issubdtype(each, jnp.floating)):
        raise TypeError(
            f"parameters must be real floats to have a curvature matrix, got {', '.join(wrong)}; "
            "hold complex ones as real and imaginary parts, and others outside of 'params'"
        )
    return measured.dtype or jnp.result_type(jnp.float32, *types)


def flat_parameters(measured: Measured, operands: Operands) -> tuple[Array, Callable[..., Any]]:
    """All parameters in a row, in the type that is computed in, and the way back.

    Raises:
        TypeError: parameters that are no real floats.
    """
    params, dtype = operands.variables["params"], computed_type(measured, operands)
    flat, unravel = ravel_pytree(jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params))
    return flat, unravel


def product(measured: Measured, operands: Operands, vector: Array) -> Array:
    """The matrix of all parameters times a vector, (parameters,)."""
    flat, unravel = flat_parameters(measured, operands)
    params, direction = unravel(flat), unravel(vector)
    task, variables, batch = _in_type(measured, operands)
    of_piece = _hessian if measured.matrix == "hessian" else _gauss_newton

    def partial(piece: Any, key: Any) -> tuple[Array, Array]:
        made, weight = of_piece(
            replace_task(measured, task), variables, piece, key, params, direction
        )
        return ravel_pytree(made)[0].astype(flat.dtype), weight

    total, weight = _over_pieces(partial, batch, operands.key, measured.batch_size)
    return total / jnp.where(weight == 0, 1, weight).astype(total.dtype)


def replace_task(measured: Measured, task: Task) -> Measured:
    """The same with another task."""
    return measured._replace(task=task)


def _in_type(measured: Measured, operands: Operands) -> tuple[Task, Mapping[str, Any], Any]:
    """Task, variables and batch; in the type that was asked for, if one was."""
    task, dtype = measured.task, measured.dtype
    if dtype is None:
        return task, operands.variables, as_batch(operands.batch)

    def cast(tree: Any) -> Any:
        return jax.tree.map(
            lambda leaf: (
                jnp.asarray(leaf, dtype)
                if jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
                else leaf
            ),
            tree,
        )

    before = task.preprocess
    task = replace(task, preprocess=lambda inputs: cast(before(inputs)))
    return task, cast(operands.variables), cast(as_batch(operands.batch))


def _over_pieces(partial: Any, batch: Any, key: Any, size: int | None) -> tuple[Array, Array]:
    """The sums over the pieces. Piece i draws its masks with `fold_in(key, i)`."""
    examples = examples_in(batch["inputs"])
    if size is None or size >= examples:
        made: tuple[Array, Array] = partial(batch, key)
        return made
    count, rest = divmod(examples, size)

    def folded(index: Any) -> Any:
        return None if key is None else jax.random.fold_in(key, index)

    def add(sums: Any, given: Any) -> tuple[Any, None]:
        index, piece = given
        return jax.tree.map(jnp.add, sums, partial(piece, folded(index))), None

    full = jax.tree.map(
        lambda leaf: leaf[: count * size].reshape(count, size, *leaf.shape[1:]), batch
    )
    shapes = jax.eval_shape(partial, jax.tree.map(lambda leaf: leaf[0], full), folded(0))
    zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)
    sums, _ = lax.scan(add, zeros, (jnp.arange(count), full))
    if rest:
        last = jax.tree.map(lambda leaf: leaf[count * size :], batch)
        sums, _ = add(sums, (count, last))
    total, weight = sums
    return total, weight


def _weighed(values: Array, weights: Array | None) -> tuple[Array, Array]:
    """The weighted sum of the values, and the sum of the weights, which are constants."""
    if weights is None:
        return values.sum(), jnp.asarray(len(values), values.dtype)
    total: Any = sum_over_batch(values, lax.stop_gradient(weights))
    return total.total, total.weight


def _hessian(
    measured: Measured, variables: Any, piece: Any, key: Any, params: Any, direction: Any
) -> tuple[Any, Array]:
    losses = example_losses(measured.task, variables, piece, train=measured.train, key=key)
    gradient = jax.grad(lambda params: _weighed(*losses(params)), has_aux=True)
    _, made, weight = jax.jvp(gradient, (params,), (direction,), has_aux=True)
    return made, weight


def _gauss_newton(
    measured: Measured, variables: Any, piece: Any, key: Any, params: Any, direction: Any
) -> tuple[Any, Array]:
    model = outputs_at(measured.task, variables, piece["inputs"], train=measured.train, key=key)
    structure: Any = jax.tree.structure(jax.eval_shape(model, params))

    def outputs(params: Any) -> tuple[list[Array], list[Any]]:
        """The outputs that have derivatives, and None in their place among the others."""
        leaves = jax.tree.leaves(model(params))
        floats = [leaf for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact)]
        others = [None if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf for leaf in leaves]
        return floats, others

    def total(floats: list[Array], others: list[Any]) -> tuple[Array, Array]:
        given = iter(floats)
        leaves = [next(given) if leaf is None else leaf for leaf in others]
        made = structure.unflatten(leaves)
        return _weighed(*per_example("loss", measured.task.loss, made, piece))

    floats, pull, others = jax.vjp(outputs, params, has_aux=True)
    _, pushed, _ = jax.jvp(outputs, (params,), (direction,), has_aux=True)
    slope = jax.grad(lambda floats: total(floats, others), has_aux=True)
    _, bent, weight = jax.jvp(slope, (floats,), (pushed,), has_aux=True)
    return pull(bent)[0], weight
