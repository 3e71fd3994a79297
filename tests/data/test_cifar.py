"""CIFAR-10's records are read exactly, from its folder or its archive, and faults are named."""

import contextlib
import gzip
import io
import tarfile
import tracemalloc

import numpy as np
import pytest

from jaxdl.data import DataError
from jaxdl.data.cifar import (
    CIFAR_ARCHIVE,
    CIFAR_FILES,
    CIFAR_FOLDER,
    locate_cifar10,
    read_cifar10_set,
)

SHAPE = (32, 32, 3)


def read(folder):
    return read_cifar10_set(locate_cifar10(folder), 10, SHAPE)


def check(splits, arrays):
    train, test = splits
    batches = [arrays[name] for name in CIFAR_FILES[:5]]
    np.testing.assert_array_equal(train.inputs, np.concatenate([images for images, _ in batches]))
    np.testing.assert_array_equal(train.targets, np.concatenate([labels for _, labels in batches]))
    np.testing.assert_array_equal(test.inputs, arrays["test_batch.bin"][0])
    assert train.inputs.dtype == np.uint8
    assert train.targets.dtype == np.int32


@pytest.fixture
def archive(tmp_path, cifar_raw, formats):
    """The official archive's layout, in a folder of its own, members in no useful order."""
    members = {
        f"{CIFAR_FOLDER}/{name}": (cifar_raw / CIFAR_FOLDER / name).read_bytes()
        for name in reversed(CIFAR_FILES)
    }
    path = tmp_path / "download" / CIFAR_ARCHIVE
    path.parent.mkdir()
    formats.tar(path, {f"{CIFAR_FOLDER}/readme.html": b"<html>", **members})
    return path


def test_a_record_is_a_label_and_three_planes(tmp_path):
    # Red is 1, green 2, blue 3, except the pixel in row 0, column 1, which is 11, 12, 13.
    planes = np.repeat(np.array([1, 2, 3], np.uint8), 1024).reshape(3, 1024)
    planes[:, 1] += 10
    for name in CIFAR_FILES:
        (tmp_path / name).write_bytes(bytes([7]) + planes.tobytes())
    train, _ = read(tmp_path)
    assert train.targets.tolist() == [7] * 5
    assert train.inputs[0, 0, 1].tolist() == [11, 12, 13]
    assert train.inputs[0, 1, 0].tolist() == [1, 2, 3]


def test_the_extracted_folder_is_found_beside_and_within(cifar_raw, cifar_arrays):
    check(read(cifar_raw), cifar_arrays)
    check(read(cifar_raw / CIFAR_FOLDER), cifar_arrays)


def test_the_archive_is_read_as_downloaded(archive, cifar_arrays):
    check(read(archive.parent), cifar_arrays)
    assert [path.name for path in archive.parent.iterdir()] == [CIFAR_ARCHIVE]


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=f"{CIFAR_ARCHIVE}: the archive, or the folder"):
        locate_cifar10(tmp_path)


def test_a_missing_batch_is_named(cifar_raw):
    (cifar_raw / CIFAR_FOLDER / "data_batch_4.bin").unlink()
    with pytest.raises(DataError, match=r"data_batch_4\.bin: the six \.bin files must be there"):
        locate_cifar10(cifar_raw)


@pytest.mark.parametrize("change", [b"\0", None, b""])
def test_a_size_that_is_no_multiple_of_a_record_is_refused(cifar_raw, change):
    path = cifar_raw / CIFAR_FOLDER / "data_batch_2.bin"
    content = path.read_bytes()
    path.write_bytes({b"\0": content + b"\0", None: content[:-1], b"": b""}[change])
    with pytest.raises(DataError, match=r"data_batch_2\.bin: .*multiple of 3073 bytes"):
        read(cifar_raw)


def test_a_label_outside_the_classes_is_named(cifar_raw):
    path = cifar_raw / CIFAR_FOLDER / "test_batch.bin"
    content = bytearray(path.read_bytes())
    content[3073] = 10
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"test_batch\.bin: labels .*got 10 at example 1;"):
        read(cifar_raw)


