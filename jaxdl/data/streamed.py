"""A split that is read batch by batch."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxdl.data.arrays import as_arrays, fields_of
from jaxdl.data.streaming import Decode, stream
from jaxdl.data.types import Arrays


@dataclass(frozen=True, eq=False)
class Streamed:
    """A split that is read batch by batch, because it is too large for the device.

    Attributes:
        source: (x, y) or `Arrays`, of memory-mapped arrays for instance, which are read as they are
            needed; or an object with `len(source)` and `source[i]`, one example.
        decode: (example of the source) -> {"inputs": ..., "targets": ...}.
        prefetch: batches read ahead of the one in use.
        threads: batches read at the same time.
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

    def __len__(self) -> int:
        return len(self.source)

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
