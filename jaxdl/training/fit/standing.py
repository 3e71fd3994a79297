"""Where a run stands, as its bar and its lines say it."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

from jaxdl.showing import counted
from jaxdl.training.fit.moment import Moment

Values = Mapping[str, float]
Style = tuple[Callable[[Moment, Values], None], Callable[[Moment, str], None]]
"""A function for each call, and one for the end: (where the run stands, how it ended)."""

SECONDS_BETWEEN = 0.5
"""Two redraws a second keep a bar's own thread below 1 % of a core."""


class Length(NamedTuple):
    """How long a run is.

    Attributes:
        first: the step of the state that it started from, before any checkpoint.
        end: the step at which it ends, if nothing stops it.
        epochs: how many of them these steps are.
        examples: in a step, on average.
    """

    first: int
    end: int
    epochs: int
    examples: float


def place_of(moment: Moment, length: Length) -> str:
    """How far a run came: whole epochs, and the steps of the one that it is in."""
    place = f"{len(moment.epochs)}/{length.epochs} epochs"
    beyond = len(moment.steps.get("loss", ()))
    return f"{place} and {counted(beyond, 'step')}" if beyond else place
