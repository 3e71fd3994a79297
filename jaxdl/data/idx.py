"""The IDX files of MNIST and of sets in the same format."""

import gzip
import io
import math
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from jaxdl.data.integrity import check_labels
from jaxdl.data.types import Arrays, DataError

IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)

_UNSIGNED_BYTE = 0x08
_GZIP_MAGIC = b"\x1f\x8b"
# DEFLATE expands a byte to at most this many (zlib's technical notes: 1032:1).
_MOST_EXPANSION = 1032
_BLOCK = 1 << 20


def locate_idx(folder: Path) -> dict[str, Path]:
    """Find the four IDX files in `folder`, each plain or as `.gz`; plain files are preferred.

    Raises:
        DataError: a file exists in neither form.
    """
    found = {}
    for name in IDX_FILES:
        candidates = [path for path in (folder / name, folder / f"{name}.gz") if path.is_file()]
        if not candidates:
            raise DataError(
                f"{folder / name}: the file must be there, plain or as .gz, got neither; "
                "copy the four IDX files of the release into that folder"
            )
        found[name] = candidates[0]
    return found


def read_idx_set(files: Mapping[str, Path], classes: int, shape: tuple[int, ...]) -> list[Arrays]:
    """Read the train and test splits from `files`, as `locate_idx` found them.

    Arguments:
        files: paths by the names in `IDX_FILES`.
        classes: labels must be in 0..classes-1.
        shape: (height, width, 1) of each image.

    Raises:
        DataError: a file is damaged, or does not fit the others.
    """
    splits = []
    for images_name, labels_name in (IDX_FILES[:2], IDX_FILES[2:]):
        images = read_idx(files[images_name], dimensions=3)
        labels = read_idx(files[labels_name], dimensions=1)
        if images.shape[1:] != shape[:2]:
            raise DataError(
                f"{files[images_name]}: images must be {shape[0]} x {shape[1]}, "
                f"got {images.shape[1]} x {images.shape[2]}; replace the file"
            )
        if len(images) != len(labels):
            raise DataError(
                f"{files[labels_name]}: there must be one label for each of the {len(images)} "
                f"images in {files[images_name].name}, got {len(labels)} labels; "
                "take both files from the same release"
            )
        check_labels(labels, classes, str(files[labels_name]))
        splits.append(Arrays(inputs=images[..., None], targets=labels.astype(np.int32)))
    return splits


def read_idx(path: Path, *, dimensions: int) -> np.ndarray:
    """Read one IDX file of unsigned bytes, plain or gzipped; its content tells which.

    The header is two zero bytes, the type's code, the number of dimensions, then each
    dimension as a big-endian 32-bit integer; the values follow in row-major order.

    Arguments:
        path: the file.
        dimensions: 3 for images, 1 for labels.

    Raises:
        DataError: a missing file, a wrong magic number, or a file shorter or longer than
            its header says.

    Source: LeCun, Cortes and Burges, "The MNIST database", section "File formats".
    """
    if not path.is_file():
        raise DataError(f"{path}: the file must be there, got none; copy it from the release")
    with path.open("rb") as plain:
        zipped = plain.read(2) == _GZIP_MAGIC
        plain.seek(0)
        try:
            if not zipped:
                return _read_stream(plain, path, dimensions, path.stat().st_size)
            with gzip.open(plain) as unzipped:
                most = _MOST_EXPANSION * path.stat().st_size
                return _read_stream(unzipped, path, dimensions, most)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise DataError(
                f"{path}: the gzip stream must be whole, got {error}; fetch the file again"
            ) from error


def _read_stream(stream: io.BufferedIOBase, path: Path, dimensions: int, most: int) -> np.ndarray:
    expected = bytes([0, 0, _UNSIGNED_BYTE, dimensions])
    magic = stream.read(4)
    if magic != expected:
        raise DataError(
            f"{path}: the magic number must be 0x{expected.hex()} (unsigned bytes, {dimensions} "
            f"dimensions), got 0x{magic.hex()}; check that the file is what its name says"
        )
    header = stream.read(4 * dimensions)
    shape = tuple(int.from_bytes(header[4 * i : 4 * i + 4], "big") for i in range(dimensions))
    if len(header) == 4 * dimensions and not all(shape):
        raise DataError(f"{path}: every size must be at least 1, got {shape}; fetch the file again")
    size = math.prod(shape)
    # Memory grows with what is read: a header may promise more than the file holds.
    content = bytearray()
    while len(content) < size <= most:
        block = stream.read(min(_BLOCK, size - len(content)))
        if not block:
            break
        content += block
    if len(header) < 4 * dimensions or len(content) < size:
        raise DataError(
            f"{path}: the file must hold {size} values of shape {shape} after its header, "
            f"got {len(content) if size <= most else 'fewer'}; it is truncated, fetch it again"
        )
    if stream.read(1):
        raise DataError(
            f"{path}: the file must end after its {size} values of shape {shape}, "
            "got more bytes; fetch it again"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)
