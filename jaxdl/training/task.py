"""What is learned: a model, a loss, the metrics, and how a batch reaches the model."""

import math
from collections.abc import Callable, Iterable, Mapping, Sized
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax.core import FrozenDict
from flax.errors import InvalidRngError
from jax import lax
from jaxtyping import Array, Key

from jaxdl.calling import (
    GivenMode,
    adapt,
    call_model,
    initial_variables,
    mode_of,
    name_of,
    to_share,
)
from jaxdl.data.arrays import as_arrays, fields_of
from jaxdl.metrics import OfSplit
from jaxdl.training.fields import check_fields
from jaxdl.training.pairing import check_pairing

Batch = Any
"""`{"inputs": ..., "targets": ...}` and perhaps `"weights"`: each any pytree of arrays whose first
axis counts the examples. The weights are one array (batch,). `data.Arrays` and (inputs, targets)
are such batches. Wide, so that `as_batch` refuses what is none."""

PerExample = Callable[[Any, Any], Any]
"""A loss or a metric: (outputs, targets) -> values (batch,), or (values, weights)."""

Augment = Callable[[Any, Any], Any]
"""(key, inputs) -> inputs of the same shape, as the functions of `data.augmentation`."""


def scale_images(inputs: Any) -> Any:
    """Cast uint8 images to float32 in [0, 1] as x / 255; leave other inputs alone.

    The compiler multiplies by the rounded reciprocal of 255. The result differs from PyTorch's
    `ToTensor` by at most one unit in the last place, a relative 1.2e-7.

    Example:
        >>> import jax.numpy as jnp
        >>> scale_images(jnp.array([0, 51, 255], jnp.uint8)).tolist()
        [0.0, 0.2..., 1.0]
    """

    def scaled(leaf: Any) -> Any:
        return leaf.astype(jnp.float32) / 255 if leaf.dtype == jnp.uint8 else leaf

    return jax.tree.map(scaled, inputs)


@dataclass(frozen=True)
class Task:
    r"""What is learned: all that turns parameters and a batch into a loss.

    $$L(\theta) = \frac{\sum_i w_i\, \ell(f_\theta(x_i), y_i)}{\sum_i w_i}$$

    with weights w of 1 unless the batch or the loss gives others. The sums go over the whole batch,
    on all devices, as `CrossEntropyLoss(weight=...)` of PyTorch has them. A weight of 0 leaves an
    example out, if its loss is finite: 0 times infinity is NaN, as in PyTorch. Data in memory must
    have weights that are finite and at least 0; a stream's are not looked at. A batch whose weights
    are all 0 has a loss of 0 and a gradient of 0. The optimizer still takes its step, so a momentum
    or a weight decay goes on.

    Arguments:
        model: a module of Flax Linen, NNX or Equinox, a pair of `init` and `apply`, or a function
            (params, inputs); see `calling.adapt`.
        loss: (outputs, targets) -> values (batch,), or (values, weights), both (batch,).
        metrics: functions of the same kind, or a mapping from names to them; and metrics of a whole
            split, `metrics.of_split`, which `fit` measures.
        preprocess: a pure function of a batch's inputs, applied inside the step; by default uint8
            images become float32 in [0, 1].
        augment: (key, inputs) -> inputs, applied to training batches after `preprocess`.
        mode: how the model is told of training. None recognises `train`, `training`,
            `is_training`, `deterministic` and `use_running_average`; see `calling.mode_of`.
        collections: the collections that the model has beside the parameters. They may move in
            training. None takes those that `init` makes.
        evaluation_seed: the seed of the random numbers that a model draws in evaluation too, such
            as a variational autoencoder; the same in every batch. None: it may draw none.

    Raises:
        TypeError: the model is none of these.
        ValueError: two metrics have one name, or one is named "loss"; the model has no such mode.

    Example:
        >>> from jaxdl import losses, metrics, models
        >>> Task(models.MLP([10]), losses.cross_entropy, [metrics.accuracy]).mode_keyword
        'train'
    """

    model: Any
    loss: PerExample
    metrics: Iterable[PerExample] | Mapping[str, PerExample] | Any = ()
    preprocess: Callable[[Any], Any] = scale_images
    augment: Augment | None = None
    mode: GivenMode = None
    collections: tuple[str, ...] | None = None
    evaluation_seed: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", adapt(self.model))
        # Hashable, so that equal tasks share their compiled programs.
        object.__setattr__(self, "metrics", FrozenDict(name_metrics(self.metrics)))
        if self.collections is not None:
            object.__setattr__(self, "collections", tuple(self.collections))
        mode_of(self.model, self.mode)

    @property
    def measured(self) -> dict[str, PerExample]:
        """The loss and the metrics of examples, by name."""
        assert isinstance(self.metrics, Mapping)
        of_examples = {
            name: metric for name, metric in self.metrics.items() if not isinstance(metric, OfSplit)
        }
        return {"loss": self.loss, **of_examples}

    @property
    def of_splits(self) -> dict[str, OfSplit]:
        """The metrics of a whole split, by name."""
        assert isinstance(self.metrics, Mapping)
        return {
            name: metric for name, metric in self.metrics.items() if isinstance(metric, OfSplit)
        }

    @property
    def mode_keyword(self) -> str | None:
        """The keyword that tells the model whether it trains; None if there is none."""
        mode = mode_of(self.model, self.mode)
        return None if mode is None else mode.keyword

    def init(self, key: Key[Array, ""], inputs: Any) -> dict[str, Any]:
        """The model's variables before training, for inputs as the model sees them."""
        return initial_variables(
            self.model, key, inputs, mode=self.mode, collections=self.collections
        )

    def outputs(
        self,
        variables: Mapping[str, Any],
        inputs: Any,
        *,
        train: bool,
        key: Key[Array, ""] | None = None,
        moving: bool | None = None,
    ) -> tuple[Any, Mapping[str, Any]]:
        """The model's outputs for preprocessed inputs, and the collections that may have moved.

        Raises:
            ValueError: the model draws random numbers that nobody gives.
        """
        if not train and key is None and self.evaluation_seed is not None:
            key = jax.random.key(self.evaluation_seed)
        try:
            return call_model(
                self.model,
                variables,
                inputs,
                train=train,
                dropout_key=key,
                moving=moving,
                mode=self.mode,
            )
        except InvalidRngError as error:
            if key is not None:
                raise
            if train:
                raise ValueError(
                    "a model that draws random numbers needs a key, got key=None with train=True; "
                    "pass key=jax.random.key(0), or train=False"
                ) from error
            raise ValueError(
                "a model must draw no random numbers in evaluation, unless evaluation_seed gives "
                f"them, got {name_of(self.model)}, which does; let its mode turn them off, "
                "or pass Task(evaluation_seed=0)"
            ) from error


