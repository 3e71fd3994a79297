"""The metric of an epoch that an observer decides by."""

from collections.abc import Mapping
from typing import Literal

from jaxdl.training.fit.observing import Event, Setup

Split = Literal["validation", "train"]


def check_metric(setup: Setup, metric: str, split: Split) -> None:
    """Refuse a metric that the run does not measure on this split.

    Raises:
        ValueError: no such metric, or no validation split.
    """
    names = [*setup.task.measured]
    if split == "validation":
        names += setup.task.of_splits
    elif metric in setup.task.of_splits:
        raise ValueError(
            f"{metric} is measured of a whole split, which the steps of training are not, got "
            "split='train'; pass split='validation'"
        )
    if metric not in names:
        raise ValueError(
            f"metric must be one that the run measures, {names}, got {metric!r}; "
            "name one of these, or pass it to fit(metrics=...)"
        )
    if split == "validation" and setup.dataset.validation is None:
        raise ValueError(
            f"the validation {metric} needs a validation split, and {setup.dataset.name} has none; "
            "make one with data.split(dataset, key=...), or pass split='train'"
        )


def metric_of(event: Event, metric: str, split: Split) -> float:
    """The epoch's mean of a metric.

    Raises:
        ValueError: the epoch has no such measurement.
    """
    measured: Mapping[str, float] = getattr(event.measured, split)
    if metric not in measured:
        check_metric(event.setup, metric, split)
        raise ValueError(
            f"the {split} {metric} was not measured in epoch {event.epoch}; "
            f"measured were {sorted(measured)}"
        )
    return float(measured[metric])
