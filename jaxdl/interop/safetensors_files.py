"""Variables in a safetensors file: a header of names, types and shapes, then the numbers."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.core.meta import AxisMetadata

from jaxdl.extras import import_extra
from jaxdl.files import as_path, partial_folder, publish, require_no_folder
from jaxdl.interop.values import source

_NAMES = "jaxdl.names"
"""The entry of the file's metadata with the names in their own order; the format sorts them."""


def save_safetensors(path: Any, variables: Any, *, metadata: Any = None) -> None:
    """Write variables, or a state dict, to a `.safetensors` file, whole or not at all.

    The names of nested dictionaries are joined by "/": `params/dense_0/kernel`; a "/" in a name is
    "%2F". Every array keeps its dtype, bfloat16 too. Whoever has the package `safetensors` reads
    it, without this library, JAX or PyTorch. How parameters are partitioned is not kept.

    Arguments:
        path: the file; one that is there is replaced.
        variables: nested dictionaries of arrays, e.g. `state.variables`, or what `to_state_dict`
            returns.
        metadata: words to keep beside the arrays; `{"format": "pt"}` is what Hugging Face's
            libraries ask of a state dict.

    Raises:
        ImportError: the package `safetensors` is not installed.
        IsADirectoryError: the path is a folder.
        TypeError: something that is no nested dictionary of arrays, or metadata that are no words.
        ValueError: a name that is no word, an empty dictionary.

    Example:
        >>> import tempfile
        >>> variables = {"params": {"dense_0": {"bias": np.arange(3.0)}}}
        >>> file = Path(tempfile.mkdtemp()) / "model.safetensors"
        >>> save_safetensors(file, variables)
        >>> load_safetensors(file)
        {'params': {'dense_0': {'bias': array([0., 1., 2.])}}}

    Source: the format, https://huggingface.co/docs/safetensors.
    """
    module = import_extra("safetensors.numpy", "a .safetensors file", "interop")
    destination = _as_file(path)
    require_no_folder(destination)
    words = {} if metadata is None else metadata
    if not isinstance(words, Mapping) or not all(
        isinstance(word, str) for pair in words.items() for word in pair
    ):
        raise TypeError(f"metadata must map words to words, got {metadata!r}; pass e.g. str(value)")
    arrays = dict(_flat(variables, ""))
    if not arrays:
        raise ValueError("variables must hold at least one array, got none; pass state.variables")
    words = {**words, _NAMES: json.dumps(list(arrays))}
    with partial_folder(destination.parent) as folder:
        module.save_file(arrays, folder / destination.name, metadata=words)
        publish(folder / destination.name, destination)


def load_safetensors(path: Any) -> dict[str, Any]:
    """Read the arrays of a `.safetensors` file; names with a "/" become nested dictionaries.

    PyTorch's names have dots, so its state dicts stay flat; pass them to `from_state_dict`.

    Arguments:
        path: the file.

    Returns:
        Dictionaries of NumPy arrays of the dtypes in the file.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: the package `safetensors` is not installed.
        ValueError: it is no safetensors file, or is cut off.
    """
    module = import_extra("safetensors", "a .safetensors file", "interop")
    file = _as_file(path)
    if not file.is_file():
        raise FileNotFoundError(f"path must be a .safetensors file, got {file}, which is not there")
    try:
        with module.safe_open(file, framework="np") as opened:
            words = opened.metadata() or {}
            # The open file has keys, and cannot be iterated over.
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (module.SafetensorError, AttributeError) as error:
        raise ValueError(
            f"{file} must be a whole safetensors file of dtypes that NumPy has, got one that "
            f"cannot be read ({error}); write it again"
        ) from error
    order = json.loads(words.get(_NAMES, "[]"))
    if sorted(order) == sorted(arrays):
        arrays = {name: arrays[name] for name in order}
    found: dict[str, Any] = {}
    for name, value in arrays.items():
        *parents, last = (_unescaped(part) if order else part for part in name.split("/"))
        place = found
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ValueError(
                    f"the names in {file} must be those of nested dictionaries, got {name!r} "
                    f"beside {parent!r}; read it with safetensors.numpy.load_file"
                )
        place[last] = value
    return found


def _as_file(path: Any) -> Path:
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"path must name a .safetensors file, got {path!r}; pass a str or a Path")
    return as_path(path).absolute()


def _unescaped(name: str) -> str:
    return name.replace("%2F", "/").replace("%25", "%")


def _flat(tree: Any, prefix: str) -> Any:
    """Each array with its joined name."""
    for name, value in tree.items() if isinstance(tree, Mapping) else ():
        if not isinstance(name, str) or not name:
            raise ValueError(f"names must be words, got {name!r}; rename it")
        escaped = name.replace("%", "%25").replace("/", "%2F")
        yield from _flat(value, f"{prefix}/{escaped}" if prefix else escaped)
    if isinstance(tree, Mapping):
        if prefix and not tree:
            raise ValueError(f"a dictionary must hold arrays, got {prefix} empty; leave it out")
        return
    tree = tree.unbox() if isinstance(tree, AxisMetadata) else tree
    is_array = isinstance(tree, np.ndarray | np.generic | jax.Array)
    if not prefix or not is_array or jnp.issubdtype(tree.dtype, jax.dtypes.extended):
        raise TypeError(
            "variables must be nested dictionaries of arrays, got "
            f"{prefix or 'all of it'}: {type(tree).__name__}; pass {source(tree)} (a random key "
            "as jax.random.key_data, a tensor as tensor.numpy())"
        )
    yield prefix, np.array(tree, order="C", ndmin=0)  # the format knows nothing of strides
