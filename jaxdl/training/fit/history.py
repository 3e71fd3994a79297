"""What a run measured, as arrays."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from jaxdl.checks import require_choice
from jaxdl.extras import import_extra
from jaxdl.showing import loss_first
from jaxdl.training.fit.described import history_html, history_line, measured_line

SKIPPED = "skipped"
"""The metric that marks skipped steps: 1 for a skipped step, else 0."""


@dataclass(frozen=True)
class History:
    """Every measurement of a run, by name.

    Attributes:
        steps: the batch means at each step, from the outputs before its update; (steps,).
        train: the means of the same values over each epoch's examples; (epochs,). Each step counts
            with its number of examples, whatever their weights.
        validation: the means over the validation split after each epoch; (epochs,), empty without a
            split.
        seconds: wall-clock time of each epoch's training, compilation included; (epochs,).

    Example:
        >>> history = History({"loss": np.ones(6)}, {"loss": np.ones(2)}, {}, np.ones(2))
        >>> history.train["loss"].shape
        (2,)
    """

    steps: Mapping[str, Float[np.ndarray, " steps"]]
    train: Mapping[str, Float[np.ndarray, " epochs"]]
    validation: Mapping[str, Float[np.ndarray, " epochs"]]
    seconds: Float[np.ndarray, " epochs"]

    def plot(self) -> Any:
        """A matplotlib figure of `steps`, `train` and `validation`, a panel for each value."""
        from jaxdl.plotting import learning_curves

        return learning_curves(self.steps, self.train, self.validation)

    def to_pandas(self, per: Any = "epoch") -> Any:
        """A `pandas.DataFrame`, a row for each epoch or step; `.to_csv(path)` writes it.

        The columns: what was measured in training, such as "loss" and "accuracy"; then in
        validation, such as "validation_loss"; then "seconds". Of steps there is the first kind
        only. The index is named "epoch" or "step" and counts this history from 1. A value that an
        epoch did not measure is NaN.

        Arguments:
            per: "epoch", or "step" for `steps`.

        Raises:
            ValueError: `per` is neither, or two columns have one name.
            ImportError: pandas is not installed.

        Example:
            >>> history = History(
            ...     {"loss": np.arange(4.0)}, {"loss": np.array([0.5, 2.5])},
            ...     {"loss": np.array([0.6, 2.0])}, np.ones(2))
            >>> print(history.to_pandas())
                   loss  validation_loss  seconds
            epoch
            1       0.5              0.6      1.0
            2       2.5              2.0      1.0
        """
        require_choice("per", per, ("epoch", "step"))
        pandas = import_extra("pandas", "a table of a history")
        columns = [(name, self.steps[name]) for name in loss_first(self.steps)]
        if per == "epoch":
            columns = [
                *((name, self.train[name]) for name in loss_first(self.train)),
                *((f"validation_{n}", self.validation[n]) for n in loss_first(self.validation)),
                ("seconds", self.seconds),
            ]
        names = [name for name, _ in columns]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(
                f"the columns must have different names, got {', '.join(twice)} twice; take the "
                "arrays from history.train and history.validation, or rename the metric"
            )
        table = pandas.DataFrame({name: pandas.Series(values) for name, values in columns})
        table.index = pandas.RangeIndex(1, len(table) + 1, name=per)
        return table

    def __repr__(self) -> str:
        return history_line(self)

    def _repr_html_(self) -> str:
        return history_html(repr(self), self)


@dataclass(frozen=True)
class EpochMeasurements:
    """One epoch's part of a `History`."""

    steps: Mapping[str, np.ndarray]
    train: Mapping[str, float]
    validation: Mapping[str, float]
    seconds: float

    def __repr__(self) -> str:
        return f"EpochMeasurements({measured_line(self.train, self.validation)})"


def epoch_means(
    steps: Mapping[str, np.ndarray], batch_sizes: Sequence[int] | np.ndarray
) -> dict[str, float]:
    """The means over an epoch's examples, from the means of its batches.

    The means leave out skipped steps; the mean of "skipped" itself counts them.

    Example:
        >>> epoch_means({"loss": np.array([1.0, 4.0])}, [2, 1])
        {'loss': 2.0}
    """
    sizes = np.asarray(batch_sizes, np.float64)
    taken = np.ones(len(sizes), bool)
    if SKIPPED in steps:
        taken = steps[SKIPPED] == 0

    def mean(name: str) -> float:
        chosen = taken | (name == SKIPPED)
        if not chosen.any():
            return math.nan
        return float(np.average(steps[name][chosen].astype(np.float64), weights=sizes[chosen]))

    return {name: mean(name) for name in steps}


def join(
    epochs: Sequence[EpochMeasurements], unfinished: Mapping[str, np.ndarray] | None = None
) -> History:
    """The history of a run, from its epochs and the steps of an unfinished one."""

    def stack(rows: Sequence[Mapping[str, float]]) -> dict[str, np.ndarray]:
        return {name: np.array([row[name] for row in rows]) for name in (rows[0] if rows else ())}

    parts = [*(epoch.steps for epoch in epochs), *([unfinished] if unfinished else [])]
    return History(
        steps={
            name: np.concatenate([part[name] for part in parts])
            for name in (parts[0] if parts else ())
        },
        train=stack([epoch.train for epoch in epochs]),
        validation=stack([epoch.validation for epoch in epochs]),
        seconds=np.array([epoch.seconds for epoch in epochs], np.float64),
    )
