r"""Per-example losses: `loss(outputs, targets) -> (batch,)`; the step takes the mean.

Several outputs of one example are averaged. Shapes must agree exactly: (batch,) targets against
(batch, 1) outputs would broadcast to (batch, batch), so they are refused. Half-precision outputs
are cast to float32 first.

Targets that a loss cannot have, such as 2 for `binary_cross_entropy`, may be trained on to minus
infinity. `fit`, a `Run` and `evaluate` look at the targets of data in memory and refuse such ones,
unless the example has a weight of 0. The targets of a stream are not looked at, nor a tree of them.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Shaped

from jaxdl import tails
from jaxdl.loss_targets import are_probabilities, are_shares, takes
from jaxdl.public import public_names

__all__ = [
    "binary_cross_entropy",
    "cross_entropy",
    "hinge",
    "huber",
    "kl_divergence",
    "mean_absolute_error",
    "mean_squared_error",
    "poisson",
]

__dir__ = public_names(globals())


_SHARES = (
    "of at least 0 that sum to 1 over the classes",
    "pass labels or probabilities; for several classes at once use binary_cross_entropy",
    are_shares,
)


@takes(*_SHARES)
def cross_entropy(
    outputs: Float[Array, "batch ..."],
    targets: Shaped[Array, "..."],
    *,
    label_smoothing: float = 0.0,
    class_weights: Any = None,
    ignored: int | None = None,
) -> Any:
    r"""Cross-entropy of the targets against the softmax of the outputs.

    $$\ell = -\sum_k q_k \log \frac{e^{o_k}}{\sum_j e^{o_j}}, \qquad
      q = (1 - s)\, p + s / K$$

    PyTorch: the defaults, its `cross_entropy`, where the classes are axis 1 and not the last.

    Arguments:
        outputs: logits (batch, ..., classes).
        targets: integer labels (batch, ...), or probabilities (batch, ..., classes), e.g. one-hot.
            A label outside [0, classes) gives NaN.
        label_smoothing: s in [0, 1), spread over all K classes as in PyTorch.
        class_weights: a weight w_k for each class; with labels, means are divided by the sum of
            the weights of the labels.
        ignored: a label that does not count, e.g. PyTorch's -100.

    Returns:
        (batch,); with class weights and labels, or an ignored label, (values, weights), each
        (batch,): `training.Task` takes the mean that PyTorch takes.

    Raises:
        ValueError: shapes that do not agree, fewer than two outputs, labels that are no integers, s
            outside [0, 1), an ignored label where the targets are probabilities.

    Example:
        >>> cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3])).tolist()
        [1.38..., 1.38...]

    Source: Szegedy et al. (2016), section 7, for the smoothing.
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(
            f"label_smoothing must be in [0, 1), got {label_smoothing}; 0.0 turns it off"
        )
    require_classes("cross_entropy", outputs)
    log_probabilities = jax.nn.log_softmax(_at_least_float32(outputs))
    classes = outputs.shape[-1]
    if isinstance(class_weights, Mapping):
        raise TypeError(
            f"class_weights must be an array, a weight for each of {classes} classes in their "
            f"order, got a mapping; pass jnp.array([...]) of {classes} numbers"
        )
    weights = jnp.asarray(
        jnp.ones(classes) if class_weights is None else class_weights, log_probabilities.dtype
    )
    if weights.shape != (classes,):
        raise ValueError(
            f"class_weights must have one weight for each of {classes} classes, got shape "
            f"{weights.shape}; pass an array of {classes} numbers"
        )
    if not holds_labels(outputs, targets):
        if ignored is not None:
            raise ValueError(
                f"ignored must go with labels, got {ignored} and probabilities of shape "
                f"{targets.shape}; weigh the examples instead"
            )
        smoothed = targets.astype(log_probabilities.dtype)
        if label_smoothing:
            smoothed = (1 - label_smoothing) * smoothed + label_smoothing / classes
        return _mean_over_outputs(-_times(weights * smoothed, log_probabilities).sum(-1))

    labels = targets.astype(jnp.promote_types(targets.dtype, jnp.int32))
    known = (labels >= 0) & (labels < classes)
    # A gather would silently wrap -1 to the last class.
    place = jnp.where(known, labels, 0)[..., None]
    found = jnp.take_along_axis(log_probabilities, place, axis=-1)[..., 0]
    weight = jnp.where(known, weights[place[..., 0]], 1.0).astype(found.dtype)
    loss = -_times(weight, jnp.where(known, found, jnp.nan))
    if label_smoothing:
        uniform = -_times(weights, log_probabilities).mean(-1)
        loss = (1 - label_smoothing) * loss + label_smoothing * uniform
    if class_weights is None and ignored is None:
        return _mean_over_outputs(loss)
    if ignored is not None:
        loss, weight = (jnp.where(labels == ignored, 0, each) for each in (loss, weight))
    return _weighted(loss, weight)


