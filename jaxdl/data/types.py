"""What a data set is: plain, frozen containers of NumPy arrays."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jax

from jaxdl.showing import shape_of

PARTS = ("inputs", "targets", "weights")
"""The fields that a split or a batch may have."""

IGNORED = -100
"""The target of a position that does not count: `losses.cross_entropy(..., ignored=IGNORED)`."""


class DataError(ValueError):
    """A data file is missing, damaged or not what its name says; the text has the fix."""


@dataclass(frozen=True, eq=False)
class Arrays:
    """Examples, as inputs and the targets to predict; `len` counts the examples.

    A pytree, and a batch of all its examples.

    Arguments:
        inputs: (n, ...), images as (n, height, width, channels); or any pytree of such arrays.
        targets: (n,) int32 labels, or (n, outputs) floats for regression; or a pytree.
        weights: (n,), how much each example counts in sums; None for all alike.

    Example:
        >>> import numpy as np
        >>> len(Arrays(inputs=np.zeros((5, 2)), targets=np.zeros((5, 1))))
        5
    """

    inputs: Any
    targets: Any
    weights: Any = None

    def __len__(self) -> int:
        return len(jax.tree.leaves(self.inputs)[0])

    def __repr__(self) -> str:
        parts = {"inputs": self.inputs, "targets": self.targets, "weights": self.weights}
        shapes = (f"{name} {shape_of(v)}" for name, v in parts.items() if v is not None)
        return f"Arrays({', '.join(shapes)})"


jax.tree_util.register_dataclass(Arrays, ["inputs", "targets", "weights"], [])


@dataclass(frozen=True, eq=False)
class Dataset:
    """A named data set. A split that does not exist (yet) is None.

    Arguments:
        name: the name for `load`.
        train: the examples to learn from. A `Streamed` or a source, as for `stream`, is read
            batch by batch; `training.fit` and `split` take it.
        validation: cut from `train` by `split`.
        test: published, or cut by `split`.
        classes: the names of labels 0, 1, ...; empty for regression.
        features: the names of the input columns, if they have names.
        names: what the columns of frames and the words of targets were called, by their place, as
            `as_dataset` found them; what is evaluated later must agree.
        encoder: what `from_frame` made the inputs with; `dataset.encoder.encode(frame)` makes those
            of new rows.

    Example:
        >>> import numpy as np
        >>> arrays = Arrays(inputs=np.zeros((5, 2)), targets=np.zeros((5, 1)))
        >>> Dataset("zeros", train=arrays, validation=None, test=None).classes
        ()
    """

    name: str
    train: Arrays | Any
    validation: Arrays | Any
    test: Arrays | Any
    classes: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    encoder: Any = None
    names: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def __repr__(self) -> str:
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        sizes = ", ".join(
            f"{part}={'None' if arrays is None else len(arrays)}" for part, arrays in parts.items()
        )
        return f"Dataset({self.name!r}, {sizes}, classes={len(self.classes)})"
