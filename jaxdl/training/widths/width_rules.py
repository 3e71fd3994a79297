r"""The three parametrisations as powers of the width.

A parameter reads `fan_in` values and feeds `fan_out` units; r_in and r_out say how many times as
many as in the base. The network has no factors in its forward pass: a factor that a paper puts
there is folded into the start and the rate. A weight W = f w with a factor f is the weight W whose
start is f times as large, and whose rate is f^2 times as large for gradient descent (once for the
gradient, once for the update) and f times for Adam, whose update does not know the gradient's size.
"""

from typing import Literal, NamedTuple

Kind = Literal["standard", "neural_tangent", "maximal_update"]
Role = Literal["input", "hidden", "output", "fixed"]
Rule = Literal["sgd", "adam"]

KINDS: tuple[str, ...] = ("standard", "neural_tangent", "maximal_update")
ROLES: tuple[str, ...] = ("input", "hidden", "output", "fixed")
RULES: tuple[str, ...] = ("sgd", "adam")


class Powers(NamedTuple):
    """By how much a parameter differs from the base's, as powers of r_in and r_out.

    Attributes:
        start: the standard deviation of its start, by r_in.
        sgd: the rate of gradient descent, by r_in and by r_out.
        adam: the rate of Adam and its like, by r_in.
    """

    start: float
    sgd: tuple[float, float]
    adam: float


POWERS: dict[str, dict[str, Powers]] = {
    "neural_tangent": {
        "input": Powers(0.0, (0.0, 0.0), 0.0),
        "hidden": Powers(-0.5, (-1.0, 0.0), -0.5),
        "output": Powers(-0.5, (-1.0, 0.0), -0.5),
        "fixed": Powers(0.0, (0.0, 0.0), 0.0),
    },
    "maximal_update": {
        "input": Powers(0.0, (0.0, 1.0), 0.0),
        "hidden": Powers(-0.5, (-1.0, 1.0), -1.0),
        "output": Powers(-1.0, (-1.0, 0.0), -1.0),
        "fixed": Powers(0.0, (0.0, 0.0), 0.0),
    },
}
"""Maximal update: Yang et al. (2022), table 3, which table 8 equals. Neural tangent: Jacot et al.
(2018), W = w / sqrt(fan_in) with one rate for all. "standard" changes nothing, so it has none."""


class Factors(NamedTuple):
    """What a parameter is multiplied by, beside the base: its start, and its rates."""

    start: float
    sgd: float
    adam: float


def factors(kind: str, role: str, r_in: float, r_out: float, multiplier: float = 1.0) -> Factors:
    """The start and the rates of a parameter, in units of the base's.

    Arguments:
        kind: the parametrisation; not "standard", which leaves the model's own start alone.
        role: what the parameter does; see `WidthRole`.
        r_in, r_out: how many times as many values it reads and units it feeds.
        multiplier: a factor of the forward pass that is folded in.

    Example:
        >>> factors("maximal_update", "hidden", 4.0, 4.0)
        Factors(start=0.5, sgd=1.0, adam=0.25)
        >>> factors("maximal_update", "output", 4.0, 1.0)
        Factors(start=0.25, sgd=0.25, adam=0.25)
        >>> factors("maximal_update", "input", 1.0, 4.0)
        Factors(start=1.0, sgd=4.0, adam=1.0)
    """
    powers = POWERS[kind][role]
    return Factors(
        start=multiplier * r_in**powers.start,
        sgd=multiplier**2 * r_in ** powers.sgd[0] * r_out ** powers.sgd[1],
        adam=multiplier * r_in**powers.adam,
    )
