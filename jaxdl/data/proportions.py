"""Which part each example goes to, so that classes keep their proportions or groups stay whole."""

from collections.abc import Sequence

import numpy as np

# Products of decimal fractions and counts miss a whole number by less than this, relatively.
_ROUNDING = 1e-9


def by_class(
    order: np.ndarray, classes: np.ndarray, fractions: Sequence[float], sizes: Sequence[int]
) -> np.ndarray:
    r"""Give each part its share of every class, to less than one example.

    $$|n_{cj} - f_j n_c| < 1, \quad \sum_j n_{cj} = n_c, \quad \sum_c n_{cj} = m_j$$

    There are such numbers for two or three parts whose sizes are themselves rounded shares.

    Arguments:
        order: the examples, shuffled.
        classes: (n,), the class of each example, from 0.
        fractions: f, of each part.
        sizes: m, of each part, each less than one from its fraction of n.

    Returns:
        (n,), the part of each example.

    Source: Bacharach (1966), matrix rounding.
    """
    shuffled = classes[order]
    # In the order of their first example, so that chance decides which class is rounded up.
    names, first = np.unique(shuffled, return_index=True)
    by_chance = names[np.argsort(first)]
    counts = np.bincount(classes)
    numbers = np.empty((len(counts), len(sizes)), int)
    numbers[by_chance] = _round_table(np.outer(counts[by_chance], fractions), sizes)
    # The rank of each example in its class.
    together = np.argsort(shuffled, kind="stable")
    starts = np.cumsum(counts) - counts
    rank = np.empty(len(order), int)
    rank[together] = np.arange(len(order)) - np.repeat(starts, counts)
    ends = np.cumsum(numbers, axis=1)[:, :-1]
    parts = np.empty(len(order), int)
    parts[order] = (rank[:, None] >= ends[shuffled]).sum(axis=1)
    return parts


def by_group(
    order: np.ndarray, groups: np.ndarray, classes: np.ndarray, fractions: Sequence[float]
) -> np.ndarray:
    r"""Keep each group in one part, and each part near its share of every class.

    The largest groups are placed first, those of one size in the shuffled order. Each goes where it
    leaves the least of $\sum_{cj} (n_{cj} - f_j n_c)^2 / n_c$. With one class, the size of a part
    misses its share by less than the largest group.

    Arguments:
        order, classes, fractions: as for `by_class`; zeros for one class.
        groups: (n,), the group of each example, from 0.

    Returns:
        (n,), the part of each example.
    """
    counts = np.bincount(classes)
    missing = np.outer(fractions, counts)
    members = np.split(
        order[np.argsort(groups[order], kind="stable")], np.cumsum(np.bincount(groups))[:-1]
    )
    place = np.empty(len(order), int)
    place[order] = np.arange(len(order))
    parts = np.empty(len(order), int)
    for rows in sorted(members, key=lambda rows: (-len(rows), place[rows[0]])):
        inside, numbers = np.unique(classes[rows], return_counts=True)
        better = ((2 * missing[:, inside] - numbers) * numbers / counts[inside]).sum(axis=1)
        part = int(np.argmax(better))
        missing[part, inside] -= numbers
        parts[rows] = part
    return parts


def _round_table(exact: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """Round each number down or up, so that rows keep their sums and columns get `sizes`."""
    near = np.rint(exact)
    exact = np.where(np.abs(exact - near) <= _ROUNDING * np.maximum(near, 1), near, exact)
    table = np.floor(exact).astype(int)
    rest = exact - table
    # First the largest remainders of each row are rounded up.
    up = np.zeros(table.shape, bool)
    needed = np.rint(rest.sum(axis=1)).astype(int)
    ranked = np.argsort(-rest, axis=1, kind="stable")
    for column in range(table.shape[1]):
        rows = np.flatnonzero(needed > column)
        up[rows, ranked[rows, column]] = True
    # Then columns with too many give to those with too few, where it costs least, perhaps through
    # the third.
    while True:
        surplus = table.sum(axis=0) + up.sum(axis=0) - np.asarray(sizes)
        if not surplus.any():
            rounded: np.ndarray = table + up
            return rounded
        source, target = int(np.argmax(surplus)), int(np.argmin(surplus))
        if not _shift(up, rest, source, target, min(int(surplus[source]), int(-surplus[target]))):
            (third,) = {0, 1, 2} - {source, target}
            if not (_shift(up, rest, source, third, 1) and _shift(up, rest, third, target, 1)):
                raise AssertionError(f"no rounding of {exact.tolist()} has the sums {list(sizes)}")


def _shift(up: np.ndarray, rest: np.ndarray, source: int, target: int, most: int) -> bool:
    """Round the numbers of some rows up in `target` instead of `source`; False if none can be."""
    rows = np.flatnonzero(up[:, source] & ~up[:, target] & (rest[:, target] > 0))
    cost = rest[rows, source] - rest[rows, target]
    rows = rows[np.argsort(cost, kind="stable")[:most]]
    up[rows, source], up[rows, target] = False, True
    return len(rows) > 0
