"""A whole run: compiled calls of steps, and the host's work between them."""

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Key

from jaxdl.checks import Count, require_at_least, require_choice
from jaxdl.data.given import as_dataset
from jaxdl.data.types import Arrays
from jaxdl.forking import require_own_threads
from jaxdl.freed_memory import keep_memory
from jaxdl.training import checkpoints
from jaxdl.training.evaluated_stats import recalibrated_over, with_room
from jaxdl.training.fit import arguments, signals
from jaxdl.training.fit.advance import FIRST_CALL_STEPS, advance, next_limit
from jaxdl.training.fit.batches import Plan, Reader
from jaxdl.training.fit.history import SKIPPED, epoch_means
from jaxdl.training.fit.layouts import Parallel, any_process, resolve
from jaxdl.training.fit.measuring import Measure
from jaxdl.training.fit.moment import Moment, identity_of, restore, save
from jaxdl.training.fit.nonfinite import OnNonFinite, diagnose, diagnose_validation, end_of
from jaxdl.training.fit.observing import Change, Event, Observer, Setup, as_observer, tell
from jaxdl.training.fit.programs import compile_programs
from jaxdl.training.fit.progress import check_progress, shown
from jaxdl.training.fit.recipe import recipe_of
from jaxdl.training.fit.result import Result
from jaxdl.training.fit.saving import about
from jaxdl.training.fit.standing import Length
from jaxdl.training.state import TrainState, check_parts
from jaxdl.training.steps import TrainStep
from jaxdl.training.task import Augment, PerExample, as_task, scale_images

__all__ = ["fit"]


