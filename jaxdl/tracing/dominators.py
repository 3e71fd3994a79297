"""Through which value everything between two values passes."""

from collections.abc import Iterable, Sequence
from typing import Any


class Dominators:
    """The nearest value that every way from the inputs to a value passes through.

    Example:
        >>> found = Dominators()
        >>> for value, reads in {"h": ["x"], "mean": ["h"], "out": ["h", "mean"]}.items():
        ...     found.add(value, reads)
        >>> found.nearest("out"), found.between("h", "out")
        ('h', {'mean'})
    """

    def __init__(self) -> None:
        self._nearest: dict[Any, Any] = {}
        self._depth: dict[Any, int] = {None: 0}
        self._reads: dict[Any, Sequence[Any]] = {}

    def add(self, value: Any, reads: Iterable[Any]) -> None:
        """Add a value after those from which it is computed."""
        self._reads[value] = tuple(reads)
        common, *others = self._reads[value]
        for other in others:
            while common != other:
                if self._depth.get(common, 1) >= self._depth.get(other, 1):
                    common = self._nearest.get(common)
                else:
                    other = self._nearest.get(other)  # up the tree
        self._nearest[value] = common
        self._depth[value] = self._depth.get(common, 1) + 1

    def nearest(self, value: Any) -> Any:
        """The nearest such value; None where there is none."""
        return self._nearest.get(value)

    def between(self, first: Any, last: Any) -> set[Any]:
        """The values on the ways from the first to the last, without these."""
        found: set[Any] = set()
        waiting = list(self._reads.get(last, ()))
        while waiting:
            value = waiting.pop()
            if value != first and value not in found:
                found.add(value)
                waiting += self._reads.get(value, ())
        return found