def as_task(model: Any, loss: PerExample | Any | None = None, **settings: Any) -> Task:
    """The task given, or the one of a model, a loss and the settings of `Task`.

    Raises:
        TypeError: a model without a loss.
        ValueError: a task, and settings that it has already.
    """
    if isinstance(model, Task):
        again = [name for name, value in {"loss": loss, **settings}.items() if _is_given(value)]
        if again:
            raise ValueError(
                f"a Task has its own {again}, got them again; set them with "
                "dataclasses.replace(task, ...)"
            )
        return model
    model = adapt(model)
    if loss is None:
        raise TypeError(
            "a model needs a loss, got none; pass e.g. loss=losses.cross_entropy, or a Task"
        )
    if not callable(loss):
        raise TypeError(
            f"a loss must be a function (outputs, targets) -> (batch,), got {loss!r}; pass e.g. "
            "losses.mean_squared_error"
        )
    return Task(model, loss, **settings)


def of_examples(task: Task) -> Task:
    """The task with the metrics of examples alone."""
    return replace(task, metrics={n: m for n, m in task.measured.items() if n != "loss"})


def require_of_examples(task: Task) -> Task:
    """Refuse metrics of a whole split where batches alone are seen.

    Raises:
        ValueError: the task has one.
    """
    for name in task.of_splits:
        raise ValueError(
            f"{name} is a metric of a whole split, which fit and result.evaluate measure on the "
            "host, and no function of one batch can; leave it out of the metrics here"
        )
    return task


def as_measured(model: Any, loss: PerExample | Any | None = None, **settings: Any) -> Task:
    """As `as_task`, but the loss may be missing, for what measures none."""
    if loss is None and not isinstance(model, Task):
        loss = _no_loss
    return as_task(model, loss, **settings)


def to_measure(task: Task, variables: Any) -> tuple[Task, dict[str, Any]]:
    """A task whose model starts nowhere, so that equal ones share programs, and its variables.

    Raises:
        TypeError: the variables of a Linen module are no dictionary.
        ValueError: a function without parameters.
    """
    model, variables = to_share(task.model, variables)
    return replace(task, model=model), variables


def has_loss(task: Task) -> bool:
    """Whether it has a loss."""
    return task.loss is not _no_loss


def _no_loss(outputs: Any, targets: Any) -> Any:
    raise ValueError("a loss is needed here, got none; pass e.g. loss=losses.cross_entropy")


def _is_given(value: Any) -> bool:
    is_empty = isinstance(value, Sized) and not len(value)
    return value is not None and value is not scale_images and not is_empty


def name_metrics(
    metrics: Iterable[PerExample] | Mapping[str, PerExample] | Any,
) -> dict[str, PerExample]:
    """Metrics by name; a `functools.partial` is named after the function that it calls."""
    if callable(metrics) or isinstance(metrics, str):
        raise TypeError(
            f"metrics must be a list of functions, or a mapping from names to them, got {metrics!r}"
            "; pass e.g. [metrics.accuracy]"
        )
    listed = list(metrics.values() if isinstance(metrics, Mapping) else metrics)
    for metric in listed:
        if not callable(metric):
            raise TypeError(
                f"a metric must be a function (outputs, targets) -> (batch,), got {metric!r}; pass "
                "e.g. metrics.accuracy"
            )
        if (getattr(getattr(metric, "func", metric), "__module__", "") or "").startswith("sklearn"):
            raise TypeError(
                "a function of scikit-learn measures a whole split, not a batch, got "
                f"{getattr(metric, '__name__', metric)!r}; pass metrics.of_split(function, "
                "predict=metrics.predicted_class)"
            )
    if isinstance(metrics, Mapping):
        named = dict(metrics)
    else:
        pairs = [(getattr(metric, "func", metric).__name__, metric) for metric in listed]
        named = dict(pairs)
        if len(named) < len(pairs):
            raise ValueError(
                f"metrics must have different names, got {[name for name, _ in pairs]}; "
                "pass a mapping from names to functions"
            )
    if "loss" in named:
        raise ValueError(
            'a metric must not be named "loss", which is the loss\'s own; '
            "pass a mapping from other names to functions"
        )
    return named


