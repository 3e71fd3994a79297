"""Refuse values that no good copy of a data set holds."""

import numpy as np

from jaxdl.data.types import Arrays, DataError, Dataset


def check_dataset(dataset: Dataset, origin: str) -> Dataset:
    """Return `dataset` unchanged, or refuse it.

    Arguments:
        dataset: any data set.
        origin: the file, folder or package of the data set, for the message.

    Raises:
        DataError: no examples, inputs and targets of different length, NaN or infinite values,
            or labels outside the classes.

    Example:
        >>> import numpy as np
        >>> bad = Arrays(inputs=np.zeros((1, 1)), targets=np.array([3], np.int32))
        >>> check_dataset(Dataset("d", bad, None, None, classes=("a", "b")), "d.csv")
        Traceback (most recent call last):
        ...
        jaxdl.data.types.DataError: d.csv (train split): labels must be in 0..1, got 3 ...
    """
    for part in ("train", "validation", "test"):
        arrays = getattr(dataset, part)
        if arrays is not None:
            _check_arrays(arrays, part, dataset.classes, origin)
    return dataset


def check_labels(labels: np.ndarray, classes: int, where: str) -> None:
    """Refuse labels outside 0..classes-1 and name the first; `where` starts the message."""
    outside = (labels < 0) | (labels >= classes)
    if outside.any():
        raise DataError(
            f"{where}: labels must be in 0..{classes - 1}, "
            f"got {labels[outside][0]} at example {int(outside.argmax())}; replace the file"
        )


def _check_arrays(arrays: Arrays, part: str, classes: tuple[str, ...], origin: str) -> None:
    if not len(arrays):
        raise DataError(
            f"{origin}: the {part} split must have examples, got none; replace the file"
        )
    if len(arrays.inputs) != len(arrays.targets):
        raise DataError(
            f"{origin}: the {part} split must have one target for each input, "
            f"got {len(arrays.inputs)} inputs and {len(arrays.targets)} targets; "
            "take both from the same release"
        )
    for what, values in (("inputs", arrays.inputs), ("targets", arrays.targets)):
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all():
            position = tuple(int(i) for i in np.argwhere(~np.isfinite(values))[0])
            raise DataError(
                f"{origin}: {what} must be finite, got {values[position]} at {position} "
                f"of the {part} split; remove or repair that example"
            )
    if classes:
        check_labels(arrays.targets, len(classes), f"{origin} ({part} split)")
