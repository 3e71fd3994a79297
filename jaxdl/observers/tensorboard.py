"""Write a run for TensorBoard."""

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxdl.checks import Count, require_at_least
from jaxdl.compiling import jit_with
from jaxdl.diagnostics.signal.graph import graph
from jaxdl.diagnostics.signal.recording import record
from jaxdl.extras import import_extra
from jaxdl.factories import factory
from jaxdl.files import as_path
from jaxdl.notices import notice
from jaxdl.observers.event_file import EventFile
from jaxdl.observers.pictures import is_image, predictions_picture
from jaxdl.observers.probe import host_variables, make_probe
from jaxdl.optimizers.learning_rate import current_learning_rate
from jaxdl.training.fit.observing import Event, Observer, Setup

PICTURES = 8


@factory
def tensorboard(
    folder: str | os.PathLike[str],
    *,
    every: Count = 1,
    step_every: Count = 100,
    histograms: bool = True,
    pictures: bool = True,
    bins: Count = 50,
    examples: Count = 100,
    batch: Mapping[str, Any] | None = None,
) -> Observer:
    """Write a run's curves, histograms and pictures for `tensorboard --logdir FOLDER`.

    At each epoch's end it writes `<metric>/train`, `<metric>/validation`, `seconds`, and the
    `learning_rate` of the next update if the optimizer's state shows one. For one step in
    `step_every` it writes `<metric>/batch`. Every `every` epochs it writes histograms, always of
    the same examples: `weights/<parameter>`, `weight_gradients/<parameter>` (of the mean loss),
    `activations/<layer>` and `gradients/<layer>` (of the summed losses with respect to the
    activations). Layers are those of `diagnostics.propagation`. For image data with classes it adds
    a picture of `predictions`. The text of the `config` and the model's graph are written once.

    After a resume TensorBoard shows each step once: what a killed run wrote after its last
    checkpoint is hidden. A new run in a used folder hides the old run, so give each run its own
    folder. Only the first process writes.

    Arguments:
        folder: where the event files go.
        every: epochs between histograms and pictures, at least 1; the last epoch has them too.
        step_every: steps between two points of the batches' curves, at least 1.
        histograms: whether to draw them.
        pictures: whether to draw the first images of the validation split, or of the training split
            if there is none.
        bins: bins in each histogram, at least 1.
        examples: how many of the first training examples to measure activations on, 2 or more.
        batch: {"inputs": ..., "targets": ...} to use instead of them.

    Raises:
        ValueError: a number is below its minimum.
        ImportError: tensorboardX is not installed.

    Example:
        >>> observers = [tensorboard("runs/mine", every=5)]
    """
    require_at_least(1, every=every, step_every=step_every, bins=bins)
    require_at_least(2, examples=examples)
    import_extra("tensorboardX", "a file for TensorBoard", "tensorboard")
    folder, probe = as_path(folder), make_probe(batch, examples)
    file: EventFile | None = None

    def observe(event: Event, memory: Any) -> tuple[Any, None]:
        nonlocal file
        if not event.epoch_ended or jax.process_index() != 0:
            return memory, None
        assert event.measured is not None
        begun = event.step - len(event.measured.steps["loss"])
        if file is None:
            file = EventFile(folder, first_step=begun + 1)
            file.text("config", config_text(event.setup), event.step)
            _write_graph(file, event.setup, probe(event.setup))
        _write_scalars(file, event, begun, step_every)
        if event.epoch % every == 0 or event.epoch == event.epochs:
            variables = host_variables(event)
            if histograms:
                _write_histograms(file, event, variables, probe(event.setup), bins)
            if pictures:
                _write_predictions(file, event, variables)
        file.flush()
        return memory, None

    def close() -> None:
        nonlocal file
        if file is not None:
            file.close()
        file = None

    return Observer(observe, close=close)


def _write_graph(file: EventFile, setup: Setup, batch: Mapping[str, Any]) -> None:
    task = setup.task
    try:
        drawn = graph(task, batch["inputs"])
    except Exception as error:
        # A picture is not worth a run.
        notice(f"TensorBoard gets no graph of this model: {error}")
    else:
        file.graph(drawn)