def mean_squared_error(
    outputs: Float[Array, "batch ..."], targets: Shaped[Array, "..."]
) -> Float[Array, " batch"]:
    r"""Squared error, averaged over the outputs of an example.

    $$\ell = \frac{1}{m} \sum_i (o_i - t_i)^2$$

    PyTorch: the defaults, its `mse_loss`.

    Arguments:
        outputs: predictions (batch, ...).
        targets: values of exactly the same shape.

    Raises:
        ValueError: shapes that differ.

    Example:
        >>> mean_squared_error(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 0.0]])).tolist()
        [2.5]
    """
    predictions, values = _pair(outputs, targets)
    return _mean_over_outputs(optax.losses.squared_error(predictions, values))


def mean_absolute_error(
    outputs: Float[Array, "batch ..."], targets: Shaped[Array, "..."]
) -> Float[Array, " batch"]:
    r"""Absolute error, averaged over the outputs of an example; its gradient at 0 is 0.

    $$\ell = \frac{1}{m} \sum_i |o_i - t_i|$$

    PyTorch: the defaults, its `l1_loss`.

    Arguments and errors: as in `mean_squared_error`.

    Example:
        >>> mean_absolute_error(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 0.0]])).tolist()
        [1.5]
    """
    predictions, values = _pair(outputs, targets)
    error = predictions - values
    # JAX takes 1 for the derivative of |x| at 0.
    return _mean_over_outputs(error * lax.stop_gradient(jnp.sign(error)))


def huber(
    outputs: Float[Array, "batch ..."], targets: Shaped[Array, "..."], *, delta: float = 1.0
) -> Float[Array, " batch"]:
    r"""Squared near the target and linear far from it, averaged over the outputs of an example.

    $$\ell = \frac{1}{m} \sum_i \begin{cases}
        e_i^2 / 2 & |e_i| \le \delta \\ \delta (|e_i| - \delta / 2) & \text{else}
      \end{cases}, \qquad e = o - t$$

    PyTorch: the defaults, its `huber_loss`.

    Arguments:
        outputs, targets: as in `mean_squared_error`.
        delta: the error at which the two meet, positive, in the units of the targets.

    Raises:
        ValueError: shapes that differ, a delta that is not positive.

    Example:
        >>> huber(jnp.array([0.5, 3.0]), jnp.array([0.0, 0.0])).tolist()
        [0.125, 2.5]

    Source: Huber (1964), with the 1/2 of `torch.nn.HuberLoss`.
    """
    if not delta > 0:
        raise ValueError(f"delta must be positive, got {delta}; for delta = 0 scale the L1 loss")
    predictions, values = _pair(outputs, targets)
    error = predictions - values
    size = jnp.abs(error)
    # One branch depends on the error: a difference of slopes would round delta's digits away.
    near, far = jnp.square(error) / 2, delta * (size - delta / 2)
    return _mean_over_outputs(jnp.where(size <= delta, near, far))


@takes(
    "in [0, 1]",
    "pass 0 and 1, or probabilities; for labels of several classes use cross_entropy",
    are_probabilities,
)
def binary_cross_entropy(
    outputs: Float[Array, "batch ..."],
    targets: Shaped[Array, "..."],
    *,
    positive_weight: ArrayLike = 1.0,
) -> Float[Array, " batch"]:
    r"""Cross-entropy of independent yes-or-no targets, on logits, averaged over the outputs.

    $$\ell = -\frac{1}{m} \sum_i w\, t_i \log \sigma(o_i) + (1 - t_i) \log \sigma(-o_i)$$

    Where the target is 0 or 1 and an infinite logit agrees with it, the loss is 0.

    PyTorch: the defaults, its `binary_cross_entropy_with_logits`.

    Arguments:
        outputs: logits (batch, ...).
        targets: probabilities in [0, 1], or 0 and 1, of exactly the same shape.
        positive_weight: w, a number or one for each output: PyTorch's `pos_weight`.

    Raises:
        ValueError: shapes that differ.

    Example:
        >>> binary_cross_entropy(jnp.array([0.0, 100.0]), jnp.array([1, 0])).tolist()
        [0.69..., 100.0]

    Source: `torch.nn.BCEWithLogitsLoss`.
    """
    logits, truth = _pair(outputs, targets)
    missed, alarmed = tails.softplus(-logits), tails.softplus(logits)
    return _mean_over_outputs(_times(positive_weight * truth, missed) + _times(1 - truth, alarmed))


@takes("-1 or 1", "pass 2 * labels - 1 for labels 0 and 1", lambda targets: abs(targets) == 1)
def hinge(
    outputs: Float[Array, "batch ..."], targets: Shaped[Array, "..."]
) -> Float[Array, " batch"]:
    r"""The margin that is missing, averaged over the outputs of an example; f'(margin) = 0.

    $$\ell = \frac{1}{m} \sum_i \max(0, 1 - t_i o_i)$$

    Arguments:
        outputs: scores (batch, ...).
        targets: -1 or 1, of exactly the same shape.

    Raises:
        ValueError: shapes that differ.

    Example:
        >>> hinge(jnp.array([0.25, 3.0]), jnp.array([-1, 1])).tolist()
        [1.25, 0.0]

    Source: Cortes and Vapnik (1995), as `optax.losses.hinge_loss`.
    """
    scores, signs = _pair(outputs, targets)
    return _mean_over_outputs(jax.nn.relu(1 - signs * scores))


