"""Data sets: find, read, check, split, scale, augment and stream them."""

from typing import TYPE_CHECKING

from jaxdl.data import augmentation
from jaxdl.data.brackets import brackets
from jaxdl.data.copying import copying
from jaxdl.data.functions import nielsen, sample_function
from jaxdl.data.given import as_dataset
from jaxdl.data.label_noise import mislabel
from jaxdl.data.modular_arithmetic import modular_arithmetic
from jaxdl.data.preprocessing import (
    Scaler,
    image_statistics,
    normalize_images,
    shrink_images,
    standardize,
)
from jaxdl.data.splits import split
from jaxdl.data.streamed import Streamed
from jaxdl.data.streaming import decode_tfds, stream
from jaxdl.data.types import IGNORED, Arrays, DataError, Dataset
from jaxdl.public import imported_when_used, public_names

if TYPE_CHECKING:
    from jaxdl.data.folders import from_folder
    from jaxdl.data.frames import from_csv, from_frame
    from jaxdl.data.sources import Available, available, load, load_or_small, prepare
else:
    _FRAMES, _SOURCES = "jaxdl.data.frames", "jaxdl.data.sources"
    __getattr__ = imported_when_used(
        globals(),
        from_folder="jaxdl.data.folders",
        from_csv=_FRAMES,
        from_frame=_FRAMES,
        Available=_SOURCES,
        available=_SOURCES,
        load=_SOURCES,
        load_or_small=_SOURCES,
        prepare=_SOURCES,
    )

__all__ = [
    "IGNORED",
    "Arrays",
    "Available",
    "DataError",
    "Dataset",
    "Scaler",
    "Streamed",
    "as_dataset",
    "augmentation",
    "available",
    "brackets",
    "copying",
    "decode_tfds",
    "from_csv",
    "from_folder",
    "from_frame",
    "image_statistics",
    "load",
    "load_or_small",
    "mislabel",
    "modular_arithmetic",
    "nielsen",
    "normalize_images",
    "prepare",
    "sample_function",
    "shrink_images",
    "split",
    "standardize",
    "stream",
]

__dir__ = public_names(globals())
