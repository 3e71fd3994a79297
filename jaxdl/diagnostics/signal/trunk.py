"""The rows that nothing goes around: what the loss sees of a network without its branches."""

from collections.abc import Mapping, Sequence

import numpy as np

Feeds = Sequence[Sequence[int]]
"""The numbers of the rows that feed each row; -1 is the first input, -2 the second..."""


def readers_of(feeds: Feeds) -> list[list[int]]:
    """The rows that each row feeds.

    Example:
        >>> readers_of([[-1], [0], [0, 1]])
        [[1, 2], [2], []]
    """
    readers: list[list[int]] = [[] for _ in feeds]
    for reader, read in enumerate(feeds):
        for row in read:
            # In a scan over time a value also feeds earlier rows, in the next step.
            if 0 <= row < reader:
                readers[row].append(reader)
    return readers


def trunk(feeds: Feeds, has_weights: Sequence[bool]) -> np.ndarray:
    """The rows of the trunk that have weights, or where several values meet.

    A row is beside the trunk if a value before it reaches one after it on another way, too: a
    residual branch, or the queries of an attention. Its size is another matter. Networks for two
    inputs, and two heads, are not beside each other.

    Example:
        >>> # A stem, a branch that starts at it, their sum, a head.
        >>> trunk([[-1], [0], [0, 1], [2]], [True, True, False, True]).tolist()
        [0, 2, 3]
    """
    readers = readers_of(feeds)
    first: dict[int, list[int]] = {}
    for row, read in enumerate(feeds):
        for node in read:
            if node < 0:
                first.setdefault(node, []).append(row)
    after = _reached(readers, first, without=None)
    found = []
    for row in range(len(feeds)):
        around = _reached(readers, first, without=row)
        behind = after[row] & ~(1 << row)
        before = [node for node in (*first, *range(row)) if after[node] >> row & 1]
        is_beside = any(around[node] & behind for node in before)
        if not is_beside and (has_weights[row] or len({*feeds[row]}) > 1):
            found.append(row)
    return np.array(found, int)


def _reached(
    readers: Feeds, first: Mapping[int, Sequence[int]], without: int | None
) -> dict[int, int]:
    """The rows that each row and each input reach, as bits, where one row is left out."""
    reached: dict[int, int] = {}
    for node in [*reversed(range(len(readers))), *first]:
        bits = 0
        for reader in readers[node] if node >= 0 else first[node]:
            if without not in (reader, node):
                bits |= (1 << reader) | reached[reader]
        reached[node] = bits
    return reached
