"""A whole run: compiled calls of steps, and the host's work between them."""

import contextlib
import functools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Key

from jaxdl.calling import require_mode
from jaxdl.checks import require_at_least, require_choice
from jaxdl.compiling import loops_well
from jaxdl.data.types import Arrays, Dataset
from jaxdl.training import checkpoints
from jaxdl.training.fit import arguments, resume, signals
from jaxdl.training.fit.advance import make_advance
from jaxdl.training.fit.batches import (
    Plan,
    Streamed,
    as_streamed,
    example_shapes,
    make_feed,
    put_on_device,
    read,
)
from jaxdl.training.fit.history import SKIPPED
from jaxdl.training.fit.layouts import Parallel, local, resolve
from jaxdl.training.fit.loop import Moment, Setting, run_to_end
from jaxdl.training.fit.nonfinite import OnNonFinite, first_nonfinite
from jaxdl.training.fit.observing import Change, Event, Observer, Setup, as_observer
from jaxdl.training.fit.programs import Programs, batch_shapes, compile_programs
from jaxdl.training.fit.progress import progress_bar
from jaxdl.training.fit.result import Result, split_of
from jaxdl.training.orders import epoch_order
from jaxdl.training.state import TrainState, check_parts, init_state
from jaxdl.training.task import Augment, PerExample, Task, as_task, scale_images

__all__ = ["EpochEnd", "Observer", "Result", "fit", "put_on_device"]

EpochEnd = Event


