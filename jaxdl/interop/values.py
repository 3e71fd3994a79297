"""A variable is looked up by its path, and cast to a dtype that holds it."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np


def source(given: Any) -> str:
    """Where the variables are of what was given in their place."""
    if hasattr(getattr(given, "state", None), "variables"):
        return "result.state.variables"
    return "state.variables"


def require_variables(name: str, given: Any) -> None:
    """Refuse what is no dictionary of collections.

    Raises:
        TypeError: it is none.

    Example:
        >>> require_variables("variables", [1])
        Traceback (most recent call last):
        ...
        TypeError: variables must be a dictionary of collections, got list; pass state.variables
    """
    if not isinstance(given, Mapping):
        raise TypeError(
            f"{name} must be a dictionary of collections, got {type(given).__name__}; pass "
            f"{source(given)}"
        )


def from_start(start: Any, collection: str, path: tuple[str, ...]) -> Any:
    """The value that stays where the state dict has none.

    Raises:
        ValueError: there is no such value.
    """
    place = start
    for part in (collection, *path):
        if not isinstance(place, Mapping) or part not in place:
            raise ValueError(
                f"start must have every variable that the state dict has not, got none for "
                f"{'/'.join((collection, *path))}; pass start=model.init(key, inputs)"
            )
        place = place[part]
    return place


def at_path(variables: Any, collection: str, path: tuple[str, ...], shape: tuple[int, ...]) -> Any:
    """A variable of the model.

    Raises:
        ValueError: it is not there, or has another shape.
    """
    place = variables
    for part in (collection, *path):
        place = place.get(part) if isinstance(place, Mapping) else None
    if place is None or np.shape(place) != shape:
        got = "nothing" if place is None else np.shape(place)
        raise ValueError(
            f"variables must fit the model and its inputs: {'/'.join((collection, *path))} "
            f"{shape}, got {got}; pass those of this model"
        )
    return place


def cast_to(name: str, value: np.ndarray, dtype: Any) -> np.ndarray:
    """The values in the dtype.

    Raises:
        ValueError: complex numbers in a real dtype, or finite numbers that it does not hold.
    """
    if value.dtype.kind == "c" and not jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(f"{name} must be real, as it is in the model, got {value.dtype}")
    with np.errstate(over="ignore"):
        cast = value.astype(dtype)
    if bool((np.isfinite(value) & ~np.isfinite(cast)).any()):
        raise ValueError(
            f"{name} must fit {np.dtype(dtype)}, got values up to {np.abs(value).max()}; pass "
            "dtype=np.float32"
        )
    return cast
