"""The values of a forward pass, row by row, and the gradients of the loss with respect to them."""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Jaxpr, Literal, Var
from jaxtyping import Array, Float

from jaxdl.diagnostics.signal.attending import Attended, attended_at
from jaxdl.diagnostics.signal.names import Row
from jaxdl.diagnostics.signal.rows import Trace, trace
from jaxdl.jaxprs import Segment, holds_primitive
from jaxdl.tracing.sites import ATTENTION, site_before
from jaxdl.training.steps import uphill
from jaxdl.training.task import (
    Batch,
    PerExample,
    Task,
    Weighted,
    has_loss,
    parts_of,
    per_example,
    sum_over_batch,
)

# Beside the kink of a ReLU, where its slope is that of most arguments.
NEAR_ZERO = 1e-3


class Slope(NamedTuple):
    """A function's value and |f'| at each entry of its real argument, and the largest |f'| known.

    That is among these entries and near the argument 0; of an entry with no slope at all it is 0.
    """

    value: Array
    slope: Array
    steepest: Array


class Recording(NamedTuple):
    """One array for each site: for each row, but once for all layers of a scan.

    Attributes:
        trace: the rows, and the site and the layer of each.
        values: the forward pass's values, with a first axis of layers.
        slopes: the slope of the function from the value before to this one, if it has no parameters
            and both are real; None for others. With a first axis of layers.
        attended: of an attention's weights what `attending.attended` measures; None of others. With
            a first axis of layers.
        gradients: gradients of the summed per-example losses with respect to the values; empty
            without a loss. They point uphill, for complex values too.
        parameter_gradients: gradients of the mean loss with respect to the parameters; None without
            a loss.
        loss: the mean loss over the batch; NaN without a loss.
    """

    trace: Trace
    values: list[Array]
    slopes: list[Slope | None]
    attended: list[Attended | None]
    gradients: list[Array]
    parameter_gradients: Any
    loss: Float[Array, ""]

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows, in order of execution."""
        return self.trace.rows

    def units(self) -> list[Array]:
        """The values with one last axis of units: of an attention the features of all heads.

        Channels that stand before the positions of an image become the last axis.
        """
        return [
            jnp.moveaxis(values, site.features, -1)
            if site.features < 0
            else values.reshape(*values.shape[: values.ndim - site.features], -1)
            for site, values in zip(self.trace.sites, self.values, strict=True)
        ]

    def map_rows(self, function: Callable[[Any], Any], arrays: Sequence[Any]) -> Any:
        """`function` of every row of arrays by site, stacked in the order of the rows."""
        return jax.tree.map(self.trace.in_order, map_stacked(function, arrays))


def record(
    task: Task, variables: Mapping[str, Any], batch: Batch, *, train: bool, key: Any
) -> Recording:
    """Run the model on a batch and keep every row's value and gradient.

    Raises:
        ValueError: a batch without inputs, or without targets for the loss; fewer than two
            examples; no parameters; what `trace` and the loss refuse.
    """
    batch = parts_of(batch)
    loss = task.loss if has_loss(task) else None
    examples = _check_batch(batch, loss)
    if not jax.tree.leaves(variables.get("params")):
        raise ValueError(
            "variables must hold the model's parameters under 'params', "
            f"got {sorted(variables)}; pass what model.init returned"
        )
    inputs = task.preprocess(jax.tree.map(jnp.asarray, batch["inputs"]))
    traced, arguments = trace(task, variables, inputs, train=train, key=key)
    variables, _, key = arguments
    unlike_params = {name: value for name, value in variables.items() if name != "params"}

    def run(params: Any, taps: list[Array] | None) -> tuple[Any, list[Any]]:
        def on_site(
            number: int, value: Any, tap: Any, segment: Segment, before: Mapping[Var, Any]
        ) -> tuple[Any, Any]:
            value = value if tap is None else value + tap
            site = traced.sites[number]
            flat = None if site.own else _slope(traced, number, segment, before)
            return value, (value, flat, attended_at(site, value, segment, before))

        arguments = ({**unlike_params, "params": params}, inputs, key)
        return traced.replay(arguments, taps, on_site)

    def layers_first(arrays: Sequence[Any]) -> list[Any]:
        return [
            jax.tree.map(functools.partial(traced.by_layer, site), array)
            for site, array in zip(traced.sites, arrays, strict=True)
        ]

    def total_loss(params: Any, taps: list[Array]) -> tuple[Array, list[Any]]:
        assert loss is not None
        outputs, kept = run(params, taps)
        total = sum_over_batch(*per_example("loss", loss, outputs, batch))
        if isinstance(total, Weighted):
            total = total.total / total.weight * examples
        return total, kept

    params = variables["params"]
    if loss is None:
        _, kept = run(params, None)
        values, slopes, attends = map(list, zip(*layers_first(kept), strict=True))
        return Recording(traced, values, slopes, attends, [], None, jnp.asarray(jnp.nan))
    (total, kept), (of_params, of_values) = jax.value_and_grad(
        total_loss, argnums=(0, 1), has_aux=True
    )(params, traced.taps())
    values, slopes, attends = map(list, zip(*layers_first(kept), strict=True))
    mean_gradients = jax.tree.map(lambda gradient: gradient / examples, uphill(of_params))
    gradients = layers_first(uphill(of_values))
    return Recording(traced, values, slopes, attends, gradients, mean_gradients, total / examples)


def map_stacked(function: Callable[[Any], Any], arguments: Sequence[Any]) -> Any:
    """Apply `function` to each slice along the first axis of each argument; stack the results.

    Slices of one shape are computed together. A deep network has many layers of one shape, and a
    program that repeats the same reductions for each takes minutes to compile.
    """
    alike: dict[Any, list[int]] = {}
    for index, argument in enumerate(arguments):
        kind = tuple((leaf.shape[1:], str(leaf.dtype)) for leaf in jax.tree.leaves(argument))
        alike.setdefault(kind, []).append(index)
    counts = [jax.tree.leaves(argument)[0].shape[0] for argument in arguments]
    starts = np.cumsum([0, *counts[:-1]])
    mapped, order = [], []
    for indices in alike.values():
        group = [arguments[index] for index in indices]
        mapped.append(jax.vmap(function)(jax.tree.map(lambda *each: jnp.concatenate(each), *group)))
        order += [starts[index] + place for index in indices for place in range(counts[index])]
    places = np.argsort(order)
    return jax.tree.map(lambda *each: jnp.concatenate(each)[places], *mapped)


def _slope(traced: Trace, number: int, segment: Segment, before: Mapping[Var, Any]) -> Slope | None:
    r"""The slope of the function from the value before to this one.

    For a vector v of signs, |J v| = |f'(z)| in every entry if f is elementwise. The signs alternate
    at random: a norm or a softmax has J v = 0 for a constant v and would look flat.
    """
    site = traced.sites[number]
    previous = site_before(traced.sites, number)
    if previous is None or previous.level is not site.level or site.kind == ATTENTION:
        return None
    if previous.variable not in segment.reads:
        return None
    made = _last_of_same_shape(segment.program, previous.variable, site.variable)
    if jnp.issubdtype(previous.dtype, jnp.complexfloating):
        return None  # the slope of a complex function depends on the direction
    if made is None or holds_primitive(segment.program, "custom_vjp_call"):
        return None  # a hand-written backward pass has no forward derivative
    function = replace(segment, gives=(made,), program=segment.program.replace(outvars=[made]))
    at = segment.reads.index(previous.variable)
    values = [jax.lax.stop_gradient(before[variable]) for variable in segment.reads]
    signs = _scattered_signs(values[at])

    def activation(z: Array) -> Any:
        return function.run([*values[:at], z, *values[at + 1 :]])[0]

    value, slope = jax.jvp(activation, (values[at],), (signs,))
    _, near_zero = jax.jvp(activation, (jnp.full_like(values[at], NEAR_ZERO),), (signs,))
    known = jnp.stack(
        [jnp.where(jnp.isfinite(each), jnp.abs(each), 0) for each in (slope, near_zero)]
    )
    # An entry without any slope is masked, as by a dropout, and not saturated.
    of_entry = jnp.where((slope == 0) & (near_zero == 0), 0, known.max())
    return Slope(value, jnp.abs(slope), of_entry)


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


def _check_batch(batch: Mapping[str, Any], loss: PerExample | None) -> int:
    """The number of examples."""
    required = ["inputs"] if loss is None else ["inputs", "targets"]
    if missing := [name for name in required if name not in batch]:
        raise ValueError(
            f"a batch must have the keys {required}, got {sorted(batch)} without {missing}; "
            "name the arrays so"
        )
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(batch["inputs"])]
    counts = {shape[0] if shape else 0 for shape in shapes}
    if len(counts) != 1 or min(counts) < 2:
        raise ValueError(
            "a batch must hold at least 2 examples, for a unit is dead if it never changes, "
            f"got inputs of shape {' and '.join(map(str, shapes))}; pass a larger batch"
        )
    return int(min(counts))
