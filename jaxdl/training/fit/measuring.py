"""What a trained model gives: the means of loss and metrics over a split, and its outputs."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdl.data.streamed import Streamed, as_streamed
from jaxdl.data.streaming import stream
from jaxdl.data.types import Arrays, Dataset
from jaxdl.forking import require_own_threads
from jaxdl.training.evaluation import means
from jaxdl.training.fit.batches import put_on_device
from jaxdl.training.fit.programs import EVALUATION_BATCH, Programs, joined
from jaxdl.training.task import Task, as_batch, examples_in


class Placed(NamedTuple):
    """A split, and its parts on the devices."""

    split: Arrays
    parts: list[Any]


@dataclass(frozen=True)
class Measure:
    """(variables, split) -> the loss and the metrics over all examples of a split.

    Attributes:
        task: what is measured.
        programs: what computes it.
    """

    task: Task
    programs: Programs

    def __call__(self, variables: Mapping[str, Any], split: Any) -> dict[str, float]:
        """The mean loss and metrics, and the metrics of the split as a whole.

        Arguments:
            split: placed on the devices, in memory, or read batch by batch; None gives nothing.
        """
        if split is None:
            return {}
        require_own_threads("evaluate")
        if isinstance(split, Arrays):
            split = self.place(split)
        if isinstance(split, Placed):
            programs = self.programs
            sums = programs.batch_sums if programs.layout.mesh is None else programs.stacked_sums
            pieces = [(sums(variables, part), slice(None)) for part in split.parts]
            measured = means(joined(pieces), len(split.split))
            given = as_batch(split.split)
            if self.task.of_splits:
                given["outputs"] = self.outputs(variables, given["inputs"])
        else:
            measured, given = self._of_stream(variables, as_streamed(split))
        parts = (given.get("outputs"), given.get("targets"), given.get("weights"))
        of_splits = {
            name: metric(*jax.tree.map(np.asarray, parts))
            for name, metric in self.task.of_splits.items()
        }
        return measured | of_splits

    def batches_of(self, split: Arrays | Streamed) -> Iterator[dict[str, Any]]:
        """The batches of a split, as they are stored, on the host or on the device."""
        if isinstance(split, Streamed):
            yield from self._batches(split)
            return
        arrays = as_batch(split)
        for start in range(0, len(split), EVALUATION_BATCH):
            rows = slice(start, start + EVALUATION_BATCH)
            yield jax.tree.map(lambda leaf, rows=rows: np.asarray(leaf[rows]), arrays)

    def place(self, arrays: Arrays) -> Placed:
        """Put a split on the devices."""
        layout = self.programs.layout
        if layout.mesh is None:
            return Placed(arrays, [put_on_device(arrays)])
        size = layout.devices * -(-EVALUATION_BATCH // layout.devices)
        full = len(arrays) // size * size
        orders = [np.arange(full).reshape(-1, size), np.arange(full, len(arrays))[None]]
        return Placed(arrays, [layout.put_stack(arrays, order) for order in orders if order.size])

    def outputs(self, variables: Mapping[str, Any], inputs: Any) -> Any:
        """The outputs for raw inputs, on the host; any pytree, (n, ...)."""
        parts = []
        for start in range(0, examples_in(inputs), EVALUATION_BATCH):
            rows = slice(start, start + EVALUATION_BATCH)
            batch = jax.tree.map(lambda leaf, rows=rows: np.asarray(leaf[rows]), inputs)
            parts.append(jax.device_get(self.programs.outputs(variables, batch)))
        return _concatenated(parts)

    def outputs_of_stream(self, variables: Mapping[str, Any], split: Streamed) -> Any:
        """The outputs for a split that is read batch by batch, on the host."""
        return _concatenated(
            [
                jax.device_get(self.programs.outputs(variables, batch["inputs"]))
                for batch in self._batches(split)
            ]
        )

    def _of_stream(
        self, variables: Mapping[str, Any], split: Streamed
    ) -> tuple[dict[str, float], dict[str, Any]]:
        """The means, and what the metrics of the whole split need of it."""
        sums, kept = [], []
        for batch in self._batches(split):
            sums.append((self.programs.batch_sums(variables, batch), slice(None)))
            if self.task.of_splits:
                needed = {name: batch[name] for name in batch if name != "inputs"}
                needed["outputs"] = self.programs.outputs(variables, batch["inputs"])
                kept.append(jax.device_get(needed))
        return means(joined(sums), len(split)), _concatenated(kept) if kept else {}

    def _batches(self, split: Streamed) -> Iterator[dict[str, Any]]:
        layout = self.programs.layout
        return stream(
            split.source,
            range(len(split)),
            batch_size=min(EVALUATION_BATCH, len(split)),
            decode=split.decode,
            device=None if layout.mesh is None else layout.replicated,
            prefetch=split.prefetch,
            threads=split.threads,
        )


SPLITS = ("train", "validation", "test")


def split_of(dataset: Dataset, split: str) -> Any:
    """A split by name. A missing split is refused."""
    arrays = getattr(dataset, split, None)
    if arrays is None:
        raise ValueError(
            f"{dataset.name} has no split {split!r}; make one with data.split(dataset, key=...), "
            "or pass the examples themselves"
        )
    return arrays


Evaluation = Callable[[Mapping[str, Any], Any], dict[str, float]]
"""(variables, split) -> the loss and the metrics."""


def _concatenated(parts: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)
