"""The decoded copy: what was written comes back, damage is seen, half of one is never read."""

import json
import logging
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from jaxdl.data import Arrays, Dataset
from jaxdl.data.cache import fingerprint, read_cache, write_cache
from jaxdl.files import partial_folder, publish


def small(seed=0, count=20):
    generator = np.random.default_rng(seed)

    def arrays(n):
        return Arrays(
            inputs=generator.integers(0, 256, (n, 4, 4, 3), np.uint8),
            targets=generator.integers(0, 2, n).astype(np.int32),
        )

    return Dataset("small", arrays(count), None, arrays(5), classes=("a", "b"))


def check_equal(found, dataset):
    assert (found.name, found.classes) == (dataset.name, dataset.classes)
    for part in ("train", "test"):
        for what in ("inputs", "targets"):
            one, other = getattr(getattr(found, part), what), getattr(getattr(dataset, part), what)
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one, other)


@pytest.fixture
def copy(tmp_path):
    folder = tmp_path / "decoded" / "small"
    write_cache(folder, small(), source="one", verified=True)
    return folder


def test_what_was_written_is_read(copy):
    check_equal(read_cache(copy, source="one"), small())
    check_equal(read_cache(copy, source=None), small())
    assert json.loads((copy / "dataset.json").read_text())["verified"] is True


def test_a_copy_of_other_files_is_not_taken(copy):
    assert read_cache(copy, source="two") is None


def test_a_copy_is_replaced(copy):
    write_cache(copy, small(seed=1), source="two", verified=False)
    check_equal(read_cache(copy, source="two"), small(seed=1))
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_writing_to_the_arrays_changes_no_file(copy):
    found = read_cache(copy, source="one")
    found.train.inputs[:] = 0
    check_equal(read_cache(copy, source="one"), small())


def test_reading_holds_one_copy(tmp_path):
    folder = tmp_path / "decoded" / "large"
    inputs = np.zeros((20_000, 28, 28, 1), np.uint8)
    arrays = Arrays(inputs, np.zeros(len(inputs), np.int32))
    write_cache(folder, Dataset("large", arrays, None, None), source="s", verified=False)
    tracemalloc.start()
    try:
        found = read_cache(folder, source="s")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # One copy, and a megabyte for everything that is not the arrays.
    assert peak < found.train.inputs.nbytes + found.train.targets.nbytes + 1e6


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, empty, os.remove])
@pytest.mark.parametrize("name", ["train_inputs.npy", "test_targets.npy", "dataset.json"])
def test_a_damaged_copy_is_noticed(copy, caplog, damage, name):
    damage(copy / name)
    with caplog.at_level(logging.WARNING, "jaxdl.data"):
        assert read_cache(copy, source="one") is None
    assert "is damaged" in caplog.text
    assert str(copy) in caplog.text


def test_an_array_that_holds_objects_is_not_unpickled(copy):
    np.save(copy / "train_inputs.npy", np.array([{}], object), allow_pickle=True)
    assert read_cache(copy, source="one") is None


@pytest.mark.parametrize("change", ["size", "time", "name"])
def test_identity_tells_replaced_files(tmp_path, change):
    path = tmp_path / "a"
    path.write_bytes(b"12")
    os.utime(path, ns=(1, 1))
    before = fingerprint([path])
    assert fingerprint([path]) == before
    if change == "size":
        path.write_bytes(b"123")
        os.utime(path, ns=(1, 1))
    elif change == "time":
        os.utime(path, ns=(1, 2))
    else:
        path = path.rename(tmp_path / "b")
    assert fingerprint([path]) != before


def dead_process():
    """The id of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def test_only_stale_partial_folders_are_swept(tmp_path):
    with partial_folder(tmp_path) as mine:
        stem = mine.name.rsplit("-", 2)[0]
        killed = tmp_path / f"{stem}-{dead_process()}-abc"
        foreign = tmp_path / f".partial-another-host-{dead_process()}-abc"
        old = tmp_path / ".partial-another-host-1-old"
        for folder in (killed, foreign, old):
            folder.mkdir()
            (folder / "half").write_bytes(b"1")
        os.utime(old, (0, 0))
        with partial_folder(tmp_path):
            assert mine.is_dir()
        assert not killed.exists()
        assert not old.exists()
        assert foreign.is_dir()
    assert not mine.exists()


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), partial_folder(tmp_path) as partial:  # noqa: PT012
        (partial / "half").write_bytes(b"1")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_publish_replaces_a_file_and_a_folder(tmp_path):
    for content in (b"1", b"2"):
        with partial_folder(tmp_path) as partial:
            (partial / "file").write_bytes(content)
            (partial / "folder" / "in").mkdir(parents=True)
            (partial / "folder" / "in" / "file").write_bytes(content)
            publish(partial / "file", tmp_path / "file")
            publish(partial / "folder", tmp_path / "folder")
        assert (tmp_path / "file").read_bytes() == content
        assert (tmp_path / "folder" / "in" / "file").read_bytes() == content
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize("writer", ["cache", "prepare"])
def test_a_writer_killed_at_any_step_leaves_nothing_to_be_mistaken(
    tmp_path, fashion_raw, fashion_arrays, writer
):
    # The processes are forked and killed there, away from this one's threads.
    script = Path(__file__).with_name("killed_writers.py")
    np.savez(tmp_path / "expected.npz", **fashion_arrays)
    done = subprocess.run(
        [sys.executable, script, writer, fashion_raw, tmp_path],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Fewer kills than this would mean that the steps are no longer seen.
    assert int(done.stdout.split()[-1]) >= 10
