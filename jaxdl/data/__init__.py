"""Data sets: find, read, check, split, scale, augment and stream them."""

from jaxdl.data import augmentation
from jaxdl.data.brackets import brackets
from jaxdl.data.copying import copying
from jaxdl.data.folders import from_folder
from jaxdl.data.frames import from_csv, from_frame
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
from jaxdl.data.sources import Available, available, load, load_or_small, prepare
from jaxdl.data.splits import split
from jaxdl.data.streamed import Streamed
from jaxdl.data.streaming import decode_tfds, stream
from jaxdl.data.types import IGNORED, Arrays, DataError, Dataset
from jaxdl.public import public_names

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
