"""Small raw files in the layouts of the releases, and sets that look nowhere else for them."""

import dataclasses
import gzip
import io
import tarfile
from types import SimpleNamespace

import numpy as np
import pytest

from jaxdl.data.catalog import CIFAR10, FASHION_MNIST
from jaxdl.data.cifar import CIFAR_FILES, CIFAR_FOLDER


def idx_bytes(values):
    """The IDX file of an array of unsigned bytes."""
    header = bytes([0, 0, 0x08, values.ndim])
    return header + b"".join(size.to_bytes(4, "big") for size in values.shape) + values.tobytes()


def cifar_bytes(images, labels):
    """The batch file of NHWC images and their labels, written by the format's description."""
    records = b""
    for image, label in zip(images, labels, strict=True):
        records += bytes([label]) + b"".join(image[:, :, c].tobytes() for c in range(3))
    return records


def write_tar(path, members):
    """A gzipped tar of {name: content}."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture(scope="session")
def fashion_arrays():
    """Images and labels of a set of 30 + 10: random, so that no two pixels agree by design."""
    generator = np.random.default_rng(0)
    return {
        "train-images-idx3-ubyte": generator.integers(0, 256, (30, 28, 28), np.uint8),
        "train-labels-idx1-ubyte": generator.integers(0, 10, 30, np.uint8),
        "t10k-images-idx3-ubyte": generator.integers(0, 256, (10, 28, 28), np.uint8),
        "t10k-labels-idx1-ubyte": generator.integers(0, 10, 10, np.uint8),
    }


@pytest.fixture
def fashion_raw(tmp_path, fashion_arrays):
    """A folder of IDX files: the images gzipped, the labels plain."""
    folder = tmp_path / "raw"
    folder.mkdir()
    for name, values in fashion_arrays.items():
        if values.ndim == 3:
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx_bytes(values)))
        else:
            (folder / name).write_bytes(idx_bytes(values))
    return folder


@pytest.fixture
def fashion(fashion_raw):
    """Fashion-MNIST that a system package put into `fashion_raw`."""
    return dataclasses.replace(
        FASHION_MNIST, system_folders=(fashion_raw,), published=(), examples=(30, 10)
    )


@pytest.fixture(scope="session")
def cifar_arrays():
    """(images, labels) by file name, each batch of another length."""
    generator = np.random.default_rng(1)
    return {
        name: (generator.integers(0, 256, (n, 32, 32, 3), np.uint8), generator.integers(0, 10, n))
        for n, name in enumerate(CIFAR_FILES, start=2)
    }


@pytest.fixture
def cifar_raw(tmp_path, cifar_arrays):
    """The extracted folder of the release."""
    folder = tmp_path / "cifar" / CIFAR_FOLDER
    folder.mkdir(parents=True)
    for name, (images, labels) in cifar_arrays.items():
        (folder / name).write_bytes(cifar_bytes(images, labels))
    return folder.parent


@pytest.fixture
def cifar():
    """CIFAR-10 that no machine has."""
    return dataclasses.replace(CIFAR10, system_folders=(), published=(), examples=(20, 7))


@pytest.fixture(scope="session")
def formats():
    """The writers above, since a conftest's functions cannot be imported."""
    return SimpleNamespace(idx=idx_bytes, cifar=cifar_bytes, tar=write_tar)


@pytest.fixture(scope="session")
def check_fashion(fashion_arrays):
    """Asserts that a data set holds exactly the raw values, in the published order."""

    def check(dataset):
        for part, prefix in ((dataset.train, "train"), (dataset.test, "t10k")):
            assert part.inputs.dtype == np.uint8
            assert part.targets.dtype == np.int32
            images = fashion_arrays[f"{prefix}-images-idx3-ubyte"]
            np.testing.assert_array_equal(part.inputs, images[..., None])
            np.testing.assert_array_equal(
                part.targets, fashion_arrays[f"{prefix}-labels-idx1-ubyte"]
            )

    return check
