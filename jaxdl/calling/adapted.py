"""A model of another library: pure functions of dictionaries, and its modules' calls seen."""

import functools
import inspect
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Key

from jaxdl.checks import require_like

Variables = dict[str, Any]
"""{"params": ..., and the collections that move}."""

KEYS = ("key", "rng", "rng_key", "prng_key", "dropout_key", "dropout_rng")
"""The usual names of the argument that takes the key of a call's random numbers."""


@dataclass(frozen=True, eq=False)
class Start:
    """Where a model starts: the variables that it came with, or a function that draws them.

    Two starts are equal only if they are one object, so programs with a start inside are not
    taken for each other.
    """

    variables: Variables | None = None
    draw: Callable[[Key[Array, ""], Any], Variables] | None = None

    def __reduce_ex__(self, protocol: Any) -> Any:
        """For `pickle`: models that start nowhere stay equal."""
        return "NOWHERE" if self is NOWHERE else super().__reduce_ex__(protocol)


@dataclass(frozen=True)
class Adapted(ABC):
    """A model of another library as this one calls it; see `adapt`.

    Attributes:
        name: what messages call it.
        start: where it starts.
    """

    name: str
    start: Start = field(default_factory=Start, repr=False)

    @property
    def has_streams(self) -> bool:
        """Whether it has streams of random numbers of its own."""
        return False

    @abstractmethod
    def arguments(self) -> list[tuple[str, inspect.Parameter]]:
        """The arguments of its call, without what this library gives: parameters and keys."""

    @abstractmethod
    def apply(
        self,
        variables: Mapping[str, Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        train: bool,
        key: Key[Array, ""] | None,
    ) -> tuple[Any, Variables]:
        """The outputs, and the collections as they are after the call."""

    def module(self, variables: Any) -> Any:
        """What its own library would call with these variables: a module, or the parameters.

        Raises:
            TypeError: they are no dictionary of collections.
            ValueError: they are not those of a module of this structure.
        """
        if not isinstance(variables, Mapping) or "params" not in variables:
            got = sorted(variables) if isinstance(variables, Mapping) else type(variables).__name__
            raise TypeError(
                f"variables must be a dictionary with 'params', got {got}; pass state.variables"
            )
        self._require_own(variables)
        return self._module(variables)

    @abstractmethod
    def _module(self, variables: Mapping[str, Any]) -> Any:
        """What `module` returns."""

    def read(self, given: Any) -> Variables:
        """The variables in a trained module of its library, or in parameters of their own form."""
        return {"params": given}

    @property
    def own(self) -> Variables | None:
        """The variables that the model came with; None of a function."""
        return self.start.variables

    def init(self, key: Key[Array, ""], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """The variables before training.

        Raises:
            ValueError: a function that came without parameters and without `init`.
        """
        del kwargs
        if self.start.draw is not None:
            return self.start.draw(key, *args)
        if self.start.variables is not None:
            return jax.tree.map(jax.numpy.asarray, self.start.variables)
        raise ValueError(
            f"a model must say where it starts, got the function {self.name}; pass "
            "calling.adapt(function, init=...), a function of a key that gives the parameters"
        )

    def without_start(self) -> "Adapted":
        """The same model for what is measured: equal to others of the same structure."""
        return replace(self, start=NOWHERE)

    def variables(self, given: Any) -> Variables:
        """The variables that were given, in the form of this library; None: the model's own.

        Raises:
            TypeError: they are no variables of its library.
            ValueError: none were given, and the model has none; or they do not fit.
        """
        if given is None:
            if self.own is None:
                raise ValueError(
                    f"variables must be given for the function {self.name}, which holds none, got "
                    "None; pass its parameters"
                )
            return self.own
        is_ours = isinstance(given, Mapping) and "params" in given
        found = dict(given) if is_ours else self.read(given)
        self._require_own(found)
        return found

    def _require_own(self, variables: Mapping[str, Any]) -> None:
        for name, own in (self.own or {}).items():
            require_like(name, variables.get(name, {}), own)

    def _refuse(self, given: Any) -> TypeError:
        return TypeError(
            f"variables must be a module like {self.name}, or a dictionary with 'params', got "
            f"{type(given).__name__}; pass None for the module's own, or state.variables"
        )


NOWHERE = Start()


def draws_unasked(model: Any) -> bool:
    """Whether a model draws random numbers from streams of its own where it is given no key."""
    return isinstance(model, Adapted) and model.has_streams


def parameters_of(function: Callable[..., Any]) -> list[tuple[str, inspect.Parameter]]:
    """The arguments of a function, by name; any number of them if nobody knows.

    Example:
        >>> [name for name, _ in parameters_of(lambda params, x: x)]
        ['params', 'x']
    """
    try:
        return list(inspect.signature(function).parameters.items())
    except (TypeError, ValueError):
        return [("args", inspect.Parameter("args", inspect.Parameter.VAR_POSITIONAL))]


def key_argument(arguments: Iterable[tuple[str, inspect.Parameter]]) -> str | None:
    """The argument that takes a key, by its usual names; not the key beside a query or a value.

    Example:
        >>> key_argument(parameters_of(lambda x, *, key=None: x))
        'key'
    """
    names = [name for name, _ in arguments]
    attends = not {"query", "value", "values"}.isdisjoint(names)
    return next((name for name in names if name in KEYS and not (attends and name == "key")), None)


def nested(named: Iterable[tuple[tuple[str, ...], Any]]) -> dict[str, Any]:
    """A dictionary of dictionaries from values by their paths.

    Example:
        >>> nested([(("head", "bias"), 1), (("head", "kernel"), 2)])
        {'head': {'bias': 1, 'kernel': 2}}
    """
    found: dict[str, Any] = {}
    for path, value in named:
        place = found
        for part in path[:-1]:
            place = place.setdefault(part, {})
        place[path[-1]] = value
    return found


def part_of(key: Any) -> str:
    """The name or the number in a key of a path.

    Example:
        >>> [part_of(part) for part in jax.tree_util.tree_leaves_with_path([{"bias": 1}])[0][0]]
        ['0', 'bias']
    """
    for name in ("name", "key", "idx"):
        if hasattr(key, name):
            return str(getattr(key, name))
    return str(key)


def at(tree: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    """The value at a path in a dictionary of dictionaries.

    Example:
        >>> at({"head": {"bias": 1}}, ("head", "bias"))
        1
    """
    place: Any = tree
    for part in path:
        place = place[part]
    return place


def is_opaque(value: Any) -> bool:
    """Whether modules hand it on beside their signals: a state of Equinox."""
    return type(value).__name__ == "State" and type(value).__module__.startswith("equinox.")


CALLS = ("__call__", "attend")
"""The methods that give a layer's output; an embedding's `attend` is that of a tied head."""


class Called(NamedTuple):
    """A module that is called.

    Attributes:
        path: its place in the model.
        kind: its class.
        params: its parameters, each with how far below the module it stands.
        features: how many of the last axes of its output tell units apart; -k of channels that
            stand on the k-th axis from the end.
    """

    path: tuple[str, ...]
    kind: str
    params: tuple[tuple[int, Any], ...]
    features: int = 1


Watch = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any], Callable[[], Called]], Any]
"""(the module's call, its arguments, its keywords, who it is) -> what the call gives."""

