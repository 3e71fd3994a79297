"""One thing that is wrong with a network, and all of them."""

from collections.abc import Iterable
from dataclasses import dataclass

from jaxdl.showing import html_table


@dataclass(frozen=True)
class Advice:
    """One thing that is wrong.

    Attributes:
        problem: "not finite", "cut off", "vanishing signal", "exploding signal", "vanishing
            gradient", "exploding gradient", "dead units", "saturated", "one-hot attention",
            "growing logits", "small update" or "large update".
        row: the row where it is worst.
        measured: the number that shows it; the sentence says which number.
        sentence: what is wrong, where, and what to change.
    """

    problem: str
    row: str
    measured: float
    sentence: str

    def __str__(self) -> str:
        return self.sentence


class Findings(tuple[Advice, ...]):
    """Advice as a tuple, empty for a healthy network. Printed, it is a sentence a line.

    Arguments:
        found: the advice.
        looked_at: what is healthy if there is none, such as "12 rows".

    Example:
        >>> Findings([], "12 rows")
        healthy: nothing found in 12 rows
        >>> Findings([Advice("saturated", "tanh", 0.5, "Half of tanh is flat.")], "12 rows")
        Half of tanh is flat.
    """

    looked_at: str

    def __new__(cls, found: Iterable[Advice], looked_at: str = "all") -> "Findings":
        """A tuple that knows what was looked at."""
        self = super().__new__(cls, found)
        self.looked_at = looked_at
        return self

    def __repr__(self) -> str:
        return "\n".join(map(str, self)) or f"healthy: nothing found in {self.looked_at}"

    def _repr_html_(self) -> str:
        line = f"{len(self)} found in {self.looked_at}" if self else repr(self)
        return html_table(line, [""], [[one.sentence] for one in self])
