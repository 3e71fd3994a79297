"""Where `load` looks, in which order, and that what it says it found is what it read."""

import dataclasses
import gzip
import hashlib
import json
import logging
import subprocess
import sys

import numpy as np
import pytest

from jaxdl.data import DataError, available, load, load_or_small, prepare
from jaxdl.data.catalog import FASHION_MNIST
from jaxdl.data.published import Published, are_published
from jaxdl.data.sources import load_files, prepare_files


def labels_changed(folder, formats):
    """The same files but for every test label, which becomes 9."""
    (folder / "t10k-labels-idx1-ubyte").write_bytes(formats.idx(np.full(10, 9, np.uint8)))


def test_a_system_package_is_read_and_kept_decoded(fashion, tmp_path, check_fashion):
    data_dir = tmp_path / "data"
    check_fashion(load_files(fashion, data_dir=data_dir, raw_dir=None))
    # From now on the raw files are not needed.
    away = dataclasses.replace(fashion, system_folders=())
    check_fashion(load_files(away, data_dir=data_dir, raw_dir=None))


def test_a_prepared_copy_goes_before_the_system_package(
    fashion, fashion_raw, tmp_path, check_fashion, formats
):
    data_dir = tmp_path / "data"
    prepare_files(fashion, data_dir=data_dir, raw_dir=fashion_raw)
    labels_changed(fashion_raw, formats)
    check_fashion(load_files(fashion, data_dir=data_dir, raw_dir=None))
    check_fashion(load_files(fashion, data_dir=data_dir, raw_dir=None))


def test_a_newly_prepared_copy_replaces_the_decoded_one(fashion, fashion_raw, tmp_path, formats):
    data_dir = tmp_path / "data"
    load_files(fashion, data_dir=data_dir, raw_dir=None)
    labels_changed(fashion_raw, formats)
    prepare_files(fashion, data_dir=data_dir, raw_dir=fashion_raw)
    dataset = load_files(fashion, data_dir=data_dir, raw_dir=None)
    assert set(dataset.test.targets.tolist()) == {9}


def test_prepare_leaves_a_copy_alone_unless_raw_dir_is_named(fashion, fashion_raw, tmp_path):
    data_dir = tmp_path / "data"
    folder = prepare_files(fashion, data_dir=data_dir, raw_dir=None)
    before = folder.stat().st_ino
    assert prepare_files(fashion, data_dir=data_dir, raw_dir=None) == folder
    assert folder.stat().st_ino == before
    prepare_files(fashion, data_dir=data_dir, raw_dir=fashion_raw)
    assert folder.stat().st_ino != before


def test_raw_dir_wins_and_leaves_the_published_set_alone(
    fashion, fashion_raw, tmp_path, check_fashion, formats
):
    data_dir, other = tmp_path / "data", tmp_path / "other"
    other.mkdir()
    for path in fashion_raw.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    labels_changed(other, formats)
    check_fashion(load_files(fashion, data_dir=data_dir, raw_dir=None))
    for _ in range(2):
        named = load_files(fashion, data_dir=data_dir, raw_dir=other)
        assert set(named.test.targets.tolist()) == {9}
    check_fashion(load_files(fashion, data_dir=data_dir, raw_dir=None))


def test_changed_raw_files_are_read_again(fashion, fashion_raw, tmp_path, check_fashion, formats):
    check_fashion(load_files(fashion, data_dir=tmp_path / "data", raw_dir=fashion_raw))
    labels_changed(fashion_raw, formats)
    dataset = load_files(fashion, data_dir=tmp_path / "data", raw_dir=fashion_raw)
    assert set(dataset.test.targets.tolist()) == {9}