_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)
_classes = threading.RLock()


@contextmanager
def watch_calls(watch: Watch) -> Iterator[None]:
    """Within, the calls of the modules of adapted models go through `watch`."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


@contextmanager
def seen(
    model: Any,
    modules: Callable[[Any], Iterable[tuple[tuple[str, ...], Any]]],
    describe: Callable[[Any, tuple[str, ...]], Called],
) -> Iterator[None]:
    """Within, the calls of a model's modules are seen by `watch_calls`, if anybody watches.

    Other libraries have no interceptors, so the modules' classes have another `__call__` meanwhile.
    A module that the model makes anew, in a scan or under a checkpoint, is known by its class.

    Arguments:
        model: the model.
        modules: the modules in a module, itself included, with their paths.
        describe: of a module and its path, who it is.
    """
    if _watch.get() is None:
        yield
        return
    known = {id(module): (path, module) for path, module in modules(model)}
    active: list[int] = []

    def pass_on(cls: type, call: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(call)
        def watched(self: Any, *args: Any, **kwargs: Any) -> Any:
            watch = _watch.get()
            method = call.__get__(self, cls)
            if watch is None or (active and active[-1] == id(self)):  # a super().__call__
                return method(*args, **kwargs)
            if id(self) not in known:
                for path, module in modules(self):
                    known.setdefault(id(module), ((cls.__name__, *path), module))
            active.append(id(self))
            try:
                return watch(method, args, kwargs, lambda: describe(self, known[id(self)][0]))
            finally:
                active.pop()

        return watched

    with _classes, ExitStack() as restored:
        for cls in {type(module) for _, module in known.values()}:
            for name in CALLS:
                # Of the class: every class has the __call__ of its metaclass.
                if any(name in vars(each) for each in cls.__mro__):
                    restored.callback(_restore, cls, name, cls.__dict__.get(name))
                    type.__setattr__(cls, name, pass_on(cls, getattr(cls, name)))
        yield


def _restore(cls: type, name: str, own: Any) -> None:
    if own is None:
        type.__delattr__(cls, name)
    else:
        type.__setattr__(cls, name, own)