def parts_of(batch: Any, where: str = "a batch") -> dict[str, Any]:
    """The inputs, targets and weights that a batch has, as arrays.

    Example:
        >>> list(parts_of(((1.0, 2.0), [0, 1])))
        ['inputs', 'targets']
    """
    given = fields_of(batch)
    return {name: as_arrays(values, f"the {name} of {where}") for name, values in given.items()}


def as_batch(batch: Any, where: str = "a batch") -> dict[str, Any]:
    """A batch that must have inputs and targets, as arrays by name; see `data.as_dataset`.

    Arguments:
        batch: `data.Arrays`, {"inputs": ..., "targets": ...} or (inputs, targets).
        where: what it is, for the message, e.g. "the test split".

    Raises:
        TypeError: neither, or without inputs and targets; as in `check_fields`.
        ValueError: missing values in a frame.

    Example:
        >>> sorted(as_batch((jnp.ones((2, 3)), [0, 1])))
        ['inputs', 'targets']
    """
    found = parts_of(batch, where)
    if not {"inputs", "targets"} <= set(found):
        got = sorted(batch) if isinstance(batch, Mapping) else type(batch).__name__
        raise TypeError(
            f'{where} must be data.Arrays, or {{"inputs": ..., "targets": ...}}, got {got}; '
            "give it both names"
        )
    check_fields(found, where)
    return found


class Weighted(NamedTuple):
    """A weighted sum over examples, and the sum of the weights."""

    total: Array
    weight: Array


def examples_in(tree: Any) -> int:
    """The length of the first axis, which all arrays of the tree share.

    Raises:
        ValueError: no arrays, an array without axes, or different lengths.

    Example:
        >>> examples_in({"left": jnp.ones((4, 2)), "right": jnp.ones(4)})
        4
    """
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]
    lengths = {shape[:1] for shape in shapes}
    if len(lengths) != 1 or () in lengths:
        raise ValueError(
            "all arrays of a batch must have the examples as their first axis, as many in each, "
            f"got shapes {shapes}; stack the examples along the first axis"
        )
    return int(shapes[0][0])


def per_example(
    name: str, function: PerExample, outputs: Any, batch: Mapping[str, Any]
) -> tuple[Array, Array | None]:
    """The values of a loss or metric, and their weights; None where all weights are one.

    Raises:
        ValueError: not one value, or one weight, for each example; as in `check_pairing`.
    """
    check_pairing(name, function, outputs, batch["targets"])
    result = function(outputs, batch["targets"])
    values, weights = result if isinstance(result, tuple) else (result, None)
    expected = (examples_in(batch["inputs"]),)
    # Half precision cannot hold a sum over many examples.
    values = jnp.asarray(values, jnp.promote_types(jnp.result_type(values), jnp.float32))
    parts = {name: values, f"the weights of {name}": weights, "weights": batch.get("weights")}
    for what, given in parts.items():
        if given is not None and jnp.shape(given) != expected:
            raise ValueError(
                f"{what} must give one value per example, of shape {expected}, got "
                f"{jnp.shape(given)}; "
                "average over the output axes only, the step takes the mean over the batch"
            )
    factors = [jnp.asarray(each) for each in (weights, batch.get("weights")) if each is not None]
    return values, math.prod(factors[1:], start=factors[0]) if factors else None


def mean_over_batch(values: Array, weights: Array | None, axis_name: str | None = None) -> Array:
    """The weighted mean; over a mapped axis, what the mean of all places makes of it.

    It is 0 where all weights are 0.

    Example:
        >>> mean_over_batch(jnp.array([1.0, 4.0]), jnp.array([2.0, 1.0])).item()
        2.0
        >>> mean_over_batch(jnp.array([1.0, 4.0]), jnp.zeros(2)).item()
        0.0
    """
    if weights is None:
        return values.mean()
    weights = lax.stop_gradient(weights).astype(values.dtype)
    total = weights.sum()
    if axis_name is not None:
        total = lax.pmean(total, axis_name)
    return (values * weights).sum() / jnp.where(total == 0, 1, total)


def sum_over_batch(values: Array, weights: Array | None) -> Array | Weighted:
    """The sum of the values; weighted values come with the sum of their weights."""
    if weights is None:
        return values.sum()
    weights = weights.astype(values.dtype)
    return Weighted((values * weights).sum(), weights.sum())
