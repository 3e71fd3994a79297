"""Find running statistics of batch norms that are wrong."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl.calling import GivenMode
from jaxdl.checks import require_like
from jaxdl.diagnostics.signal.findings import Advice, Findings
from jaxdl.training.statistics import inputs_of, recalibrate
from jaxdl.training.task import Task, as_measured, scale_images, to_measure

# The running statistics are of other data if the mean is off by more than this many standard
# deviations, or the variance by more than this factor. A batch of 100 is off by 0.1 and 1.2.
FAR_MEAN = 1.0
FAR_VARIANCE = 4.0


def check_batch_norm(
    model: Any,
    variables: Any,
    inputs: Any,
    *,
    outputs: Any = None,
    preprocess: Callable[[Any], Any] = scale_images,
    mode: GivenMode = None,
) -> Findings:
    """Find what is wrong with a trained model's batch norms, and what to change.

    - "never moved": the running statistics are still those of `init`. Training dropped the
      `batch_stats` that `apply` returned.
    - "not finite": a running statistic is NaN or infinite, and every evaluation with it. A batch
      with such values was trained on, and its statistics stay for ever.
    - "other data": the running statistics are far from those of these inputs (the mean by more than
      one standard deviation, the variance fourfold). The momentum is too near 1 for the number of
      steps, the batches are too small, the inputs are prepared in another way, or the weights
      changed since.
    - "training mode": `outputs`, the result of the user's own evaluation, are those of
      `train=True`. They depend on the other examples of the batch.

    Arguments:
        model: a model with batch norms, or a `training.Task`, as in `training.recalibrate`.
        variables: the variables used in evaluation; None takes those that a module of NNX holds.
        inputs: a batch of evaluation inputs, about 100 examples or more: several are a tuple, or a
            dictionary by the arguments of the model.
        outputs: the result of the user's evaluation of `inputs`, to check it too.
        preprocess: a pure function of the inputs, as in `training.fit`.
        mode: how the model is told of training, as in `training.Task`.

    Raises:
        ValueError: what `recalibrate` refuses; with `outputs`, a model that draws random numbers
            in evaluation, unless a Task has an `evaluation_seed`; outputs of another shape.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxdl import layers, models
        >>> x = 5 + jax.random.normal(jax.random.key(0), (100, 3))
        >>> model = models.MLP([4, 1], norm=layers.BatchNorm)
        >>> variables = model.init(jax.random.key(1), x, train=False)
        >>> [each.problem for each in check_batch_norm(model, variables, x)]
        ['never moved']
        >>> check_batch_norm(model, recalibrate(model, variables, [x]), x)
        healthy: nothing found in the batch norms
    """
    task = as_measured(model, preprocess=preprocess, mode=mode)
    task, variables = to_measure(task, variables)
    batch = {"inputs": inputs_of({"inputs": inputs})}
    exact = recalibrate(task, variables, [batch])["batch_stats"]
    now, new = by_norm(variables["batch_stats"]), by_norm(exact)
    found = []
    still = [path for path, (mean, var) in now.items() if not mean.any() and (var == 1).all()]
    if still:
        found.append(
            Advice(
                "never moved",
                still[0],
                float(len(still)),
                f"the running statistics of {', '.join(still)} are those of init: in training, "
                "keep what apply(..., train=True, mutable=['batch_stats']) returns as "
                "updates['batch_stats'], and evaluate with it",
            )
        )
    broken = [path for path, pair in now.items() if not np.isfinite(np.stack(pair)).all()]
    if broken:
        found.append(
            Advice(
                "not finite",
                broken[0],
                float(len(broken)),
                f"the running statistics of {', '.join(broken)} are NaN or infinite, since a batch "
                "with such values, or too large ones: recalibrate, and clean or mask the data",
            )
        )
    known = {path: pair for path, pair in now.items() if path not in {*still, *broken}}
    far = {
        path: float(np.max(np.abs(mean - new[path][0]) / np.sqrt(new[path][1] + 1e-5)))
        for path, (mean, _) in known.items()
    }
    wide = {
        path: float(np.max(np.abs(np.log((var + 1e-5) / (new[path][1] + 1e-5)))))
        for path, (_, var) in known.items()
    }
    for measured, limit, what in (
        (far, FAR_MEAN, "mean of {} is {:.2g} standard deviations from"),
        (wide, np.log(FAR_VARIANCE), "variance of {} is e^{:.2g} times off"),
    ):
        worst = max(measured, key=lambda path: measured[path], default=None)
        if worst is not None and measured[worst] > limit:
            found.append(
                Advice(
                    "other data",
                    worst,
                    measured[worst],
                    f"the running {what.format(worst, measured[worst])} that of these inputs: "
                    "recalibrate, train longer or lower the momentum, and prepare the inputs as in "
                    "training",
                )
            )
    if outputs is not None and (
        said := _in_training_mode(task, variables, batch["inputs"], outputs)
    ):
        found.append(said)
    return Findings(found, "the batch norms")


def _in_training_mode(task: Task, variables: Any, inputs: Any, outputs: Any) -> Advice | None:
    ready, key = task.preprocess(inputs), jax.random.key(0)
    evaluated, _ = task.outputs(variables, ready, train=False)
    trained, _ = task.outputs(variables, ready, train=True, key=key)
    require_like("outputs", outputs, evaluated)
    to_evaluation, to_training = (
        max(
            float(np.abs(_wide(given) - _wide(own)).max())
            for given, own in zip(jax.tree.leaves(outputs), jax.tree.leaves(other), strict=True)
        )
        for other in (evaluated, trained)
    )
    if not to_training < to_evaluation:
        return None
    return Advice(
        "training mode", "outputs", to_evaluation,
        f"the outputs given are those of train=True (within {to_training:.2g}; those of "
        f"train=False are {to_evaluation:.2g} away): pass train=False in evaluation",
    )  # fmt: skip


def by_norm(stats: Any) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The running mean and variance of each norm, by its path."""
    leaves: dict[str, dict[str, np.ndarray]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(stats):
        *parents, name = (str(part.key) for part in path)
        leaves.setdefault("/".join(parents), {})[name] = _wide(leaf)
    return {
        path: (pair["mean"], pair["var"])
        for path, pair in leaves.items()
        if {"mean", "var"} <= set(pair)
    }


def _wide(values: Any) -> np.ndarray:
    wide: Any = np.complex128 if jnp.iscomplexobj(values) else np.float64
    return np.asarray(values, wide)
