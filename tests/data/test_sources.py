"""Where `load` looks, in which order, and that what it says it found is what it read."""

import dataclasses
import functools
import gzip
import hashlib
import json
import logging
import os
import subprocess
import sys

import numpy as np
import pytest

from jaxdl.data import DataError, available, load, load_or_small, prepare
from jaxdl.data.catalog import FASHION_MNIST
from jaxdl.data.published import Published, compare
from jaxdl.data.releases import load_files, prepare_files


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
        assert compare({name: path}, [resource]) == ([] if verdict else [name], [])
    assert compare({"another": path}, [resource]) == ([], ["another"])


def test_a_digest_that_is_not_known_is_no_mismatch(tmp_path):
    content = b"published" * 100
    path = tmp_path / "values-idx.gz"
    resource = dataclasses.replace(published(path, content), content_sha256=None)
    path.write_bytes(gzip.compress(content, compresslevel=1))
    assert compare({"values-idx": path}, [resource]) == (["values-idx"], [])
    plain = path.rename(tmp_path / "values-idx")
    plain.write_bytes(content)
    assert compare({"values-idx": plain}, [resource]) == ([], ["values-idx"])


@pytest.fixture
def known(fashion, fashion_arrays, tmp_path, formats):
    """Fashion-MNIST whose published files are those in `fashion_raw`."""
    resources = tuple(
        published(tmp_path / f"{name}.gz", formats.idx(values))
        for name, values in fashion_arrays.items()
    )
    return dataclasses.replace(fashion, published=resources)


def test_the_verdict_is_logged_and_kept(known, fashion, fashion_raw, tmp_path, caplog):
    for files, verdict, flag in ((known, "verified", True), (fashion, "accepted, but", False)):
        caplog.clear()
        data_dir = tmp_path / verdict
        with caplog.at_level(logging.INFO, "jaxdl.data"):
            load_files(files, data_dir=data_dir, raw_dir=None)
        assert f"{fashion_raw}: {verdict}" in caplog.text
        assert not [record for record in caplog.records if record.levelno > logging.INFO]
        record = json.loads((data_dir / "decoded" / files.name / "dataset.json").read_text())
        assert record["verified"] is flag


def flip_a_pixel(folder, formats, values):
    """One bit of one test image, in a file that is whole; the old size and time of change."""
    path = folder / "t10k-images-idx3-ubyte.gz"
    before = path.stat()
    changed = values["t10k-images-idx3-ubyte"].copy()
    changed[3, 4, 5] ^= 1
    content = gzip.compress(formats.idx(changed), mtime=0)
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    return before


