"""A function of all targets and predictions of a split as a metric of a run."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class OfSplit:
    """A metric of a whole split, made by `of_split`.

    Attributes:
        function: (targets, predictions) -> a number.
        predict: (outputs) -> predictions; None leaves the outputs as they are.
        name: under which the history has it.
    """

    function: Callable[..., Any]
    predict: Callable[[Any], Any] | None
    name: str

    @property
    def __name__(self) -> str:
        return self.name

    def __call__(self, outputs: Any, targets: Any, weights: Any = None) -> float:
        """The number, of outputs and targets on the host; NaN where an output is not finite.

        Raises:
            ValueError: the function gives no single number, or cannot take the weights.
        """
        if not all(np.isfinite(leaf).all() for leaf in _floats(outputs)):
            return float("nan")
        predictions = outputs if self.predict is None else self.predict(outputs)
        value = self.function(targets, _on_host(predictions), **self._weighted(weights))
        if np.ndim(value) or not np.isreal(value):
            raise ValueError(
                f"the metric {self.name!r} must give one number, got shape {np.shape(value)}; call "
                "it on result.predict(inputs) after the run, or reduce it to a number"
            )
        return float(value)

    def _weighted(self, weights: Any) -> dict[str, Any]:
        if weights is None:
            return {}
        parameters = inspect.signature(self.function).parameters.values()
        if not any(
            each.name == "sample_weight" or each.kind == each.VAR_KEYWORD for each in parameters
        ):
            raise ValueError(
                f"the metric {self.name!r} must take the weights of a split as sample_weight, got "
                "a function that does not; give it this argument"
            )
        return {"sample_weight": weights}


def of_split(
    function: Callable[..., Any] | Any,
    *,
    predict: Callable[[Any], Any] | Any | None = None,
    name: str | None = None,
) -> OfSplit:
    """A metric of a whole split, such as F1, AUC or R2, which is no mean over examples.

    `fit` computes it on the host at the end of each epoch, of the validation split; so does
    `result.evaluate` of any split. It stands in `history.validation`, in TensorBoard, and may stop
    a run or lower a rate. The means of the training steps do not have it.

    Arguments:
        function: (targets, predictions) -> a number, on NumPy arrays: the order of scikit-learn's
            metrics. If the split has weights, it is given them as `sample_weight`.
        predict: (outputs) -> predictions: `predicted_class`, `probabilities`, `decision`, or your
            own. None leaves the outputs as they are.
        name: by default that of the function.

    Raises:
        TypeError: what cannot be called.

    Example:
        >>> from jaxdl import metrics
        >>> measured = metrics.of_split(metrics.f1, predict=metrics.predicted_class)
        >>> measured.name, measured(np.array([[2.0, 1.0], [0.0, 3.0]]), np.array([0, 1]))
        ('f1', 1.0)
    """
    for what, given in {"function": function, "predict": predict}.items():
        if given is not None and not callable(given):
            raise TypeError(
                f"{what} must be a function, got {given!r}; pass e.g. sklearn.metrics.f1_score and "
                "metrics.predicted_class"
            )
    named = name or getattr(getattr(function, "func", function), "__name__", None)
    if named is None:
        raise TypeError(f"a metric must have a name, got {function!r}; pass name=...")
    return OfSplit(function, predict, named)


def predicted_class(outputs: Any) -> np.ndarray:
    """The class that is predicted: the largest output; of one output alone, whether it is above 0.

    Arguments:
        outputs: logits (n, ..., classes), at least two; or (n, ..., 1) or (n,), of class 1.

    Returns:
        (n, ...), int32.

    Raises:
        TypeError: a tree of outputs, or no numbers.
        ValueError: an output that is NaN: the model predicts no class.

    Example:
        >>> predicted_class(np.array([[0.1, 0.9], [2.0, 1.0]])).tolist()
        [1, 0]
        >>> predicted_class(np.array([-0.5, 3.0])).tolist()
        [0, 1]
    """
    values = _one_array("predicted_class", outputs)
    unknown = np.isnan(values)
    if unknown.any():
        raise ValueError(
            f"outputs must not be NaN, got one at example {int(np.argwhere(unknown)[0][0])}, for "
            "which no class is predicted; see whether the model diverged, or the inputs hold NaN"
        )
    classes = _logit(values) > 0 if _is_binary(values) else values.argmax(-1)
    return np.asarray(classes, np.int32)


def probabilities(outputs: Any) -> np.ndarray:
    r"""What a model with `cross_entropy` says of each class, in float64.

    $$p_k = \frac{e^{z_k}}{\sum_j e^{z_j}}, \qquad p = \frac{1}{1 + e^{-z}}$$

    the second for one output alone, which is the logit of class 1.

    Arguments:
        outputs: logits (n, ..., classes), at least two; or (n, ..., 1) or (n,).

    Returns:
        As many probabilities as outputs; (n, ...) for one output. A row with a NaN gives NaN.

    Raises:
        TypeError: a tree of outputs, or no numbers.

    Example:
        >>> probabilities(np.array([[0.0, 0.0], [1000.0, 0.0]])).tolist()
        [[0.5, 0.5], [1.0, 0.0]]
    """
    values = _one_array("probabilities", outputs)
    if _is_binary(values):
        logit = _logit(values)
        small = np.exp(-np.abs(logit))
        shares: np.ndarray = np.where(logit >= 0, 1.0, small) / (1 + small)
        return shares
    raised = np.exp(values - values.max(-1, keepdims=True))
    of_each: np.ndarray = raised / raised.sum(-1, keepdims=True)
    return of_each


def decision(outputs: Any) -> np.ndarray:
    """How far a model with two classes leans to class 1: its logit, as AUC takes it.

    Arguments:
        outputs: logits (n, ..., 2), (n, ..., 1) or (n,).

    Returns:
        (n, ...), float64.

    Raises:
        TypeError: a tree of outputs, or no numbers.
        ValueError: more than two classes.

    Example:
        >>> decision(np.array([[1.0, 3.0], [2.0, 0.0]])).tolist()
        [2.0, -2.0]
    """
    values = _one_array("decision", outputs)
    if _is_binary(values):
        return _logit(values)
    if values.shape[-1] != 2:
        raise ValueError(
            "decision takes outputs of two classes, (n, ..., 2), (n, ..., 1) or (n,), got shape "
            f"{values.shape}; use metrics.probabilities, e.g. with roc_auc_score(multi_class='ovr')"
        )
    logits: np.ndarray = values[..., 1] - values[..., 0]
    return logits


def _one_array(name: str, outputs: Any) -> np.ndarray:
    """The outputs in float64. Refuse trees of arrays, of which each head has classes of its own."""
    leaves = jax.tree.leaves(outputs)
    given: Any = None
    if (len(leaves) == 1 and leaves[0] is outputs) or all(np.ndim(leaf) == 0 for leaf in leaves):
        given = outputs if isinstance(outputs, jax.Array) else _as_numbers(outputs)
    dtype = getattr(given, "dtype", None)
    numbers = dtype is not None and (jnp.issubdtype(dtype, jnp.number) or dtype == np.bool_)
    if not numbers or np.ndim(given) == 0:
        raise TypeError(
            f"{name} takes one array (n, ...) of numbers, got {type(outputs).__name__}; select a "
            f"head, e.g. predict=lambda outputs: {name}(outputs['head'])"
        )
    return np.asarray(given).astype(np.float64)


def _as_numbers(outputs: Any) -> Any:
    try:
        return np.asarray(outputs)
    except ValueError:  # rows of different lengths
        return None


def _is_binary(values: np.ndarray) -> bool:
    return values.ndim == 1 or values.shape[-1] == 1


def _logit(values: np.ndarray) -> np.ndarray:
    logit: np.ndarray = values if values.ndim == 1 else values[..., 0]
    return logit


def _floats(tree: Any) -> list[np.ndarray]:
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]
    return [leaf.astype(np.float64) for leaf in leaves if leaf.dtype.kind not in "biuSUO"]


def _on_host(tree: Any) -> Any:
    return jax.tree.map(np.asarray, tree)
