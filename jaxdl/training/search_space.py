"""What a search may draw: ranges, whole numbers, choices."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import jax
import numpy as np

from jaxdl.checks import whole_number
from jaxdl.training.sweep.axes import Axis, make_axis

RESERVED = ("key", "seed", "trial", "batch", "epochs")
"""Names of the search's own axes and arguments."""


@dataclass(frozen=True)
class Uniform:
    """A real number from low to high, all alike.

    Example:
        >>> Uniform(0.0, 0.9)
        Uniform(low=0.0, high=0.9)
    """

    low: Any
    high: Any

    def __post_init__(self) -> None:
        """Refuse ends that are no finite numbers in order."""
        _require_range(self)


@dataclass(frozen=True)
class LogUniform:
    """A positive number whose logarithm is uniform: each factor of ten is as likely.

    Example:
        >>> LogUniform(1e-4, 1)
        LogUniform(low=0.0001, high=1)
        >>> LogUniform(0, 1)
        Traceback (most recent call last):
        ...
        ValueError: LogUniform needs 0 < low < high, both finite, got low=0, high=1; a logarithm has
        no 0
    """

    low: Any
    high: Any

    def __post_init__(self) -> None:
        """Refuse ends that are no finite positive numbers in order."""
        _require_range(self, "0 < low < high", "a logarithm has no 0")


@dataclass(frozen=True)
class Integers:
    """A whole number from low to high, both included; with `log`, each factor is as likely.

    Example:
        >>> Integers(8, 128, log=True)
        Integers(low=8, high=128, log=True)
    """

    low: Any
    high: Any
    log: bool = False

    def __post_init__(self) -> None:
        """Refuse ends that are no whole numbers in order."""
        for end in (self.low, self.high):
            whole_number("an end of Integers", end, 1 if self.log else -(2**31))
        _require_range(self)


@dataclass(frozen=True)
class Setting:
    """One setting: its Optuna distribution, and the choices that it may have.

    Attributes:
        distribution: Optuna's.
        dtype: of the member's argument; None for a static choice.
        choices: the axis of its values and labels; None for a range.
    """

    distribution: Any
    dtype: np.dtype[Any] | None
    choices: Axis | None = None

    def number(self, drawn: Any) -> float:
        """What was drawn, as a number; of a choice, its place."""
        return float(drawn if self.choices is None else self.choices.labels.tolist().index(drawn))

    def argument(self, drawn: Any) -> Any:
        """What was drawn, as the member takes it."""
        return drawn if self.choices is None else self.choices.values[int(self.number(drawn))]


def settings_of(optuna: Any, space: Any, static: Sequence[str]) -> dict[str, Setting]:
    """The settings of a space.

    Raises:
        TypeError: what is no mapping, or neither a range nor a list of choices.
        ValueError: an empty space, no choice, a reserved name, `static` that names no choices.
    """
    if not isinstance(space, Mapping):
        raise TypeError(
            f"space must be a mapping from names to what may be drawn, got {space!r}; pass e.g. "
            "{'rate': LogUniform(1e-4, 1)}"
        )
    if not space:
        raise ValueError(
            "space must name a setting, got none; pass e.g. {'rate': LogUniform(1e-4, 1)}"
        )
    if taken := [name for name in space if name in RESERVED]:
        raise ValueError(f"space must not name {taken}, which the search uses; rename them")
    ranges = Uniform | LogUniform | Integers
    chosen = [name for name, drawn in space.items() if not isinstance(drawn, ranges)]
    if isinstance(static, str) or (unknown := [name for name in static if name not in chosen]):
        given = repr(static) if isinstance(static, str) else unknown
        raise ValueError(f"static must list settings with choices, {chosen}, got {given}")
    return {name: _setting(optuna, name, drawn, name in static) for name, drawn in space.items()}


def _setting(optuna: Any, name: str, drawn: Any, static: bool) -> Setting:
    make = optuna.distributions
    if isinstance(drawn, Integers):
        distribution = make.IntDistribution(int(drawn.low), int(drawn.high), log=drawn.log)
        return Setting(distribution, np.dtype(np.int32))
    if isinstance(drawn, Uniform | LogUniform):
        log, real = isinstance(drawn, LogUniform), jax.dtypes.canonicalize_dtype(float)
        return Setting(make.FloatDistribution(float(drawn.low), float(drawn.high), log=log), real)
    if isinstance(drawn, str) or not isinstance(drawn, Iterable):
        raise TypeError(
            f"space[{name!r}] must be Uniform, LogUniform, Integers or a list of choices, got "
            f"{drawn!r}; put a single value in a list"
        )
    given = drawn if isinstance(drawn, Mapping) else list(drawn)
    if not len(given):
        raise ValueError(f"space[{name!r}] must hold a choice, got none; leave the setting out")
    axis = make_axis(name, given, static)
    dtype = None if axis.static else np.asarray(axis.values).dtype
    return Setting(make.CategoricalDistribution(axis.labels.tolist()), dtype, axis)


def _require_range(drawn: Any, rule: str = "low < high", fix: str = "swap or widen them") -> None:
    ends = (drawn.low, drawn.high)
    right = all(isinstance(end, Real) and math.isfinite(end) for end in ends) and ends[0] < ends[1]
    if not right or (rule.startswith("0") and ends[0] <= 0):
        raise ValueError(
            f"{type(drawn).__name__} needs {rule}, both finite, got low={ends[0]!r}, "
            f"high={ends[1]!r}; {fix}"
        )
