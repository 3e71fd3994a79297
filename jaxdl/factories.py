"""What a factory makes remembers how it was made: it pickles, compares and shows itself by that.

A function that another function returns has no name in any module, so `pickle` refuses it, two of
the same settings differ, and its text is an address in memory. `@factory` mends all three.
"""

import functools
import inspect
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import jax
import numpy as np

from jaxdl.checks import is_traced

P = ParamSpec("P")
R = TypeVar("R")

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_SHOWN, _LONGEST = 6, 60
"""The elements of a list that are shown, and the characters of any other value."""


def factory(make: Callable[P, R]) -> Callable[P, R]:
    """Let what `make` returns be known by the factory and its arguments.

    A pickle holds the factory's name and the arguments, which must pickle themselves; loading it
    calls the factory again. Two results are equal if their factories and arguments are, to the bit,
    and then they share compiled programs. Arrays of JAX are not compared: a result that was given
    one equals itself alone. Lists, dictionaries and NumPy arrays are copied, so changing them later
    changes nothing. A copy of a result is the result itself.

    Use it for factories of your own, at the top level of a module:

        @factory
        def clipped_adam(rate):
            return optimizers.chain(optimizers.clip_by_global_norm(1.0), optimizers.adam(rate))

    Arguments:
        make: a function that returns a function, or an object such as an optimizer, which holds
            functions. The result of an optimizer is still optax's named tuple.

    Raises:
        TypeError: when called, `make` returns neither, e.g. a number or nothing.
        pickle.PicklingError: at pickling, an argument whose value is known only inside of a
            compiled function.

    Example:
        >>> from jaxdl.initializers import he_normal
        >>> he_normal(mode="fan_out")
        he_normal(mode='fan_out')
        >>> pickle.loads(pickle.dumps(he_normal())) == he_normal()
        True
    """
    signature = inspect.signature(make)

    @functools.wraps(make)
    def remembered(*args: P.args, **kwargs: P.kwargs) -> R:
        owned: Any = _owned(args), _owned(kwargs)
        made = make(*owned[0], **owned[1])
        bound = signature.bind(*owned[0], **owned[1])
        bound.apply_defaults()
        result: R = _remembering(made, Recipe(remembered, bound))
        return result

    return remembered


class Recipe:
    """A factory and its arguments."""

    def __init__(self, make: Callable[..., Any], bound: inspect.BoundArguments) -> None:
        self.make, self.bound = make, bound

    def reduced(self) -> tuple[Any, ...]:
        """What `pickle` stores."""
        if any(map(is_traced, jax.tree.leaves(self.bound.arguments))):
            raise pickle.PicklingError(
                f"what is pickled must have known settings, got {self.text()}, with one that is "
                "known only inside of a compiled function; make it outside, from numbers"
            )
        return made_again, (self.make, self.bound.args, self.bound.kwargs)

    @functools.cached_property
    def key(self) -> Any:
        """Equal and hashable for what is made alike; None if that cannot be said."""
        key = self.make, _key(dict(self.bound.arguments))
        try:
            hash(key)
        except TypeError:
            return None
        return key

    def text(self) -> str:
        """The call, without what is there by default."""
        listed: tuple[Any, ...] = ()
        named: dict[str, Any] = {}
        for name, value in self.bound.arguments.items():
            parameter = self.bound.signature.parameters[name]
            if parameter.kind is parameter.VAR_POSITIONAL:
                listed = value
            elif parameter.kind is parameter.VAR_KEYWORD:
                named |= value
            elif not _is_default(value, parameter.default):
                named[name] = value
        return _call(self.make.__name__, listed, named)


_LONGEST_NAME = 60