def fit(
    model: nn.Module | Task,
    dataset: Dataset,
    optimizer: optax.GradientTransformation,
    *,
    loss: PerExample | None = None,
    metrics: Iterable[PerExample] | Mapping[str, PerExample] = (),
    epochs: int,
    batch_size: int,
    key: Key[Array, ""],
    preprocess: Callable[[Any], Any] = scale_images,
    augment: Augment | None = None,
    drop_last: bool = False,
    parallel: Parallel = "auto",
    steps_per_call: int | None = None,
    on_nonfinite: OnNonFinite = "raise",
    observers: Sequence[Observer | Callable[[Event], Change | None]] = (),
    progress: bool | None = None,
    state: TrainState | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    keep: int = 3,
) -> Result:
    """Train `model` on `dataset.train`, measuring `dataset.validation` after each epoch.

    The data are put on the device once, as stored; a `Streamed` split is read batch by batch. An
    epoch visits each training example once, in an order that depends on (key, epoch) alone: full
    batches, then the smaller last one, if any. The same key on the same machine and devices gives
    the same bits, for any `steps_per_call`.

    Arguments:
        model: a Linen module, or a `Task`: a model, loss, metrics, preprocess and augment, and how
            the model is called.
        dataset: the data. On the device float64 and int64 become float32 and int32, unless
            `jax_enable_x64` is set.
        optimizer: any optax gradient transformation.
        loss, metrics, preprocess, augment: as in `Task`; a `Task` has its own.
        epochs: passes over the training split, at least 1.
        batch_size: examples in a step, at most the number of training examples.
        key: the key of the run: initial parameters, orders and dropout all follow from it.
        parallel: "jit" uses one device, "pmap" all devices of this process, "auto" a mesh over all
            devices of all processes (one device alone as "jit"). A mesh of your own may be passed
            too.
        steps_per_call: steps in one compiled call; by default as many as take about two seconds, at
            most an epoch. The results do not depend on it.
        on_nonfinite: what to do if a step gives a loss or a state that is not finite. "raise" names
            the step and the first such quantity. "skip" counts the step, changes nothing else, and
            marks it in the history's "skipped". "stop" ends the run before the step. Only a call
            with such a step is repeated, step by step.
        observers: an `Observer`, or a function of an `Event` that is called at the end of each
            epoch and may return a `Change`.
        drop_last: leave out the smaller last batch of each epoch.
        state: the state to start from, which is copied; by default `init_state(key, ...)`. Epochs
            count on from its step.
        progress: show a bar; by default when standard error is a terminal.
        checkpoint_dir: a folder for this run alone. The run goes on from the newest checkpoint
            there. On SIGTERM or SIGINT it finishes the call, saves, and exits with status 143 or
            130.
        checkpoint_every: steps between checkpoints; by default one at each epoch's end.
        keep: how many checkpoints to keep.

    Raises:
        ValueError: the batch size, epochs, splits, targets or devices allow no run, or training
            does not reach the model's dropout and norms. It is raised before anything is compiled.
        TypeError: as in `init_state` and `Task`.
        NonFiniteError: with on_nonfinite="raise".

    A `NonFiniteError`, or an error that an observer raises, has the run so far in its attribute
    `result`.

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
    task = as_task(model, loss, metrics=metrics, preprocess=preprocess, augment=augment)
    check_parts(key, task.model, optimizer)
    train = dataset.train if isinstance(dataset.train, Arrays) else as_streamed(dataset.train)
    arguments.check_run(dataset, train, epochs, batch_size)
    require_at_least(1, steps_per_call=steps_per_call, checkpoint_every=checkpoint_every)
    require_choice("on_nonfinite", on_nonfinite, get_args(OnNonFinite))
    arguments.check_folder(checkpoint_dir)
    layout = resolve(parallel, batch_size)
    plan = Plan(len(train), batch_size, drop_last)
    setup = Setup(
        task,
        dataset,
        optimizer,
        config={"epochs": epochs, "batch_size": batch_size, "drop_last": drop_last},
    )
    listed = tuple(as_observer(observer) for observer in observers)
    for observer in listed:
        observer.check(setup)
    programs = compile_programs(task, optimizer, layout)
    shapes = example_shapes(train)
    sample = jax.eval_shape(task.preprocess, batch_shapes(shapes, 1)["inputs"])
    # Trace every batch size now: errors of shape then come before anything is compiled.
    looped = _check_shapes(setup, programs, train, plan, shapes, key, sample, state)

    if state is None:
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), sample)
        state = programs.init(key, zeros)
    state = layout.replicate(state)
    first_epoch = int(state.step) // len(plan.sizes)
    end = (first_epoch + epochs) * len(plan.sizes)
    validation = None if dataset.validation is None else programs.place(dataset.validation)

    def validate(variables: Mapping[str, Any]) -> dict[str, float]:
        if validation is None:
            return {}
        return programs.measure(variables, validation, len(dataset.validation or ()))

    def measure(variables: Mapping[str, Any], split: Any) -> dict[str, float]:
        if isinstance(split, Arrays):
            return programs.measure(variables, programs.place(split), len(split))
        return programs.measure_stream(variables, as_streamed(split))

    def diagnose(state: TrainState, epoch: int, step: int) -> str:
        start = step * batch_size
        indices = epoch_order(state.key, epoch, plan.examples)[start : start + plan.sizes[step]]
        here = jax.tree.map(local, state)
        try:
            return first_nonfinite(task, here, read(train, indices))
        except Exception as error:
            # E.g. a model that runs only under pmap. The run's own error matters more.
            return f"the loss or the state (no more is known: {error})"

    def result(moment: Moment) -> Result:
        return Result(moment.state, moment.history, dataset, measure, moment.stopped)

    with contextlib.ExitStack() as stack:
        for observer in listed:
            stack.callback(observer.close)
        moment = Moment(
            step=int(state.step),
            state=state,
            memories=tuple(observer.init(state) for observer in listed),
        )
        store = None
        if checkpoint_dir is not None:
            # A resumed history must have the columns of the stored one.
            columns = [*task.metrics, *([SKIPPED] if on_nonfinite == "skip" else [])]
            identity = resume.identity_of(moment, plan, layout, columns)
            store = stack.enter_context(checkpoints.open(checkpoint_dir, identity, keep=keep))
            moment = resume.restore(store, moment, layout)
            if moment.step > end:
                raise ValueError(
                    f"a run must not be over before it goes on, got {checkpoint_dir} at step "
                    f"{moment.step} of {end}; ask for more epochs, or pass another folder"
                )
        received = stack.enter_context(signals.caught(checkpoint_dir is not None))
        bar = stack.enter_context(progress_bar(epochs, sum(plan.sizes), show=progress))
        setting = Setting(
            setup=setup,
            plan=plan,
            advance=make_advance(
                programs,
                make_feed(train, plan, jnp.copy(state.key), layout),
                looped=looped,
                skip=on_nonfinite == "skip",
            ),
            validate=validate,
            evaluate=lambda variables, split: measure(variables, split_of(dataset, split)),
            diagnose=diagnose,
            became_nonfinite=programs.became_nonfinite,
            replicate=layout.replicate,
            observers=listed,
            epochs=epochs,
            end=end,
            steps_per_call=steps_per_call,
            checkpoint_every=checkpoint_every,
            save=None if store is None else functools.partial(resume.save, store),
            wait=lambda: None if store is None else store.wait(),
            received=received,
            stop_on_nonfinite=on_nonfinite == "stop",
            result=result,
            bar=bar,
        )
        return result(run_to_end(setting, moment))


def _check_shapes(
    setup: Setup,
    programs: Programs,
    train: Arrays | Streamed,
    plan: Plan,
    shapes: Mapping[str, Any],
    key: Key[Array, ""],
    sample: Any,
    state: TrainState | None,
) -> bool:
    """Trace the run and check its shapes; return whether its steps run well in a loop."""
    task = setup.task

    def traced(sample: Any, batch: Mapping[str, Any]) -> tuple[Any, Any]:
        start = init_state(key, task, setup.optimizer, sample) if state is None else state
        outputs, _ = task.outputs(start.variables, task.preprocess(batch["inputs"]), train=False)
        return outputs, programs.train_step(start, batch)[1]

    variables = jax.eval_shape(task.init, key, sample) if state is None else state.variables
    largest = jax.eval_shape(task.preprocess, batch_shapes(shapes, max(plan.sizes))["inputs"])
    require_mode(task.model, variables, largest, task.mode)

    looped = True
    for size in sorted(set(plan.sizes)):
        batch = batch_shapes(shapes, size)
        jaxpr, (outputs, _) = jax.make_jaxpr(traced, return_shape=True)(sample, batch)
        looped = looped and loops_well(jaxpr)
        for name, split in {"train": train, "validation": setup.dataset.validation}.items():
            if split is not None:
                arguments.check_targets(name, outputs, batch["targets"], split)
    return looped
