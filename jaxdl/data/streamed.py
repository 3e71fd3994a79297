"""A split that is read batch by batch."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxdl.data.arrays import as_arrays, fields_of, kind_of
from jaxdl.data.reading import Decode
from jaxdl.data.streaming import stream
from jaxdl.data.types import Arrays


@dataclass(frozen=True, eq=False)
class Streamed:
    """A split that is read batch by batch, because it is too large for the device.

    Attributes:
        source: (x, y) or `Arrays`, of memory-mapped arrays for instance, which are read as they are
            needed; or an object with `len(source)` and `source[i]`, one example: a list of pairs, a
            data set of PyTorch.
        decode: (example of the source) -> {"inputs": ..., "targets": ...} or (inputs, targets), as
            for `stream`. None where the examples have this form.
        prefetch: batches read ahead of the one in use.
        threads: batches read at the same time.

    Example:
        >>> Streamed([(0.0, 5), (1.0, 6)]).read(np.array([1]))["targets"].tolist()
        [6]
    """

    source: Any
    decode: Decode | None = None
    prefetch: int = 2
    threads: int = 1

    def __post_init__(self) -> None:
        fields = fields_of(self.source)
        if {"inputs", "targets"} <= set(fields) and not isinstance(self.source, Arrays):
            arrays = {
                name: as_arrays(values, f"the {name} of the source")
                for name, values in fields.items()
            }
            object.__setattr__(self, "source", Arrays(**arrays))
        indexed = hasattr(self.source, "__len__") and hasattr(self.source, "__getitem__")
        if not (indexed or isinstance(self.source, Arrays)):
            raise TypeError(
                "a source must have len(source) and source[i], one example, got "
                f"{kind_of(self.source)}; pass its data set, e.g. loader.dataset"
            )

    def __len__(self) -> int:
        return len(self.source)

    @property
    def targets(self) -> Any:
        """The targets of all examples, if the source has `targets`: no example is read."""
        if not hasattr(self.source, "targets"):
            raise AttributeError(
                f"a source must have targets to give them unread, got {type(self.source).__name__} "
                "without; read the examples, or keep their targets apart"
            )
        return self.source.targets

    def read(self, indices: np.ndarray) -> dict[str, Any]:
        """These examples, in the memory of the host."""
        batches = stream(
            self.source,
            indices,
            batch_size=len(indices),
            decode=self.decode,
            device=jax.local_devices(backend="cpu")[0],
            process_index=0,
            process_count=1,
        )
        read: dict[str, Any] = jax.tree.map(np.asarray, next(batches))
        return read


def as_streamed(split: Any) -> Streamed:
    """Wrap a source in `Streamed`, unless it is one."""
    return split if isinstance(split, Streamed) else Streamed(split)
