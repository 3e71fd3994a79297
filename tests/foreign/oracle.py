"""Rows of a network without lifts, by other means than the library's: a tap on every module.

Every module that calls no other one adds a zero to its output. The gradient of the summed loss with
respect to this zero is that with respect to the output, however often it is used.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from foreign.zoo import Foreign

from jaxdl.calling import arguments_of, in_mode, random_streams


class Entry(NamedTuple):
    """One row: its values, the gradient there, and the norms of its kernels and their gradient."""

    values: np.ndarray
    gradients: np.ndarray
    weight_norm: float
    weight_gradient_norm: float


class Oracle(NamedTuple):
    """The rows of modules by name; what modules received or the model returned; the mean loss."""

    rows: dict[str, Entry]
    received: list[np.ndarray]
    loss: float


def oracle(foreign: Foreign, key: Any, train: bool) -> Callable[[Any], Oracle]:
    """What measures a foreign model, written plainly, of any variables."""
    twin = foreign.twin or foreign.model
    model, keywords = in_mode(twin, train, foreign.settings.get("mode"))
    args, kwargs = arguments_of(twin, foreign.inputs, foreign.settings.get("mode"))
    shapes: dict[str, Any] = {}
    owners: dict[str, tuple[str, ...]] = {}

    def forward(params: Any, taps: Any, rest: Any) -> tuple[Any, Any]:
        values: dict[str, Any] = {}
        received: list[Any] = []
        nested = [0]

        def watch(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if context.method_name not in ("__call__", "attend"):
                return call(*args, **kwargs)
            received.extend(each for each in jax.tree.leaves((args, kwargs)) if _is_signal(each))
            nested[-1] += 1
            nested.append(0)
            outputs = call(*args, **kwargs)
            own = jax.tree.leaves(context.module.variables.get("params", {}))
            leaves, structure = jax.tree.flatten(outputs)
            if _are_among(leaves, own):  # it only holds parameters, for a module that computes
                nested.pop()
                nested[-1] -= 1
                return outputs
            if nested.pop() or _are_among(leaves, args):  # a dropout that is off
                return outputs
            several = len({id(leaf) for leaf in leaves}) > 1
            tapped: dict[int, Any] = {}  # a value that is given twice is one value
            for place, leaf in enumerate(leaves):
                if id(leaf) in tapped:
                    leaves[place] = tapped[id(leaf)]
                    continue
                part = f"[{place}]" if several else ""
                name = _unused("/".join(context.module.path) + part, values)
                owners[name] = context.module.path
                leaves[place] = values[name] = leaf + taps.get(name, jnp.zeros((), leaf.dtype))
                tapped[id(leaf)] = leaves[place]
                shapes[name] = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
            return jax.tree.unflatten(structure, leaves)

        with nn.intercept_methods(watch):
            outputs, _ = model.apply(
                {**rest, "params": params}, *args, **kwargs, **keywords,
                mutable=["batch_stats", "losses"], rngs=random_streams(key),
            )  # fmt: skip
        received.extend(each for each in jax.tree.leaves(outputs) if _is_signal(each))
        return foreign.loss(outputs, foreign.targets).sum(), (values, received)

    program = jax.jit(jax.value_and_grad(forward, argnums=(0, 1), has_aux=True))
    examples = len(foreign.targets)

    def measure(variables: Any) -> Oracle:
        rest = dict(nn.meta.unbox(foreign.unstack(variables)))
        params = rest.pop("params")
        if not shapes:
            jax.eval_shape(forward, params, {}, rest)
        taps = {name: jnp.zeros(shape.shape, shape.dtype) for name, shape in shapes.items()}
        (loss, (values, received)), (of_params, of_taps) = program(params, taps, rest)
        rows = {}
        for name in values:
            own, gradient = (_at(tree, owners[name]) for tree in (params, of_params))
            rows[name] = Entry(
                _wide(values[name]), _wide(of_taps[name]), _norm(own), _norm(gradient) / examples
            )
        rows = foreign.finish(_as_rows(rows, foreign))
        return Oracle(rows, list(map(_wide, received)), float(loss) / examples)

    return measure


def _as_rows(rows: dict[str, Entry], foreign: Foreign) -> dict[str, Entry]:
    """By the names of the model's own rows; the calls of all times are one row."""
    if not foreign.over_time:
        return {foreign.named(name): entry for name, entry in rows.items()}
    together: dict[str, list[Entry]] = {}
    for name, entry in rows.items():
        together.setdefault(foreign.named(name.split(":")[0]), []).append(entry)
    return {
        name: entries[0]
        if len(entries) == 1
        else entries[0]._replace(
            values=np.stack([each.values for each in entries]),
            gradients=np.stack([each.gradients for each in entries]),
        )
        for name, entries in together.items()
    }


def _unused(name: str, taken: Any) -> str:
    if name not in taken:
        return name
    return next(f"{name}:{n}" for n in range(2, 100) if f"{name}:{n}" not in taken)


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for part in path:
        tree = tree.get(part, {})
    return tree


def _norm(params: Any) -> float:
    """Of the kernels, or of all parameters if there is none."""
    leaves = [_wide(leaf) for leaf in jax.tree.leaves(params)]
    leaves = [leaf for leaf in leaves if leaf.ndim > 1] or leaves
    if not leaves:
        return np.nan
    return float(np.sqrt(sum(np.sum(np.abs(leaf) ** 2) for leaf in leaves)))


def _wide(values: Any) -> np.ndarray:
    wide: Any = np.complex128 if jnp.iscomplexobj(values) else np.float64
    return np.asarray(values).astype(wide)


def _are_among(leaves: Any, others: Any) -> bool:
    return all(any(leaf is other for other in others) for leaf in leaves)


def _is_signal(value: Any) -> bool:
    return isinstance(value, jax.Array) and jnp.issubdtype(value.dtype, jnp.inexact)
