"""Claims about means over independent runs: of numbers, of ratios, beside earlier runs."""

from dataclasses import replace
from typing import Any, SupportsFloat

import numpy as np
from numpy.typing import ArrayLike

from jaxdl.claims.claim import CHANCE, Claim, centred_claim
from jaxdl.intervals import LEVEL, interval, students_t


def mean_of_last(values: ArrayLike, *, one_in: int) -> np.ndarray:
    """The mean over the end of each curve: a number a run, with less noise than the last point.

    Arguments:
        values: the curves, (..., points).
        one_in: the end is the last `one_in`-th of the points, rounded down; at least 1 point.

    Returns:
        (...,), in the values' units, float64.

    Raises:
        ValueError: `one_in` is below 1, or there are no points.

    Example:
        >>> mean_of_last([[9.0, 8.0, 3.0, 1.0]], one_in=2)
        array([2.])
    """
    values = np.asarray(values, np.float64)
    if one_in < 1 or not values.shape[-1]:
        raise ValueError(
            f"the end must be 1 in 1 or more of at least 1 point, got 1 in {one_in} of "
            f"{values.shape[-1]}; take fewer of more points"
        )
    return np.asarray(values[..., -max(values.shape[-1] // one_in, 1) :].mean(-1))


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
    return centred_claim(text, mean[at], low, high, near[at], far[at], chance)


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
    near = float(students_t(1 - 0.005 / comparisons, over - 1) * error)
    far = max(near, float(students_t(1 - chance / 2, over - 1) * error))
    found = float(values.mean())
    return centred_claim(text, found, mean - near, mean + near, 0.0, far - near, chance)
