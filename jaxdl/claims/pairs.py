"""Which of two arms is better, for many pairs at once, with the error rate of all of them."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxdl.intervals import students_t

ERROR_RATE = 0.05
"""The usual probability that chance decides any pair wrongly."""


class Pair(NamedTuple):
    """Two arms, the one that is said to be better first.

    Attributes:
        better: the name of the arm that is expected to have the higher mean.
        worse: the other's name.
        lead: the mean of `better` less that of `worse`, in the values' units.
        half_width: how far the true lead may be from it; the same units.
    """

    better: str
    worse: str
    lead: float
    half_width: float

    @property
    def verdict(self) -> str:
        """Whether the order is the one expected: "agrees", "disagrees" or "undecided".

        Example:
            >>> Pair("a", "b", 1.0, 0.5).verdict, Pair("a", "b", 1.0, 1.5).verdict
            ('agrees', 'undecided')
        """
        if not abs(self.lead) > self.half_width:
            return "undecided"
        return "agrees" if self.lead > 0 else "disagrees"


def ordered_pairs(
    values: Mapping[str, ArrayLike],
    pairs: Iterable[tuple[str, str]],
    *,
    error_rate: float = ERROR_RATE,
) -> list[Pair]:
    r"""Compare arms in pairs; chance decides any of the pairs wrongly at most at the error rate.

    $$\bar{x}_a - \bar{x}_b \pm t_{f}\, s \sqrt{1/n_a + 1/n_b}$$

    with the standard deviation s pooled over all arms, f = sum(n - 1) degrees of freedom, and the
    quantile of Student's t at 1 - error_rate / (2 m) for m pairs (Bonferroni): all m intervals hold
    together with the probability 1 - error_rate or more. A pair that is decided for the wrong arm
    is rarer still: at most error_rate / 2, since one end of an interval errs. Runs must be
    independent and scatter normally and equally. If the arms share seeds, these intervals may be
    wider than need be; `about_mean` of the differences by seed is sharper.

    Arguments:
        values: by arm's name, one number a run, (runs,); 2 or more runs in some arm.
        pairs: (better, worse): names of two arms, the one first that is expected to have the higher
            mean. All pairs that were looked at, not only those that are shown: the error rate is
            that of all of them.
        error_rate: of all pairs together, in (0, 1).

    Raises:
        ValueError: no arm has two runs, a name that is no arm's, or an error rate outside (0, 1).

    Example:
        >>> accuracy = {"wide": [93.1, 93.3, 93.2], "deep": [92.1, 92.2, 92.0]}
        >>> (pair,) = ordered_pairs(accuracy, [("deep", "wide")])
        >>> round(pair.lead, 2), round(pair.half_width, 2), pair.verdict
        (-1.1, 0.23, 'disagrees')

    Source: Miller (1981), Simultaneous Statistical Inference, section 2.3.
    """
    arms = {name: np.asarray(runs, np.float64) for name, runs in values.items()}
    wanted = list(pairs)
    if unknown := {name for pair in wanted for name in pair} - set(arms):
        raise ValueError(
            f"pairs must name the arms {', '.join(arms)}, got {', '.join(sorted(unknown))}; "
            "give their values"
        )
    if not 0 < error_rate < 1:
        raise ValueError(f"error_rate must lie in (0, 1), got {error_rate}; the usual one is 0.05")
    freedom = sum(len(runs) - 1 for runs in arms.values())
    if freedom < 1:
        raise ValueError("an arm must have at least 2 runs, which show a spread; run more seeds")
    squares = sum(float(((runs - runs.mean()) ** 2).sum()) for runs in arms.values())
    deviation = np.sqrt(squares / freedom)
    quantile = students_t(1 - error_rate / (2 * max(len(wanted), 1)), freedom)
    return [
        Pair(
            better,
            worse,
            float(arms[better].mean() - arms[worse].mean()),
            float(quantile * deviation * np.sqrt(1 / len(arms[better]) + 1 / len(arms[worse]))),
        )
        for better, worse in wanted
    ]