def fit(
    model: Any,
    dataset: Any,
    optimizer: optax.GradientTransformation,
    *,
    loss: PerExample | Any | None = None,
    metrics: Iterable[PerExample] | Mapping[str, PerExample] | Any = (),
    epochs: Count,
    batch_size: Count,
    key: Key[Array, ""],
    preprocess: Callable[[Any], Any] = scale_images,
    augment: Augment | None = None,
    train_step: TrainStep | Any | None = None,
    drop_last: bool = False,
    parallel: Parallel = "auto",
    steps_per_call: Count | None = None,
    on_nonfinite: OnNonFinite = "raise",
    recalibrate: bool = False,
    observers: Sequence[Observer | Callable[[Event], Change | None]] | Observer = (),
    progress: Any = None,
    state: TrainState | None = None,
    checkpoint_dir: str | os.PathLike[str] | None = None,
    checkpoint_every: Count | None = None,
    keep: Count = 3,
    accept_changes: Collection[str] = (),
) -> Result:
    """Train `model` on `dataset.train`, measuring `dataset.validation` after each epoch.

    The data are put on the device once, as stored; a `Streamed` split is read batch by batch. An
    epoch visits each training example once, in an order that depends on (key, epoch) alone: full
    batches, then the smaller last one, if any. The same key on the same machine and devices gives
    the same bits, for any `steps_per_call`.

    Arguments:
        model: a model of any library, see `calling.adapt`, or a `Task`: a model, loss, metrics,
            preprocess and augment, and how the model is called.
        dataset: a `Dataset`, (x, y), frames and series, lists, tensors, or splits by name; see
            `data.as_dataset`. On the device float64 and int64 become float32 and int32, unless
            `jax_enable_x64` is set; numbers too large for these are refused. Training and
            validation data are copied, unless they are read-only memory.
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
            the step and the first such quantity, or the first example whose data are not finite.
            "skip" counts the step, changes nothing else, and marks it in the history's "skipped".
            "stop" ends the run before the step. Only a call with such a step is repeated, step by
            step. "raise" and "stop" also end a run whose validation loss is not finite.
        recalibrate: evaluate with the statistics of norms over the training split, of the
            parameters that are evaluated, in place of the running averages; see
            `training.recalibrate`. It is for optimizers that hold an average of the parameters
            (`ema`, `swa`, `schedule_free`, `lookahead`), to which the running averages do not
            belong. It costs a pass over the training split at each epoch's end and checkpoint. The
            statistics stay in `state.evaluated_stats`, so that the result, what is saved of it and
            checkpoints evaluate alike.
        observers: each an `Observer`, or a function of an `Event` that is called at the end of each
            epoch and may return a `Change`.
        train_step: a step of your own, a pure function (state, batch) -> (state, metrics), in place
            of `make_train_step`'s, for the state of this model and optimizer. The batch's inputs
            are as stored. Metrics are numbers by name, "loss" among them. `fit` counts its steps in
            `state.step`, of which orders and dropout are functions.
        drop_last: leave out the smaller last batch of each epoch.
        state: the state to start from, which is copied; by default `init_state(key, ...)`. Epochs
            count on from its step; one that it has begun is finished first, beyond `epochs`. Orders
            and dropout are those of `key`, so the key of the first run goes on with that run.
        progress: by default a bar, if standard error is a terminal. True shows one line that stays
            in a notebook, too, and elsewhere a line an epoch; "lines" says a line an epoch
            anywhere; False nothing. Lines go to standard error, in a notebook to standard output.
        checkpoint_dir: a folder for this run alone. The run goes on from the newest checkpoint
            there. On SIGTERM or SIGINT it finishes the call, saves, and exits with status 143 or
            130.
        checkpoint_every: steps between checkpoints; by default one at each epoch's end.
        keep: how many checkpoints to keep.
        accept_changes: what may differ from the run whose checkpoints are in the folder, such as
            ("optimizer",) for another learning rate. By default a run goes on only with the same
            initialisation, preprocess, augment, model, loss, metrics, optimizer, observers and data
            (by a sample of it). A schedule that differs, such as a cosine over more epochs, gives a
            warning.

    Raises:
        ValueError: the batch size, epochs, splits, targets or devices allow no run, or training
            does not reach the model's dropout and norms. It is raised before anything is compiled.
        TypeError: as in `init_state` and `Task`.
        NonFiniteError: with on_nonfinite="raise".

    An error that ends the run after its first step, such as a `NonFiniteError`, a full disk, or
    what an observer or a source of data raises, has the run so far in its attribute `result`.

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
    require_own_threads("fit")
    task = as_task(model, loss, metrics=metrics, preprocess=preprocess, augment=augment)
    arguments.check_on_host(key)
    check_parts(key, task.model, optimizer)
    dataset = as_dataset(dataset)
    train, splits = arguments.checked_splits(dataset)
    epochs, batch_size, keep = arguments.counts(epochs=epochs, batch_size=batch_size, keep=keep)
    require_at_least(1, steps_per_call=steps_per_call, checkpoint_every=checkpoint_every)
    arguments.check_run(train, batch_size)
    require_choice("on_nonfinite", on_nonfinite, get_args(OnNonFinite))
    check_progress(progress)
    checkpoint_dir = arguments.checked_folder(checkpoint_dir)
    arguments.check_accepted(accept_changes)
    layout = resolve(parallel, batch_size)
    arguments.check_train_step(train_step, layout)
    plan = Plan(len(train), batch_size, drop_last)
    per_epoch = len(plan.sizes)
    state = arguments.of_this_run(state, key)
    # An epoch that the state has begun is finished first, as an epoch of its own.
    epochs += arguments.begun_epochs(state, per_epoch)
    config = {"epochs": epochs, "batch_size": batch_size, "drop_last": drop_last}
    setup = Setup(task, dataset, optimizer, config)
    given_observers = (observers,) if isinstance(observers, Observer) else observers
    listed = tuple(as_observer(observer) for observer in given_observers)
    for observer in listed:
        observer.check(setup)
    programs = compile_programs(task, optimizer, layout, arguments.counted(train_step))
    measure = Measure(task, programs)
    sample, example, looped, measured = arguments.check_shapes(
        setup, splits, plan, programs.train_step, key, state
    )
    if not looped:  # convolutions on a CPU
        keep_memory()

    given = state is not None
    if state is None:
        zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), sample)
        state = programs.init(key, zeros)
    state = layout.replicate(with_room(task, state) if recalibrate else state)
    end = (int(state.step) // per_epoch + epochs) * per_epoch
    validation = splits.get("validation")
    placed = measure.place(validation) if isinstance(validation, Arrays) else validation
    skip = on_nonfinite == "skip"

    with contextlib.ExitStack() as stack:
        for observer in listed:
            stack.callback(observer.close)
        moment = Moment(int(state.step), state, tuple(observer.init(state) for observer in listed))
        store = None
        if checkpoint_dir is not None:
            # A resumed history must have the columns of the stored one.
            columns = [name for name in measured if name != "loss"]
            columns += [*task.of_splits, *([SKIPPED] if skip else [])]
            examples = None if validation is None else len(validation)
            recipe = recipe_of(
                setup, train, plan, sample, programs.train_step, key, moment, given, listed
            )
            identity = identity_of(moment, plan, layout, columns, examples, recipe)
            store = stack.enter_context(
                checkpoints.open(checkpoint_dir, identity, keep=keep, accept=accept_changes)
            )
            moment, ended = restore(store, moment, layout)
            arguments.check_not_over(checkpoint_dir, moment, ended, end)
        saved, known = moment, about(task, dataset, example, moment.state)
        # A step may overwrite the state, its key included.
        reader = Reader(train, plan, jnp.copy(state.key), layout)
        stack.callback(reader.close)
        received = stack.enter_context(signals.caught(store is not None))
        length = Length(int(state.step), end, epochs, sum(plan.sizes) / per_epoch)
        show = stack.enter_context(shown(progress, moment, length))

        # Processes must make the same calls, so that no clock of theirs decides.
        timed = steps_per_call is None and jax.process_count() == 1
        limit = steps_per_call or (FIRST_CALL_STEPS if timed else per_epoch)
        every = checkpoint_every or per_epoch
        reason: str | None = None
        error: BaseException | None = None
        try:
            while moment.step < end and moment.stopped is None:
                epoch, at = divmod(moment.step, per_epoch)
                steps = range(at, at + min(limit, per_epoch - at, every - moment.step % every))
                started = time.perf_counter()
                taken = advance(
                    programs, reader, moment.state, epoch, steps, looped=looped, skip=skip
                )
                seconds = time.perf_counter() - started
                after = moment.after(taken.state, taken.measured, seconds)
                if timed:
                    limit = next_limit(limit, len(steps), seconds)

                if taken.bad:
                    moment = after
                    left = steps[len(taken.measured["loss"]) :]
                    fault = diagnose(task, moment.state, train, plan, epoch, left)
                    moment, reason, error = end_of(moment, fault, on_nonfinite)
                    break

                ended = steps.stop == per_epoch
                due = after.step % every == 0
                if recalibrate and (ended or due):
                    exact = recalibrated_over(task, after.state, measure.batches_of(train))
                    after = replace(after, state=layout.replicate(exact))
                if ended:
                    means = measure(after.state.evaluated, placed)
                    after = after.epoch_closed(plan, means)
                # Only now: were the measurement to fail, its epoch would stay open for ever.
                moment = after
                sizes = plan.sizes[at : steps.stop]
                newest = moment.epochs[-1].train if ended else epoch_means(taken.measured, sizes)
                show(moment, newest)

                if ended or due:
                    moment, error = tell(
                        listed, setup, moment, programs, measure, steps=end, epoch_ended=ended
                    )
                    if error is not None:
                        break
                if ended and not skip:
                    invalid = diagnose_validation(task, means, validation)
                    if invalid is not None:
                        moment, reason, error = end_of(moment, invalid, on_nonfinite)
                        break
                if store is not None:
                    if due:
                        save(store, moment, saved, end, known)
                        saved = moment
                    signal = any_process(received())
                    if signal:
                        error = SystemExit(signals.exit_status(signal))
                        break
        except Exception as raised:
            error = raised

        # Whatever ended the run, its last moment is on disk before anyone hears of the end.
        if store is not None:
            try:
                if saved is not moment:
                    save(store, moment, saved, end, known)
                store.wait()
            except Exception as failure:
                if isinstance(error, Exception):
                    error.add_note(str(failure))
                else:
                    error = failure
        stopped = reason or moment.stopped
        show(moment, {}, stopped)
        result = Result(
            moment.state, moment.history, dataset, task, optimizer, stopped, example, layout
        )
        if error is not None:
            error.result = result  # type: ignore[attr-defined]  # added to any error
            raise error
        return result
