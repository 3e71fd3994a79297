"""Data sets of what people have: (x, y), frames and series, lists, tensors, splits by name."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from jaxdl.data.arrays import (
    as_arrays,
    check_columns,
    columns_in,
    fields_of,
    is_one_array,
    is_source,
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
                f"splits by name, got {kind_of(given)}; pass {_fix(given)}"
            )
        given = Dataset("data", given, None, None)
    dataset: Dataset = given
    train = split_of_arrays(dataset.train, f"the train split of {dataset.name}", dataset, new=True)
    made = {"train": train.split}
    known = replace(
        dataset,
        classes=train.classes,
        names=train.names,
        features=train.names.get("inputs", dataset.features),
    )
    for name in splits[1:]:
        where = f"the {name} split of {dataset.name}"
        made[name] = split_of_arrays(getattr(dataset, name), where, known).split
    if all(made[name] is getattr(dataset, name) for name in splits):
        return dataset
    return replace(known, **made)


def _fix(given: Any) -> str:
    is_loader = hasattr(given, "dataset") and hasattr(given, "__iter__")
    return "loader.dataset, and batch_size to fit" if is_loader else "e.g. (x, y)"


class Read(NamedTuple):
    """A split of arrays, the names of the classes, and those of columns and words by place."""

    split: Any
    classes: tuple[str, ...]
    names: Mapping[str, tuple[str, ...]]


def split_of_arrays(split: Any, where: str, known: Dataset, *, new: bool = False) -> Read:
    """A split whose fields are arrays. What has no fields, such as a stream, is left as it is.

    Arguments:
        where: what it is, for the message.
        known: has the names of the training split.
        new: whether this is the training split, whose words may be new classes.

    Raises:
        TypeError, ValueError: as in `as_dataset`.
    """
    given = fields_of(split)
    if not {"inputs", "targets"} <= set(given):
        return Read(split, known.classes, known.names)
    fields = {name: as_arrays(values, f"the {name} of {where}") for name, values in given.items()}
    columns, classes = columns_in(given), known.classes
    check_columns(columns, {"inputs": known.features} if known.features else {}, where)
    check_columns(columns, known.names, where)
    names = {**known.names, **columns}
    if _are_words(given["targets"], fields["targets"]):
        if classes or new:
            name = f"the targets of {where}"
            fields["targets"], classes = _labels(given["targets"], fields["targets"], classes, name)
        if new:
            names[_WORDS] = classes
    else:
        _check_numbers(fields["targets"], names.get(_WORDS, ()), where)
    same = isinstance(split, Arrays) and all(fields[name] is given[name] for name in fields)
    return Read(split if same else Arrays(**fields), classes, names)


# Where a data set keeps the words that became its labels.
_WORDS = "labels"


def _holds_examples(given: Any) -> bool:
    if fields_of(given):
        return {"inputs", "targets"} <= set(fields_of(given))
    return (
        isinstance(given, Streamed)
        or is_source(given)
        or (isinstance(given, list) and not is_one_array(given))
    )


def _are_words(given: Any, targets: Any) -> bool:
    if not isinstance(targets, np.ndarray) or targets.ndim != 1:
        return False
    words = targets.dtype.kind == "U" or (
        targets.dtype.kind == "O" and len(targets) > 0 and isinstance(targets[0], str)
    )
    return words or str(getattr(given, "dtype", "")) == "category"


def _check_numbers(targets: Any, words: tuple[str, ...], where: str) -> None:
    """Refuse labels that may be meant as names of classes, which are numbers too."""
    named_by_numbers = any(word.lstrip("-").replace(".", "", 1).isdigit() for word in words)
    if not hasattr(targets, "dtype"):
        return  # a tree, whose words were never made labels
    if named_by_numbers and words != tuple(map(str, range(len(words)))):
        raise TypeError(
            f"the targets of {where} must be among the categories {list(words)}, as in training, "
            f"got {targets.dtype}, which may mean a category or its place; pass the categories"
        )


def _labels(
    given: Any, targets: np.ndarray, classes: tuple[str, ...], name: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Words as the labels 0, 1, ..., and the classes that they name."""
    odd = [value for value in targets.tolist() if not isinstance(value, str)]
    if odd and str(getattr(given, "dtype", "")) != "category":
        raise TypeError(
            f"{name} must be words, and all of them, got {odd[0]!r} and {len(odd) - 1} more that "
            "are none; leave such examples out, or give them a word"
        )
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
