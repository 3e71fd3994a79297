r"""Per-example metrics: `metric(outputs, targets) -> (batch,)` in float32.

A row with a NaN counts as wrong: argmax would point at the NaN and might agree by chance.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxdl.losses import holds_labels, mean_squared_error, require_classes


def accuracy(
    outputs: Float[Array, "batch ..."], targets: Shaped[Array, "..."], *, ignored: int | None = None
) -> Any:
    """1 where the largest output is the target's class, 0 elsewhere; in a tie the first counts.

    One output alone is the logit of class 1, as in `binary_cross_entropy`: above 0 it says class 1,
    else class 0, as `predicted_class` has it. Then a target in (1/2, 1] is class 1. One in [0, 1/2]
    is class 0, and so is the -1 of `hinge`. For any other target no output is right.

    Arguments:
        outputs: logits or probabilities (batch, ..., classes); or logits (batch, ..., 1), (batch,).
        targets: integer labels (batch, ...), or one value for each class (batch, ..., classes), of
            which the largest is the class. For one output (batch, ..., 1) or (batch, ...), of any
            dtype.
        ignored: a label that does not count, as in `losses.cross_entropy`.

    Returns:
        (batch,); with an ignored label (values, weights), each (batch,), where the weight is the
        number of labels that count.

    Raises:
        ValueError: shapes that do not agree, labels that are no integers; an ignored label where
            the targets are no labels of two classes or more.

    Example:
        >>> accuracy(jnp.array([[0.1, 0.9], [0.8, 0.2]]), jnp.array([1, 1])).tolist()
        [1.0, 0.0]
        >>> accuracy(jnp.array([[-2.0], [0.3]]), jnp.array([[0.0], [0.0]])).tolist()
        [1.0, 0.0]
    """
    is_binary = outputs.ndim == 1 or outputs.shape[-1:] == (1,)
    if ignored is not None and (is_binary or not holds_labels(outputs, targets)):
        raise ValueError(
            f"ignored must go with labels, got {ignored} with outputs {outputs.shape} and targets "
            f"{targets.shape}; weigh the examples instead"
        )
    if is_binary:
        return _mean_over_outputs(_binary_is_right(outputs, targets))
    labels = _labels(outputs, targets)
    is_right = (jnp.argmax(outputs, axis=-1) == labels) & ~_has_nan(outputs)
    if ignored is None:
        return _mean_over_outputs(is_right)
    counts = (labels != ignored).astype(jnp.float32)
    axes = tuple(range(1, counts.ndim))
    total = counts.sum(axes)
    return (is_right * counts).sum(axes) / jnp.maximum(total, 1), total


def top_k(
    outputs: Float[Array, "batch ..."], targets: Shaped[Array, "..."], *, k: int = 5
) -> Float[Array, " batch"]:
    """1 where the target's class is among the k largest outputs, 0 elsewhere.

    In a tie the lower class counts as larger, so k=1 is `accuracy`.

    Arguments:
        outputs: logits or probabilities (batch, ..., classes).
        targets: as in `accuracy`.
        k: the number of classes that count, from 1 to all.

    Raises:
        ValueError: k out of range, fewer than two outputs; as in `accuracy`.

    Example:
        >>> top_k(jnp.array([[0.5, 0.3, 0.2]] * 2), jnp.array([1, 2]), k=2).tolist()
        [1.0, 0.0]
    """
    require_classes("top_k", outputs)
    labels = _labels(outputs, targets)[..., None]
    classes = outputs.shape[-1]
    if not 1 <= k <= classes:
        raise ValueError(f"k must be from 1 to the {classes} classes, got {k}; pass a smaller k")
    index = jnp.arange(classes)
    of_label = jnp.sum(jnp.where(index == labels, outputs, 0), axis=-1, keepdims=True)
    ahead = (outputs > of_label) | ((outputs == of_label) & (index < labels))
    exists = jnp.any(index == labels, axis=-1)
    return _mean_over_outputs((jnp.sum(ahead, axis=-1) < k) & exists & ~_has_nan(outputs))


def squared_error(
    outputs: Float[Array, "batch ..."], targets: Shaped[Array, "..."]
) -> Float[Array, " batch"]:
    """Squared error averaged over the outputs of an example; `losses.mean_squared_error`.

    Example:
        >>> squared_error(jnp.array([[1.0, 2.0]]), jnp.array([[0.0, 0.0]])).tolist()
        [2.5]
    """
    return mean_squared_error(outputs, targets).astype(jnp.float32)


def _binary_is_right(outputs: Array, targets: Array) -> Bool[Array, "batch ..."]:
    logits = outputs if outputs.ndim == 1 else outputs[..., 0]
    if targets.shape not in (outputs.shape, logits.shape):
        raise ValueError(
            "targets of one output must have its shape, with or without the last axis, got outputs "
            f"{outputs.shape} and targets {targets.shape}; reshape one of them"
        )
    truth = targets.reshape(logits.shape)
    exists = ((truth >= 0) & (truth <= 1)) | (truth == -1)
    return ((logits > 0) == (truth > 0.5)) & exists & ~jnp.isnan(logits)


def _labels(outputs: Array, targets: Array) -> Int[Array, "..."]:
    return targets if holds_labels(outputs, targets) else jnp.argmax(targets, axis=-1)


def _has_nan(outputs: Array) -> Bool[Array, "..."]:
    return jnp.any(jnp.isnan(outputs), axis=-1)


def _mean_over_outputs(correct: Bool[Array, "batch ..."]) -> Float[Array, " batch"]:
    return jnp.mean(correct, axis=tuple(range(1, correct.ndim)), dtype=jnp.float32)
