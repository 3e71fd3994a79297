"""Claims about shares of independent runs: how many are hits, and where a share of them ends."""

from typing import SupportsFloat, SupportsInt

import numpy as np
from numpy.typing import ArrayLike

from jaxdl.claims.claim import CHANCE, Claim
from jaxdl.intervals import LEVEL


def about_share(
    text: str,
    hits: SupportsInt,
    runs: SupportsInt,
    low: SupportsFloat = 0.0,
    high: SupportsFloat = 1.0,
    *,
    chance: float = CHANCE,
) -> Claim:
    """Claim that the probability of a hit lies in the band; by Clopper and Pearson's interval.

    Arguments:
        hits: the number of runs that were hits.
        runs: the number of all runs.
        text, low, high, chance: as in `about_mean`.

    Example:
        >>> about_share("runs that die", 2, 100, high=0.1).verdict
        'holds'
    """
    count, of = int(hits), int(runs)
    near, far = (_binomial(count, of, tail) for tail in ((1 - LEVEL) / 2, chance))
    return Claim(text, count / of, low, high, near, far, chance)


def about_quantile(
    text: str,
    values: ArrayLike,
    share: float = 0.5,
    low: SupportsFloat = -np.inf,
    high: SupportsFloat = np.inf,
    *,
    chance: float = CHANCE,
) -> Claim:
    """Claim that a quantile over all possible runs lies in the band; by order statistics.

    Arguments:
        values: one number per run, (runs,).
        share: the share of runs below the quantile, in (0, 1); 0.5 is the median.
        text, low, high, chance: as in `about_mean`.

    Example:
        >>> about_quantile("the median", np.linspace(1, 2, 50), low=1, high=2).verdict
        'holds'

    Source: David and Nagaraja (2003), section 7.1.
    """
    ordered = np.sort(np.asarray(values, np.float64))
    if np.isnan(ordered).any():
        return Claim(text, np.nan, low, high)
    near, far = (_ranks(ordered, share, tail) for tail in ((1 - LEVEL) / 2, chance))
    return Claim(text, float(np.quantile(ordered, share)), low, high, near, far, chance)


def _binomial(hits: int, runs: int, tail: float) -> tuple[float, float]:
    from scipy.stats import beta

    low = beta.ppf(tail, hits, runs - hits + 1) if hits else 0.0
    high = beta.ppf(1 - tail, hits + 1, runs - hits) if hits < runs else 1.0
    return float(low), float(high)


def _ranks(ordered: np.ndarray, share: float, tail: float) -> tuple[float, float]:
    """The order statistics between which the quantile lies; infinite if there are too few runs."""
    from scipy.stats import binom

    runs = len(ordered)
    below = int(binom.ppf(tail, runs, share)) - 1
    above = int(binom.ppf(1 - tail, runs, share))
    low = float(ordered[below]) if below >= 0 else -np.inf
    high = float(ordered[above]) if above < runs else np.inf
    return low, high
