"""Batches of data larger than the device or the host, read ahead of the steps that use them."""

import operator
from collections.abc import Generator, Iterator, Mapping, Sequence
from typing import Any, SupportsIndex

import jax
import numpy as np
from jax.sharding import Sharding
from jaxtyping import Array

from jaxdl.checks import require_at_least, require_held
from jaxdl.data.reading import Decode, reader
from jaxdl.data.reading import RandomAccess as RandomAccess
from jaxdl.data.types import Arrays
from jaxdl.extras import import_extra


def stream(
    source: Arrays | RandomAccess,
    order: Sequence[int] | np.ndarray,
    *,
    batch_size: SupportsIndex,
    start_step: SupportsIndex = 0,
    drop_last: bool = False,
    decode: Decode | None = None,
    device: jax.Device | Sharding | None = None,
    process_index: SupportsIndex | None = None,
    process_count: SupportsIndex | None = None,
    prefetch: SupportsIndex = 2,
    threads: SupportsIndex = 1,
) -> Generator[dict[str, Any], None, None]:
    r"""The batches of one epoch, read, decoded and put on the device ahead of their use.

    $$B_s = \{x_{o(sb)}, \dots, x_{o(sb + b - 1)}\}, \quad s = s_0, s_0 + 1, \dots$$

    With `order=training.epoch_order(key, epoch, len(source))` these are bit for bit the batches
    that `fit` takes from the same examples in memory: full batches, then the smaller last one.
    Nothing before `start_step` is read. Each of P processes reads and yields its own b / P
    consecutive examples of each batch.

    The reading threads end when the iterator is exhausted, closed (`.close()`) or dropped. They
    read at most `prefetch` batches ahead of the one in use.

    Arguments:
        source: `Arrays` (of memory-mapped arrays, for instance), or an object with `len(source)`
            and `source[i]`, one example: a list, or a data set of PyTorch, of torchvision or of
            tensorflow-datasets. `source.__getitems__(indices)` is used if it exists.
        order: o, the examples in order of use, (examples,); `range(len(source))` for evaluation.
        batch_size: b, examples per step, in all processes together.
        start_step: s_0, the first step to read, from 0.
        drop_last: whether to leave out the smaller last batch.
        decode: (example of the source) -> {"inputs": ..., "targets": ...} or (inputs, targets);
            a third part is the example's "weights". Each part is an array, a number or a list of
            numbers, or a pytree of these for several inputs or targets. All examples have the same
            shapes and dtypes. By default the examples are of this form already. It runs in the
            reading threads. `decode_tfds` is an example.
        device: where to put the batches, as for `jax.device_put`: a device, or a sharding of the
            first axis. A sharding over the devices of all processes makes one global array of each
            batch. By default JAX's default device.
        process_index: the part to read, from 0; default `jax.process_index()`.
        process_count: P; default `jax.process_count()`.
        prefetch: batches read ahead of the one in use, at least 1.
        threads: batches read at the same time, at most `prefetch`. With more than 1 the source and
            `decode` must be safe to call from several threads.

    Raises:
        ValueError: settings out of range; P does not divide a batch (the smaller last one
            included); a sharding that does not match the parts that the processes read.
        TypeError: a count that is no whole number.
        ImportError: grain is not installed.
        DataError: from the iterator: an example cannot be read, has another form, or differs in
            shape or dtype from its batch. The message names its index. A source's own `DataError`
            is raised as it is.

    JAX holds float64 and int64 as float32 and int32 unless `jax_enable_x64` is set; numbers that do
    not fit are refused when their batch is read.

    Example:
        >>> import numpy as np
        >>> source = Arrays(inputs=np.arange(5.0)[:, None], targets=np.arange(5))
        >>> [batch["targets"].tolist() for batch in stream(source, [4, 0, 3, 1, 2], batch_size=2)]
        [[4, 0], [3, 1], [2]]
        >>> scan = np.ones((2, 2))
        >>> pairs = [({"age": 30.0, "scan": scan}, 1), ({"age": 9.0, "scan": scan}, 0)]
        >>> next(stream(pairs, [1, 0], batch_size=2))["inputs"]["age"].tolist()
        [9.0, 30.0]
    """
    if process_count is None:
        process_count = jax.process_count()
    if process_index is None:
        process_index = jax.process_index()
    require_at_least(1, batch_size=batch_size, process_count=process_count)
    require_at_least(1, prefetch=prefetch, threads=threads)
    require_at_least(0, start_step=start_step, process_index=process_index)
    batch_size, start_step, process_index, process_count, prefetch, threads = map(
        operator.index, (batch_size, start_step, process_index, process_count, prefetch, threads)
    )
    indices = _check_order(order, len(source))
    steps = _check_steps(len(indices), batch_size, start_step, drop_last)
    _check_threads(prefetch, threads)
    # The sizes of a full batch and of the last one.
    rows = sorted({min(batch_size, len(indices) - batch_size * s) for s in (0, steps - 1)})[::-1]
    _check_processes(rows, process_index, process_count)
    if isinstance(device, Sharding):
        for size in rows:
            _check_sharding(device, size, process_index, process_count)
    read = reader(source, decode)
    grain: Any = import_extra("grain", "a stream", "stream")
    # A reading thread does not see the settings of the caller's thread: pass them on.
    config: Any = jax.config
    x64, default = config.jax_enable_x64, config.jax_default_device

    def load(step: int) -> dict[str, Any]:
        batch = indices[step * batch_size : (step + 1) * batch_size]
        part = len(batch) // process_count
        mine = batch[process_index * part : (process_index + 1) * part]
        with jax.enable_x64(x64), jax.default_device(default):
            held = read(mine)
            for name, values in held.items():
                for leaf in jax.tree.leaves(values):
                    require_held(f"the {name} of the source", leaf)
            placed: dict[str, Any] = jax.tree.map(
                lambda values: _put(values, device, len(batch)), held
            )
            return placed

    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    dataset = grain.MapDataset.range(start_step, steps).map(load)
    return _iterate(dataset.to_iter_dataset(options))


