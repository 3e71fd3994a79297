"""The values of a forward pass, row by row, and the gradients of the loss with respect to them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, Literal, Var
from jaxtyping import Array, Float

from jaxdl.diagnostics.signal.rows import ACTIVATION, Row, require_rows, signals_of, trace
from jaxdl.jaxprs import Segment, holds_primitive
from jaxdl.training.steps import uphill
from jaxdl.training.task import (
    Batch,
    PerExample,
    Weighted,
    parts_of,
    per_example,
    sum_over_batch,
)


class Slope(NamedTuple):
    """A function's value and |f'| at each entry of its real argument."""

    value: Array
    slope: Array


class Recording(NamedTuple):
    """One array for each row, in order of execution.

    Attributes:
        rows: the row of each array.
        values: the forward pass's values.
        slopes: the slope of the function from the row before to this row, if it has no parameters
            and both rows are real; None for other rows.
        gradients: gradients of the summed per-example losses with respect to the values; empty
            without a loss. They point uphill, for complex values too.
        parameter_gradients: gradients of the mean loss with respect to the parameters; None without
            a loss.
        loss: the mean loss over the batch; NaN without a loss.
    """

    rows: tuple[Row, ...]
    values: list[Array]
    slopes: list[Slope | None]
    gradients: list[Array]
    parameter_gradients: Any
    loss: Float[Array, ""]


def record(
    model: nn.Module,
    variables: Mapping[str, Any],
    batch: Batch,
    *,
    loss: PerExample | None,
    train: bool,
    key: Any,
    preprocess: Callable[[Array], Array],
) -> Recording:
    """Run the model on a batch and keep every row's value and gradient.

    Raises:
        ValueError: a batch without inputs, or without targets for the loss; fewer than two
            examples; no parameters; what `trace` and the loss refuse.
    """
    batch = parts_of(batch)
    _check_batch(batch, loss)
    if not variables.get("params"):
        raise ValueError(
            "variables must hold the model's parameters under 'params', "
            f"got {sorted(variables)}; pass what model.init returned"
        )
    inputs = preprocess(jnp.asarray(batch["inputs"]))
    traced, (variables, _, _) = trace(model, variables, inputs, train=train, key=key)
    require_rows(traced, model)
    unlike_params = {name: value for name, value in variables.items() if name != "params"}

    def run(params: Any, taps: list[Array]) -> tuple[Any, list[Array], list[Slope | None]]:
        values: list[Array] = []
        slopes: list[Slope | None] = []

        def on_row(index: int, value: Any, segment: Segment, before: Mapping[Var, Any]) -> Any:
            row, row_before = traced.rows[index], traced.rows[index - 1] if index else None
            flat = None if parameters_of(params, row) else _slope(row, row_before, segment, before)
            slopes.append(flat)
            values.append(value + taps[index])
            return values[-1]

        arguments = ({**unlike_params, "params": params}, inputs, key)
        return traced.replay(arguments, on_row), values, slopes

    def total_loss(params: Any, taps: list[Array]) -> tuple[Array, Any]:
        assert loss is not None
        outputs, values, slopes = run(params, taps)
        total = sum_over_batch(*per_example("loss", loss, outputs, batch))
        if isinstance(total, Weighted):
            total = total.total / total.weight * examples
        return total, (values, slopes)

    examples = batch["inputs"].shape[0]
    taps = signals_of(traced)
    params = variables["params"]
    if loss is None:
        _, values, slopes = run(params, taps)
        return Recording(traced.rows, values, slopes, [], None, jnp.asarray(jnp.nan))
    (total, (values, slopes)), (of_params, of_values) = jax.value_and_grad(
        total_loss, argnums=(0, 1), has_aux=True
    )(params, taps)
    mean_gradients = jax.tree.map(lambda gradient: gradient / examples, uphill(of_params))
    gradients = uphill(of_values)
    return Recording(traced.rows, values, slopes, gradients, mean_gradients, total / examples)


def map_stacked(function: Callable[[Any], Any], arguments: Sequence[Any]) -> Any:
    """Apply `function` to each argument and stack the results.

    Arguments of one shape are computed together. A deep network has many layers of one shape, and a
    program that repeats the same reductions for each takes minutes to compile.
    """
    alike: dict[Any, list[int]] = {}
    for index, argument in enumerate(arguments):
        kind = tuple((leaf.shape, str(leaf.dtype)) for leaf in jax.tree.leaves(argument))
        alike.setdefault(kind, []).append(index)
    mapped, order = [], []
    for indices in alike.values():
        group = [arguments[index] for index in indices]
        mapped.append(jax.vmap(function)(jax.tree.map(lambda *each: jnp.stack(each), *group)))
        order += indices
    places = np.argsort(order)
    return jax.tree.map(lambda *each: jnp.concatenate(each)[places], *mapped)


def parameters_of(params: Any, row: Row) -> list[Any]:
    """The parameters of the row's module as a list; empty for an activation."""
    if row.kind == ACTIVATION:
        return []
    for part in row.path:
        params = params.get(part, {})
    return jax.tree.leaves(params)


