"""Numbers as short strings of 64 letters, which the page unpacks again.

A letter holds 6 bits. `static/signal_model.js` reads what this file writes.
"""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
LOWEST, HIGHEST = -60.0, 40.0
"""Powers of ten between which a size may lie."""
SIZE_LETTERS, SPREAD_LETTERS, SHARE_LETTERS = 3, 1, 2
WIDEST_SPREAD = 4.0
"""Powers of ten; the spread's root is stored, so small ones keep their precision."""
FARTHEST_MEAN = 16.0
"""In standard deviations."""


def letters(whole: Iterable[int], count: int) -> str:
    """Whole numbers from 0 to 64^count - 1, `count` letters each, the highest first.

    Example:
        >>> letters([0, 65], 2)
        'AABB'
    """
    out = []
    for number in whole:
        if not 0 <= number < 64**count:
            raise ValueError(
                f"a number must lie between 0 and {64**count - 1} to fit {count} letters, got "
                f"{number}; use more letters"
            )
        out += [LETTERS[number >> 6 * place & 63] for place in reversed(range(count))]
    return "".join(out)


def sizes(values: Any) -> str:
    """Positive sizes by their logarithm; code 0 is a size of exactly 0, or none.

    The relative error is at most half a step of 100 decades in 64^3 - 2, 0.05 %.
    """
    values = np.ravel(np.asarray(values, np.float64))
    codes = np.zeros(values.size, int)
    known = values > 0
    share = (np.log10(values[known]) - LOWEST) / (HIGHEST - LOWEST)
    codes[known] = 1 + np.rint(share * (64**SIZE_LETTERS - 2)).astype(int)
    return letters(codes.tolist(), SIZE_LETTERS)


def spreads(decades: Any) -> str:
    """Half-widths of intervals in powers of ten; rounded up, so that none is made narrower."""
    decades = np.nan_to_num(np.ravel(np.asarray(decades, np.float64)))
    codes = np.ceil(np.sqrt(np.minimum(decades / WIDEST_SPREAD, 1)) * 63)
    return letters(codes.astype(int).tolist(), SPREAD_LETTERS)


def shares(values: Any) -> str:
    """Numbers from 0 to 1."""
    codes = np.rint(np.ravel(np.asarray(values, np.float64)) * (64**SHARE_LETTERS - 1))
    return letters(codes.astype(int).tolist(), SHARE_LETTERS)


def heights(counts: Any) -> str:
    """The bars of one histogram, the highest of which is 63; one that is not empty is at least 1.

    Example:
        >>> heights([0, 1, 1000, 500])
        'AB_g'
    """
    counts = np.asarray(counts, np.float64)
    codes = np.rint(counts * 63 / max(counts.max(), 1))
    return letters(np.where(counts > 0, np.maximum(codes, 1), 0).astype(int).tolist(), 1)


def mean_in_deviations(mean: float, stddev: float) -> str:
    """The mean divided by the standard deviation, cut at +-16; of a constant it is 0."""
    ratio = mean / stddev if stddev > 0 else 0.0
    ratio = min(max(ratio, -FARTHEST_MEAN), FARTHEST_MEAN) if math.isfinite(ratio) else 0.0
    return shares((ratio / FARTHEST_MEAN + 1) / 2)


FORMAT = {
    "letters": LETTERS,
    "lowest": LOWEST,
    "highest": HIGHEST,
    "sizeLetters": SIZE_LETTERS,
    "spreadLetters": SPREAD_LETTERS,
    "shareLetters": SHARE_LETTERS,
    "widestSpread": WIDEST_SPREAD,
    "farthestMean": FARTHEST_MEAN,
}
"""What a reader must know to unpack."""
