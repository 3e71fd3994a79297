"""One row's value as a function of another's: the map whose Jacobian is measured."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.errors import InvalidRngError
from jaxtyping import Array

from jaxdl.diagnostics.signal.names import Row
from jaxdl.diagnostics.signal.rows import Trace, some_examples, trace
from jaxdl.jaxprs import holds_primitive
from jaxdl.training.task import Task

INPUT, OUTPUT = "input", "output"


class Between(NamedTuple):
    """A differentiable map from one value of a model to a later one, for a whole batch.

    Attributes:
        function: (batch, numbers of the source) -> (batch, numbers of the target), both flat.
        point: where the model's own values stand, (batch, numbers of the source).
        source: the name of the row, or "input".
        target: the name of the row, or "output".
    """

    function: Callable[[Array], Array]
    point: Array
    source: str
    target: str


def between(
    task: Task,
    variables: Mapping[str, Any],
    inputs: Any,
    source: str | None,
    target: str | None,
    *,
    train: bool,
    key: Any,
) -> Between:
    """The map from a row (None: the inputs) to a row (None: the outputs).

    Every way from the source to the target counts, a residual connection too.

    Arguments:
        inputs: as the model sees them, preprocessed.

    Raises:
        ValueError: no such row; a target that is not after the source; values that are no real
            floats, or whose first axis does not count the examples.
    """
    examples = some_examples(inputs)
    flat, restore = _flattened(inputs, examples, INPUT)
    if source is None and target is None:

        def outputs_of(point: Array) -> Array:
            given = restore(point)
            outputs, _ = outputs_of_model(task, variables, given, train=train, key=key)
            return flat_outputs(outputs, examples)

        return Between(outputs_of, _required(flat), INPUT, OUTPUT)
    traced, (variables, inputs, key) = trace(task, variables, inputs, train=train, key=key)
    first, last = (_row(traced, name, examples) for name in (source, target))
    if first is not None and last is not None and _place(traced, first) >= _place(traced, last):
        raise ValueError(
            f"the target must be a row after the source, got {last.name!r} and {first.name!r}; "
            "exchange them"
        )

    def value_of(point: Array) -> Array:
        given = inputs if first is not None else restore(point)
        taps = None if first is None else _taps(traced, first, point)
        arguments = (variables, given, key)
        outputs, kept = traced.replay(arguments, taps, _keep)
        if last is None:
            return flat_outputs(outputs, examples)
        value = traced.by_layer(traced.sites[last.site], kept[last.site])[last.layer]
        return _wide(value).reshape(examples, -1)

    if first is None:
        point = _required(flat)
    else:  # what is added to the row's value
        point = jnp.zeros((examples, math.prod(first.shape[1:])), _wide_type(first.dtype))
    return Between(
        value_of, point, INPUT if first is None else first.name,
        OUTPUT if last is None else last.name,
    )  # fmt: skip


def outputs_of_model(
    task: Task, variables: Mapping[str, Any], inputs: Any, *, train: bool, key: Any
) -> tuple[Any, Mapping[str, Any]]:
    """The outputs for preprocessed inputs, and the collections that moved in training.

    Raises:
        ValueError: the model draws random numbers in training, and there is no key.
    """
    try:
        return task.outputs(variables, inputs, train=train, key=key)
    except ValueError as error:
        if not (train and key is None and isinstance(error.__cause__, InvalidRngError)):
            raise
        raise ValueError(
            "a model that draws random numbers needs a key, got key=None with train=True; pass "
            "key=jax.random.key(0), or train=False"
        ) from error


def flat_outputs(outputs: Any, examples: int) -> Array:
    """All real outputs side by side, (examples, numbers).

    Raises:
        ValueError: complex outputs, none that are floats, or a first axis that counts other things.
    """
    return _required(_flattened(outputs, examples, OUTPUT)[0])


def has_forward(function: Callable[[Any], Any], point: Any) -> bool:
    """Whether it can be differentiated forward: a function with `jax.custom_vjp` cannot.

    Example:
        >>> @jax.custom_vjp
        ... def straight(x):
        ...     return jnp.sign(x)
        >>> straight.defvjp(lambda x: (jnp.sign(x), None), lambda _, g: (g,))
        >>> has_forward(jnp.sign, 1.0), has_forward(straight, 1.0)
        (True, False)
    """

    def still(leaf: Any) -> Any:
        leaf = jnp.asarray(leaf)
        is_moving = jnp.issubdtype(leaf.dtype, jnp.inexact)
        return jnp.zeros_like(leaf) if is_moving else np.zeros(leaf.shape, jax.dtypes.float0)

    def moved(point: Any) -> Any:
        return jax.jvp(function, (point,), (jax.tree.map(still, point),))

    # Such a function leaves a mark that only a pull back can take away.
    return not holds_primitive(jax.make_jaxpr(moved)(point).jaxpr, "custom_lin")


def moves(task: Task, variables: Mapping[str, Any], inputs: Any, *, key: Any) -> bool:
    """Whether a call in training changes a collection, as norms of batches do.

    The outputs of an example then depend on the other examples.
    """

    def moved(variables: Any, inputs: Any, key: Any) -> Any:
        return outputs_of_model(task, variables, inputs, train=True, key=key)[1]

    return bool(jax.tree.leaves(jax.eval_shape(moved, dict(variables), inputs, key)))


def _keep(number: int, value: Any, tap: Any, segment: Any, before: Any) -> tuple[Any, Any]:
    del number, segment, before
    value = value if tap is None else value + tap
    return value, value


def _taps(traced: Trace, row: Row, point: Array) -> Sequence[Any]:
    """Zeros for the row's site but for its layer; None for the other sites."""
    site, zeros = traced.sites[row.site], traced.taps()[row.site]
    added = point.astype(row.dtype).reshape(row.shape)
    place = jax.linear_transpose(lambda value: traced.by_layer(site, value)[row.layer], zeros)
    taps: list[Any] = [None] * len(traced.sites)
    (taps[row.site],) = place(added)
    return taps


