"""Rows drawn at random, of which no two are equal, divided into splits."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np


def distinct_rows(draw: Callable[[Any, int], Any], key: Any, count: int, most: int) -> np.ndarray:
    """Different rows, uniform among all sets of so many where `draw` is uniform.

    Arguments:
        draw: (key, count) -> integers (count, length), rows that are independent and may be equal.
        key: a `jax.random.key`.
        count: how many rows.
        most: how many different rows there are.

    Raises:
        ValueError: more rows than there are different ones.

    Example:
        >>> def dice(key, count):
        ...     return jax.random.randint(key, (count, 1), 1, 7)
        >>> sorted(distinct_rows(dice, jax.random.key(0), 6, 6).ravel().tolist())
        [1, 2, 3, 4, 5, 6]
    """
    if count > most:
        raise ValueError(
            f"examples must all differ, and there are {most:,} different ones, got {count:,} in "
            "all splits together; ask for fewer, or for longer sequences"
        )
    found = np.asarray(draw(jax.random.fold_in(key, 0), count))
    turn = 0
    while True:
        _, first = np.unique(found, axis=0, return_index=True)
        found = found[np.sort(first)]
        if len(found) >= count:
            return found[:count]
        turn += 1
        more = np.asarray(draw(jax.random.fold_in(key, turn), count))
        found = np.concatenate([found, more])
