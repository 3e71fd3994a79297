"""Where the batches of a run come from: a set on the device, shares of it, or a stream."""

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxdl.data.streamed import Streamed
from jaxdl.data.streaming import stream
from jaxdl.data.types import Arrays
from jaxdl.training.fields import on_device, on_host
from jaxdl.training.fit.layouts import Layout
from jaxdl.training.loops import Source
from jaxdl.training.orders import epoch_order
from jaxdl.training.task import Batch, as_batch


@dataclass(frozen=True)
class Rows:
    """Some consecutive steps of an epoch.

    Attributes:
        source: their batches, one row per step.
        steps: their numbers in the epoch, from 0.
        batch: examples per step.
    """

    source: Source
    steps: range
    batch: int


@dataclass(frozen=True)
class Plan:
    """The steps of every epoch: full batches, then a smaller last one unless it is dropped.

    Attributes:
        examples: the number of training examples.
        batch_size: examples per step.
        drop_last: whether the smaller last batch is left out.
    """

    examples: int
    batch_size: int
    drop_last: bool = False

    @property
    def full(self) -> int:
        """Steps with a full batch."""
        return self.examples // self.batch_size

    @property
    def remainder(self) -> int:
        """Examples of the smaller last batch; 0 for none."""
        return 0 if self.drop_last else self.examples % self.batch_size

    @property
    def sizes(self) -> list[int]:
        """Examples of each step."""
        return [self.batch_size] * self.full + ([self.remainder] if self.remainder else [])

    def parts(self, order: np.ndarray) -> list[tuple[np.ndarray, range]]:
        """Split an order into one array (steps, batch) for each batch size, with its steps."""
        split = self.full * self.batch_size
        parts = [(order[:split].reshape(self.full, self.batch_size), range(self.full))]
        if self.remainder:
            parts.append((order[None, split:], range(self.full, self.full + 1)))
        return parts


class Reader:
    """Reads the batches of a run, in the orders of its epochs.

    A set in memory lies on the device, and each step gathers its examples. On several devices each
    gets its share of an epoch's batches when the epoch begins. A stream is read ahead of the steps.
    """

    def __init__(
        self, train: Arrays | Streamed, plan: Plan, key: Key[Array, ""], layout: Layout
    ) -> None:
        # What the caller writes to these arrays during the run must not change it.
        if isinstance(train, Arrays):
            train = on_device(train) if layout.mesh is None else on_host(train)
        self._train: Arrays | Streamed = train
        self._plan = plan
        self._key = key
        self._layout = layout
        self._epoch: Generator[Rows, None, None] | None = None
        self._current: Rows | None = None
        self._position = (-1, -1)

    def read(self, epoch: int, steps: range) -> tuple[Source, range, int]:
        """The first of these steps: their source, their rows of it, and the examples per step.

        Consecutive steps read on; any other step opens its epoch anew.
        """
        if self._epoch is None or self._position != (epoch, steps.start):
            self.close()
            order = epoch_order(self._key, epoch, self._plan.examples)
            settings = (order, steps.start, self._plan, self._layout)
            if isinstance(self._train, Streamed):
                self._epoch = _rows_of_stream(self._train, *settings)
            else:
                self._epoch = _rows_in_memory(self._train, *settings)
        if self._current is None or steps.start >= self._current.steps.stop:
            self._current = None  # free its batches before the next are made
            self._current = next(self._epoch)
        first, stop = self._current.steps.start, min(steps.stop, self._current.steps.stop)
        self._position = (epoch, stop)
        return self._current.source, range(steps.start - first, stop - first), self._current.batch

    def close(self) -> None:
        """End the reading of an epoch."""
        if self._epoch is not None:
            self._epoch.close()
        self._epoch = self._current = None


def _rows_in_memory(
    arrays: Arrays, order: np.ndarray, first: int, plan: Plan, layout: Layout
) -> Generator[Rows, None, None]:
    for part, steps in plan.parts(order):
        if first >= steps.stop:
            continue
        if layout.mesh is None:
            source: Source = {"arrays": as_batch(arrays), "order": part}
        else:
            source = layout.put_stack(arrays, part, mapped=layout.mapped)
        yield Rows(source, steps, part.shape[1])


def _rows_of_stream(
    streamed: Streamed, order: np.ndarray, first: int, plan: Plan, layout: Layout
) -> Generator[Rows, None, None]:
    batches = stream(
        streamed.source,
        order,
        batch_size=plan.batch_size,
        start_step=first,
        drop_last=plan.drop_last,
        decode=streamed.decode,
        device=None if layout.mesh is None else layout.batch_sharding(),
        prefetch=streamed.prefetch,
        threads=streamed.threads,
    )
    try:
        for step, batch in enumerate(batches, first):
            size = plan.sizes[step]
            yield Rows(_single_row(batch, size, layout), range(step, step + 1), size)
    finally:
        batches.close()


def _single_row(batch: dict[str, Any], size: int, layout: Layout) -> Source:
    if layout.mesh is None:
        # The same form as a set on the device: the same operations give the same bits.
        return {"arrays": batch, "order": np.arange(size, dtype=np.int32)[None]}
    if layout.mapped:
        shape = (1, layout.devices, size // layout.devices)
        return {"batches": jax.tree.map(lambda a: a.reshape(*shape, *a.shape[1:]), batch)}
    return {"batches": jax.tree.map(lambda array: array[None], batch)}


def read(split: Arrays | Streamed, indices: np.ndarray) -> dict[str, Any]:
    """These examples, in the memory of the host."""
    if isinstance(split, Streamed):
        return split.read(indices)
    return as_batch(jax.tree.map(lambda array: np.asarray(array)[indices], split))


def put_on_device(arrays: Arrays) -> dict[str, Any]:
    """A split as a batch of all its examples, on the default device, as stored.

    Memory that can be written to is copied; see `on_device`. JAX holds float64 and int64 as float32
    and int32 unless `jax_enable_x64` is set.
    """
    return as_batch(on_device(arrays))


def example_shapes(train: Arrays | Streamed) -> dict[str, Any]:
    """The shapes and dtypes of the set's arrays, as JAX holds them."""
    arrays = train.read(np.zeros(1, np.int32)) if isinstance(train, Streamed) else as_batch(train)

    def held(values: Any) -> jax.ShapeDtypeStruct:
        dtype = jnp.dtype(jax.dtypes.canonicalize_dtype(values.dtype))
        return jax.ShapeDtypeStruct((len(train), *values.shape[1:]), dtype)

    shapes: dict[str, Any] = jax.tree.map(held, arrays)
    return shapes


def batch_shapes(arrays: Batch, batch_size: int) -> dict[str, Any]:
    """The shapes and dtypes of a batch of `arrays`."""
    shapes: dict[str, Any] = jax.tree.map(
        lambda array: jax.ShapeDtypeStruct((batch_size, *array.shape[1:]), array.dtype),
        as_batch(arrays),
    )
    return shapes