def _place(traced: Trace, row: Row) -> int:
    return traced.rows.index(row)


def _row(traced: Trace, name: str | None, examples: int) -> Row | None:
    if name is None:
        return None
    rows = {row.name: row for row in traced.rows}
    if name not in rows:
        listed = ", ".join([*rows][:20]) + (f" and {len(rows) - 20} more" if len(rows) > 20 else "")
        raise ValueError(
            f"a source or a target must be a row's name, got {name!r}; pass one of {listed}"
        )
    row = rows[name]
    if not row.shape or row.shape[0] != examples:
        raise ValueError(
            f"a row's first axis must count the {examples} examples, got {name!r} of shape "
            f"{row.shape}; choose another row"
        )
    if not jnp.issubdtype(row.dtype, jnp.floating):
        raise ValueError(
            f"a row must hold real numbers, got {name!r} of {jnp.dtype(row.dtype).name}; choose "
            "another row"
        )
    return row


def _flattened(tree: Any, examples: int, what: str) -> tuple[Array | None, Callable[[Array], Any]]:
    """The float leaves as (examples, numbers); and the tree with others in their place."""
    structure: Any = jax.tree.structure(tree)
    leaves: list[Any] = jax.tree.leaves(tree)
    leaves = [jnp.asarray(leaf) for leaf in leaves]
    if any(jnp.iscomplexobj(leaf) for leaf in leaves):
        raise ValueError(f"the {what} must be real, got complex numbers; pass parts as reals")
    learns = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves]
    floats = [leaf for leaf, is_float in zip(leaves, learns, strict=True) if is_float]
    for leaf in floats:
        if leaf.shape[:1] != (examples,):
            raise ValueError(
                f"the first axis of the {what} must count the {examples} examples, got shape "
                f"{leaf.shape}; let the model keep the batch's axis first"
            )
    if not floats and what == OUTPUT:
        raise ValueError("the outputs must be floats, got none; let the model return its logits")

    def restore(flat: Array) -> Any:
        ends = [0]
        for leaf in floats:
            ends.append(ends[-1] + leaf.size // examples)
        parts = iter(
            flat[:, start:end].reshape(leaf.shape).astype(leaf.dtype)
            for leaf, start, end in zip(floats, ends[:-1], ends[1:], strict=True)
        )
        made = [
            next(parts) if is_float else leaf for leaf, is_float in zip(leaves, learns, strict=True)
        ]
        return structure.unflatten(made)

    if not floats:
        return None, restore
    return jnp.concatenate([_wide(leaf).reshape(examples, -1) for leaf in floats], 1), restore


def _required(flat: Array | None) -> Array:
    if flat is None:
        raise ValueError(
            "inputs must be floats to be differentiated, got integers alone, such as tokens; pass "
            "source= the row of the embedding"
        )
    return flat


def _wide(values: Array) -> Array:
    return values.astype(_wide_type(values.dtype))


def _wide_type(dtype: Any) -> Any:
    return jnp.promote_types(dtype, jnp.float32)