def parameter_counts(params: Any, rows: Sequence[Row]) -> list[int]:
    """The learned numbers of each row's module; 0 where an earlier row counts them."""
    counted: set[tuple[str, ...]] = set()
    counts = []
    for row in rows:
        own = [] if row.path in counted else parameters_of(params, row)
        counted.add(row.path)
        counts.append(sum(leaf.size for leaf in own))
    return counts


def _slope(
    row: Row, row_before: Row | None, segment: Segment, before: Mapping[Var, Any]
) -> Slope | None:
    r"""The slope of the function from the row before to `row`.

    For a vector v of signs, |J v| = |f'(z)| in every entry if f is elementwise. The signs alternate
    at random: a norm or a softmax has J v = 0 for a constant v and would look flat.
    """
    if row_before is None or row_before.variable not in segment.reads:
        return None
    made = _last_of_same_shape(segment.program, row_before.variable, row.variable)
    if jnp.issubdtype(row_before.dtype, jnp.complexfloating):
        return None  # the slope of a complex function depends on the direction
    if made is None or holds_primitive(segment.program, "custom_vjp_call"):
        return None  # a hand-written backward pass has no forward derivative
    function = replace(segment, gives=(made,), program=segment.program.replace(outvars=[made]))
    at = segment.reads.index(row_before.variable)
    values = [jax.lax.stop_gradient(before[variable]) for variable in segment.reads]
    signs = _scattered_signs(values[at])

    def activation(z: Array) -> Any:
        return function.run([*values[:at], z, *values[at + 1 :]])[0]

    value, slope = jax.jvp(activation, (values[at],), (signs,))
    return Slope(value, jnp.abs(slope))


def _scattered_signs(like: Array) -> Array:
    """Signs without a pattern along any axis: a hash of the index, faster than a generator."""
    index = jax.lax.iota(jnp.uint32, like.size)
    for multiplier in (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D):
        index = (index ^ (index >> 15)) * jnp.uint32(multiplier)
    return jnp.where(index >> 31, 1, -1).astype(like.dtype).reshape(like.shape)


def _last_of_same_shape(program: Jaxpr, source: Var, target: Var) -> Var | None:
    """The last value between two with the first one's shape: the activation before a pooling."""
    used = {target}
    for eqn in reversed(program.eqns):
        if not used.isdisjoint(eqn.outvars):
            used |= {atom for atom in eqn.invars if not isinstance(atom, Literal)}
    shaped: Any = source.aval
    like = (shaped.shape, shaped.dtype)
    depends, found = {source}, None
    for eqn in program.eqns:
        if any(not isinstance(atom, Literal) and atom in depends for atom in eqn.invars):
            for made in used.intersection(eqn.outvars):
                depends.add(made)
                aval: Any = made.aval
                if (aval.shape, aval.dtype) == like:
                    found = made
    return found


def _check_batch(batch: Mapping[str, Any], loss: PerExample | None) -> None:
    required = ["inputs"] if loss is None else ["inputs", "targets"]
    if missing := [name for name in required if name not in batch]:
        raise ValueError(
            f"a batch must have the keys {required}, got {sorted(batch)} without {missing}; "
            "name the arrays so"
        )
    if jnp.ndim(batch["inputs"]) == 0 or jnp.shape(batch["inputs"])[0] < 2:
        raise ValueError(
            "a batch must hold at least 2 examples, for a unit is dead if it never changes, "
            f"got inputs of shape {jnp.shape(batch['inputs'])}; pass a larger batch"
        )
