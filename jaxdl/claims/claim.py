"""A claim: a statement, the number measured for it, and one of three verdicts."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, SupportsFloat

Verdict = Literal["holds", "undecided", "refuted"]
"""What a run says of a claim; undecided: the run cannot tell."""

Ends = tuple[SupportsFloat, SupportsFloat]

CHANCE = 1e-4
"""The probability that chance refutes a true claim. Three hundred claims make 3 %."""


@dataclass(frozen=True)
class Claim:
    """A statement that is true if `low <= the true number <= high`.

    A number from random draws is known only up to an interval. A claim holds if the whole
    `interval` lies in the band from low to high. It is refuted if the whole wider interval,
    `surely`, lies outside. Otherwise the runs are too few to tell, and it is undecided. A number
    without random draws has no intervals: the number itself decides.

    Attributes:
        text: what the claim means, for a student; then ": "; then what was measured, its unit and
            its source.
        measured: the number that this run found; NaN is refuted.
        low: the least value for which the statement is true; -inf for no bound.
        high: the greatest such value; inf for no bound.
        interval: the interval that contains the true number 95 times in 100; None without random
            draws.
        surely: a wider interval; the true number lies beyond its end on the band's side with
            probability `chance`.
        chance: the probability that chance refutes the claim though it is true.

    Example:
        >>> Claim("a lead", 1.0, 0.0, math.inf, interval=(-0.5, 2.5), surely=(-3, 5)).verdict
        'undecided'
    """

    text: str
    measured: SupportsFloat
    low: SupportsFloat
    high: SupportsFloat
    interval: Ends | None = None
    surely: Ends | None = None
    chance: float = 0.0

    def __post_init__(self) -> None:
        if (self.interval is None) != (self.surely is None):
            raise ValueError(
                "a claim must have both intervals or neither, got "
                f"interval={self.interval}, surely={self.surely}; use jaxdl.claims.about_mean"
            )
        low, high = float(self.low), float(self.high)
        if not low <= high:
            raise ValueError(f"a band must have low <= high, got {low} and {high}; swap them")

    @property
    def meaning(self) -> str:
        """What the claim means: its text up to the first colon that a space follows.

        Example:
            >>> Claim("He keeps the signal: halvings a layer; 5 seeds", 0, -0.1, 0.1).meaning
            'He keeps the signal'
        """
        return self.text.partition(": ")[0]

    @property
    def quantity(self) -> str:
        """What was measured for it, its unit and source: the text after that colon, or "".

        Example:
            >>> Claim("He keeps the signal: halvings a layer; 5 seeds", 0, -0.1, 0.1).quantity
            'halvings a layer; 5 seeds'
        """
        return self.text.partition(": ")[2]

    @property
    def verdict(self) -> Verdict:
        """The verdict: "holds", "undecided" or "refuted"."""
        low, high = float(self.low), float(self.high)
        near, far = self._ends(self.interval), self._ends(self.surely)
        if math.isnan(near[0]):
            return "refuted"
        if low <= near[0] and near[1] <= high:
            return "holds"
        return "refuted" if far[1] < low or far[0] > high else "undecided"

    def _ends(self, given: Ends | None) -> tuple[float, float]:
        low, high = given or (self.measured, self.measured)
        return float(low), float(high)

    @property
    def holds(self) -> bool:
        """Whether the verdict is "holds"."""
        return self.verdict == "holds"

    @property
    def refuted(self) -> bool:
        """Whether the verdict is "refuted"."""
        return self.verdict == "refuted"

    @property
    def number(self) -> str:
        """The measured number, with the ends of its interval.

        Example:
            >>> Claim("a lead", 1.0, 0.0, math.inf, interval=(0.5, 1.5), surely=(0, 2)).number
            '1 (0.5 to 1.5)'
        """
        low, high = self._ends(self.interval)
        found = f"{float(self.measured):.4g}"
        return found if low == high else f"{found} ({low:.4g} to {high:.4g})"

    @property
    def band(self) -> str:
        """The band in words."""
        low, high = float(self.low), float(self.high)
        if low == -math.inf:
            return f"at most {high:.4g}"
        if high == math.inf:
            return f"at least {low:.4g}"
        return f"{low:.4g}" if low == high else f"{low:.4g} to {high:.4g}"


def centred_claim(
    text: str,
    found: SupportsFloat,
    low: SupportsFloat,
    high: SupportsFloat,
    near: SupportsFloat,
    far: SupportsFloat,
    chance: float,
) -> Claim:
    """A claim whose intervals, of the half-widths `near` and `far`, have the number in the middle.

    Example:
        >>> centred_claim("a lead", 1.0, 0, math.inf, 0.5, 2.0, 1e-4).number
        '1 (0.5 to 1.5)'
    """
    middle, near, far = float(found), float(near), float(far)
    return Claim(
        text,
        middle,
        float(low),
        float(high),
        (middle - near, middle + near),
        (middle - far, middle + far),
        chance,
    )


def chance_of_all(claims: Iterable[Claim]) -> float:
    """A bound on the probability that chance refutes any of these claims though all are true.

    Example:
        >>> chance_of_all([Claim("exact", 1.0, 1.0, 1.0)] * 3)
        0.0
    """
    return sum(claim.chance for claim in claims)
