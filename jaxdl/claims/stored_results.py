"""What an experiment measured, on disk: arrays by name, or an xarray.Dataset."""

import json
import os
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdl.extras import import_extra
from jaxdl.files import as_path

Results = Mapping[str, Any]
"""Arrays by name; an `xarray.Dataset` is one, too."""

FILE = "results.npz"
_LAYOUT = "layout.json"


def write_results(folder: str | os.PathLike[str], results: Any) -> Path:
    """Write `results.npz` into a folder: every array under its name, readable by `numpy.load`.

    netCDF 3, the format that xarray writes without another package, has neither int64 nor float16
    nor bool. So a Dataset is written as arrays, too: its variables and coordinates by name, and
    `layout.json` beside them, which says what their axes are called. There stand also the types
    that NumPy does not know, such as bfloat16.

    Arguments:
        folder: an existing folder.
        results: arrays of numbers, booleans or text; attributes of a Dataset are kept as JSON, and
            as their text if JSON does not know them.

    Raises:
        TypeError: no mapping, a name that is no string, or an array of Python objects.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> file = write_results(folder, {"loss": np.array([2.0, 1.0])})
        >>> read_results(folder)["loss"]
        array([2., 1.])
    """
    if not isinstance(results, Mapping):
        raise TypeError(
            "run(config) must return arrays by name or an xarray.Dataset, got "
            f"{type(results).__name__}; return a dictionary"
        )
    axes = _axes(results)
    values = {name: results[name] for name in axes["dims"]} if axes else results
    arrays = {name: _checked(name, value) for name, value in values.items()}
    dtypes = {name: str(a.dtype) for name, a in arrays.items() if _is_foreign(a.dtype)}
    if axes or dtypes:
        layout = {"dataset": axes, "dtypes": dtypes}
        arrays[_LAYOUT] = np.array(json.dumps(layout, default=str))
    # As `numpy.savez`, which cannot take an array that is called "file".
    path = as_path(folder) / FILE
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    return path


def read_results(folder: str | os.PathLike[str]) -> Results:
    """Read what `write_results` wrote into a folder: a dictionary, or an `xarray.Dataset`.

    Raises:
        FileNotFoundError: nothing was written there.
        ImportError: it is a Dataset, and xarray is not installed.
    """
    with np.load(as_path(folder) / FILE, allow_pickle=False) as stored:
        arrays = dict(stored)
    layout = json.loads(str(arrays.pop(_LAYOUT, "{}")))
    for name, dtype in layout.get("dtypes", {}).items():
        arrays[name] = arrays[name].view(_dtype(dtype))
    axes = layout.get("dataset")
    if not axes:
        return arrays
    xarray = import_extra("xarray", "an xarray.Dataset")
    variables = {
        name: (dims, arrays[name], axes["attrs"][name]) for name, dims in axes["dims"].items()
    }
    coords = {name: variables.pop(name) for name in axes["coords"]}
    dataset: Results = xarray.Dataset(variables, coords, axes["own attrs"])
    return dataset


def _axes(results: Any) -> dict[str, Any] | None:
    """What a Dataset knows beyond its arrays; None of a dictionary."""
    xarray = sys.modules.get("xarray")
    if xarray is None or not isinstance(results, xarray.Dataset):
        return None
    return {
        "dims": {name: variable.dims for name, variable in results.variables.items()},
        "coords": list(results.coords),
        "attrs": {name: variable.attrs for name, variable in results.variables.items()},
        "own attrs": results.attrs,
    }


def _checked(name: Any, value: Any) -> np.ndarray:
    if not isinstance(name, str):
        raise TypeError(f"results must have strings as names, got {name!r}; use {str(name)!r}")
    array = np.asarray(value)
    if array.dtype.kind == "O":
        raise TypeError(
            f"results must hold numbers, booleans or text, got Python objects in {name!r}; make it "
            "an array of one type"
        )
    return array


def _is_foreign(dtype: np.dtype) -> bool:
    """Whether NumPy stores it as bytes without a name: bfloat16 and the like, but no record."""
    return dtype.kind == "V" and dtype.names is None


def _dtype(name: str) -> np.dtype:
    import ml_dtypes

    found: np.dtype = np.dtype(getattr(ml_dtypes, name))
    return found
