"""Data sets: found, read, checked, split and scaled."""

from jaxdl.data.sources import Available, available, load, prepare
from jaxdl.data.splits import split
from jaxdl.data.types import Arrays, DataError, Dataset

__all__ = [
    "Arrays",
    "Available",
    "DataError",
    "Dataset",
    "available",
    "load",
    "prepare",
    "split",
]
