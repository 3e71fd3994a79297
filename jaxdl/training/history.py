"""What a run measured, as arrays."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class History:
    """Every measurement of a run, by name.

    Attributes:
        steps: of each step, the batch's mean, from the outputs before its update; (steps,).
        train: of each epoch, the mean over its examples of the same; (epochs,).
        validation: after each epoch, the mean over the validation split; (epochs,), empty
            without one.
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


@dataclass(frozen=True)
class EpochMeasurements:
    """One epoch's part of a `History`."""

    steps: Mapping[str, np.ndarray]
    train: Mapping[str, float]
    validation: Mapping[str, float]
    seconds: float


def epoch_means(
    steps: Mapping[str, np.ndarray], batch_sizes: Sequence[int] | np.ndarray
) -> dict[str, float]:
    """The means over an epoch's examples, from those of its batches.

    Example:
        >>> epoch_means({"loss": np.array([1.0, 4.0])}, [2, 1])
        {'loss': 2.0}
    """
    return {
        name: float(np.average(values.astype(np.float64), weights=batch_sizes))
        for name, values in steps.items()
    }


def join(epochs: Sequence[EpochMeasurements]) -> History:
    """The history of a run from those of its epochs, of which there is at least one."""

    def stack(rows: Sequence[Mapping[str, float]]) -> dict[str, np.ndarray]:
        return {name: np.array([row[name] for row in rows]) for name in rows[0]}

    return History(
        steps={
            name: np.concatenate([epoch.steps[name] for epoch in epochs])
            for name in epochs[0].steps
        },
        train=stack([epoch.train for epoch in epochs]),
        validation=stack([epoch.validation for epoch in epochs]),
        seconds=np.array([epoch.seconds for epoch in epochs]),
    )