def test_a_damaged_decoded_copy_is_made_again(fashion, tmp_path, check_fashion, caplog):
    data_dir = tmp_path / "data"
    load_files(fashion, data_dir=data_dir, raw_dir=None)
    (data_dir / "decoded" / fashion.name / "train_inputs.npy").write_bytes(b"")
    check_fashion(load_files(fashion, data_dir=data_dir, raw_dir=None))
    assert "is damaged" in caplog.text
    caplog.clear()
    check_fashion(load_files(fashion, data_dir=data_dir, raw_dir=None))
    assert caplog.text == ""


def test_a_data_dir_that_cannot_be_written_costs_only_the_copy(
    fashion, tmp_path, check_fashion, caplog
):
    (tmp_path / "data").write_bytes(b"a file where the folder would be")
    check_fashion(load_files(fashion, data_dir=tmp_path / "data", raw_dir=None))
    assert "cannot be kept" in caplog.text


def test_a_fault_in_a_raw_file_leaves_nothing(fashion, fashion_raw, tmp_path):
    path = fashion_raw / "train-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1])
    for action in (load_files, prepare_files):
        with pytest.raises(DataError, match="train-labels-idx1-ubyte"):
            action(fashion, data_dir=tmp_path / "data", raw_dir=fashion_raw)
    assert not (tmp_path / "data").exists() or not any((tmp_path / "data").rglob("*"))


def test_cifar10_is_prepared_and_loaded(cifar, cifar_raw, cifar_arrays, tmp_path):
    data_dir = tmp_path / "data"
    prepare_files(cifar, data_dir=data_dir, raw_dir=cifar_raw)
    dataset = load_files(cifar, data_dir=data_dir, raw_dir=None)
    np.testing.assert_array_equal(dataset.test.inputs, cifar_arrays["test_batch.bin"][0])
    assert len(dataset.train) == sum(len(labels) for _, labels in cifar_arrays.values()) - len(
        dataset.test
    )


def published(path, content):
    return Published(
        filename=f"{path.name.removesuffix('.gz')}.gz",
        url="",
        size=0,
        sha256=hashlib.sha256(gzip.compress(content, mtime=0)).hexdigest(),
        content_sha256=hashlib.sha256(content).hexdigest(),
    )


def test_published_files_are_told_in_every_form(tmp_path):
    content = b"published" * 100
    name = "values-idx"
    path = tmp_path / f"{name}.gz"
    resource = published(path, content)
    for written, verdict in [
        (gzip.compress(content, mtime=0), True),  # as published
        (gzip.compress(content, compresslevel=1, mtime=1), True),  # compressed anew
        (content, True),  # decompressed
        (gzip.compress(content + b"!"), False),
        (content[:-1], False),
        (gzip.compress(content)[:-9], False),
    ]:
        path.write_bytes(written)
        assert are_published({name: path}, [resource]) is verdict
    assert not are_published({"another": path}, [resource])
    assert not are_published({}, [resource])


def test_the_verdict_is_logged_and_kept(
    fashion, fashion_raw, fashion_arrays, tmp_path, caplog, formats
):
    resources = tuple(
        published(tmp_path / f"{name}.gz", formats.idx(values))
        for name, values in fashion_arrays.items()
    )
    verified = dataclasses.replace(fashion, published=resources)
    for files, verdict, flag in ((verified, "verified", True), (fashion, "accepted, but", False)):
        caplog.clear()
        data_dir = tmp_path / verdict
        with caplog.at_level(logging.INFO, "jaxdl.data"):
            load_files(files, data_dir=data_dir, raw_dir=None)
        assert f"{fashion_raw}: {verdict}" in caplog.text
        record = json.loads((data_dir / "decoded" / files.name / "dataset.json").read_text())
        assert record["verified"] is flag