def made_again(make: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What the factory makes of these arguments; pickles name this function."""
    return make(*args, **kwargs)


class Made:
    """What a factory has made, whatever else it is."""

    _recipe: Recipe

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return self._recipe.reduced()

    # Nothing in it changes, so a copy is the thing itself, as of a function.
    def __copy__(self) -> Any:
        return self

    def __deepcopy__(self, memo: Any) -> Any:
        return self

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        key = self._recipe.key
        return isinstance(other, Made) and key is not None and key == other._recipe.key

    def __hash__(self) -> int:
        return id(self) if self._recipe.key is None else hash(self._recipe.key)

    def __repr__(self) -> str:
        return self._recipe.text()


class MadeFunction(Made):
    """A function that a factory has made.

    Its name is the call that made it, so that models, labels and messages show the settings; a long
    one is cut, because JAX names programs and their files after it.
    """

    def __init__(self, function: Callable[..., Any], recipe: Recipe) -> None:
        self.__wrapped__, self._recipe = function, recipe
        self.__doc__ = function.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the function gives."""
        return self.__wrapped__(*args, **kwargs)

    @property
    def __name__(self) -> str:
        text = repr(self)
        return text if len(text) <= _LONGEST_NAME else f"{self._recipe.make.__name__}(...)"


def _remembering(made: Any, recipe: Recipe) -> Any:
    """The same function or object, which knows its recipe."""
    if isinstance(made, MadeFunction):
        return MadeFunction(made.__wrapped__, recipe)
    if inspect.isfunction(made) or isinstance(made, functools.partial):
        return MadeFunction(made, recipe)
    is_tuple = isinstance(made, tuple)
    if not (is_tuple or hasattr(made, "__dict__")):
        raise TypeError(
            f"a factory must return a function, a named tuple or an object with attributes, got "
            f"{type(made).__name__} from {recipe.text()}; return a function that uses it"
        )
    its_kind: Any = type(made)
    kind: Any = _made_kind(its_kind)
    again = tuple.__new__(kind, made) if is_tuple else object.__new__(kind)
    vars(again).update(getattr(made, "__dict__", {}), _recipe=recipe)
    return again


@functools.cache
def _made_kind(kind: type) -> type:
    """The subclass of what was made; called with other parts, it gives the class itself."""
    if issubclass(kind, Made):
        return kind
    changed: dict[str, Any] = {
        "__new__": lambda cls, *args, **kwargs: kind(*args, **kwargs),
        "__module__": kind.__module__,
        "__doc__": kind.__doc__,
    }
    if hasattr(kind, "_make"):  # of a named tuple, which `_replace` calls
        changed["_make"] = kind._make
    return type(kind.__name__, (Made, kind), changed)


def _owned(value: Any) -> Any:
    """The value, of which nobody else can change anything."""
    if type(value) in (list, tuple):
        return type(value)(map(_owned, value))
    if type(value) is dict:
        return {name: _owned(each) for name, each in value.items()}
    return value.copy() if type(value) is np.ndarray else value


def _key(value: Any) -> Any:
    """Of equal values the same; 1, 1.0 and True are not equal here, nor are 0.0 and -0.0."""
    if isinstance(value, float | complex):
        return type(value), repr(value)
    if type(value) in (list, tuple):
        return type(value), tuple(map(_key, value))
    if type(value) is dict:
        return dict, tuple((name, _key(each)) for name, each in value.items())
    if type(value) is functools.partial:
        return functools.partial, _key((value.func, value.args, value.keywords))
    if isinstance(value, np.ndarray | np.generic) and not value.dtype.hasobject:
        return type(value), value.dtype, value.shape, value.tobytes()
    return type(value), value


def _is_default(value: Any, default: Any) -> bool:
    plain = type(value) is type(default) and isinstance(value, int | float | str | tuple)
    return value is default or (plain and bool(value == default))


def _call(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
    parts = [*map(_text, args), *(f"{key}={_text(value)}" for key, value in kwargs.items())]
    return f"{name}({', '.join(parts)})"


def _text(value: Any) -> str:
    """The value in few characters, without an address."""
    if is_traced(value):
        return "<traced>"
    if isinstance(value, jax.Array | np.ndarray):
        return f"{value.dtype}{list(value.shape)}"
    if isinstance(value, Made):
        return repr(value)
    if type(value) is functools.partial:
        return _call("partial", (value.func, *value.args), value.keywords)
    if type(value) in (list, tuple):
        parts = [*map(_text, value[:_SHOWN]), *(["..."] if len(value) > _SHOWN else [])]
        inner = ", ".join(parts)
        return f"[{inner}]" if type(value) is list else f"({inner}{',' * (len(value) == 1)})"
    name = getattr(value, "__name__", None)
    text = name if isinstance(name, str) else _ADDRESS.sub("", repr(value))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