def config_text(setup: Setup) -> str:
    """The settings of a run as a table in Markdown.

    Example:
        >>> from jaxdl import data, losses, models, optimizers
        >>> dataset = data.load("digits")
        >>> from jaxdl.training import Task
        >>> task = Task(models.MLP([10]), losses.cross_entropy)
        >>> setup = Setup(task, dataset, optimizers.sgd(0.1),
        ...           config={"epochs": 5})
        >>> print(config_text(setup))
        | setting | value |
        | --- | --- |
        | model | MLP(...) |
        | dataset | Dataset('digits', ...) |
        | loss | cross_entropy |
        | epochs | 5 |
    """
    rows = [
        f"| {name} | {str(value).replace('|', chr(92) + '|')} |"
        for name, value in settings_of(setup).items()
    ]
    return "\n".join(["| setting | value |", "| --- | --- |", *rows])


def settings_of(setup: Setup) -> dict[str, Any]:
    """The settings of a run by name, each to be written in one line."""
    # The repr of a module has several lines and comments.
    model = " ".join(line.split("#")[0].strip() for line in repr(setup.task.model).splitlines())
    return {
        "model": model,
        "dataset": repr(setup.dataset),
        "loss": getattr(setup.task.loss, "__name__", repr(setup.task.loss)),
        **setup.config,
    }


def _write_scalars(file: EventFile, event: Event, begun: int, step_every: int) -> None:
    assert event.measured is not None
    for name, values in event.measured.steps.items():
        for index in range(step_every - 1 - begun % step_every, len(values), step_every):
            file.scalar(f"{name}/batch", values[index], begun + index + 1)
    for split in ("train", "validation"):
        for name, value in getattr(event.measured, split).items():
            file.scalar(f"{name}/{split}", value, event.step)
    file.scalar("seconds", event.measured.seconds, event.step)
    try:
        rate = current_learning_rate(event.state.opt_state)
    except ValueError:
        return  # the optimizer's state shows no rate
    file.scalar("learning_rate", float(rate), event.step)


def _write_histograms(
    file: EventFile, event: Event, variables: Any, batch: Mapping[str, Any], bins: int
) -> None:
    setup = event.setup
    settings = (setup.task,)
    key = jax.random.key(event.step)
    recorded = jax.device_get(jit_with(_record, settings)(variables, dict(batch), key))
    groups = {
        "weights": _by_path(variables["params"]),
        "weight_gradients": _by_path(recorded["weight_gradients"]),
        "activations": recorded["activations"],
        "gradients": recorded["gradients"],
    }
    for group, arrays in groups.items():
        for name, values in arrays.items():
            file.histogram(f"{group}/{name}", values, event.step, bins)


def _record(settings: tuple[Any, ...], variables: Any, batch: Any, key: Any) -> dict[str, Any]:
    (task,) = settings
    recorded = record(task, variables, batch, train=True, key=key)
    return {
        "activations": {row.name: recorded.values[row.site][row.layer] for row in recorded.rows},
        "gradients": {row.name: recorded.gradients[row.site][row.layer] for row in recorded.rows},
        "weight_gradients": recorded.parameter_gradients,
    }


def _by_path(tree: Any) -> dict[str, Any]:
    return {
        "/".join(str(getattr(part, "key", part)) for part in path): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def _write_predictions(file: EventFile, event: Event, variables: Any) -> None:
    task, dataset = event.setup.task, event.setup.dataset
    split: Any = dataset.train if dataset.validation is None else dataset.validation
    if not dataset.classes or not hasattr(split, "inputs"):
        return
    images, targets = np.asarray(split.inputs[:PICTURES]), np.asarray(split.targets[:PICTURES])
    if not is_image(images):
        return
    scores = jax.device_get(jit_with(_scores, (task,))(variables, images))
    if scores.shape != (len(images), len(dataset.classes)):
        return
    picture = predictions_picture(images, scores, targets, dataset.classes)
    file.image("predictions", picture, event.step)


def _scores(settings: tuple[Any, ...], variables: Any, images: Any) -> Any:
    (task,) = settings
    logits, _ = task.outputs(variables, task.preprocess(images), train=False)
    return jax.nn.softmax(logits)