@pytest.mark.skipif(
    not FASHION_MNIST.system_folders[0].is_dir(), reason="needs Debian's dataset-fashion-mnist"
)
def test_debians_package_is_the_published_set(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("JAXDL_DATA_DIR", str(tmp_path))
    with caplog.at_level(logging.INFO, "jaxdl.data"):
        dataset = load("fashion_mnist")
    assert caplog.text.strip().endswith("verified")
    assert dataset.train.inputs.shape == (60_000, 28, 28, 1)
    assert dataset.test.inputs.shape == (10_000, 28, 28, 1)
    assert np.bincount(dataset.train.targets).tolist() == [6_000] * 10
    assert (tmp_path / "decoded" / "fashion_mnist").is_dir()


@pytest.mark.parametrize("function", [load, prepare])
def test_an_unknown_name_lists_the_known(function):
    with pytest.raises(ValueError, match=r"mnist_5k, digits.*cifar10, got 'imagenet'"):
        function("imagenet")


def test_prepare_takes_no_embedded_set():
    with pytest.raises(ValueError, match="got 'digits', which needs no preparation; load it"):
        prepare("digits")


def test_a_raw_dir_without_the_files_names_them(tmp_path):
    with pytest.raises(DataError, match="train-images-idx3-ubyte: the file must be there"):
        load("mnist", data_dir=tmp_path, raw_dir=tmp_path)


def found(name, **folders):
    (entry,) = [entry for entry in available(**folders) if entry.name == name]
    return entry.found


def test_available_says_where_each_set_is(fashion_raw, tmp_path):
    data_dir = tmp_path / "data"
    assert found("mnist", data_dir=data_dir) == "to be downloaded when loaded: 12 MB"
    assert found("digits", data_dir=data_dir) == "the package sklearn"
    assert found("mnist", data_dir=data_dir, raw_dir=fashion_raw) == f"raw files in {fashion_raw}"
    # MNIST's layout is Fashion-MNIST's: small files in it prepare as either.
    folder = prepare("mnist", data_dir=data_dir, raw_dir=fashion_raw)
    assert found("mnist", data_dir=data_dir) == f"prepared in {folder}"
    assert not (data_dir / "decoded").exists(), "listing must write nothing"


def test_available_agrees_with_what_load_gives():
    entries = {entry.name: entry for entry in available() if entry.kind == "embedded"}
    for name, entry in entries.items():
        dataset = load(name)
        assert entry.examples == len(dataset.train) + (len(dataset.test) if dataset.test else 0)
        assert entry.shape == dataset.train.inputs.shape[1:]
        assert entry.task == ("classification" if dataset.classes else "regression")


def test_loading_needs_neither_tensorflow_nor_tensorflow_datasets(fashion_raw, tmp_path):
    script = f"""
import sys
import jaxdl.data
for _ in range(2):  # decoded, then from the decoded copy
    dataset = jaxdl.data.load("mnist", data_dir={str(tmp_path)!r}, raw_dir={str(fashion_raw)!r})
jaxdl.data.available(data_dir={str(tmp_path)!r})
heavy = ("tensorflow", "tensorflow_datasets", "matplotlib", "grain", "orbax", "sklearn", "mlxtend",
    "mnist1d")
print(len(dataset.train), [name for name in heavy if name in sys.modules])
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "30 []"


def test_without_the_usual_set_the_small_one_takes_its_place_and_says_so(tmp_path, caplog):
    folders = {"data_dir": tmp_path, "raw_dir": tmp_path}
    assert load_or_small("cifar10", **folders).name == "mnist_5k"
    assert caplog.messages == ["cifar10 is not on this machine: mnist_5k takes its place"]


def test_the_usual_set_is_taken_where_it_is_and_the_named_one_anyway(fashion_raw, tmp_path, caplog):
    folders = {"data_dir": tmp_path, "raw_dir": fashion_raw}
    assert load_or_small("fashion_mnist", **folders).name == "fashion_mnist"
    assert load_or_small("fashion_mnist", "mnist_5k", **folders).name == "mnist_5k"
    assert "takes its place" not in caplog.text
    with pytest.raises(ValueError, match=r"usual must be one of .*, got 'imagenet'; name one"):
        load_or_small("imagenet")
