"""The arrays of a split: what they must be, what a device would change, and a copy of their own."""

import mmap
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.checks import require_held

_ARRAYS = (np.ndarray, jax.Array, jax.ShapeDtypeStruct)
_NUMBERS = (np.number, np.bool_, jax.dtypes.prng_key)


def check_fields(batch: Mapping[str, Any], where: str) -> None:
    """Refuse inputs, targets and weights that are no arrays of numbers.

    Arguments:
        batch: the fields by name; each a pytree whose leaves are NumPy or JAX arrays.
        where: what the batch is, e.g. "the test split".

    Raises:
        TypeError: a list, a frame of pandas, a tensor of PyTorch, a masked array, strings, numbers
            in the other order of bytes.

    Example:
        >>> check_fields({"inputs": np.ones((2, 3)), "targets": [0, 1]}, "the train split")
        Traceback (most recent call last):
        ...
        TypeError: the targets of the train split must be NumPy or JAX arrays, got a list of 2;
        pass numpy.asarray(...) of it
    """
    for field, values in batch.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(values):
            name = f"the {field}{jax.tree_util.keystr(path)} of {where}"
            if not isinstance(leaf, _ARRAYS) or isinstance(leaf, np.ma.MaskedArray):
                listed = isinstance(values, list | tuple) and np.ndim(leaf) == 0
                name = f"the {field} of {where}" if listed else name
                raise TypeError(
                    f"{name} must be NumPy or JAX arrays, got {_kind(values if listed else leaf)}; "
                    f"pass {_fix(leaf)}"
                )
            if not any(jnp.issubdtype(leaf.dtype, kind) for kind in _NUMBERS):
                raise TypeError(
                    f"{name} must be numbers, got {leaf.dtype}; give each word or object a number, "
                    "or cast with .astype"
                )
            if isinstance(leaf, np.ndarray) and not leaf.dtype.isnative:
                raise TypeError(
                    f"{name} must be in this machine's order of bytes, got {leaf.dtype.str}; pass "
                    f"values.astype({leaf.dtype.name!r})"
                )


def check_held(batch: Mapping[str, Any], where: str) -> None:
    """Refuse numbers that a device would change; see `require_held`."""
    for field, values in batch.items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(values):
            require_held(f"the {field}{jax.tree_util.keystr(path)} of {where}", leaf)


def on_device(batch: Any) -> Any:
    """The batch as JAX arrays that no later writing to the caller's memory can change.

    Memory that nobody can write to, such as the arrays of `data.load` or a memory-mapped file, is
    used where it is if the device is a CPU and it begins at a multiple of 64 bytes. The rest is
    copied.
    """
    return jax.tree.map(
        lambda leaf: _shared(leaf) if _never_changes(leaf) else jnp.array(leaf), batch
    )


def on_host(batch: Any) -> Any:
    """The same for arrays that stay on the host and are read again."""
    return jax.tree.map(lambda leaf: leaf if _never_changes(leaf) else np.array(leaf), batch)


def _shared(leaf: Any) -> Any:
    if not isinstance(leaf, np.ndarray):
        return jnp.asarray(leaf)
    with jax.ensure_compile_time_eval():  # a caller may be tracing, with data that it knows
        return jax.device_put(leaf)  # `jnp.asarray` would copy it


def _never_changes(leaf: Any) -> bool:
    while isinstance(leaf, np.ndarray):
        if leaf.flags.writeable:
            return False
        leaf = leaf.base
    return leaf is None or isinstance(leaf, mmap.mmap | bytes | jax.Array)


def _fix(leaf: Any) -> str:
    if isinstance(leaf, np.ma.MaskedArray):
        return "values.filled(...), or leave the masked examples out"
    return "values.toarray()" if hasattr(leaf, "toarray") else "numpy.asarray(...) of it"


def _kind(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"a {type(value).__name__} of {len(value)}"
    return f"{type(value).__module__.split('.')[0]}.{type(value).__name__}"
