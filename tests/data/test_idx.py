"""IDX files are read exactly, and a file that is not what it says is named and refused."""

import gzip
import tracemalloc

import numpy as np
import pytest

from jaxdl.data import DataError
from jaxdl.data.idx import IDX_FILES, locate_idx, read_idx, read_idx_set

SHAPE = (28, 28, 1)


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize("shape", [(5, 28, 28), (7,)])
def test_every_value_is_read(tmp_path, formats, zipped, shape):
    values = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    content = formats.idx(values)
    # The name does not decide: content alone tells gzip.
    path = tmp_path / "values"
    path.write_bytes(gzip.compress(content) if zipped else content)
    np.testing.assert_array_equal(read_idx(path, dimensions=len(shape)), values)


def test_axes_are_rows_then_columns(tmp_path):
    # Two images of one row and three columns, written byte by byte from the description.
    path = tmp_path / "values"
    header = b"\0\0\x08\x03" + b"\0\0\0\x02" + b"\0\0\0\x01" + b"\0\0\0\x03"
    path.write_bytes(header + bytes([1, 2, 3, 4, 5, 6]))
    assert read_idx(path, dimensions=3).tolist() == [[[1, 2, 3]], [[4, 5, 6]]]


def test_a_set_is_nhwc_with_int32_labels(fashion_raw, fashion_arrays):
    train, test = read_idx_set(locate_idx(fashion_raw), 10, SHAPE)
    assert train.inputs.shape == (30, 28, 28, 1)
    assert test.inputs.shape == (10, 28, 28, 1)
    assert train.targets.dtype == np.int32
    np.testing.assert_array_equal(train.inputs[..., 0], fashion_arrays["train-images-idx3-ubyte"])
    np.testing.assert_array_equal(test.targets, fashion_arrays["t10k-labels-idx1-ubyte"])


def labels_file(tmp_path, content):
    path = tmp_path / "some-labels"
    path.write_bytes(content)
    return path


def good(formats):
    return formats.idx(np.arange(200, dtype=np.uint8))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere: the file must be there"):
        read_idx(tmp_path / "nowhere", dimensions=1)


@pytest.mark.parametrize("missing", IDX_FILES)
def test_a_missing_member_of_the_set_is_named(fashion_raw, missing):
    for path in fashion_raw.glob(f"{missing}*"):
        path.unlink()
    with pytest.raises(DataError, match=f"{missing}: the file must be there"):
        locate_idx(fashion_raw)


@pytest.mark.parametrize(
    "magic", [b"", b"\0\0", b"\0\0\x08\x03", b"\0\0\x0d\x01", b"\x01\0\x08\x01", b"PNG\0"]
)
def test_a_wrong_magic_number_is_refused(tmp_path, formats, magic):
    path = labels_file(tmp_path, magic + good(formats)[4:] if len(magic) == 4 else magic)
    with pytest.raises(DataError, match=f"some-labels: the magic number .*got 0x{magic.hex()};"):
        read_idx(path, dimensions=1)


@pytest.mark.parametrize("kept", [4, 6, 8, 9, 207])
def test_a_truncated_plain_file_is_refused(tmp_path, formats, kept):
    path = labels_file(tmp_path, good(formats)[:kept])
    with pytest.raises(DataError, match=r"some-labels: .*truncated"):
        read_idx(path, dimensions=1)


def test_a_truncated_gzip_file_is_refused_wherever_it_breaks(tmp_path, formats):
    whole = gzip.compress(good(formats))
    for kept in range(2, len(whole)):
        path = labels_file(tmp_path, whole[:kept])
        with pytest.raises(DataError, match="some-labels: "):
            read_idx(path, dimensions=1)


def test_a_flipped_bit_in_gzip_is_refused(tmp_path, formats):
    whole = bytearray(gzip.compress(good(formats)))
    whole[-6] ^= 1  # in the CRC-32
    with pytest.raises(DataError, match="some-labels: the gzip stream must be whole"):
        read_idx(labels_file(tmp_path, bytes(whole)), dimensions=1)


@pytest.mark.parametrize("zipped", [False, True])
def test_trailing_bytes_are_refused(tmp_path, formats, zipped):
    content = good(formats) + b"\0"
    path = labels_file(tmp_path, gzip.compress(content) if zipped else content)
    with pytest.raises(DataError, match="some-labels: the file must end after its 200 values"):
        read_idx(path, dimensions=1)


@pytest.mark.parametrize("zipped", [False, True])
def test_a_header_that_promises_terabytes_reserves_nothing(tmp_path, zipped):
    content = b"\0\0\x08\x03" + b"\xff" * 12 + b"\0" * 100
    path = labels_file(tmp_path, gzip.compress(content) if zipped else content)
    with pytest.raises(DataError, match="truncated"):
        read_idx(path, dimensions=3)


@pytest.mark.parametrize("zipped", [False, True])
def test_memory_grows_with_what_is_there_not_with_what_is_promised(tmp_path, zipped):
    # A megabyte that gzip cannot shrink might hold a gigabyte; the header promises 0.9 of it.
    noise = np.random.default_rng(0).bytes(1_000_000)
    content = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (1_148_000, 28, 28)) + noise
    path = labels_file(tmp_path, gzip.compress(content) if zipped else content)
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="truncated"):
            read_idx(path, dimensions=3)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # What is there, a block of a megabyte, and the room that a growing array leaves.
    assert peak < 4e6


@pytest.mark.parametrize("sizes", [(0, 28, 28), (5, 0, 28), (0, 2**32 - 1, 2**32 - 1)])
def test_sizes_of_zero_are_refused(tmp_path, sizes):
    content = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in sizes)
    with pytest.raises(DataError, match="every size must be at least 1"):
        read_idx(labels_file(tmp_path, content), dimensions=3)


def test_a_label_outside_the_classes_is_named(fashion_raw, formats):
    labels = np.zeros(30, np.uint8)
    labels[17] = 10
    (fashion_raw / "train-labels-idx1-ubyte").write_bytes(formats.idx(labels))
    with pytest.raises(
        DataError, match=r"train-labels-idx1-ubyte: labels must be in 0\.\.9, got 10 at example 17"
    ):
        read_idx_set(locate_idx(fashion_raw), 10, SHAPE)


def test_images_and_labels_of_different_length_are_refused(fashion_raw, formats):
    (fashion_raw / "t10k-labels-idx1-ubyte").write_bytes(formats.idx(np.zeros(9, np.uint8)))
    with pytest.raises(DataError, match=r"t10k-labels.*each of the 10 images in t10k.*got 9"):
        read_idx_set(locate_idx(fashion_raw), 10, SHAPE)


def test_images_of_another_size_are_refused(fashion_raw, formats):
    path = fashion_raw / "train-images-idx3-ubyte"
    path.write_bytes(formats.idx(np.zeros((30, 8, 8), np.uint8)))
    with pytest.raises(DataError, match=r"train-images.*must be 28 x 28, got 8 x 8"):
        read_idx_set(locate_idx(fashion_raw), 10, SHAPE)
