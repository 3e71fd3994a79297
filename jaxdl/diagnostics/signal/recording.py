"""The values of a forward pass, row by row, and the gradients of the loss with respect to them."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Var
from jaxtyping import Array, Float

from jaxdl.diagnostics.signal import attending
from jaxdl.diagnostics.signal.activation_slopes import (
    Activation,
    Read,
    Slope,
    activation_of,
    map_alike,
)
from jaxdl.diagnostics.signal.attending import Attended, WeightsAndLogits, attended_at
from jaxdl.diagnostics.signal.names import Row
from jaxdl.diagnostics.signal.rows import Trace, trace
from jaxdl.jaxprs import Segment
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


class Recording(NamedTuple):
    """One array for each site: for each row, but once for all layers of a scan.

    Attributes:
        trace: the rows, and the site and the layer of each.
        values: the forward pass's values, with a first axis of layers.
        slopes: where the function from the value before to this one has a slope, this function with
            what it reads; in a scan the slope itself, with a first axis of layers. None for others,
            see `activation_slopes.activation_of`.
        attended: of an attention its weights and logits; in a scan what `attended` measures of it,
            with a first axis of layers. None of others.
        gradients: gradients of the summed per-example losses with respect to the values; empty
            without a loss. They point uphill, for complex values too.
        summed_gradients: gradients of the summed losses with respect to the parameters; None
            without a loss.
        examples: how many losses were summed.
        loss: the mean loss over the batch; NaN without a loss.
    """

    trace: Trace
    values: list[Array]
    slopes: list[Read | Slope | None]
    attended: list[WeightsAndLogits | Attended | None]
    gradients: list[Array]
    summed_gradients: Any
    examples: int
    loss: Float[Array, ""]

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows, in order of execution."""
        return self.trace.rows

    @property
    def parameter_gradients(self) -> Any:
        """Gradients of the mean loss with respect to the parameters; None without a loss."""
        return jax.tree.map(lambda gradient: gradient / self.examples, self.summed_gradients)

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
        return self.map_stacks(jax.vmap(function), arrays)

    def map_stacks(self, function: Callable[[Any], Any], arrays: Sequence[Any]) -> Any:
        """`map_rows` for a function of rows of one shape with a first axis of rows."""
        return jax.tree.map(self.trace.in_order, of_stacks(function, arrays))

    def map_slopes(self, function: Callable[[Slope], Array]) -> Array:
        """`function` of the slope of every row, a number each; NaN where there is none."""
        of_sites = list(enumerate(self.slopes))
        reads = [(number, each) for number, each in of_sites if isinstance(each, Read)]
        known = [(number, each) for number, each in of_sites if isinstance(each, Slope)]
        found = [jnp.full(1, jnp.nan, jnp.float32)]
        if reads:
            found.append(map_alike(jax.vmap(function), [each for _, each in reads]))
        if known:
            found.append(map_stacked(function, [each for _, each in known]))
        ends = np.cumsum([0, *self.trace.layers()])
        place = np.zeros(ends[-1], int)
        start = 1
        for number, _ in (*reads, *known):
            rows = range(ends[number], ends[number + 1])
            place[rows] = range(start, start + len(rows))
            start += len(rows)
        return jnp.concatenate(found)[place[self.trace.order()]]


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
    activations: dict[int, Activation] = {}
    unlike_params = {name: value for name, value in variables.items() if name != "params"}

    def run(params: Any, taps: list[Array] | None) -> tuple[Any, list[Any]]:
        def on_site(
            number: int, value: Any, tap: Any, segment: Segment, before: Mapping[Var, Any]
        ) -> tuple[Any, Any]:
            value = value if tap is None else value + tap
            site = traced.sites[number]
            sloped = None
            if (activation := activation_of(traced.sites, number, segment)) is not None:
                activations[number] = activation
                reads = activation.reads(before)
                # Of a scan's layers each reads its own: what all of them read stays inside.
                sloped = reads if site.level.above is None else activation.slope(reads)
            return value, (value, sloped, attended_at(site, value, segment, before))

        arguments = ({**unlike_params, "params": params}, inputs, key)
        return traced.replay(arguments, taps, on_site)

    def layers_first(arrays: Sequence[Any]) -> list[Any]:
        return [
            jax.tree.map(functools.partial(traced.by_layer, site), array)
            for site, array in zip(traced.sites, arrays, strict=True)
        ]

    def as_fields(kept: Sequence[Any]) -> tuple[list[Any], list[Any], list[Any]]:
        values, sloped, attends = zip(*kept, strict=True)
        slopes = layers_first([s if isinstance(s, Slope) else None for s in sloped])
        for number, reads in enumerate(sloped):
            if reads is not None and not isinstance(reads, Slope):
                site = traced.sites[number]
                slopes[number] = Read(
                    activations[number],
                    reads,
                    functools.partial(traced.by_layer, site),
                    tuple(site.mapped.values()),
                )
        return layers_first(values), slopes, attending.layers_first(traced, attends)

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
        return Recording(traced, *as_fields(kept), [], None, examples, jnp.asarray(jnp.nan))
    (total, kept), (of_params, of_values) = jax.value_and_grad(
        total_loss, argnums=(0, 1), has_aux=True
    )(params, traced.taps())
    gradients = layers_first(uphill(of_values))
    return Recording(
        traced, *as_fields(kept), gradients, uphill(of_params), examples, total / examples
    )


def map_stacked(function: Callable[[Any], Any], arguments: Sequence[Any]) -> Any:
    """Apply `function` to each slice along the first axis of each argument; stack the results."""
    return of_stacks(jax.vmap(function), arguments)


def of_stacks(function: Callable[[Any], Any], arguments: Sequence[Any]) -> Any:
    """Apply `function` to slices along the first axis of all arguments; stack the results.

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
        mapped.append(function(jax.tree.map(lambda *each: jnp.concatenate(each), *group)))
        order += [starts[index] + place for index in indices for place in range(counts[index])]
    places = np.argsort(order)
    return jax.tree.map(lambda *each: jnp.concatenate(each)[places], *mapped)


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
