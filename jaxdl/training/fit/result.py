"""The result of a run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jaxdl.data.types import Dataset
from jaxdl.training.fit.described import history_html, result_line
from jaxdl.training.fit.history import History
from jaxdl.training.state import TrainState


@dataclass(frozen=True)
class Result:
    """A run that ended: its last state, its history, and evaluation on any split.

    Attributes:
        state: the `TrainState` after the last step.
        history: the measurements.
        dataset: the data that the run was given.
        measure: (variables, split) -> the means of loss and metrics.
        stopped: why the run ended early; None if it did not.
    """

    state: TrainState
    history: History
    dataset: Dataset
    measure: Callable[[Mapping[str, Any], Any], dict[str, float]]
    stopped: str | None = None

    def evaluate(self, split: Literal["train", "validation", "test"]) -> dict[str, float]:
        """The mean loss and metrics over a split, exact for any batch size.

        Raises:
            ValueError: the dataset has no such split.
        """
        return self.measure(self.state.evaluated, split_of(self.dataset, split))

    def __repr__(self) -> str:
        return result_line(self)

    def _repr_html_(self) -> str:
        return history_html(repr(self), self.history)


def split_of(dataset: Dataset, split: str) -> Any:
    """A split by name. A missing split is refused."""
    arrays = getattr(dataset, split, None)
    if arrays is None:
        raise ValueError(
            f"{dataset.name} has no split {split!r}; make one with data.split(dataset, key=...)"
        )
    return arrays
