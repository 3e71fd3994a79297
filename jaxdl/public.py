"""The names of a public module: what `dir` shows of them, and which are imported when used."""

import importlib
from collections.abc import Callable
from typing import Any


def public_names(module: dict[str, Any]) -> Callable[[], list[str]]:
    """The function `__dir__` of a module: the names of its `__all__`, and those Python gives it.

    Write `__dir__ = public_names(globals())`. What the module imports for itself is then not shown;
    it is there as before.

    Arguments:
        module: the module's names, `globals()`.

    Example:
        >>> module = {"__doc__": "Losses.", "__all__": ["hinge"], "hinge": None, "jnp": None}
        >>> public_names(module)()
        ['__all__', '__doc__', 'hinge']
    """

    def names() -> list[str]:
        return sorted([*module["__all__"], *(name for name in module if name.startswith("__"))])

    return names


def imported_when_used(module: dict[str, Any], **places: str) -> Callable[[str], Any]:
    """The function `__getattr__` of a module: it imports a name's own module at its first use.

    For names that few programs use and whose modules load much. Type checkers read the imports in
    the other branch:

        if TYPE_CHECKING:
            from jaxdl.training.folding import fold
        else:
            __getattr__ = imported_when_used(globals(), fold="jaxdl.training.folding")

    A name must not be that of a submodule: Python sets the submodule itself in its place.

    Arguments:
        module: the module's names, `globals()`.
        places: the module of each name.

    Example:
        >>> names = {"__name__": "shapes"}
        >>> find = imported_when_used(names, pi="math")
        >>> find("pi") == names["pi"]
        True
        >>> find("tau")
        Traceback (most recent call last):
        ...
        AttributeError: module 'shapes' has no attribute 'tau'
    """

    def find(name: str) -> Any:
        if name not in places:
            raise AttributeError(f"module {module['__name__']!r} has no attribute {name!r}")
        module[name] = getattr(importlib.import_module(places[name]), name)
        return module[name]

    return find
