"""The metric of an epoch that an observer decides by."""

from collections.abc import Mapping
from typing import Any, Literal

from jaxdl import losses, metrics
from jaxdl.training.fit.observing import Event, Setup

Split = Literal["validation", "train"]
Mode = Literal["min", "max"]

_RISING = (metrics.accuracy, metrics.top_k, metrics.f1, metrics.r2)
_FALLING = (
    metrics.squared_error,
    metrics.calibration,
    *(getattr(losses, name) for name in losses.__all__),
)


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


def known_mode(setup: Setup, metric: str) -> Mode | None:
    """Whether a metric should fall or rise: the loss, and the metrics of this library; else None.

    The function decides, not the name under which the run has it.
    """
    if metric == "loss":
        return "min"
    function: Any = setup.task.measured.get(metric) or setup.task.of_splits.get(metric)
    function = getattr(function, "function", function)
    function = getattr(function, "func", function)
    if function in _RISING:
        return "max"
    return "min" if function in _FALLING else None


def mode_for(setup: Setup, metric: str) -> Mode:
    """As `known_mode`, for whom nobody told the mode.

    Raises:
        ValueError: it is not known.
    """
    known = known_mode(setup, metric)
    if known is None:
        raise ValueError(
            f"mode must say whether {metric!r} should rise or fall, got none for a metric that is "
            'not of jaxdl; pass mode="max" or mode="min"'
        )
    return known


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
