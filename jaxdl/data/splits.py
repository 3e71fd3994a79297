"""Cut a validation split, and a test split if none is published, from the training examples."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from jaxdl.checks import require_key
from jaxdl.data.given import as_dataset
from jaxdl.data.proportions import by_class, by_group
from jaxdl.data.reading import RandomAccess, Subset
from jaxdl.data.streamed import Streamed, as_streamed
from jaxdl.data.types import Arrays, Dataset

_WITH_TEST = (0.85, 0.15)
_WITHOUT_TEST = (0.70, 0.15, 0.15)
# Decimal fractions sum to 1 within a few units in the last place of float64.
_ROUNDING = 1e-9


def split(
    dataset: Any,
    *,
    key: jax.Array,
    fractions: Sequence[float] | np.ndarray | None = None,
    stratify: Any = None,
    groups: Any = None,
) -> Dataset:
    r"""Shuffle the training examples once, and cut them into two or three splits.

    Part j ends at example $\lfloor n \sum_{i \le j} f_i \rfloor$ of the shuffled order, which is a
    pure function of `key` and the number of examples n.

    With `stratify` the parts have these sizes, and each part has its share of every class to less
    than one example. With `groups` the examples of one group stay together. The sizes are then as
    near to the fractions as a simple rule gets, which places the largest groups first. With both,
    this holds for the examples of every class.

    `Arrays` are copied in the new order, into memory where they are memory-mapped files. A
    `Streamed` split, or a source, is cut into `Streamed` splits that know their examples: nothing
    is read, so wrap memory maps that are larger than the memory: `Streamed(Arrays(...))`.

    Arguments:
        dataset: a data set from `load`, `from_folder` or your own; or (x, y) and what else
            `as_dataset` takes.
        key: a `jax.random.key`.
        fractions: (train, validation) if a test split is published, default (0.85, 0.15); else
            (train, validation, test), default (0.70, 0.15, 0.15). Their sum is 1.
        stratify: (n,), the class of each training example, for instance `dataset.train.targets`
            (of `from_folder` too); numbers or strings. None leaves the classes to chance.
        groups: (n,), the group of each training example: the patient of an image, for instance.
            None lets each example stand for itself.

    Raises:
        ValueError: a data set with a validation split, or one that `from_frame` scaled; a wrong
            number of fractions, a fraction below 0, or another sum; a split without examples;
            classes or groups of another length; a class with fewer examples than splits; fewer
            groups than splits.
        TypeError: a key that is no `jax.random.key`; training examples that are no `Arrays`,
            `Streamed` or source.

    Example:
        >>> import jax, numpy as np
        >>> from jaxdl.data import Arrays
        >>> arrays = Arrays(inputs=np.arange(10.0)[:, None], targets=np.arange(10) // 5)
        >>> split(Dataset("ten", arrays, None, None), key=jax.random.key(0))
        Dataset('ten', train=7, validation=1, test=2, classes=0)
        >>> halves = split(
        ...     Dataset("ten", arrays, None, arrays), key=jax.random.key(0), fractions=(0.6, 0.4),
        ...     stratify=arrays.targets,
        ... )
        >>> np.bincount(halves.train.targets).tolist()
        [3, 3]

    The arguments are named as in scikit-learn's `train_test_split` and `GroupShuffleSplit`.
    """
    return _split(as_dataset(dataset), key, fractions, stratify, groups)


def _split(dataset: Dataset, key: jax.Array, fractions: Any, stratify: Any, groups: Any) -> Dataset:
    if dataset.validation is not None:
        raise ValueError(
            f"split takes a data set without a validation split, got {dataset}; "
            "split what `load` returned"
        )
    if dataset.encoder is not None:
        raise ValueError(
            f"split takes examples before their columns are scaled, got {dataset}, scaled by all "
            "of its training examples; pass key to from_frame, which then cuts first"
        )
    require_key(key)
    _require_examples(dataset)
    parts = ("train", "validation") if dataset.test is not None else ("train", "validation", "test")
    if fractions is None:
        fractions = _WITH_TEST if dataset.test is not None else _WITHOUT_TEST
    if np.ndim(fractions) != 1:
        raise TypeError(
            f"fractions must be those of {', '.join(parts)}, got {fractions!r}; pass a list of "
            "as many"
        )
    fractions = [float(fraction) for fraction in fractions]
    count = len(dataset.train)
    ends = _ends(fractions, parts, count)
    classes = None if stratify is None else _classes(stratify, count, len(parts))
    together = None if groups is None else _groups(groups, count, len(parts))
    order = np.asarray(jax.random.permutation(key, count))
    if together is not None:
        place = by_group(
            order, together, np.zeros_like(together) if classes is None else classes, fractions
        )
        _check_parts(place, parts, fractions)
    elif classes is not None:
        place = by_class(order, classes, fractions, np.diff([0, *ends]).tolist())
    else:
        place = np.empty(count, int)
        place[order] = np.searchsorted(ends, np.arange(count), side="right")
    pieces = [_take(dataset.train, order[place[order] == part]) for part in range(len(parts))]
    test = dataset.test if dataset.test is not None else pieces[2]
    return replace(dataset, train=pieces[0], validation=pieces[1], test=test)


# They have a length and can be indexed, and are no lists of examples.
_NO_SOURCES = (Mapping, tuple, np.ndarray, jax.Array, str, bytes)


def _require_examples(dataset: Dataset) -> None:
    train = dataset.train
    if isinstance(train, _NO_SOURCES) or not isinstance(train, Arrays | Streamed | RandomAccess):
        raise TypeError(
            f"the train split of {dataset.name} must be data.Arrays or data.Streamed, got "
            f"{type(train).__name__}; pass Arrays(inputs, targets)"
        )
    if isinstance(train, Arrays):
        fields = {name: field for name, field in vars(train).items() if field is not None}
        counts = {name: len(jax.tree.leaves(field)[0]) for name, field in fields.items()}
        if len({*counts.values()}) > 1:
            got = " and ".join(f"{count} {name}" for name, count in counts.items())
            raise ValueError(
                f"the train split of {dataset.name} must have as many targets as inputs, got "
                f"{got}; leave the others out"
            )


def _take(split: Any, rows: np.ndarray) -> Any:
    """These examples: copied from arrays, and not yet read from a source."""
    if isinstance(split, Arrays):
        return jax.tree.map(lambda array: np.asarray(array)[rows], split)
    streamed = as_streamed(split)
    return replace(streamed, source=Subset(streamed.source, rows))


def _classes(stratify: Any, count: int, parts: int) -> np.ndarray:
    names, codes = _codes("stratify", stratify, count)
    numbers = np.bincount(codes)
    if numbers.min() < parts:
        raise ValueError(
            f"every class must have at least {parts} examples, one for each split, got "
            f"{numbers.min()} of class {names[numbers.argmin()]}; leave the class out, or merge it "
            "with another (and cut a continuous target into ranges)"
        )
    return codes


def _groups(groups: Any, count: int, parts: int) -> np.ndarray:
    names, codes = _codes("groups", groups, count)
    if len(names) < parts:
        raise ValueError(
            f"there must be at least {parts} groups, one for each split, got {len(names)}; "
            "make smaller groups"
        )
    return codes


def _codes(name: str, given: Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The different labels, and the number of each example's label among them."""
    labels = np.asarray(given)
    if labels.shape != (count,):
        raise ValueError(
            f"{name} must hold one label for each of the {count} training examples, got shape "
            f"{labels.shape}; pass an array of shape ({count},)"
        )
    try:
        names, codes = np.unique(labels, return_inverse=True)
    except TypeError:
        raise ValueError(
            f"{name} must hold labels of one kind, numbers or strings, got {labels.dtype}; "
            "convert them"
        ) from None
    if (names != names).any():  # NaN equals nothing
        raise ValueError(f"{name} must not hold NaN, got one; leave these examples out")
    return names, codes


def _check_parts(place: np.ndarray, parts: Sequence[str], fractions: Sequence[float]) -> None:
    numbers = np.bincount(place, minlength=len(parts))
    if not numbers.all():
        raise ValueError(
            f"every split must get an example, got none for {parts[int(numbers.argmin())]} from "
            f"fractions {tuple(fractions)} of groups that stay whole; give it a larger fraction, "
            "or make smaller groups"
        )


def _ends(fractions: Sequence[float], parts: Sequence[str], count: int) -> list[int]:
    if len(fractions) != len(parts):
        raise ValueError(
            f"fractions must be those of {', '.join(parts)}, got {len(fractions)}: "
            f"{tuple(fractions)}; pass {len(parts)}"
        )
    total = math.fsum(fractions)
    if not all(fraction >= 0 for fraction in fractions):
        raise ValueError(
            f"fractions must not be negative or NaN, got {tuple(fractions)}; pass shares of 1"
        )
    if abs(total - 1) > _ROUNDING:
        raise ValueError(
            f"fractions must sum to 1, got {tuple(fractions)}, whose sum is {total:.9g}; "
            "change one of them"
        )
    ends = [
        min(count, math.floor(math.fsum(fractions[: i + 1]) * count + _ROUNDING * count))
        for i in range(len(fractions) - 1)
    ]
    ends.append(count)
    for part, start, end in zip(parts, [0, *ends], ends, strict=False):
        if end == start:
            raise ValueError(
                f"every split must get an example, got none for {part} from fractions "
                f"{tuple(fractions)} of {count} examples; give {part} a larger fraction"
            )
    return ends