def decode_tfds(example: Mapping[str, Any]) -> dict[str, Any]:
    """A labelled image of tensorflow-datasets, in the form that `load` gives: the label as int32.

    Example:
        >>> import numpy as np
        >>> decode_tfds({"image": np.zeros((2, 2, 1), np.uint8), "label": 3})["targets"]
        np.int32(3)
    """
    return {"inputs": example["image"], "targets": np.int32(example["label"])}


def _iterate(dataset: Any) -> Generator[dict[str, Any], None, None]:
    batches: Iterator[dict[str, Any]] = iter(dataset)
    try:
        # Not a `for` loop: its variable would keep a batch alive during the wait for the next.
        yield from batches
    finally:
        batches.close()  # type: ignore[attr-defined]  # a generator's


def _put(values: np.ndarray, device: Any, rows: int) -> Array:
    if isinstance(device, Sharding) and not device.is_fully_addressable:
        shape = (rows, *values.shape[1:])
        placed: Array = jax.make_array_from_process_local_data(device, values, shape)
    else:
        placed = jax.device_put(values, device)
    return placed


def _check_order(order: Sequence[int] | np.ndarray, examples: int) -> np.ndarray:
    indices = np.asarray(order)
    if indices.ndim != 1 or not len(indices) or not np.issubdtype(indices.dtype, np.integer):
        raise ValueError(
            "order must be a sequence of indices, at least one, "
            f"got {indices.dtype} of shape {indices.shape}; pass training.epoch_order(...)"
        )
    if indices.min() < 0 or indices.max() >= examples:
        raise ValueError(
            f"order must hold indices in 0..{examples - 1}, as the source has {examples} "
            f"examples, got {indices.min()}..{indices.max()}; make it for len(source)"
        )
    return indices


def _check_steps(examples: int, batch_size: int, start_step: int, drop_last: bool) -> int:
    if batch_size > examples:
        raise ValueError(
            f"batch_size must be at most the {examples} examples of the order, "
            f"got {batch_size}; pass a smaller batch_size"
        )
    steps = examples // batch_size if drop_last else -(-examples // batch_size)
    if start_step > steps:
        raise ValueError(
            f"start_step must be at most the epoch's {steps} steps, "
            f"got {start_step}; start the next epoch's order"
        )
    return steps


def _check_threads(prefetch: int, threads: int) -> None:
    if threads > prefetch:
        raise ValueError(
            f"threads must be at most the {prefetch} batches of prefetch, "
            f"got {threads}; pass a larger prefetch too"
        )


def _check_processes(rows: Sequence[int], index: int, count: int) -> None:
    if index >= count:
        raise ValueError(
            f"process_index must be in 0..{count - 1}, as there are {count} processes, got {index}"
        )
    for size in rows:
        if size % count:
            raise ValueError(
                f"every batch must be shared evenly by {count} processes, got one of {size} "
                "examples; pass drop_last=True for a last batch, or another batch_size"
            )


def _check_sharding(sharding: Sharding, rows: int, index: int, count: int) -> None:
    """Refuse a sharding whose local devices do not hold exactly what this process reads."""
    part = rows // count
    size, start = (part, 0) if sharding.is_fully_addressable else (rows, index * part)
    try:
        layout = sharding.addressable_devices_indices_map((size,))
    except (ValueError, IndexError) as error:  # IndexError for a sharding of more axes
        raise ValueError(
            f"device must lay out the {size} examples of a batch along their first axis alone, "
            f"got {sharding}; pass a batch_size that its devices divide, or drop_last=True"
        ) from error
    slices = [cut or (slice(None),) for cut in layout.values()]
    held = {row for (cut,) in slices for row in range(*cut.indices(size))}
    if held != set(range(start, start + part)):
        raise ValueError(
            f"the devices of process {index} must hold examples {start}..{start + part - 1} of a "
            f"batch of {rows}, which it reads, got {sharding}; order its mesh by process"
        )
