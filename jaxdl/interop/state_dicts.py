"""Read a state dict of PyTorch as NumPy arrays, from memory or from a file."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxdl.extras import import_extra
from jaxdl.files import as_path
from jaxdl.interop.safetensors_files import load_safetensors

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class StateDict:
    """The tensors of a state dict.

    Attributes:
        arrays: by their names.
        tied: tensors that share the memory of an earlier one, and whose memory it is.
    """

    arrays: dict[str, Array]
    tied: dict[str, str]


def read_state_dict(name: str, given: Any) -> StateDict:
    """The tensors of a state dict, or of a file that holds one.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: a .pt or .pth file, and PyTorch is not installed.
        TypeError: what is no state dict, or holds something that is no dense tensor.
        ValueError: a file of another kind.
    """
    if isinstance(given, str | os.PathLike):
        given = _from_file(name, as_path(given))
    if not isinstance(given, Mapping):
        fix = ".state_dict()" if hasattr(given, "state_dict") else ""
        raise TypeError(
            f"{name} must map names to tensors or be a path, got {type(given).__name__}; pass "
            f"network.state_dict(){' of it' if fix else ', or a file of it'}"
        )
    if not given:
        raise ValueError(f"{name} must hold tensors, got none; pass network.state_dict()")
    if "params" in given and isinstance(given["params"], Mapping):
        raise TypeError(
            f"{name} must map names to tensors, got variables of this library, which need no "
            "conversion; load_safetensors reads them"
        )
    arrays: dict[str, Array] = {}
    tied: dict[str, str] = {}
    owners: dict[Any, str] = {}
    for key, value in given.items():
        if isinstance(value, Mapping):
            raise TypeError(
                f"{name} must map names to tensors, got a dictionary under {key!r}; pass "
                f"checkpoint[{key!r}]"
            )
        arrays[str(key)] = array = _as_array(name, key, value)
        first = owners.setdefault(_memory(value, array), str(key))
        if first != str(key):
            tied[str(key)] = first
    return StateDict(arrays, tied)


def _from_file(name: str, path: Any) -> Any:
    if not path.is_file():
        raise FileNotFoundError(f"{name} must be a file that is there, got {path}")
    if path.suffix == ".safetensors":
        return load_safetensors(path)
    if path.suffix not in (".pt", ".pth", ".bin"):
        raise ValueError(
            f"{name} must be a file .safetensors, .pt, .pth or .bin, got {path.name}; load another "
            "kind yourself and pass the tensors"
        )
    torch = import_extra("torch", f"a {path.suffix} file (a .safetensors file does not)", "parity")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise ValueError(
            f"{name} must hold tensors alone, got {path.name}, which PyTorch does not read with "
            f"weights_only=True ({error}); write it with torch.save(network.state_dict(), path)"
        ) from error


def _as_array(name: str, key: Any, value: Any) -> Array:
    """A NumPy array of a tensor on any device, of any dtype, with or without a gradient."""
    if hasattr(value, "detach"):
        value = value.detach()
        if str(value.layout) != "torch.strided" or value.is_quantized or value.is_meta:
            raise TypeError(
                f"{name} must hold dense tensors with values, got {key!r}, which is quantized, "
                "sparse or on the device meta; pass it as tensor.dequantize() or .to_dense()"
            )
        value = value.cpu().resolve_conj().resolve_neg()
        try:
            return np.asarray(value.numpy())
        except TypeError:  # NumPy has no bfloat16; float32 holds it exactly
            return np.asarray(value.float().numpy())
    if not hasattr(value, "__array__") or np.asarray(value).dtype.kind not in "fiubcV":
        raise TypeError(
            f"{name} must map names to tensors, got {key!r}: {type(value).__name__}; leave out "
            "what is no tensor, or pass the part of a checkpoint that is the state dict"
        )
    return np.asarray(value)


def _memory(value: Any, array: Array) -> Any:
    start = value.data_ptr() if hasattr(value, "data_ptr") else array.__array_interface__["data"][0]
    return (start, array.shape, array.strides) if array.size else object()


def is_sorted(arrays: Mapping[str, Array]) -> bool:
    """Whether the names of each dtype are sorted, as a safetensors file has them.

    Then their order says nothing about the network.

    Example:
        >>> is_sorted({"a.weight": np.zeros(1), "a.bias": np.zeros(1)})
        False
    """
    kinds: dict[Any, list[str]] = {}
    for name, array in arrays.items():
        kinds.setdefault(array.dtype, []).append(name)
    return all(names == sorted(names) for names in kinds.values())
