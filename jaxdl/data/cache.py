"""The decoded copy of a data set: .npy files that a later load reads in a fraction of a second."""

import hashlib
import json
import logging
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from jaxdl.data.types import Arrays, DataError, Dataset
from jaxdl.files import partial_folder, publish, remove_leftovers

logger = logging.getLogger("jaxdl.data")

_RECORD = "dataset.json"
_FORMAT = 1
_PARTS = ("train", "test")
# XLA uses a buffer with this alignment, in bytes, on a CPU without a copy.
_ALIGNMENT = 64


def fingerprint(paths: Iterable[Path]) -> str:
    """A digest of the files' names, sizes and modification times (nanoseconds), not of content.

    It notices a replaced file without reading it. It does not notice new content with the old size
    and the old time.
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        stat = path.stat()
        digest.update(f"{path.name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def write_cache(folder: Path, dataset: Dataset, *, source: str, verified: bool) -> None:
    """Write `dataset` to `folder`, whole or not at all, replacing what is there.

    Arguments:
        folder: where the copy goes.
        dataset: the published train split, and test if there is one.
        source: the `fingerprint` of the files it was decoded from.
        verified: whether those files were the published ones.

    Raises:
        OSError: the folder cannot be written.
    """
    with partial_folder(folder.parent) as partial:
        made = partial / folder.name
        made.mkdir()
        arrays: dict[str, Any] = {}
        for part in _PARTS:
            split = getattr(dataset, part)
            if split is None:
                continue
            for what in ("inputs", "targets"):
                values = np.ascontiguousarray(getattr(split, what))
                np.save(made / f"{part}_{what}.npy", values, allow_pickle=False)
                arrays[f"{part}_{what}"] = _describe(values)
        record = {
            "format": _FORMAT,
            "name": dataset.name,
            "classes": dataset.classes,
            "source": source,
            "verified": verified,
            "arrays": arrays,
        }
        (made / _RECORD).write_text(json.dumps(record, indent=1))
        publish(made, folder)


def read_cache(folder: Path, *, source: str | None) -> Dataset | None:
    """Read the copy in `folder`; None if there is none for `source`, or if it is damaged.

    The arrays are read into memory and belong to the caller: writing to them changes no file.

    Arguments:
        folder: as in `write_cache`.
        source: the `fingerprint` that the copy must come from; None takes any.
    """
    remove_leftovers(folder.parent)
    if not folder.is_dir():
        return None
    try:
        record = json.loads((folder / _RECORD).read_text())
        if record["format"] != _FORMAT:
            raise DataError(f"format must be {_FORMAT}, got {record['format']}")
        if source is not None and record["source"] != source:
            logger.info("%s was decoded from other files than there are now", folder)
            return None
        arrays = {name: _load(folder, name, record["arrays"][name]) for name in record["arrays"]}
        splits = [
            Arrays(inputs=arrays[f"{part}_inputs"], targets=arrays[f"{part}_targets"])
            if f"{part}_inputs" in arrays
            else None
            for part in _PARTS
        ]
        train, test = splits
        if train is None:
            raise DataError("there must be a train split, got none")
        return Dataset(
            name=record["name"],
            train=train,
            validation=None,
            test=test,
            classes=tuple(record["classes"]),
        )
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        logger.warning("%s is damaged (%s): it is decoded again", folder, error)
        return None


def _describe(values: np.ndarray) -> dict[str, Any]:
    return {
        "shape": list(values.shape),
        "dtype": values.dtype.str,
        "crc32": zlib.crc32(values.reshape(-1).view(np.uint8).data),
    }


def _load(folder: Path, name: str, described: dict[str, Any]) -> np.ndarray:
    values = _read_aligned(folder / f"{name}.npy")
    found = _describe(values)
    if found != described:
        raise DataError(f"{name}.npy must be {described}, got {found}")
    return values


def _read_aligned(path: Path) -> np.ndarray:
    """`np.load` into memory that a CPU device can use without a copy."""
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    buffer = np.empty(mapped.nbytes + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    values: np.ndarray = (
        buffer[start : start + mapped.nbytes].view(mapped.dtype).reshape(mapped.shape)
    )
    with path.open("rb") as file:
        file.seek(mapped.offset)
        if file.readinto(values.reshape(-1).view(np.uint8).data) != values.nbytes:
            raise DataError(f"{path.name} must hold {values.nbytes} bytes after its header")
    return values
