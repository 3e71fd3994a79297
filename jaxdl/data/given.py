"""Data sets of what people have: (x, y), frames and series, lists, tensors, splits by name."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from jaxdl.data.arrays import (
    as_arrays,
    checked_columns,
    fields_of,
    is_frame,
    is_one_array,
    kind_of,
)
from jaxdl.data.streamed import Streamed
from jaxdl.data.types import Arrays, Dataset


def as_dataset(given: Any) -> Dataset:
    """A data set of anything that holds examples; a `Dataset` of arrays is returned as it is.

    Arguments:
        given: a `Dataset`; examples to train on, as (x, y), (x, y, weights), `Arrays`,
            {"inputs": ..., "targets": ...} or a `Streamed`; or splits by name, {"train": ...,
            "validation": ..., "test": ...}, each such examples. Each field is a pytree of arrays,
            where a frame or series of pandas or polars, a list of numbers, a tensor of PyTorch, or
            what else has `__array__` stands for an array.

    Returns:
        The data set. The columns of a frame become its `features`. Targets that are words become
        labels 0, 1, ... of the sorted words, or of a categorical's own order; the words become its
        `classes`.

    Raises:
        TypeError: what holds no examples, a column of words, a ragged list.
        ValueError: a missing value in a frame or series; a split with other columns or words than
            the train split; splits by another name.

    Example:
        >>> dataset = as_dataset(([[0.0], [1.0], [2.0]], ["low", "high", "high"]))
        >>> dataset.train.targets.tolist(), dataset.classes
        ([1, 0, 0], ('high', 'low'))
    """
    splits = ("train", "validation", "test")
    if isinstance(given, Mapping) and "train" in given:
        unknown = sorted(map(str, {*given} - {*splits}))
        if unknown:
            raise ValueError(
                f"splits must be named {', '.join(splits)}, got {unknown}; rename them"
            )
        given = Dataset("data", given["train"], given.get("validation"), given.get("test"))
    elif not isinstance(given, Dataset):
        if not _holds_examples(given):
            raise TypeError(
                "dataset must hold examples: (x, y), data.Arrays(inputs, targets), a Dataset or "
                f"splits by name, got {kind_of(given)}; pass e.g. (x, y)"
            )
        given = Dataset("data", given, None, None)
    dataset: Dataset = given
    found = split_of_arrays(
        dataset.train,
        f"the train split of {dataset.name}",
        features=dataset.features,
        classes=dataset.classes,
        new_classes=not dataset.classes,
    )
    made = {"train": found.split}
    features, classes = found.features, found.classes
    for name in splits[1:]:
        where = f"the {name} split of {dataset.name}"
        split = getattr(dataset, name)
        made[name] = split_of_arrays(split, where, features=features, classes=classes).split
    if all(made[name] is getattr(dataset, name) for name in splits):
        return dataset
    return replace(dataset, **made, features=features, classes=classes)


class Read(NamedTuple):
    """A split of arrays, the names of its columns and of its classes."""

    split: Any
    features: tuple[str, ...]
    classes: tuple[str, ...]


def split_of_arrays(
    split: Any,
    where: str,
    *,
    features: tuple[str, ...] = (),
    classes: tuple[str, ...] = (),
    new_classes: bool = False,
) -> Read:
    """A split whose fields are arrays. What has no fields, such as a stream, is left as it is.

    Arguments:
        where: what it is, for the message.
        features, classes: those of the train split, if they are known.
        new_classes: whether words may be classes that are not known yet.

    Raises:
        TypeError, ValueError: as in `as_dataset`.
    """
    given = fields_of(split)
    if not {"inputs", "targets"} <= set(given):
        return Read(split, features, classes)
    fields = {name: as_arrays(values, f"the {name} of {where}") for name, values in given.items()}
    if is_frame(given["inputs"]):
        features = checked_columns(given["inputs"], features, f"the inputs of {where}")
    if (classes or new_classes) and _are_words(given["targets"], fields["targets"]):
        name = f"the targets of {where}"
        fields["targets"], classes = _labels(given["targets"], fields["targets"], classes, name)
    same = isinstance(split, Arrays) and all(fields[name] is given[name] for name in fields)
    return Read(split if same else Arrays(**fields), features, classes)


def _holds_examples(given: Any) -> bool:
    if fields_of(given):
        return {"inputs", "targets"} <= set(fields_of(given))
    indexed = hasattr(given, "__len__") and hasattr(given, "__getitem__")
    no_source = isinstance(given, Mapping | tuple | str) or is_one_array(given)
    return isinstance(given, Streamed) or (indexed and not no_source)


def _are_words(given: Any, targets: Any) -> bool:
    if not isinstance(targets, np.ndarray) or targets.ndim != 1:
        return False
    words = targets.dtype.kind == "U" or (
        targets.dtype.kind == "O" and len(targets) > 0 and isinstance(targets[0], str)
    )
    # Words in an array may be an oversight; in a list or a series they are labels.
    return words or str(getattr(given, "dtype", "")) == "category"


def _labels(
    given: Any, targets: np.ndarray, classes: tuple[str, ...], name: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Words as the labels 0, 1, ..., and the classes that they name."""
    if not classes:
        own = getattr(getattr(given, "cat", None), "categories", None)
        classes = tuple(map(str, sorted({*targets.tolist()}) if own is None else own))
    number = {word: label for label, word in enumerate(classes)}
    unknown = sorted({str(word) for word in targets.tolist()} - {*number})
    if unknown:
        raise ValueError(
            f"{name} must be among the classes {list(classes)}, got {unknown}; leave these "
            "examples out, or train with the class"
        )
    return np.array([number[str(word)] for word in targets.tolist()], np.int32), classes
