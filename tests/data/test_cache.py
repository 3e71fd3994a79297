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
from jaxdl.files import partial_folder


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
    check_equal(read_cache(copy, source="one")[0], small())
    check_equal(read_cache(copy, source=None)[0], small())
    assert json.loads((copy / "dataset.json").read_text())["verified"] is True


def test_a_copy_of_other_files_is_not_taken(copy):
    assert read_cache(copy, source="two") is None
    check_equal(read_cache(copy, source="two", or_verified=True)[0], small())
    write_cache(copy, small(), source="one", verified=False)
    assert read_cache(copy, source="two", or_verified=True) is None


def test_what_a_reader_must_be_told_is_kept(copy):
    assert read_cache(copy, source=None)[1] == ""
    write_cache(copy, small(), source="one", verified=False, notice="nine images")
    assert read_cache(copy, source=None)[1] == "nine images"


def test_a_copy_is_replaced(copy):
    write_cache(copy, small(seed=1), source="two", verified=False)
    check_equal(read_cache(copy, source="two")[0], small(seed=1))
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_writing_to_the_arrays_changes_no_file(copy):
    found, _ = read_cache(copy, source="one")
    found.train.inputs[:] = 0
    check_equal(read_cache(copy, source="one")[0], small())


def test_reading_holds_one_copy(tmp_path):
    folder = tmp_path / "decoded" / "large"
    inputs = np.zeros((20_000, 28, 28, 1), np.uint8)
    arrays = Arrays(inputs, np.zeros(len(inputs), np.int32))
    write_cache(folder, Dataset("large", arrays, None, None), source="s", verified=False)
    tracemalloc.start()
    try:
        found, _ = read_cache(folder, source="s")
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


def lengthen(path):
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, lengthen, empty, os.remove])
@pytest.mark.parametrize("name", ["train_inputs.npy", "test_targets.npy", "dataset.json"])
def test_a_damaged_copy_is_noticed(copy, caplog, damage, name):
    damage(copy / name)
    with caplog.at_level(logging.WARNING, "jaxdl.data"):
        assert read_cache(copy, source="one") is None
    assert "is damaged" in caplog.text
    assert str(copy) in caplog.text


def test_every_byte_of_a_header_counts(copy, caplog):
    path = copy / "train_inputs.npy"
    whole = path.read_bytes()
    for place in range(len(whole) - small().train.inputs.nbytes):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert read_cache(copy, source="one") is None
    path.write_bytes(whole)
    check_equal(read_cache(copy, source="one")[0], small())


@pytest.mark.parametrize(
    ("old", "new"),
    [('"a"', '"c"'), ('"small"', '"large"'), ("true", "false"), ("20", "10"), ('"one"', '"two"')],
)
def test_a_changed_word_of_the_record_is_noticed(copy, caplog, old, new):
    path = copy / "dataset.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    assert read_cache(copy, source=None) is None
    assert "sha256 of dataset.json must be" in caplog.text


@pytest.mark.parametrize("text", ["[" * 100_000, "[]", "1" * 5_000, "null", " " * 1_000_001])
def test_a_record_that_is_no_mapping_is_damage(copy, caplog, text):
    (copy / "dataset.json").write_text(text)
    assert read_cache(copy, source=None) is None
    assert "is damaged" in caplog.text


def test_a_copy_of_another_version_is_decoded_again_without_alarm(copy, caplog):
    (copy / "dataset.json").write_text(json.dumps({"format": 1, "name": "small"}))
    assert read_cache(copy, source=None) is None
    assert caplog.text == ""


def test_a_copy_is_what_numpy_reads(copy):
    np.testing.assert_array_equal(np.load(copy / "train_inputs.npy"), small().train.inputs)


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
