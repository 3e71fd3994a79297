"""Measurements of a run as files, one each time."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from jaxdl.files import partial_folder, publish
from jaxdl.training.fit.observing import Event


def npz_writer(folder: Path, name: str) -> Callable[[Event, Any], None]:
    """A report that writes `<name>_<step>.npz` with an array for each field of a measurement.

    Fields that are None are left out, and "shapes", whose rows differ in length.
    """

    def write(event: Event, measured: Any) -> None:
        values = {field.name: getattr(measured, field.name) for field in fields(measured)}
        arrays: dict[str, Any] = {
            field: np.asarray(value)
            for field, value in values.items()
            if field != "shapes" and value is not None
        }
        file = f"{name}_{event.step:09d}.npz"
        with partial_folder(folder) as partial:
            np.savez(partial / file, **arrays)
            publish(partial / file, folder / file)

    return write
