"""What `dir`, and so a Tab in a notebook, shows of a public module."""

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
