"""Models of Flax NNX: the graph is the structure, the variables are dictionaries by their paths."""

import functools
import inspect
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Key

from jaxdl.calling.adapted import (
    Adapted,
    Called,
    Start,
    Variables,
    at,
    key_argument,
    nested,
    parameters_of,
    seen,
)
from jaxdl.calling.call import is_mapped

Path = tuple[Any, ...]


@dataclass(frozen=True)
class NnxModel(Adapted):
    """A module of Flax NNX.

    `nnx.Param` are the parameters, `nnx.BatchStat` the running statistics, other variables a
    collection named after their class. Streams of random numbers are no variables: every call
    seeds each of them with the call's key and its path.

    Attributes:
        kind: the module's class.
        graph: its `nnx.GraphDef`.
        places: of each variable its path and its collection; "" of random streams.
        streams: by its path, the shape of each key and count of a stream: scanned layers have more.
    """

    kind: type = field(default=nnx.Module, repr=False)
    graph: Any = field(default=None, repr=False)
    places: tuple[tuple[Path, str], ...] = field(default=(), repr=False)
    streams: tuple[tuple[Path, tuple[int, ...]], ...] = field(default=(), repr=False)

    @property
    def has_streams(self) -> bool:
        """Whether it has an `nnx.Rngs`."""
        return bool(self.streams)

    def arguments(self) -> list[tuple[str, inspect.Parameter]]:
        """The arguments of `__call__`, without a key."""
        found = parameters_of(self.kind.__call__)[1:]
        return [each for each in found if each[0] not in (key_argument(found), "rngs")]

    def apply(
        self,
        variables: Mapping[str, Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        train: bool,
        key: Key[Array, ""] | None,
    ) -> tuple[Any, Variables]:
        """The module called in `train()` or `eval()` mode, and its variables after the call.

        Without a key its streams start from `jax.random.key(0)`, the same in every call.
        """
        model = self._merged(variables, key)
        for _, module in _modules(model):  # as of Linen: an axis that nothing maps is none
            name = getattr(module, "axis_name", None)
            if isinstance(name, str) and not is_mapped(name):
                module.axis_name = None
        model.train() if train else model.eval()
        kwargs = dict(kwargs)
        takes = parameters_of(self.kind.__call__)[1:]
        if (name := key_argument(takes)) is not None:
            kwargs[name] = key
        if any(name == "rngs" for name, _ in takes) and key is not None:
            kwargs["rngs"] = nnx.Rngs(key)
        with seen(model, _modules, _called):
            outputs = model(*args, **kwargs)
        after = variables_of(model)[1].items()
        moved = variables.keys() - {"params"}
        return outputs, {name: tree for name, tree in after if name in moved}

    def _module(self, variables: Mapping[str, Any]) -> Any:
        return self._merged(variables, None)

    def read(self, given: Any) -> Variables:
        """The variables of a module of this structure, or of its `nnx.State`."""
        if isinstance(given, nnx.State):
            has = {path for path, _ in nnx.to_flat_state(given)}
            missing = {path for path, _ in self.places} - has
            if missing:
                raise ValueError(
                    f"the variables of {self.name} must be all of them, got an nnx.State without "
                    f"{sorted('/'.join(map(str, path)) for path in missing)}; pass "
                    "nnx.state(model), or None for those that the model holds"
                )
            given = nnx.merge(self.graph, given)
        if not isinstance(given, nnx.Module):
            raise self._refuse(given)
        return variables_of(given)[1]

    def _merged(self, variables: Mapping[str, Any], key: Key[Array, ""] | None) -> Any:
        key = jax.random.key(0) if key is None else key
        values: dict[Any, Any] = {}
        shapes = dict(self.streams)
        for path, collection in self.places:
            names = tuple(map(str, path))
            if collection:
                value = at(variables[collection], names)
            elif path[-1] == "count":
                value = jax.numpy.zeros(shapes[path], "uint32")
            else:
                value = jax.random.fold_in(key, zlib.crc32("/".join(names).encode()))
                value = jax.random.split(value, shapes[path]) if shapes[path] else value
            place = values
            for part in path[:-1]:
                place = place.setdefault(part, {})
            place[path[-1]] = value
        return nnx.merge(self.graph, values)


def adapt_nnx(model: Any, init: Callable[..., Any] | None) -> NnxModel:
    """A module of NNX; `init(key)` makes another of the same structure."""
    graph, state = nnx.split(model)
    flat = nnx.to_flat_state(state)
    places = tuple((path, _collection(each)) for path, each in flat)
    streams = tuple((path, each.get_value().shape) for path, each in flat if not _collection(each))
    draw = None if init is None else functools.partial(_drawn, init)
    own = variables_of(model)[1]
    name = type(model).__name__
    return NnxModel(name, Start(own, draw), type(model), graph, places, streams)


def _drawn(init: Callable[..., Any], key: Key[Array, ""], *inputs: Any) -> Variables:
    return variables_of(init(key))[1]


def variables_of(model: Any) -> tuple[Any, Variables]:
    """The graph of a module, and its variables by collection and path."""
    graph, state = nnx.split(model)
    collections: dict[str, list[tuple[tuple[str, ...], Any]]] = {"params": []}
    for path, each in nnx.to_flat_state(state):
        if name := _collection(each):
            named = (tuple(map(str, path)), each.get_value())
            collections.setdefault(name, []).append(named)
    return graph, {name: nested(named) for name, named in collections.items()}


def _collection(variable: Any) -> str:
    if issubclass(variable.type, nnx.RngState):
        return ""
    if issubclass(variable.type, nnx.Param):
        return "params"
    if issubclass(variable.type, nnx.BatchStat):
        return "batch_stats"
    return str(variable.type.__name__).lower()


def _modules(model: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    for path, module in nnx.iter_modules(model):
        yield tuple(map(str, path)), module


def _called(module: Any, path: tuple[str, ...]) -> Called:
    own = nnx.to_flat_state(nnx.state(module, nnx.Param))
    params = tuple((len(place), each.get_value()) for place, each in own)
    features = getattr(module, "out_features", None)
    axes = len(features) if isinstance(features, tuple) else 1
    return Called(path, type(module).__name__, params, axes)
