"""Cut a validation split, and a test split if none is published, from the training examples."""

import math
from collections.abc import Sequence
from dataclasses import replace

import jax
import numpy as np

from jaxdl.checks import require_key
from jaxdl.data.types import Dataset

_WITH_TEST = (0.85, 0.15)
_WITHOUT_TEST = (0.70, 0.15, 0.15)
# Decimal fractions sum to 1 within a few units in the last place of float64.
_ROUNDING = 1e-9


def split(dataset: Dataset, *, key: jax.Array, fractions: Sequence[float] | None = None) -> Dataset:
    r"""Shuffle the training examples once, and cut them into two or three splits.

    Part j ends at example $\lfloor n \sum_{i \le j} f_i \rfloor$ of the shuffled order, which is a
    pure function of `key` and the number of examples n.

    Arguments:
        dataset: a data set from `load`.
        key: a `jax.random.key`.
        fractions: (train, validation) if a test split is published, default (0.85, 0.15); else
            (train, validation, test), default (0.70, 0.15, 0.15). Their sum is 1.

    Raises:
        ValueError: a data set with a validation split; a wrong number of fractions, a fraction
            below 0, or another sum; a split without examples.
        TypeError: a key that is no `jax.random.key`.

    Example:
        >>> import jax, numpy as np
        >>> from jaxdl.data import Arrays
        >>> arrays = Arrays(inputs=np.arange(10.0)[:, None], targets=np.arange(10.0)[:, None])
        >>> split(Dataset("ten", arrays, None, None), key=jax.random.key(0))
        Dataset('ten', train=7, validation=1, test=2, classes=0)
    """
    if dataset.validation is not None:
        raise ValueError(
            f"split takes a data set without a validation split, got {dataset}; "
            "split what `load` returned"
        )
    require_key(key)
    parts = ("train", "validation") if dataset.test is not None else ("train", "validation", "test")
    if fractions is None:
        fractions = _WITH_TEST if dataset.test is not None else _WITHOUT_TEST
    count = len(dataset.train)
    ends = _ends(fractions, parts, count)
    order = np.asarray(jax.random.permutation(key, count))
    pieces = [
        jax.tree.map(lambda array, rows=rows: np.asarray(array)[rows], dataset.train)
        for rows in np.split(order, ends[:-1])
    ]
    test = dataset.test if dataset.test is not None else pieces[2]
    return replace(dataset, train=pieces[0], validation=pieces[1], test=test)


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
