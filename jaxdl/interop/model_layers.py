"""The layers of a model that hold variables, in order of execution, with their moves."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.ad_checkpoint import checkpoint_name

from jaxdl.calling import GivenMode, Prepared, initial_variables, name_of, prepared
from jaxdl.compiling import traced_apart
from jaxdl.interop.flattening import MARK, UNKNOWN, channels_first, input_orders
from jaxdl.interop.moves import LEAVES, Leaf, Move, moves_of, plain

Path = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer, or a parameter that stands alone.

    Attributes:
        path: where it is in the model, e.g. "head/dense_0"; of a lone parameter its own place.
        moves: for each variable, by (collection, its path), how it becomes PyTorch's.
        dtypes: their dtypes here.
        kind: the class of the module above it, "" if it has none.
        lone: the name of a parameter that stands alone, or None.
    """

    path: str
    moves: Mapping[tuple[str, Path], Move]
    dtypes: Mapping[tuple[str, Path], Any]
    kind: str = ""
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


def layers_of(given: Prepared, sample_inputs: Any, flattened: Any) -> list[Layer]:
    """The layers with variables, in the order of their first calls; nothing is computed.

    Raises:
        ValueError: layers that PyTorch does not have, or whose inputs' order is not known; paths in
            `flattened` that are no layers of the model.
    """
    model, mode, preprocess, _ = given
    modules: dict[Path, nn.Module] = {}
    inside: dict[tuple[str, Path], tuple[int, ...]] = {}

    def watch(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if context.method_name == "setup":
            return call(*args, **kwargs)
        modules.setdefault(module.path, module)
        if context.method_name == "__call__":
            args = tuple(_marked(module, each) for each in args)
            kwargs = {name: _marked(module, each) for name, each in kwargs.items()}
        outputs = call(*args, **kwargs)
        for collection, own in module.variables.items():
            for name, leaf in own.items():
                if not isinstance(leaf, Mapping):
                    inside[collection, (*module.path, name)] = np.shape(nn.unbox(leaf))
        return outputs

    def variables(key: Any, inputs: Any) -> Any:
        return nn.unbox(initial_variables(model, key, preprocess(inputs), mode=mode))

    with traced_apart(), nn.intercept_methods(watch):
        program, shapes = jax.make_jaxpr(variables, return_shape=True)(
            jax.eval_shape(lambda: jax.random.key(0)), sample_inputs
        )
    orders = _orders(input_orders(program.jaxpr), {} if flattened is None else flattened, modules)
    return _layers(shapes, modules, inside, orders)


def _marked(module: nn.Module, value: Any) -> Any:
    """The value with a mark in the program that says which layer it goes into."""
    if isinstance(value, jax.Array) and value.ndim and jnp.issubdtype(value.dtype, jnp.floating):
        return checkpoint_name(value, MARK + "/".join(module.path))
    return value


def _orders(
    found: Mapping[str, list[Any]], flattened: Any, modules: Mapping[Path, Any]
) -> dict[str, Any]:
    """One order of the input features for each layer: the one that was said, or that was found."""
    paths = {"/".join(path) for path in modules}
    if not isinstance(flattened, Mapping):
        raise TypeError(
            f"flattened must map layers to axes, got {flattened!r}; pass e.g. "
            "{'dense_0': (7, 7, 64)}"
        )
    if unknown := [path for path in flattened if path not in paths]:
        raise ValueError(
            f"flattened must name layers of the model, {sorted(paths - {''})}, got {unknown}"
        )
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
    for path, sizes in flattened.items():
        if not (sizes is None or (isinstance(sizes, tuple | list) and sizes)):
            raise TypeError(
                f"flattened must give the axes (height, width, channels), got {sizes!r} for {path}"
            )
        orders[path] = None if sizes is None else channels_first(sizes)
    return orders


def _layers(
    shapes: Mapping[str, Any],
    modules: Mapping[Path, nn.Module],
    inside: Mapping[tuple[str, Path], tuple[int, ...]],
    orders: Mapping[str, Any],
) -> list[Layer]:
    owned: dict[Path, dict[tuple[str, Path], Any]] = {path: {} for path in modules}
    for collection, tree in shapes.items():
        for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
            path = tuple(str(getattr(key, "key", getattr(key, "idx", key))) for key in keys)
            own = inside.get((collection, path), tuple(leaf.shape))
            if own != tuple(leaf.shape):
                raise ValueError(
                    f"layers must stand one by one, got {'/'.join(path)} with an axis more, "
                    f"{tuple(leaf.shape)} for {own}: a scan or a vmap stacks it; convert the model "
                    "without it and stack its variables, as models.stack_blocks does"
                )
            owner = max((each for each in modules if path[: len(each)] == each), key=len)
            owned[owner][collection, path] = leaf
    layers: list[Layer] = []
    for path, leaves in owned.items():
        layers += _layers_of_module(path, modules, leaves, orders.get("/".join(path)))
    return layers


def _layers_of_module(
    path: Path,
    modules: Mapping[Path, nn.Module],
    leaves: Mapping[tuple[str, Path], Any],
    order: Any,
) -> list[Layer]:
    if not leaves:
        return []
    module = modules[path]
    parent = modules.get(path[:-1])
    kind = type(parent).__name__ if path and parent is not None else ""
    dtypes = {leaf: value.dtype for leaf, value in leaves.items()}
    own: dict[Leaf, tuple[int, ...]] = {
        (collection, "/".join(where[len(path) :])): tuple(value.shape)
        for (collection, where), value in leaves.items()
    }
    moves = None
    if all(collection in ("params", "batch_stats") for collection, _ in own):
        moves = moves_of(module, own, order)
    if moves is not None:
        # In PyTorch's order.
        named = sorted(
            zip(leaves, moves.values(), strict=True), key=lambda each: LEAVES.index(each[1].name)
        )
        places = dict(named)
        return [Layer("/".join(path), places, dtypes, kind)]
    return [
        Layer(
            "/".join(leaf[1]),
            {leaf: plain("", tuple(value.shape))},
            {leaf: value.dtype},
            type(module).__name__,
            lone=leaf[1][-1],
        )
        for leaf, value in leaves.items()
    ]
