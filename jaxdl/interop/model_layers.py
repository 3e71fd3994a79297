"""The layers of a model that hold variables, in order of execution, with their moves."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from jaxdl.calling import GivenMode, Prepared, initial_variables, name_of, prepared
from jaxdl.calling.adapted import part_of
from jaxdl.checks import whole_number
from jaxdl.compiling import traced_apart
from jaxdl.interop.feature_orders import MARK, MARK_MADE, Orders
from jaxdl.interop.flattening import UNKNOWN, channels_first
from jaxdl.interop.moves import LEAVES, Move, moves_of, plain

Path = tuple[str, ...]

COLLECTIONS = ("params", "batch_stats")
"""What a state dict holds; other collections are what a model notes while it runs."""


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer, or a parameter that stands alone.

    Attributes:
        path: where it is in the model, e.g. "head/dense_0"; of a lone parameter its own place.
        moves: for each variable, by (collection, its path), how it becomes PyTorch's.
        dtypes: their dtypes here.
        lone: the name of a parameter that stands alone, or None.
    """

    path: str
    moves: Mapping[tuple[str, Path], Move]
    dtypes: Mapping[tuple[str, Path], Any]
    lone: str | None = None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Their shapes by their names."""
        return {move.name: move.theirs for move in self.moves.values()}


def as_prepared(model: Any, mode: GivenMode) -> Prepared:
    """The Linen module of a model or a task, and how it is called.

    Raises:
        TypeError: a model of another library.
    """
    found = prepared(model, mode)
    if not isinstance(found.model, nn.Module):
        raise TypeError(
            f"model must be a Flax Linen module, got {name_of(found.model)}; variables of other "
            "libraries go through save_safetensors and load_safetensors"
        )
    return found


def layers_of(given: Prepared, sample_inputs: Any, flattened: Any, unflattened: Any) -> list[Layer]:
    """The layers with variables, in the order of their first calls; nothing is computed.

    Raises:
        ValueError: layers that PyTorch does not have, or the order of whose features is not known;
            paths in `flattened` or `unflattened` that are no layers of the model.
    """
    traced = _trace(given, sample_inputs)
    if any(path not in traced.modules for path in traced.groups):
        # Blocks under `nn.jit` share one program, so only the first is called.
        with jax.disable_jit():
            traced = _trace(given, sample_inputs)
    paths = {"/".join(path) for path in traced.groups}
    outputs = _said("unflattened", traced.orders.outputs, unflattened, paths)
    inputs = _said("flattened", traced.orders.read(outputs), flattened, paths)
    return [
        layer
        for path, leaves in traced.groups.items()
        for layer in _layers(path, traced.modules.get(path), leaves, inputs, outputs)
    ]


class _Traced(NamedTuple):
    """The modules that were called, the variables by what they stand in, orders of features."""

    modules: Mapping[Path, nn.Module]
    groups: Mapping[Path, Mapping[tuple[str, Path], Any]]
    orders: Orders


def _trace(given: Prepared, sample_inputs: Any) -> _Traced:
    model, mode, preprocess, _ = given
    modules: dict[Path, nn.Module] = {}
    inside: dict[tuple[str, Path], tuple[int, ...]] = {}

    def watch(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if context.method_name == "setup":
            return call(*args, **kwargs)
        modules.setdefault(module.path, module)
        if context.method_name == "__call__":
            into = MARK + "/".join(module.path)
            args = tuple(_marked(into, each) for each in args)
            kwargs = {name: _marked(into, each) for name, each in kwargs.items()}
        outputs = call(*args, **kwargs)
        if context.method_name == "__call__":
            outputs = _marked(MARK_MADE + "/".join(module.path), outputs)
        for collection in COLLECTIONS:
            for name, leaf in module.variables.get(collection, {}).items():
                if not isinstance(leaf, Mapping):
                    inside[collection, (*module.path, name)] = np.shape(nn.unbox(leaf))
        return outputs

    def variables(key: Any, inputs: Any) -> Any:
        found = nn.unbox(initial_variables(model, key, preprocess(inputs), mode=mode))
        return {name: found[name] for name in COLLECTIONS if name in found}

    with traced_apart(), nn.intercept_methods(watch):
        program, shapes = jax.make_jaxpr(variables, return_shape=True)(
            jax.eval_shape(lambda: jax.random.key(0)), sample_inputs
        )
    return _Traced(modules, _grouped(shapes, modules, inside), Orders(program.jaxpr))


def _marked(name: str, value: Any) -> Any:
    """The value with a mark in the program."""
    if isinstance(value, jax.Array) and value.ndim and jnp.issubdtype(value.dtype, jnp.floating):
        return checkpoint_name(value, name)
    return value


def _said(name: str, found: Mapping[str, list[Any]], said: Any, paths: set[str]) -> dict[str, Any]:
    """One order of features for each layer: the one that was said, or that was found."""
    said = {} if said is None else said
    if not isinstance(said, Mapping):
        raise TypeError(
            f"{name} must map layers to axes, got {said!r}; pass e.g. {{'dense_0': (7, 7, 64)}}"
        )
    if unknown := [path for path in said if path not in paths]:
        raise ValueError(f"{name} must name layers of the model, {sorted(paths)}, got {unknown}")
    orders: dict[str, Any] = {}
    for path, each in found.items():
        first = each[0]
        same = all(
            not isinstance(order, str) and np.array_equal(order, first)
            if order is not None and first is not None
            else order is first
            for order in each
        )
        orders[path] = first if same else UNKNOWN
    for path, sizes in said.items():
        if not (sizes is None or (isinstance(sizes, tuple | list) and sizes)):
            raise TypeError(
                f"{name} must give the axes (height, width, channels), got {sizes!r} for {path}"
            )
        axes = [whole_number(f"{name} of {path}", size) for size in sizes or ()]
        orders[path] = channels_first(axes) if axes else None
    return orders


def _grouped(
    shapes: Mapping[str, Any],
    modules: Mapping[Path, nn.Module],
    inside: Mapping[tuple[str, Path], tuple[int, ...]],
) -> dict[Path, dict[tuple[str, Path], Any]]:
    """The variables by what they stand in, in the order in which the modules were called."""
    groups: dict[Path, dict[tuple[str, Path], Any]] = {}
    places = {path: place for place, path in enumerate(modules)}
    for collection, tree in shapes.items():
        for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
            path = tuple(map(part_of, keys))
            own = inside.get((collection, path), tuple(leaf.shape))
            if own != tuple(leaf.shape):
                raise ValueError(
                    f"layers must stand one by one, got {'/'.join(path)} with an axis more, "
                    f"{tuple(leaf.shape)} for {own}: a scan or a vmap stacks it; convert the model "
                    "without it and stack its variables, as models.stack_blocks does"
                )
            groups.setdefault(path[:-1], {})[collection, path] = leaf

    def place(path: Path) -> int:
        return max(places[path[:end]] for end in range(len(path) + 1) if path[:end] in places)

    return {path: groups[path] for path in sorted(groups, key=place)}


def _layers(
    path: Path,
    module: nn.Module | None,
    leaves: Mapping[tuple[str, Path], Any],
    inputs: Mapping[str, Any],
    outputs: Mapping[str, Any],
) -> list[Layer]:
    """A layer that is known, or each of its variables as one that stands alone."""
    name = "/".join(path)
    # Nobody saw what goes into a layer that the model does not call itself.
    order = inputs.get(name, UNKNOWN if module is None else None)
    own = {(kind, where[-1]): tuple(leaf.shape) for (kind, where), leaf in leaves.items()}
    several = isinstance(module, nn.DenseGeneral) and np.size(module.features) > 2
    moves = moves_of(name, module, own, order, outputs.get(name, UNKNOWN if several else None))
    if moves is None and order is not None and module is not None:
        raise ValueError(
            f"what sees a flattened image must be a layer that is known, got {name}, a "
            f"{type(module).__name__} with {', '.join(leaf for _, leaf in own)}; pass "
            f"flattened={{{name!r}: None}} and order its variables yourself"
        )
    if moves is not None:
        named = sorted(
            zip(leaves, moves.values(), strict=True), key=lambda each: LEAVES.index(each[1].name)
        )
        return [Layer(name, dict(named), {leaf: value.dtype for leaf, value in leaves.items()})]
    return [
        Layer(
            "/".join(leaf[1]),
            {leaf: plain("", tuple(value.shape))},
            {leaf: value.dtype},
            lone=leaf[1][-1],
        )
        for leaf, value in leaves.items()
    ]
