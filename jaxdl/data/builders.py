"""The copy that tensorflow-datasets reads (array_record), written and read without TensorFlow."""

import contextlib
import io
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from jaxdl.data.catalog import FileSet
from jaxdl.data.download import progress_bars
from jaxdl.data.integrity import check_dataset
from jaxdl.data.types import Arrays, DataError, Dataset
from jaxdl.files import partial_folder, publish, restore

_FORMAT = "array_record"
_INFO = "dataset_info.json"
# tensorflow-datasets' own unfinished folders have longer names.
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_CHUNK = 1_000


def find_prepared(data_dir: Path, files: FileSet) -> Path | None:
    """The newest array_record copy of the set in `data_dir`, whoever wrote it."""
    restore(data_dir / files.name)
    copies = [
        info.parent
        for info in (data_dir / files.name).glob(f"*/{_INFO}")
        if _VERSION.fullmatch(info.parent.name) and _info(info).get("fileFormat") == _FORMAT
    ]
    return max(copies, key=lambda copy: [int(i) for i in copy.name.split(".")], default=None)


def write_prepared(data_dir: Path, files: FileSet, dataset: Dataset, *, notice: str = "") -> Path:
    """Write `dataset` to data_dir/name/version, whole or not at all, and return that folder.

    The records keep the published order. The copy's description ends with `notice`, what its
    readers must be told. Plain tensorflow-datasets reads the folder with
    `builder_from_directory(...).as_data_source(...)`.
    """
    import tensorflow_datasets as tfds

    folder = data_dir / files.name / files.version
    with partial_folder(folder.parent) as partial, progress_bars():
        # The description is UTF-8; a folder's name in the notice need not be.
        notice = notice.encode("utf-8", "replace").decode("utf-8")
        kind = _builder_class(files, dataset, notice)
        builder = kind(data_dir=os.fspath(partial), file_format=_FORMAT)
        # It prints two lines on standard output, which would mix with the caller's.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
        made = partial / "made"
        os.replace(builder.data_path, made)
        publish(made, folder)
    return folder


def read_prepared(folder: Path, files: FileSet) -> Dataset:
    """Decode the array_record copy in `folder`, in the order of its records.

    tensorflow-datasets' own builders store their records in a shuffled order.

    Raises:
        DataError: the copy cannot be read, or is of another set.
    """
    import tensorflow_datasets as tfds

    fix = (
        "remove the folder, or prepare it again with "
        f"`jaxdl data prepare {files.name} --raw-dir DIR`"
    )
    try:
        builder = tfds.builder_from_directory(os.fspath(folder))
        image, label = builder.info.features["image"], builder.info.features["label"]
        if image.shape != files.shape or tuple(label.names) != files.classes:
            raise DataError(
                f"images must be {files.shape} of the classes {files.classes}, "
                f"got {image.shape} of {tuple(label.names)}"
            )
        # Our own decoding takes two thirds of the data source's time.
        decoders = {"image": tfds.decode.SkipDecoding()}
        train, test = (
            _decode(builder.as_data_source(split, decoders=decoders), files.shape)
            for split in ("train", "test")
        )
    except Exception as error:  # array_record raises many kinds of error
        raise DataError(
            f"{folder}: the copy must be readable by tensorflow-datasets, got {error}; {fix}"
        ) from error
    dataset = Dataset(files.name, train=train, validation=None, test=test, classes=files.classes)
    return check_dataset(dataset, os.fspath(folder))


def read_notice(folder: Path, files: FileSet) -> str:
    """What `write_prepared` noted for the readers of the copy; empty if it noted nothing."""
    description = _info(folder / _INFO).get("description")
    if not isinstance(description, str) or not description.startswith(files.description):
        return ""
    return description.removeprefix(files.description).strip()


def _info(file: Path) -> dict[str, Any]:
    """What tensorflow-datasets notes of a copy; empty if it cannot be read."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _decode(source: Any, shape: tuple[int, ...]) -> Arrays:
    from PIL import Image

    images = np.empty((len(source), *shape), np.uint8)
    labels = np.empty(len(source), np.int32)
    for start in range(0, len(source), _CHUNK):
        rows = range(start, min(start + _CHUNK, len(source)))
        for row, example in zip(rows, source.__getitems__(list(rows)), strict=True):
            pixels = np.asarray(Image.open(io.BytesIO(example["image"])))
            images[row] = pixels.reshape(shape)
            labels[row] = example["label"]
    return Arrays(inputs=images, targets=labels)


def _encode(pixels: np.ndarray) -> io.BytesIO:
    from PIL import Image

    # Pillow's grey images have no channel axis.
    grey = pixels.shape[-1] == 1
    png = io.BytesIO()
    Image.fromarray(pixels[..., 0] if grey else pixels).save(png, "PNG")
    png.seek(0)
    return png


def _builder_class(files: FileSet, dataset: Dataset, notice: str = "") -> Any:
    """A builder of `dataset`, made here so that importing this module stays cheap."""
    import tensorflow_datasets as tfds

    base: Any = tfds.core.GeneratorBasedBuilder

    class Builder(base, skip_registration=True):  # type: ignore[call-arg, misc]  # Any
        name = files.name
        VERSION = tfds.core.Version(files.version)

        def _info(self) -> Any:
            features = {
                "image": tfds.features.Image(shape=files.shape),
                "label": tfds.features.ClassLabel(names=list(files.classes)),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                description=f"{files.description} {notice}".strip(),
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
                disable_shuffling=True,
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[Any]]:
            parts = {"train": dataset.train, "test": dataset.test}
            return {
                name: self._generate_examples(part)
                for name, part in parts.items()
                if part is not None
            }

        def _generate_examples(self, part: Arrays) -> Iterator[Any]:
            for i, (pixels, label) in enumerate(zip(part.inputs, part.targets, strict=True)):
                # A file object is stored as it is; an array would be encoded by TensorFlow.
                yield i, {"image": _encode(pixels), "label": int(label)}

    return Builder
