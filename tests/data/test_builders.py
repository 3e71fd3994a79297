"""The prepared copy is one that tensorflow-datasets reads, pixel for pixel, without TensorFlow."""

import dataclasses
import sys

import numpy as np
import pytest

from jaxdl.data import Arrays, DataError, Dataset
from jaxdl.data.builders import (
    _builder_class,
    find_prepared,
    read_prepared,
    write_prepared,
)
from jaxdl.data.catalog import FILE_SETS, FileSet

tfds = pytest.importorskip("tensorflow_datasets")


def random_dataset(files: FileSet, seed=0) -> Dataset:
    generator = np.random.default_rng(seed)

    def arrays(n):
        return Arrays(
            inputs=generator.integers(0, 256, (n, *files.shape), np.uint8),
            targets=generator.integers(0, len(files.classes), n).astype(np.int32),
        )

    return Dataset(files.name, arrays(30), None, arrays(10), files.classes)


@pytest.fixture(params=FILE_SETS, ids=lambda files: files.name)
def files(request):
    return request.param


def check_equal(found, dataset):
    for part in ("train", "test"):
        one, other = getattr(found, part), getattr(dataset, part)
        assert (one.inputs.dtype, one.targets.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(one.inputs, other.inputs)
        np.testing.assert_array_equal(one.targets, other.targets)


def test_plain_tensorflow_datasets_reads_every_pixel(tmp_path, files):
    dataset = random_dataset(files)
    folder = write_prepared(tmp_path, files, dataset)
    assert folder == tmp_path / files.name / files.version
    builder = tfds.builder_from_directory(str(folder))
    assert tuple(builder.info.features["label"].names) == files.classes
    for split in ("train", "test"):
        arrays = getattr(dataset, split)
        source = builder.as_data_source(split)
        assert len(source) == len(arrays)
        for i in range(len(arrays)):
            np.testing.assert_array_equal(source[i]["image"], arrays.inputs[i])
            assert source[i]["label"] == arrays.targets[i]
    assert "tensorflow" not in sys.modules
    # Nothing else is left in the folder of prepared sets.
    assert [path.name for path in tmp_path.iterdir()] == [files.name]


def test_tensorflow_datasets_finds_it_by_name(tmp_path, files):
    dataset = random_dataset(files)
    write_prepared(tmp_path, files, dataset)
    source = tfds.data_source(files.name, data_dir=tmp_path, split="test")
    np.testing.assert_array_equal(source[0]["image"], dataset.test.inputs[0])


def test_what_was_written_is_read(tmp_path, files):
    dataset = random_dataset(files)
    found = find_prepared(tmp_path, files)
    assert found is None
    folder = write_prepared(tmp_path, files, dataset)
    assert find_prepared(tmp_path, files) == folder
    check_equal(read_prepared(folder, files), dataset)


def test_a_copy_is_replaced(tmp_path, files):
    write_prepared(tmp_path, files, random_dataset(files))
    folder = write_prepared(tmp_path, files, random_dataset(files, seed=1))
    check_equal(read_prepared(folder, files), random_dataset(files, seed=1))


def test_the_newest_version_is_taken_by_number(tmp_path):
    files = FILE_SETS[0]
    for version in ("3.0.9", "3.0.10"):
        write_prepared(tmp_path, dataclasses.replace(files, version=version), random_dataset(files))
    assert find_prepared(tmp_path, files).name == "3.0.10"


def test_an_unfinished_folder_is_no_copy(tmp_path):
    files = FILE_SETS[0]
    folder = write_prepared(tmp_path, files, random_dataset(files))
    folder.rename(folder.with_name("3.0.1.incompleteAB12CD"))
    assert find_prepared(tmp_path, files) is None


def test_a_copy_that_tensorflow_datasets_shuffled_and_sharded_is_read(tmp_path):
    # As its own builders write: records in an order of hashes, several files for a split.
    files = FILE_SETS[0]
    dataset = random_dataset(files)

    class Plain(_builder_class(files, dataset), skip_registration=True):
        name = files.name  # a class without one is named after itself

        def _info(self):
            features = super()._info().features
            return tfds.core.DatasetInfo(builder=self, features=features)

    builder = Plain(data_dir=tmp_path, file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=3, try_download_gcs=False)
    )
    copy = find_prepared(tmp_path, files)
    assert len(list(copy.glob("*train*array_record*"))) == 3
    found = read_prepared(copy, files)

    def pairs(arrays):
        return sorted(
            (image.tobytes(), int(label))
            for image, label in zip(arrays.inputs, arrays.targets, strict=True)
        )

    assert pairs(found.train) == pairs(dataset.train)
    assert pairs(found.test) == pairs(dataset.test)
    assert not np.array_equal(found.train.inputs, dataset.train.inputs)


def test_a_copy_in_another_format_is_passed_over(tmp_path):
    # TFRecords cannot be read without TensorFlow.
    files = FILE_SETS[0]
    folder = write_prepared(tmp_path, files, random_dataset(files))
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    assert find_prepared(tmp_path, files) is None


def test_a_copy_of_other_classes_is_refused(tmp_path):
    files = FILE_SETS[0]
    swapped = dataclasses.replace(files, classes=files.classes[::-1])
    folder = write_prepared(tmp_path, swapped, random_dataset(swapped))
    with pytest.raises(DataError, match=f"{folder}.*of the classes.*prepare it again"):
        read_prepared(folder, files)


def test_a_copy_of_other_images_is_refused(tmp_path):
    files = FILE_SETS[0]
    small = dataclasses.replace(files, shape=(8, 8, 1))
    folder = write_prepared(tmp_path, small, random_dataset(small))
    with pytest.raises(DataError, match=r"images must be \(28, 28, 1\)"):
        read_prepared(folder, files)


@pytest.mark.parametrize("damage", ["missing", "truncated", "empty"])
def test_a_damaged_shard_is_refused(tmp_path, damage):
    files = FILE_SETS[0]
    folder = write_prepared(tmp_path, files, random_dataset(files))
    (shard,) = folder.glob("*train*array_record*")
    if damage == "missing":
        shard.unlink()
    else:
        content = shard.read_bytes()
        shard.write_bytes(content[: len(content) // 2] if damage == "truncated" else b"")
    with pytest.raises(DataError, match=f"{folder}"):
        read_prepared(folder, files)