@takes(*_SHARES)
def kl_divergence(
    outputs: Float[Array, "batch ... classes"], targets: Float[Array, "batch ... classes"]
) -> Float[Array, " batch"]:
    r"""The divergence of the softmax of the outputs from the targets, in nats.

    $$\ell = \sum_k p_k (\log p_k - \log \operatorname{softmax}(o)_k), \qquad 0 \log 0 = 0$$

    It is `cross_entropy` less the entropy of the targets.

    PyTorch: the defaults, its `kl_div`, which takes logarithms of probabilities in the place of
    logits; to a softmax they are the same.

    Arguments:
        outputs: logits (batch, ..., classes).
        targets: probabilities of exactly the same shape.

    Raises:
        ValueError: shapes that differ, fewer than two outputs.

    Example:
        >>> kl_divergence(jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]])).tolist()
        [0.69...]

    Source: Kullback and Leibler (1951).
    """
    require_classes("kl_divergence", outputs)
    logits, truth = _pair(outputs, targets)
    log_truth = jnp.log(jnp.where(truth > 0, truth, 1))
    difference = log_truth - jax.nn.log_softmax(logits)
    return _mean_over_outputs(_times(truth, difference).sum(-1))


@takes("at least 0", "pass counts; for other values use mean_squared_error", lambda t: t >= 0)
def poisson(
    outputs: Float[Array, "batch ..."], targets: Shaped[Array, "..."]
) -> Float[Array, " batch"]:
    r"""Minus the log-likelihood of counts, without its constant, averaged over the outputs.

    $$\ell = \frac{1}{m} \sum_i e^{o_i} - t_i o_i$$

    PyTorch: the defaults, its `poisson_nll_loss`.

    Arguments:
        outputs: logarithms of the expected counts (batch, ...).
        targets: counts of exactly the same shape.

    Raises:
        ValueError: shapes that differ.

    Example:
        >>> poisson(jnp.array([0.0]), jnp.array([3])).tolist()
        [1.0]

    Source: `torch.nn.PoissonNLLLoss`, `optax.losses.poisson_nll_loss`.
    """
    logs, counts = _pair(outputs, targets)
    return _mean_over_outputs(jnp.exp(logs) - _times(counts, logs))


def require_classes(name: str, outputs: Any) -> None:
    """Refuse one output alone, whose softmax is 1 whatever it is.

    Raises:
        ValueError: the last axis, the classes, has length 1.
    """
    if outputs.ndim >= 2 and outputs.shape[-1] == 1:
        raise ValueError(
            f"{name} must have at least two outputs, got outputs {outputs.shape}, of which the "
            "one is the largest whatever it is; use binary_cross_entropy with targets of the same "
            "shape and metrics.accuracy, or give the model two outputs"
        )


def holds_labels(outputs: Float[Array, "..."], targets: Shaped[Array, "..."]) -> bool:
    """Whether the targets are integer labels (batch, ...), and not one value for each class.

    Raises:
        ValueError: targets that are neither.
    """
    if outputs.ndim >= 2 and targets.shape == outputs.shape:
        return False
    if outputs.ndim < 2 or targets.shape != outputs.shape[:-1]:
        raise ValueError(
            "targets must be labels of the outputs' shape without its last axis, the classes, or "
            f"values of the same shape, got outputs {outputs.shape} and targets {targets.shape}; "
            "reshape one of them"
        )
    if not jnp.issubdtype(targets.dtype, jnp.integer):
        raise ValueError(
            f"labels must be integers, got {targets.dtype} of shape {targets.shape}; "
            "cast them with .astype(jnp.int32), or pass one value for each class"
        )
    return True


def _pair(outputs: Array, targets: Array) -> tuple[Array, Array]:
    """Outputs and targets in one dtype, of one shape."""
    if outputs.shape != targets.shape:
        raise ValueError(
            "targets must have the shape of the outputs, "
            f"got outputs {outputs.shape} and targets {targets.shape}; "
            "reshape one, e.g. targets[:, None] for one output"
        )
    outputs = _at_least_float32(outputs)
    return outputs, targets.astype(outputs.dtype)


def _at_least_float32(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _mean_over_outputs(values: Array) -> Array:
    return jnp.mean(values, axis=tuple(range(1, values.ndim)))


def _times(factor: ArrayLike, values: Array) -> Array:
    """The product, in which a factor of 0 takes away an infinite value."""
    infinite = jnp.isinf(values) & (jnp.asarray(factor) == 0)
    return jnp.asarray(factor) * jnp.where(infinite, 0, values)


def _weighted(values: Array, weights: Array) -> tuple[Array, Array]:
    """Sums over the outputs of an example as their weighted mean, and the sum of the weights."""
    axes = tuple(range(1, values.ndim))
    total = weights.sum(axes)
    return values.sum(axes) / jnp.where(total == 0, 1, total), total
