"""The decoded copy of a data set: .npy files that a later load reads in a fraction of a second."""

import hashlib
import json
import logging
import math
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxdl.data.types import Arrays, DataError, Dataset
from jaxdl.files import partial_folder, publish, remove_leftovers

logger = logging.getLogger("jaxdl.data")

_RECORD = "dataset.json"
_FORMAT = 2
_PARTS = ("train", "test")
# The record is a kilobyte; more is no record of ours.
_MOST_BYTES = 1_000_000
# What a record with other values than ours raises where they are used.
_DAMAGE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError)
# XLA uses a buffer with this alignment, in bytes, on a CPU without a copy.
_ALIGNMENT = 64


def fingerprint(paths: Iterable[Path]) -> str:
    """A digest of the files' names, sizes and times of change (nanoseconds), not of content.

    It notices a replaced file without reading it, also one with the old size and the old time of
    modification: the system notes when it was written.
    """
    digest = hashlib.sha256()
    for path in sorted(paths):
        stat = path.stat()
        known = (path.name, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        digest.update(repr(known).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def write_cache(
    folder: Path, dataset: Dataset, *, source: str, verified: bool, notice: str = ""
) -> None:
    """Write `dataset` to `folder`, whole or not at all, replacing what is there.

    Arguments:
        folder: where the copy goes.
        dataset: the published train split, and test if there is one.
        source: the `fingerprint` of the files it was decoded from.
        verified: whether those files were the published ones.
        notice: what every reader of the copy must be told; nothing by default.

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
                path = made / f"{part}_{what}.npy"
                np.save(path, values, allow_pickle=False)
                with path.open("rb") as file:
                    header = file.read(path.stat().st_size - values.nbytes)
                arrays[f"{part}_{what}"] = _describe(header, values)
        record = {
            "format": _FORMAT,
            "name": dataset.name,
            "classes": dataset.classes,
            "source": source,
            "verified": verified,
            "notice": notice,
            "arrays": arrays,
        }
        record["sha256"] = _digest(record)
        (made / _RECORD).write_text(json.dumps(record, indent=1), encoding="utf-8")
        publish(made, folder)


def read_cache(
    folder: Path, *, source: str | None, or_verified: bool = False
) -> tuple[Dataset, str] | None:
    """Read the copy in `folder`, and what its reader must be told ("" for nothing).

    None if there is no copy for `source`, or if it is damaged: every byte of its files is covered
    by a checksum in the record, and the record by a digest of its own. The arrays are read into
    memory: writing to them changes no file.

    Arguments:
        folder: as in `write_cache`.
        source: the `fingerprint` that the copy must come from; None takes any.
        or_verified: whether a copy of the published files is taken whatever `source` is.
    """
    remove_leftovers(folder.parent)
    if not folder.is_dir():
        return None
    try:
        record = _read_record(folder / _RECORD)
        if record is None:
            logger.info("%s was written by another version: it is decoded again", folder)
            return None
        if source not in (None, record["source"]) and not (or_verified and record["verified"]):
            logger.info("%s was decoded from other files than there are now", folder)
            return None
        arrays = {
            name: _read_aligned(folder / f"{name}.npy", described)
            for name, described in record["arrays"].items()
        }
        train, test = (
            Arrays(inputs=arrays[f"{part}_inputs"], targets=arrays[f"{part}_targets"])
            if f"{part}_inputs" in arrays or part == "train"
            else None
            for part in _PARTS
        )
        classes = tuple(record["classes"])
        dataset = Dataset(record["name"], train, validation=None, test=test, classes=classes)
        return dataset, record["notice"]
    except (OSError, *_DAMAGE) as error:
        logger.warning("%s is damaged (%s): it is decoded again", folder, error)
        return None


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record).encode()).hexdigest()


def _read_record(path: Path) -> dict[str, Any] | None:
    """The record, as it was written; None if its format is another one."""
    size = path.stat().st_size
    if size > _MOST_BYTES:
        raise DataError(f"{path.name} must have at most {_MOST_BYTES} bytes, got {size}")
    record = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(record, dict):
        raise DataError(f"{path.name} must hold a mapping, got {type(record).__name__}")
    if record.get("format") != _FORMAT:
        return None
    digest = record.pop("sha256", None)
    if digest != _digest(record):
        raise DataError(f"the sha256 of {path.name} must be {_digest(record)}, got {digest}")
    if not all(isinstance(record[name], str) for name in ("name", "source", "notice")):
        raise DataError(f"{path.name} must hold words, got {record}")
    return record


def _describe(header: bytes, values: np.ndarray) -> dict[str, Any]:
    content = values.reshape(-1).view(np.uint8).data
    return {
        "shape": list(values.shape),
        "dtype": values.dtype.str,
        "crc32": zlib.crc32(content, zlib.crc32(header)),
    }


def _read_aligned(path: Path, described: Mapping[str, Any]) -> np.ndarray:
    """`np.load` into memory that a CPU device can use without a copy.

    The header is compared, not parsed: what it says is in `described`.
    """
    dtype, shape = np.dtype(described["dtype"]), described["shape"]
    size = dtype.itemsize * math.prod(shape)
    start = path.stat().st_size - size
    if not 0 < start < _MOST_BYTES:
        raise DataError(f"{path.name} must hold a header and {size} bytes, got {start + size}")
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    first = -buffer.ctypes.data % _ALIGNMENT
    content = buffer[first : first + size]
    values: np.ndarray = content.view(dtype).reshape(shape)
    with path.open("rb") as file:
        header = file.read(start)
        file.readinto(content.data)
    found = _describe(header, values)
    if found != described:
        raise DataError(f"{path.name} must be {dict(described)}, got {found}")
    return values