def warnings_of(caplog, action):
    caplog.clear()
    result = action()
    return result, [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


@pytest.mark.parametrize("named", [False, True])
def test_a_flipped_pixel_warns_at_every_load_until_it_is_mended(
    known, fashion_raw, fashion_arrays, tmp_path, check_fashion, formats, caplog, named
):
    arguments = {"data_dir": tmp_path / "data", "raw_dir": fashion_raw if named else None}
    whole = (fashion_raw / "t10k-images-idx3-ubyte.gz").read_bytes()
    before = flip_a_pixel(fashion_raw, formats, fashion_arrays)
    for _ in range(2):  # decoded, then from the copy
        dataset, said = warnings_of(caplog, lambda: load_files(known, **arguments))
        assert (dataset.test.inputs[..., 0] != fashion_arrays["t10k-images-idx3-ubyte"]).sum() == 1
        assert len(said) == 1
        assert f"{fashion_raw} must have the published digests" in said[0]
        assert "got others for t10k-images-idx3-ubyte;" in said[0]
    path = fashion_raw / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(whole)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    dataset, said = warnings_of(caplog, lambda: load_files(known, **arguments))
    check_fashion(dataset)
    assert said == []


def test_a_verified_copy_needs_its_source_no_more(
    known, fashion_raw, fashion_arrays, tmp_path, check_fashion, formats, caplog
):
    load_files(known, data_dir=tmp_path / "data", raw_dir=None)
    flip_a_pixel(fashion_raw, formats, fashion_arrays)
    action = functools.partial(load_files, known, data_dir=tmp_path / "data", raw_dir=None)
    dataset, said = warnings_of(caplog, action)
    check_fashion(dataset)
    assert said == []


def test_few_images_do_not_pass_for_the_published_set(fashion, tmp_path, caplog, fashion_raw):
    files = dataclasses.replace(fashion, examples=FASHION_MNIST.examples)
    data_dir = tmp_path / "data"
    actions = [
        lambda: load_files(files, data_dir=data_dir, raw_dir=None),
        lambda: load_files(files, data_dir=data_dir, raw_dir=None),
        lambda: load_files(files, data_dir=data_dir, raw_dir=fashion_raw),
        lambda: prepare_files(files, data_dir=data_dir, raw_dir=fashion_raw),
        lambda: load_files(files, data_dir=data_dir, raw_dir=None),
        lambda: load_files(files, data_dir=data_dir, raw_dir=None),
    ]
    for action in actions:
        _, said = warnings_of(caplog, action)
        assert len(said) == 1
        assert "has 60000 training and 10000 test examples, got 30 and 10 from" in said[0]


def test_a_copy_prepared_from_other_files_says_so(
    known, fashion_raw, fashion_arrays, tmp_path, formats, caplog
):
    flip_a_pixel(fashion_raw, formats, fashion_arrays)
    data_dir = tmp_path / "data"
    prepare_files(known, data_dir=data_dir, raw_dir=fashion_raw)
    for _ in range(2):
        action = functools.partial(load_files, known, data_dir=data_dir, raw_dir=None)
        _, said = warnings_of(caplog, action)
        assert len(said) == 1
        assert "got others for t10k-images-idx3-ubyte;" in said[0]


def test_a_copy_of_another_set_is_not_taken(known, tmp_path, check_fashion, caplog):
    data_dir = tmp_path / "data"
    other = dataclasses.replace(known, name="mnist")
    load_files(other, data_dir=data_dir, raw_dir=None)
    (data_dir / "decoded" / "mnist").rename(data_dir / "decoded" / "fashion_mnist")
    action = functools.partial(load_files, known, data_dir=data_dir, raw_dir=None)
    dataset, said = warnings_of(caplog, action)
    assert dataset.name == "fashion_mnist"
    assert len(said) == 1
    assert "holds mnist" in said[0]


def test_without_copy_and_source_the_command_is_named(known, tmp_path, monkeypatch):
    data_dir = tmp_path / "data"
    load_files(known, data_dir=data_dir, raw_dir=None)
    (data_dir / "decoded" / known.name / "dataset.json").write_text("{")
    for variable in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(variable, raising=False)
    nowhere = [dataclasses.replace(r, url="http://127.0.0.1:1/x") for r in known.published]
    away = dataclasses.replace(known, system_folders=(), published=tuple(nowhere))
    with pytest.raises(DataError, match="`jaxdl data prepare NAME --raw-dir FOLDER`"):
        load_files(away, data_dir=data_dir, raw_dir=None)


@pytest.mark.parametrize("name", ["data_dir", "raw_dir"])
def test_a_tilde_is_the_home_folder(name, fashion_raw, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    folders = {"data_dir": tmp_path / "data", "raw_dir": fashion_raw}
    folders[name] = f"~/{folders[name].name}"
    load("fashion_mnist", **folders)
    assert (tmp_path / "data" / "decoded").is_dir()


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ({}, "data_dir must name a folder, got ~/.cache/jaxdl where .* HOME"),
        ({"data_dir": "~/x"}, "data_dir must name a folder, got ~/x where the home folder ~ is"),
        ({"data_dir": "/tmp", "raw_dir": "~"}, "raw_dir must name a folder, got ~ where"),
        ({"data_dir": "~no-such-user/x"}, "home folder ~no-such-user is not known"),
        ({"data_dir": ""}, "data_dir must name a folder, got an empty one"),
        ({"data_dir": "/tmp", "raw_dir": ""}, "raw_dir must name a folder, got an empty one"),
    ],
)
def test_a_folder_that_is_not_known_is_refused(folders, message, monkeypatch):
    monkeypatch.setenv("HOME", "")
    monkeypatch.delenv("JAXDL_DATA_DIR", raising=False)
    for function in (functools.partial(load, "mnist"), functools.partial(prepare, "mnist")):
        with pytest.raises(ValueError, match=message):
            function(**folders)
    with pytest.raises(ValueError, match=message):
        available(**folders)


def test_a_home_that_the_system_does_not_know_is_refused(monkeypatch):
    # No HOME, and a user without an entry in the system's list.
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("JAXDL_DATA_DIR", raising=False)
    with pytest.raises(ValueError, match="HOME is 'not set'"):
        available()


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
