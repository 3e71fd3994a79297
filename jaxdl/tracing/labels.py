"""Labels in a traced program: which values enter and leave a model's modules.

A label is an operation that returns its value unchanged. So it stays where a module computed the
value, also inside the inner program of `nn.remat`, `nn.jit`, `nn.scan` and `nn.vmap`, from which no
value could be taken out.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxdl.calling.adapted import CALLS, Called, is_opaque, part_of, watch_calls
from jaxdl.compiling import traced_apart

LABEL = "label"

_label_p = Primitive(LABEL)
"""label(value, *parameters, path, part, kind, depths, features, mapped) is the value.

The parameters are those of its module, `depths` says how far below the module each of them stands,
`features` how many of the value's last axes tell its units apart.
`mapped` has, for every vmap around the label from the inside out, the mapped axis of each operand.
"""
_label_p.def_impl(lambda value, *_, **__: value)
_label_p.def_abstract_eval(lambda value, *_, **__: value)
mlir.register_lowering(_label_p, lambda _, value, *__, **___: [value])


def _jvp(primals: Any, tangents: Any, **parts: Any) -> Any:
    return _label_p.bind(*primals, **parts), tangents[0]


def _batch(operands: Any, axes: Any, **parts: Any) -> Any:
    """The value's examples, or members, stand first: XLA's products may leave them elsewhere."""
    value, *reads = operands
    if axes[0] is None:
        return _label_p.bind(*operands, **parts | {"mapped": (*parts["mapped"], tuple(axes))}), None
    parts["mapped"] = (*parts["mapped"], (0, *axes[1:]))
    return _label_p.bind(jnp.moveaxis(value, axes[0], 0), *reads, **parts), 0


ad.primitive_jvps[_label_p] = _jvp
batching.primitive_batchers[_label_p] = _batch


@contextmanager
def labelled() -> Iterator[None]:
    """Within, modules label their inputs, and those that call no other module their outputs."""
    has_child = [False]

    def watch(call: Any, args: Any, kwargs: Any, describe: Callable[[], Called]) -> Any:
        received: dict[int, Any] = {}  # an object that is passed twice stays one object
        args, kwargs = jax.tree.map(
            lambda each: _received(each, received), (args, kwargs), is_leaf=is_opaque
        )
        has_child.append(False)
        try:
            outputs = call(*args, **kwargs)
        finally:
            is_leaf = not has_child.pop()
        module = describe() if is_leaf else None
        if module is not None and _holds_only(module, outputs):
            return outputs
        has_child[-1] = True
        return outputs if module is None else _given(outputs, module)

    def linen(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if context.method_name not in CALLS:
            return call(*args, **kwargs)
        return watch(call, args, kwargs, lambda: _called(context.module))

    with traced_apart(), nn.intercept_methods(linen), watch_calls(watch):
        yield


def bind_label(value: Any, *reads: Any, **parts: Any) -> Any:
    """The value with a label, and what it is read with; without more parts no module has it."""
    return _label_p.bind(value, *reads, **_UNNAMED | parts)


def received(tree: Any) -> Any:
    """A pytree with a label on each array that can be a signal."""
    return jax.tree.map(lambda each: _received(each, {}), tree)


_UNNAMED = {"path": None, "part": "", "kind": "", "depths": (), "features": 1, "mapped": ()}


def _received(value: Any, known: dict[int, Any]) -> Any:
    if not _can_be_signal(value):
        return value
    if id(value) not in known:
        known[id(value)] = _label_p.bind(
            value, path=None, part="", kind="", depths=(), features=1, mapped=()
        )
    return known[id(value)]


def _called(module: nn.Module) -> Called:
    params = jax.tree_util.tree_leaves_with_path(module.variables.get("params", {}))
    features = getattr(module, "features", None)
    axes = len(features) if isinstance(features, tuple) else 1  # heads and their features
    named = tuple((len(keys_of(path)), leaf) for path, leaf in params)
    return Called(module.path, type(module).__name__, named, axes)


def _holds_only(module: Called, outputs: Any) -> bool:
    """Whether it only gives its parameters, to a module that computes with them."""
    own = {id(leaf) for _, leaf in module.params}
    return bool(own) and all(id(leaf) in own for leaf in jax.tree.leaves(outputs))


def _given(outputs: Any, module: Called) -> Any:
    leaves, structure = jax.tree.flatten(outputs, is_leaf=is_opaque)
    places = [place for place, value in enumerate(leaves) if _can_be_signal(value)]
    for number, place in enumerate(places):
        leaves[place] = _label_p.bind(
            leaves[place],
            *(leaf for _, leaf in module.params),
            path=module.path,
            part=f"[{number}]" if len(places) > 1 else "",
            kind=module.kind,
            depths=tuple(depth for depth, _ in module.params),
            features=module.features,
            mapped=(),
        )
    return jax.tree.unflatten(structure, leaves)


def keys_of(path: Sequence[Any]) -> tuple[str, ...]:
    """The names and numbers in the path of a leaf; boxes around a parameter have none."""
    parts = list(path)
    if len(parts) > 1 and getattr(parts[-1], "name", None) == "value":
        parts.pop()
    return tuple(part_of(part) for part in parts)


def _can_be_signal(value: Any) -> bool:
    """Whether it is an array of floating or complex dtype that has an axis."""
    if not isinstance(value, jax.Array) or not value.ndim:
        return False
    return bool(jnp.issubdtype(value.dtype, jnp.inexact))
