"""CIFAR-10's binary release: six files of records, extracted or still in the official archive."""

import gzip
import math
import tarfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

import numpy as np

from jaxdl.data.integrity import check_labels
from jaxdl.data.types import Arrays, DataError

CIFAR_ARCHIVE = "cifar-10-binary.tar.gz"
CIFAR_FOLDER = "cifar-10-batches-bin"
CIFAR_TRAIN_FILES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
CIFAR_FILES = (*CIFAR_TRAIN_FILES, "test_batch.bin")

_BLOCK = 1 << 20
# What tarfile lets through when it reads a damaged header.
_HEADER_ERRORS = (ValueError, LookupError, OverflowError, RecursionError)


def locate_cifar10(folder: Path) -> dict[str, Path]:
    """Find the release in `folder`: its extracted folder, its files, or its archive, in this order.

    Raises:
        DataError: none of them is there, or the folder lacks one of the six files.
    """
    for place in (folder / CIFAR_FOLDER, folder):
        present = [name for name in CIFAR_FILES if (place / name).is_file()]
        missing = [name for name in CIFAR_FILES if name not in present]
        if not missing:
            return {name: place / name for name in CIFAR_FILES}
        if present:
            raise DataError(
                f"{place / missing[0]}: the six .bin files must be there, got {len(present)}; "
                f"extract {CIFAR_ARCHIVE} again"
            )
    archive = folder / CIFAR_ARCHIVE
    if not archive.is_file():
        raise DataError(
            f"{archive}: the archive, or the folder {CIFAR_FOLDER} extracted from it, must be "
            "there, got neither; copy one of them into that folder"
        )
    return {CIFAR_ARCHIVE: archive}


def read_cifar10_set(
    files: Mapping[str, Path], classes: int, shape: tuple[int, ...]
) -> list[Arrays]:
    """Read the train and test splits from `files`, as `locate_cifar10` found them.

    Arguments:
        files: the archive by `CIFAR_ARCHIVE`, or the six paths by the names in `CIFAR_FILES`.
        classes: labels must be in 0..classes-1.
        shape: (height, width, channels) of each image.

    Raises:
        DataError: a file or the archive is damaged, or the archive has a member that is not
            allowed.
    """
    if CIFAR_ARCHIVE in files:
        batches = _read_archive(files[CIFAR_ARCHIVE], classes, shape)
    else:
        batches = {}
        for name, path in files.items():
            _check_size(path.stat().st_size, str(path), shape)
            batches[name] = _decode(path.read_bytes(), str(path), classes, shape)
    train = [batches.pop(name) for name in CIFAR_TRAIN_FILES]
    return [
        Arrays(
            inputs=np.concatenate([batch.inputs for batch in train]),
            targets=np.concatenate([batch.targets for batch in train]),
        ),
        batches[CIFAR_FILES[-1]],
    ]


def _check_size(size: int, where: str, shape: tuple[int, ...]) -> None:
    """Refuse a size before anything of it is read."""
    record = 1 + math.prod(shape)
    if size < record or size % record:
        raise DataError(
            f"{where}: the size must be a multiple of {record} bytes, one record an image, "
            f"got {size}; the file is truncated or is no CIFAR-10 batch, fetch it again"
        )


def _decode(content: bytes, where: str, classes: int, shape: tuple[int, ...]) -> Arrays:
    """Turn records of one label byte and the red, green and blue planes into NHWC images."""
    height, width, channels = shape
    _check_size(len(content), where, shape)
    records = np.frombuffer(content, np.uint8).reshape(-1, 1 + math.prod(shape))
    check_labels(records[:, 0], classes, where)
    planes = records[:, 1:].reshape(-1, channels, height, width)
    return Arrays(
        inputs=np.ascontiguousarray(planes.transpose(0, 2, 3, 1)),
        targets=records[:, 0].astype(np.int32),
    )


def _read_archive(archive: Path, classes: int, shape: tuple[int, ...]) -> dict[str, Arrays]:
    """Decode the members in memory. Nothing is extracted, so no file can be overwritten."""
    batches: dict[str, Arrays] = {}
    try:
        # gzip checks the checksum at the end; tarfile's own reader skips it.
        with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                _check_member(member, archive)
                path = PurePosixPath(member.name)
                if not member.isfile() or path.parts[:-1] != (CIFAR_FOLDER,):
                    continue
                where = f"{archive}: {member.name}"
                if path.name in batches:
                    raise DataError(
                        f"{where}: every member must be there once, got it again; do not use "
                        "this archive, fetch the official one"
                    )
                if path.name in CIFAR_FILES:
                    _check_size(member.size, where, shape)
                    content = tar.extractfile(member)
                    batches[path.name] = _decode(
                        b"" if content is None else content.read(), where, classes, shape
                    )
            while stream.read(_BLOCK):
                pass
    except DataError:
        raise
    except (tarfile.TarError, EOFError, gzip.BadGzipFile, zlib.error, *_HEADER_ERRORS) as error:
        raise DataError(
            f"{archive}: the archive must be whole, got {error}; fetch it again"
        ) from error
    missing = [name for name in CIFAR_FILES if name not in batches]
    if missing:
        raise DataError(
            f"{archive}: the archive must hold {CIFAR_FOLDER}/{missing[0]}, got no such member; "
            "fetch it again"
        )
    return batches


def _check_member(member: tarfile.TarInfo, archive: Path) -> None:
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        kind = "a path outside the archive's folder"
    elif member.issparse():
        kind = "a sparse file, which may need any amount of memory"
    elif not (member.isfile() or member.isdir()):
        kind = "a link or a device"
    else:
        return
    raise DataError(
        f"{archive}: members must be plain files in the archive's own folder, got "
        f"{member.name!r}, {kind}; do not use this archive, fetch the official one"
    )
