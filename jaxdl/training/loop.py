"""A whole run: the data on the device, an epoch a call, the history in arrays."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from jaxdl.data.types import Arrays, Dataset
from jaxdl.training.compilation import batch_shapes, compile_programs, scan_is_fast
from jaxdl.training.history import EpochMeasurements, History, epoch_means, join
from jaxdl.training.order import epoch_order
from jaxdl.training.progress import progress_bar
from jaxdl.training.state import TrainState, check_parts
from jaxdl.training.steps import PerExample, name_metrics, scale_images


@dataclass(frozen=True)
class EpochEnd:
    """What an observer is shown after each epoch.

    Attributes:
        epoch: epochs finished in this run, from 1.
        epochs: epochs asked for.
        state: the state now; its arrays are handed on to the next epoch, so copy what is kept.
        measured: the epoch's measurements, as they will stand in the history.
    """

    epoch: int
    epochs: int
    state: TrainState
    measured: EpochMeasurements


Observer = Callable[[EpochEnd], None]


@dataclass(frozen=True)
class Result:
    """A finished run: its last state, its history, and evaluation on any split.

    Attributes:
        state: the `TrainState` after the last step.
        history: the measurements.
        dataset: the data that the run was given.
        measure: (variables, arrays) -> the means of loss and metrics.
    """

    state: TrainState
    history: History
    dataset: Dataset
    measure: Callable[[Mapping[str, Any], Arrays], dict[str, float]]

    def evaluate(self, split: Literal["train", "validation", "test"]) -> dict[str, float]:
        """The mean loss and metrics over a split, exact for any batch size.

        Raises:
            ValueError: the dataset has no such split.
        """
        arrays = getattr(self.dataset, split, None)
        if arrays is None:
            raise ValueError(
                f"{self.dataset.name} has no split {split!r}; "
                "make one with data.split(dataset, key=...)"
            )
        return self.measure(self.state.variables, arrays)


def fit(
    model: nn.Module,
    dataset: Dataset,
    optimizer: optax.GradientTransformation,
    *,
    loss: PerExample,
    metrics: Iterable[PerExample] | Mapping[str, PerExample] = (),
    epochs: int,
    batch_size: int,
    key: Key[Array, ""],
    preprocess: Callable[[Array], Array] = scale_images,
    observers: Sequence[Observer] = (),
    drop_last: bool = False,
    state: TrainState | None = None,
    progress: bool | None = None,
) -> Result:
    """Train `model` on `dataset.train`, measuring `dataset.validation` after each epoch.

    The data are put on the device once, as stored. An epoch is one permutation of the training
    examples, a function of (key, epoch); its full batches run in one compiled call and the
    smaller last batch, if any, as a step of its own. The same key on the same machine gives the
    same bits.

    Arguments:
        model: a Linen module; it is called with `train=` where it names that argument.
        dataset: its `train` split is trained on. The device holds arrays as stored, but float64 and
            int64 as float32 and int32 unless `jax_enable_x64` is set.
        optimizer: any optax gradient transformation.
        loss: per example, (outputs, targets) -> (batch,).
        metrics: functions of the same kind, or a mapping from names to them.
        epochs: passes over the training split, at least 1.
        batch_size: examples a step, at most those of the training split.
        key: the key of the run: initial parameters, orders and dropout all follow from it.
        preprocess: a pure function of a batch's inputs, applied inside the step; by default
            uint8 images become float32 in [0, 1].
        observers: called with an `EpochEnd` after each epoch.
        drop_last: leave out the smaller last batch of each epoch.
        state: where to start from, left as it is; by default `init_state(key, ...)`. Epochs are
            counted on from its step.
        progress: show a bar; by default when standard error is a terminal.

    Raises:
        ValueError: a batch size, a number of epochs, or splits that no run can be made from.
        TypeError: a key, model or optimizer of another kind.

    Example:
        >>> import jax, numpy as np
        >>> from jaxdl import data, losses, models, optimizers
        >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
        >>> line = data.Dataset("line", data.Arrays(x, 2 * x), None, None, ())
        >>> result = fit(models.MLP([1]), line, optimizers.sgd(0.5), epochs=20, batch_size=16,
        ...              loss=losses.mean_squared_error, key=jax.random.key(0))
        >>> round(result.state.params["dense_0"]["kernel"].item(), 3)
        2.0
    """
    check_parts(key, model, optimizer)
    _check_run(dataset, epochs, batch_size)
    programs = compile_programs(model, optimizer, loss, name_metrics(metrics), preprocess)
    arrays = put_on_device(dataset.train)
    validation = None if dataset.validation is None else put_on_device(dataset.validation)
    if state is None:
        sample = jax.eval_shape(preprocess, batch_shapes(arrays, 1)["inputs"])
        state = programs.init(key, jnp.zeros(sample.shape, sample.dtype))
    else:
        state = jax.tree.map(jnp.copy, state)
    run_key = jnp.copy(state.key)

    examples = len(dataset.train)
    full, remainder = divmod(examples, batch_size)
    batch_sizes = [batch_size] * full + ([remainder] if remainder and not drop_last else [])
    # What cannot be run, for the smaller last batch too, is reported before the first step.
    scanned = all(
        scan_is_fast(programs.train_step, state, batch_shapes(arrays, size))
        for size in set(batch_sizes)
    )
    first_epoch = int(state.step) // len(batch_sizes)

    epochs_measured = []
    with progress_bar(epochs, sum(batch_sizes), show=progress) as advance:
        for epoch in range(epochs):
            started = time.perf_counter()
            order = epoch_order(run_key, first_epoch + epoch, examples)[: sum(batch_sizes)]
            state, steps = programs.run_epoch(state, arrays, order, batch_size, scanned)
            measured = EpochMeasurements(
                steps=steps,
                train=epoch_means(steps, batch_sizes),
                seconds=time.perf_counter() - started,
                validation={}
                if validation is None
                else programs.measure(state.variables, validation),
            )
            epochs_measured.append(measured)
            advance(sum(batch_sizes), measured.train)
            for observer in observers:
                observer(EpochEnd(epoch + 1, epochs, state, measured))
    return Result(
        state=state,
        history=join(epochs_measured),
        dataset=dataset,
        measure=lambda variables, split: programs.measure(variables, put_on_device(split)),
    )


def put_on_device(arrays: Arrays) -> dict[str, Array]:
    """A split as a batch of all its examples, on the default device, as stored.

    On a CPU an array whose memory is aligned to 64 bytes, such as one that `data.load` read from
    its cache, is used where it is. JAX holds float64 and int64 as float32 and int32 unless
    `jax_enable_x64` is set.
    """
    return {"inputs": jax.device_put(arrays.inputs), "targets": jax.device_put(arrays.targets)}


def _check_run(dataset: Dataset, epochs: int, batch_size: int) -> None:
    for name in ("train", "validation"):
        split = getattr(dataset, name)
        if split is not None and len(split.inputs) != len(split.targets):
            raise ValueError(
                f"the {name} split of {dataset.name} must have as many targets as inputs, "
                f"got {len(split.inputs)} inputs and {len(split.targets)} targets"
            )
        if split is not None and not len(split.inputs):
            raise ValueError(f"the {name} split of {dataset.name} must have examples, got none")
    if epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}; one is a pass over the data")
    examples = len(dataset.train)
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    if batch_size > examples:
        raise ValueError(
            f"batch_size must be at most the {examples} training examples, got {batch_size}; "
            "pass a smaller batch_size"
        )
