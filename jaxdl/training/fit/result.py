"""The result of a run."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdl.data.arrays import fields_of, is_frame, is_source, kind_of
from jaxdl.data.given import split_of_arrays
from jaxdl.data.streamed import Streamed, as_streamed
from jaxdl.data.types import Arrays, Dataset
from jaxdl.training.fit.described import history_html, result_line
from jaxdl.training.fit.history import History
from jaxdl.training.fit.layouts import ONE_DEVICE, Layout
from jaxdl.training.fit.measuring import SPLITS, Measure, split_of
from jaxdl.training.fit.programs import compile_programs
from jaxdl.training.fit.trained_inputs import checked_inputs
from jaxdl.training.refusals import check_labels, checked_split
from jaxdl.training.state import TrainState
from jaxdl.training.task import Task, has_loss


@dataclass(frozen=True, eq=False)
class Result:
    """A run that ended: its last state, its history, evaluation and prediction for any data.

    It can be pickled, if its parts can: models and optimizers of this library can. To keep it for
    longer than a version of Python, `save` it.

    Attributes:
        state: the `TrainState` after the last step.
        history: the measurements.
        dataset: the data that the run was given; of a loaded result only their names.
        task: what was learned, and how the model is called.
        optimizer: the gradient transformation; None if the result was loaded without.
        stopped: why the run ended early; None if it did not.
        example: the shapes and dtypes of one example's inputs, as the run was given them.
        layout: where the run stood.
    """

    state: TrainState
    history: History
    dataset: Dataset
    task: Task
    optimizer: optax.GradientTransformation | None = None
    stopped: str | None = None
    example: Any = None
    layout: Layout = ONE_DEVICE

    def evaluate(self, split: Any) -> dict[str, float]:
        """The loss and the metrics over a split, exact for any batch size.

        Arguments:
            split: "train", "validation" or "test"; or other examples, as `fit` takes them: (x, y),
                `Arrays`, a frame and a series, a `Streamed`. Of a data set of `from_frame`, a frame
                of its columns and targets.

        Raises:
            TypeError: what holds no examples, inputs of another kind than in training.
            ValueError: the dataset has no such split; inputs of another shape; labels outside the
                classes.
        """
        if isinstance(split, str):
            return self._measure(self.state.evaluated, split_of(self.dataset, split))
        if not has_loss(self.task):
            raise ValueError(
                "evaluate needs a loss, got a result that was loaded without; pass "
                "training.load(path, model, loss=...)"
            )
        found = self._examples(split)
        if isinstance(found, Streamed):
            self._check_stream(found)
        else:
            checked_split(found, "the examples")
            inputs = checked_inputs(found.inputs, self.example, name="the inputs of the examples")
            found = Arrays(inputs, found.targets, found.weights)
            outputs = jax.eval_shape(self._programs().outputs, self.state.evaluated, found.inputs)
            check_labels("evaluated", outputs, found.targets, self.task.loss, found.weights)
        return self._measure(self.state.evaluated, found)

    def predict(self, inputs: Any, transform: Callable[[Any], Any] | None = None) -> Any:
        """The model's outputs for inputs as `fit` was given them, preprocessed as in training.

        The model runs in evaluation mode, in batches, with the parameters that are evaluated.

        Arguments:
            inputs: an array (n, ...), a frame, a list, a pytree of them; a `Streamed` or `Arrays`,
                whose targets are not used; or "train", "validation" or "test". Of a data set of
                `from_frame`, a frame of its columns.
            transform: a function of the outputs, such as `metrics.probabilities` or
                `metrics.predicted_class`; None gives the outputs as they are.

        Returns:
            NumPy arrays (n, ...) in the tree of the model's outputs, or what `transform` makes.

        Raises:
            TypeError: inputs of another kind than in training, such as floats for bytes.
            ValueError: inputs of another shape, other columns.

        Example:
            >>> from jaxdl import losses, models, optimizers, training
            >>> x = np.linspace(-1, 1, 64, dtype=np.float32)[:, None]
            >>> result = training.fit(
            ...     models.MLP([1]), (x, 2 * x), optimizers.sgd(0.5), epochs=20, batch_size=16,
            ...     loss=losses.mean_squared_error, key=jax.random.key(0))
            >>> result.predict([[0.5], [1.0]]).round(3).tolist()
            [[1.0], [2.0]]
        """
        measure, variables = self._measure, self.state.evaluated
        if isinstance(inputs, str) and inputs in SPLITS:
            inputs = split_of(self.dataset, inputs)
        if isinstance(inputs, Streamed) or is_source(inputs):
            streamed = as_streamed(inputs)
            self._check_stream(streamed)
            outputs = measure.outputs_of_stream(variables, streamed)
        else:
            inputs = inputs.inputs if isinstance(inputs, Arrays) else inputs
            if self.dataset.encoder is not None and is_frame(inputs):
                inputs = self.dataset.encoder.encode(inputs)
            arrays = checked_inputs(inputs, self.example, self._names)
            outputs = measure.outputs(variables, arrays)
        return outputs if transform is None else transform(outputs)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the state and the history to a folder, from which `training.load` makes a result.

        The folder is an ordinary checkpoint: `checkpoints.load_variables` reads it, and so does
        orbax alone. Code is not saved: `load` is given the model. `interop.export` writes a model
        that runs without its code.

        Arguments:
            path: the folder, written whole or not at all.
            overwrite: replace what is there.

        Raises:
            FileExistsError: the folder has something in it.
        """
        from jaxdl.training.fit.saving import save

        save(self, path, overwrite=overwrite)

    @property
    def _measure(self) -> Measure:
        return Measure(self.task, self._programs())

    def _programs(self) -> Any:
        return compile_programs(self.task, self.optimizer or optax.identity(), self.layout)

    def _check_stream(self, streamed: Streamed) -> None:
        """Refuse a stream whose first example is unlike those of training."""
        if len(streamed):
            first = streamed.read(np.zeros(1, np.int64))["inputs"]
            checked_inputs(first, self.example, name="the inputs of the stream")

    @property
    def _names(self) -> dict[str, tuple[str, ...]]:
        features = self.dataset.features
        return {**({"inputs": features} if features else {}), **self.dataset.names}

    def _examples(self, given: Any) -> Any:
        encoder, fields = self.dataset.encoder, fields_of(given)
        if encoder is not None and is_frame(given):
            return encoder.arrays(given)
        if encoder is not None and is_frame(fields.get("inputs")):
            raise TypeError(
                "the examples of a data set of from_frame must be one frame of its columns, the "
                f"target {', '.join(map(str, encoder.targets))} among them, got inputs and targets "
                "apart; pass the frame"
            )
        found = split_of_arrays(given, "the examples", self.dataset).split
        if isinstance(found, Arrays):
            return found
        if isinstance(found, Streamed) or is_source(found) or isinstance(found, list):
            return as_streamed(found)
        raise TypeError(
            f"the examples must be (x, y), data.Arrays or a data.Streamed, got {kind_of(found)}; "
            "pass both inputs and targets, e.g. (x, y), or dataset.test"
        )

    def __getstate__(self) -> dict[str, Any]:
        # Devices stay behind: another process has its own.
        return {**vars(self), "layout": ONE_DEVICE, "state": _off_devices(self.state)}

    def __repr__(self) -> str:
        return result_line(self)

    def _repr_html_(self) -> str:
        return history_html(repr(self), self.history)


def _off_devices(state: TrainState) -> TrainState:
    """The state on this process's first device alone."""

    def moved(leaf: Any) -> Any:
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return leaf if is_key else jnp.asarray(np.asarray(leaf))

    here: TrainState = jax.tree.map(moved, state)
    return here
