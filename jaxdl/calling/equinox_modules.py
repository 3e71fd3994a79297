"""Models of Equinox: called for one example, mapped over the batch."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
    part_of,
    seen,
)

Path = tuple[str, ...]


@dataclass(frozen=True)
class EquinoxModel(Adapted):
    """A module of Equinox, or (module, state) of `eqx.nn.make_with_state`.

    It is called for one example, as Equinox's own layers are, under a `jax.vmap` over the batch.
    The axis has the name that its batch norms have. Its arrays of floats are the parameters, its
    state the collection "state", its other arrays the collection "constants".

    Attributes:
        kind: the module's class.
        form: of the module and its state the tree structure, and the leaves that are no arrays.
        places: of each array its path and its collection.
        mapped: whether it takes one example, and not a batch.
    """

    kind: type = field(default=object, repr=False)
    form: Any = field(default=None, repr=False)
    places: tuple[tuple[Path, str], ...] = field(default=(), repr=False)
    mapped: bool = True

    def __getstate__(self) -> dict[str, Any]:
        """For `pickle`: a module in the place of its structure, whose marks live in one process."""
        structure, others = self.form
        module = jax.tree.unflatten(
            structure, [0 if is_array else leaf for is_array, leaf in others]
        )
        return vars(self) | {"form": (module, others)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        module, others = state["form"]
        vars(self).update(state, form=(jax.tree.structure(module), others))

    def arguments(self) -> list[tuple[str, inspect.Parameter]]:
        """The arguments of `__call__`, without a key, the state and what `inference_mode` tells."""
        found = parameters_of(self.kind.__call__)[1:]
        given = {key_argument(found), "inference", "deterministic"}
        if self.has_state:
            given.add("state")
        return [each for each in found if each[0] not in given]

    @property
    def has_state(self) -> bool:
        """Whether it came with a state."""
        return any(collection == "state" for _, collection in self.places)

    def apply(
        self,
        variables: Mapping[str, Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        train: bool,
        key: Key[Array, ""] | None,
    ) -> tuple[Any, Variables]:
        """The module mapped over the examples, and its state after the call."""
        import equinox as eqx

        model, state = self._whole(variables)
        model = eqx.nn.inference_mode(model, value=not train)
        name = key_argument(parameters_of(self.kind.__call__))
        leaves = jax.tree.leaves((args, kwargs))
        keys = None
        if name is not None and key is not None and self.mapped:
            keys = jax.random.split(key, leaves[0].shape[0])

        def one(example: tuple[Any, ...], named: Mapping[str, Any], key: Any) -> Any:
            drawn = {} if name is None else {name: key}
            beside = (state,) if self.has_state else ()
            return model(*example, *beside, **named, **told, **drawn)

        # The mode and other plain values are no examples.
        told = {k: value for k, value in kwargs.items() if isinstance(value, bool)}
        named = {k: value for k, value in kwargs.items() if k not in told}
        out = (0, None) if self.has_state else 0
        axes = (0, 0, None if keys is None else 0)
        call = jax.vmap(one, axes, out, axis_name=_axis_name(model)) if self.mapped else one
        with seen(model, _modules, _called):
            outputs = call(args, named, keys if self.mapped else key)
        if not self.has_state:
            return outputs, {}
        outputs, state = outputs
        return outputs, {"state": nested(_named(state)[0])}

    def _module(self, variables: Mapping[str, Any]) -> Any:
        model, state = self._whole(variables)
        return (model, state) if self.has_state else model

    def read(self, given: Any) -> Variables:
        """The variables of a module of this structure, or of (module, state)."""
        if not is_equinox(given):
            raise self._refuse(given)
        return _split(given)[2]

    def _whole(self, variables: Mapping[str, Any]) -> Any:
        structure, others = self.form
        arrays = iter(at(variables[name], path) for path, name in self.places)
        leaves = [next(arrays) if is_array else leaf for is_array, leaf in others]
        return jax.tree.unflatten(structure, leaves)


def adapt_equinox(model: Any, init: Callable[..., Any] | None, *, mapped: bool) -> EquinoxModel:
    """A module of Equinox; `init(key)` makes another of the same structure."""
    form, places, own = _split(model)
    module = model[0] if isinstance(model, tuple) else model
    draw = None if init is None else functools.partial(_drawn, init)
    name = type(module).__name__
    return EquinoxModel(name, Start(own, draw), type(module), form, places, mapped)


def _drawn(init: Callable[..., Any], key: Key[Array, ""], *inputs: Any) -> Variables:
    return _split(init(key))[2]


def is_equinox(model: Any) -> bool:
    """Whether it is a module of Equinox, or one with its state."""
    module = model[0] if isinstance(model, tuple) and len(model) == 2 else model
    names = [f"{each.__module__}.{each.__qualname__}" for each in type(module).__mro__]
    return any(name.startswith("equinox.") and name.endswith(".Module") for name in names)


def _split(model: Any) -> tuple[Any, tuple[tuple[Path, str], ...], Variables]:
    module, state = model if isinstance(model, tuple) else (model, None)
    # The paths in the module begin with its own attributes.
    of_module, of_state = _named(module), _named(state)
    places: list[tuple[Path, str]] = []
    collections: dict[str, list[tuple[Path, Any]]] = {}
    others: list[tuple[bool, Any]] = []
    for (path, leaf), is_state in [
        *((each, False) for each in of_module[0]),
        *((each, True) for each in of_state[0]),
    ]:
        if not isinstance(leaf, jax.Array | np.ndarray):
            others.append((False, leaf))
            continue
        is_float = jnp.issubdtype(leaf.dtype, jnp.inexact)
        name = "state" if is_state else "params" if is_float else "constants"
        others.append((True, None))
        places.append((path, name))
        collections.setdefault(name, []).append((path, leaf))
    structure = jax.tree.structure((module, state))
    variables = {name: nested(named) for name, named in {"params": [], **collections}.items()}
    return (structure, tuple(others)), tuple(places), variables


def _named(tree: Any) -> tuple[list[tuple[Path, Any]], Any]:
    leaves, structure = jax.tree_util.tree_flatten_with_path(tree)
    return [(tuple(map(part_of, path)), leaf) for path, leaf in leaves], structure


def _axis_name(model: Any) -> Any:
    """The name that the model's batch norms give to the axis of the batch."""
    names = {
        module.axis_name
        for _, module in _modules(model)
        if getattr(module, "axis_name", None) is not None
    }
    return names.pop() if len(names) == 1 else "batch"


def _modules(model: Any) -> Iterator[tuple[Path, Any]]:
    yield (), model
    children, _ = jax.tree_util.tree_flatten_with_path(
        model, is_leaf=lambda each: each is not model and is_equinox(each)
    )
    for path, child in children:
        if is_equinox(child):
            front = tuple(map(part_of, path))
            yield from (((*front, *rest), module) for rest, module in _modules(child))


def _called(module: Any, path: Path) -> Called:
    named = [
        (len(place), leaf)
        for place, leaf in _named(module)[0]
        if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    return Called(path, type(module).__name__, tuple(named), _channels(module))


def _channels(module: Any) -> int:
    """Channels stand first in an image or a sequence that convolutions and pools read."""
    spatial = getattr(module, "num_spatial_dims", None)
    return 1 if spatial is None else -(spatial + 1)
