"""The history as a file that grows by one line per epoch."""

import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from jaxdl.factories import factory
from jaxdl.files import as_path, partial_folder, publish
from jaxdl.training.fit.history import EpochMeasurements
from jaxdl.training.fit.observing import Event, Observer


@factory
def history_lines(path: str | os.PathLike[str]) -> Observer:
    """Write `history.jsonl`: one line, a JSON object, as soon as an epoch ends.

    A line holds "epoch", "step" (updates made by its end), "seconds", "train" and "validation",
    the last two as objects of means. JSON has no NaN and no infinity: both are null.

    The first event of a run makes the file match the run's history, so that after a resume no epoch
    is missing or repeated. Lines up to the step where the history begins stay. Later lines, left by
    a run that was cut short, are replaced. Only the first process writes.

    Arguments:
        path: the file; its folder is created if missing.

    Raises:
        ValueError: at the first event, if the file holds something else.

    Example:
        >>> observers = [history_lines("runs/mine/history.jsonl")]
    """
    path = as_path(path)
    joined = False

    def observe(event: Event, memory: Any) -> tuple[Any, None]:
        nonlocal joined
        if not event.epoch_ended or jax.process_index() != 0:
            return memory, None
        lines = list(_lines(event))
        if joined:
            with path.open("a", encoding="utf-8") as file:
                file.write(lines[-1])
            return memory, None
        first = event.step - sum(_steps(epoch) for epoch in event.measurements)
        with partial_folder(path.parent) as partial:
            whole = partial / path.name
            whole.write_text("".join([*_up_to(path, first), *lines]), encoding="utf-8")
            publish(whole, path)
        joined = True
        return memory, None

    def close() -> None:
        nonlocal joined
        joined = False

    return Observer(observe, close=close)


def read_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The objects of a file that `history_lines` wrote; an unfinished last line is left out.

    Raises:
        ValueError: a line that is no object with a step.
    """
    read = []
    for number, line in enumerate(_whole_lines(as_path(path)), start=1):
        try:
            value = json.loads(line)
            int(value["step"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"line {number} of {path} must be an epoch's JSON object, got {line[:60]!r}; "
                "name another file, or move this one away"
            ) from error
        read.append(value)
    return read


def _up_to(path: Path, step: int) -> list[str]:
    if not path.exists():
        return []
    lines = _whole_lines(path)
    return [
        line for line, value in zip(lines, read_lines(path), strict=True) if value["step"] <= step
    ]


def _whole_lines(path: Path) -> list[str]:
    # A process that is killed while it writes leaves a line without an end.
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [line for line in lines if line.endswith("\n")]


def _lines(event: Event) -> Iterator[str]:
    epoch = event.epoch - len(event.measurements)
    step = event.step - sum(_steps(measured) for measured in event.measurements)
    for measured in event.measurements:
        epoch, step = epoch + 1, step + _steps(measured)
        line = {
            "epoch": epoch,
            "step": step,
            "seconds": measured.seconds,
            "train": _finite(measured.train),
            "validation": _finite(measured.validation),
        }
        yield json.dumps(line, allow_nan=False) + "\n"


def _steps(measured: EpochMeasurements) -> int:
    return len(measured.steps["loss"])


def _finite(means: Mapping[str, float]) -> dict[str, float | None]:
    return {name: mean if math.isfinite(mean) else None for name, mean in means.items()}
