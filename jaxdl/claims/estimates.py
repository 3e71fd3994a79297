"""Claims about random runs: means, shares and quantiles over independent runs."""

from dataclasses import replace
from typing import Any, NamedTuple, SupportsFloat, SupportsInt

import numpy as np
from numpy.typing import ArrayLike

from jaxdl.claims.claim import CHANCE, Claim

LEVEL = 0.95


class Estimate(NamedTuple):
    """A mean over runs and the half-width of its 95 % interval; arrays of one shape."""

    mean: Any
    half_width: Any


def interval(values: ArrayLike, axis: int = 0, *, level: float = LEVEL) -> Estimate:
    r"""The mean over runs, and how far the true mean may be from it, by Student's t.

    $$\bar{x} \pm t_{n-1}\, s / \sqrt{n}$$

    Arguments:
        values: one number per run along `axis`; at least 2 runs.
        axis: the axis of the runs.
        level: the probability that the interval contains the true mean.

    Raises:
        ValueError: fewer than 2 runs, which show no spread.

    Example:
        >>> mean, half_width = interval([1.0, 2.0, 3.0])
        >>> float(mean), round(float(half_width), 2)
        (2.0, 2.48)
    """
    values = np.asarray(values, np.float64)
    count = values.shape[axis] if values.ndim else 1
    if count < 2:
        raise ValueError(f"an interval needs at least 2 runs, got {count}; run more seeds")
    error = values.std(axis=axis, ddof=1) / np.sqrt(count)
    return Estimate(values.mean(axis=axis), _t(1 - (1 - level) / 2, count - 1) * error)


def about_mean(
    text: str,
    values: ArrayLike,
    low: SupportsFloat = -np.inf,
    high: SupportsFloat = np.inf,
    *,
    chance: float = CHANCE,
) -> Claim:
    """Claim that the mean over all possible runs lies in the band; by Student's t.

    Arguments:
        text: the statement.
        values: one number per run, (runs,); 3 or more.
        low: the least value for which the statement is true.
        high: the greatest such value.
        chance: the probability that chance refutes it though it is true.

    Example:
        >>> about_mean("a lead", [1.0, 1.2, 1.1, 0.9], low=0).verdict
        'holds'
        >>> about_mean("a lead", [1.0, -1.2, 1.1, -0.9], low=0).verdict
        'undecided'
    """
    return about_means(text, np.asarray(values)[:, None], low, high, chance=chance)


def about_means(
    text: str,
    values: ArrayLike,
    low: SupportsFloat = -np.inf,
    high: SupportsFloat = np.inf,
    *,
    chance: float = CHANCE,
) -> Claim:
    """Claim that several means over all possible runs all lie in the band (Bonferroni).

    The claim shows the mean that decides. This is a refuted mean, else the mean whose interval
    reaches farthest out of the band, or comes nearest to its end.

    Arguments:
        values: (runs, means).
        text, low, high, chance: as in `about_mean`.

    Example:
        >>> draws = np.random.default_rng(0).normal(1.0, 0.1, (10, 3))
        >>> about_means("three leads", draws, low=0).verdict
        'holds'
    """
    values = np.asarray(values, np.float64)
    several = values.shape[1]
    mean, near = interval(values, level=1 - (1 - LEVEL) / several)
    far = interval(values, level=1 - 2 * chance / several).half_width
    if not np.isfinite(values).all():
        return Claim(text, np.nan, low, high)
    low, high = float(low), float(high)
    outside = np.maximum(low - (mean + far), (mean - far) - high)
    beyond = np.maximum(low - (mean - near), (mean + near) - high)
    at = int(np.argmax(outside if (outside > 0).any() else beyond))
    return _claim(text, mean[at], low, high, near[at], far[at], chance)


def about_ratios(
    text: str,
    values: ArrayLike,
    low: SupportsFloat = 0.0,
    high: SupportsFloat = np.inf,
    *,
    chance: float = CHANCE,
) -> Claim:
    r"""The geometric means over all possible runs lie in the band: `about_means` of logarithms.

    $$\exp\left(\overline{\ln x} \pm t_{n-1}\, s_{\ln x} / \sqrt{n}\right)$$

    A ratio of 0, or an infinite one, has no finite logarithm: the claim is refuted.

    Arguments:
        values: positive, one number a run, (runs,), or several, (runs, ratios).
        text, low, high, chance: as in `about_mean`.

    Example:
        >>> about_ratios("a factor", [2.0, 2.2, 1.8, 2.1], low=1, high=4).number
        '2.019 (1.761 to 2.316)'
    """
    values = np.asarray(values, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs, ends = np.log(values.reshape(len(values), -1)), np.log([float(low), float(high)])
    logs[~np.isfinite(logs)] = np.nan
    claim = about_means(text, logs, *ends, chance=chance)

    def factors(ends: Any) -> Any:
        return ends and tuple(float(np.exp(float(end))) for end in ends)

    return replace(
        claim,
        measured=np.exp(float(claim.measured)),
        low=low,
        high=high,
        interval=factors(claim.interval),
        surely=factors(claim.surely),
    )


def as_before(
    text: str,
    values: ArrayLike,
    mean: SupportsFloat,
    deviation: SupportsFloat,
    *,
    over: int,
    comparisons: int = 1,
    chance: float = CHANCE,
) -> Claim:
    r"""Claim that the mean over these runs is that of earlier runs with other seeds, up to chance.

    $$|\bar{x} - \mu_0| \le t_{n_0-1}\, s_0 \sqrt{1/n_0 + 1/n}$$

    with n_0 earlier runs of mean mu_0 and standard deviation s_0. The claim holds in the band in
    which 99 of 100 repetitions lie. It is refuted outside the band that chance leaves with the
    probability `chance`.

    Arguments:
        values: one number per run, (runs,).
        mean: the mean of the earlier runs.
        deviation: their standard deviation, n - 1 in the denominator.
        over: the number of earlier runs.
        comparisons: the number of such claims that are tested together (Bonferroni).
        text, chance: as in `about_mean`.

    Example:
        >>> as_before("accuracy, %", [93.1, 93.3], 93.2, 0.5, over=40).verdict
        'holds'
    """
    values = np.asarray(values, np.float64)
    mean, error = float(mean), float(deviation) * np.sqrt(1 / over + 1 / len(values))
    near = float(_t(1 - 0.005 / comparisons, over - 1) * error)
    far = max(near, float(_t(1 - chance / 2, over - 1) * error))
    found = float(values.mean())
    return _claim(text, found, mean - near, mean + near, 0.0, far - near, chance)


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


def _claim(text: str, found: Any, low: Any, high: Any, near: Any, far: Any, chance: float) -> Claim:
    found = float(found)
    near_ends = (found - float(near), found + float(near))
    far_ends = (found - float(far), found + float(far))
    return Claim(text, found, float(low), float(high), near_ends, far_ends, chance)


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


def _t(quantile: float, freedom: int) -> float:
    from scipy.stats import t

    return float(t.ppf(quantile, freedom))