def test_a_truncated_archive_is_refused(archive):
    whole = archive.read_bytes()
    for kept in (0, 10, len(whole) // 3, len(whole) - 4):
        archive.write_bytes(whole[:kept])
        with pytest.raises(DataError, match=CIFAR_ARCHIVE):
            read(archive.parent)


def test_a_damaged_checksum_is_refused(archive):
    whole = bytearray(archive.read_bytes())
    whole[-6] ^= 1  # in gzip's CRC-32, which tarfile alone would not look at
    archive.write_bytes(whole)
    with pytest.raises(DataError, match="must be whole"):
        read(archive.parent)


def test_an_archive_without_a_batch_is_refused(archive, formats):
    formats.tar(archive, {f"{CIFAR_FOLDER}/test_batch.bin": bytes(3073)})
    with pytest.raises(DataError, match=r"must hold cifar-10-batches-bin/data_batch_1\.bin"):
        read(archive.parent)


@pytest.mark.parametrize(
    "name", ["../outside.bin", "/tmp/outside.bin", f"{CIFAR_FOLDER}/../../outside.bin"]
)
def test_a_member_that_would_escape_is_refused(archive, formats, name):
    formats.tar(archive, {name: bytes(3073)})
    with pytest.raises(DataError, match=r"outside\.bin', a path outside"):
        read(archive.parent)
    assert [path.name for path in archive.parent.iterdir()] == [CIFAR_ARCHIVE]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE])
def test_a_link_or_device_is_refused(archive, kind):
    with tarfile.open(archive, "w:gz") as tar:
        member = tarfile.TarInfo(f"{CIFAR_FOLDER}/data_batch_1.bin")
        member.type = kind
        member.linkname = "/etc/hostname"
        tar.addfile(member, io.BytesIO())
    with pytest.raises(DataError, match="a link or a device"):
        read(archive.parent)


def test_a_sparse_member_is_refused_before_anything_is_reserved(archive):
    # A header of the old GNU format that promises 3.7 GB of zeros and stores none of them.
    size = 1_204_000 * 3073
    header = bytearray(tarfile.TarInfo(f"{CIFAR_FOLDER}/data_batch_1.bin").tobuf())
    header[156:157] = tarfile.GNUTYPE_SPARSE
    header[386:410] = b"%011o\0" % size + b"%011o\0" % 0  # the only part: at the end, empty
    header[483:495] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    archive.write_bytes(gzip.compress(bytes(header) + bytes(1024)))
    with tarfile.open(archive) as tar:
        assert tar.getmembers()[0].size == size  # it is what it should be
    with at_most(1e6), pytest.raises(DataError, match=r"data_batch_1\.bin', a sparse file"):
        read(archive.parent)


@pytest.mark.parametrize("again", ["", "./"])
def test_a_member_given_twice_is_refused(archive, again):
    record = bytes(3073)
    with tarfile.open(archive, "w:gz") as tar:
        for prefix, content in [("", record), (again, b"\1" + record[1:])]:
            member = tarfile.TarInfo(f"{prefix}{CIFAR_FOLDER}/data_batch_1.bin")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    with pytest.raises(DataError, match="every member must be there once, got it again"):
        read(archive.parent)


@pytest.mark.parametrize("size", [8 << 30, 3073 * 1_000_000, 0, 3072])
def test_a_size_that_the_archive_does_not_hold_reserves_nothing(archive, size):
    member = tarfile.TarInfo(f"{CIFAR_FOLDER}/data_batch_1.bin")
    member.size = size
    archive.write_bytes(gzip.compress(member.tobuf() + bytes(3073)))
    with at_most(1e6), pytest.raises(DataError, match=CIFAR_ARCHIVE):
        read(archive.parent)


@contextlib.contextmanager
def at_most(bytes_reserved):
    """Fails if more memory was reserved at any moment; NumPy's arrays are counted too."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < bytes_reserved
