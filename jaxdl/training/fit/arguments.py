"""What `fit` refuses before anything is compiled."""

import os
import tempfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxdl.checks import require_at_least
from jaxdl.data.types import Arrays, Dataset
from jaxdl.training.fit.batches import Streamed
from jaxdl.training.task import as_batch


def check_run(dataset: Dataset, train: Arrays | Streamed, epochs: int, batch_size: int) -> None:
    """Refuse splits, numbers of epochs and batch sizes that allow no run."""
    splits = {"train": train, "validation": dataset.validation}
    for name, split in splits.items():
        if isinstance(split, Arrays):
            counts = {
                part: [len(leaf) for leaf in jax.tree.leaves(values)]
                for part, values in as_batch(split).items()
            }
            if len({count for parts in counts.values() for count in parts}) != 1:
                got = " and ".join(
                    f"{count} {part}" for part, found in counts.items() for count in found
                )
                raise ValueError(
                    f"the {name} split of {dataset.name} must have as many targets as inputs, "
                    f"got {got}"
                )
        if split is not None and not len(split):
            raise ValueError(f"the {name} split of {dataset.name} must have examples, got none")
    require_at_least(1, epochs=epochs, batch_size=batch_size)
    if batch_size > len(train):
        raise ValueError(
            f"batch_size must be at most the {len(train)} training examples, got {batch_size}; "
            "pass a smaller batch_size"
        )


def check_folder(folder: str | os.PathLike[str] | None) -> None:
    """Refuse a checkpoint folder that cannot be made or written to."""
    if folder is None:
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(
            f"checkpoint_dir must be a folder that can be written, got {folder} ({error}); "
            "pass another folder"
        ) from error


def check_targets(name: str, outputs: Any, targets: Any, split: Arrays | Streamed) -> None:
    """Refuse outputs that cannot belong to the targets, and labels outside the classes.

    Arguments:
        name: the split's name.
        outputs: the shape and dtype of a batch's outputs.
        targets: the shape and dtype of its targets.
        split: its labels are checked if it is in memory.

    Raises:
        ValueError: (batch, 1) outputs for (batch,) targets or the other way round, which a loss
            could broadcast to (batch, batch); a label outside the outputs' classes.
    """
    if not (hasattr(outputs, "shape") and hasattr(targets, "shape")):
        return  # several outputs or targets: only the loss knows what they mean
    shapes = {outputs.shape, targets.shape}
    labels = np.issubdtype(targets.dtype, np.integer)
    if not labels and outputs.shape[:1] in shapes and (*outputs.shape[:1], 1) in shapes:
        raise ValueError(
            f"outputs and targets must have the same shape, got {outputs.shape} and "
            f"{targets.shape}, which a loss would broadcast; add or remove the last axis"
        )
    classes = outputs.shape[-1] if outputs.ndim == targets.ndim + 1 else 1
    if labels and classes > 1 and isinstance(split, Arrays):
        outside = (split.targets < 0) | (split.targets >= classes)
        if outside.any():
            place = int(np.argwhere(outside)[0][0])
            raise ValueError(
                f"labels must be in 0..{classes - 1}, as the model has {classes} outputs, "
                f"got {split.targets[outside].flat[0]} at example {place} of the {name} split; "
                "give the model an output for each class"
            )
