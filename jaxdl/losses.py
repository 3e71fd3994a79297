r"""Per-example losses: `loss(outputs, targets) -> (batch,)`; the step takes the mean.

Several outputs of one example are averaged. Shapes must agree exactly: (batch,) targets against
(batch, 1) outputs would broadcast to (batch, batch), so they are refused. Half-precision outputs
are cast to float32 first.
"""

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Shaped


def cross_entropy(
    outputs: Float[Array, "batch ..."],
    targets: Shaped[Array, "..."],
    *,
    label_smoothing: float = 0.0,
) -> Float[Array, " batch"]:
    r"""Cross-entropy of the targets against the softmax of the outputs.

    $$\ell = -\sum_k q_k \log \frac{e^{o_k}}{\sum_j e^{o_j}}, \qquad
      q = (1 - s)\, p + s / K$$

    Arguments:
        outputs: logits (batch, ..., classes).
        targets: integer labels (batch, ...), or probabilities (batch, ..., classes), e.g. one-hot.
            A label outside [0, classes) gives NaN.
        label_smoothing: s in [0, 1), spread over all K classes as in PyTorch.

    Raises:
        ValueError: shapes that do not agree, labels that are no integers, s outside [0, 1).

    Example:
        >>> cross_entropy(jnp.zeros((2, 4)), jnp.array([0, 3])).tolist()
        [1.38..., 1.38...]

    Source: Szegedy et al. (2016), section 7, for the smoothing.
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(
            f"label_smoothing must be in [0, 1), got {label_smoothing}; 0.0 turns it off"
        )
    logits = _at_least_float32(outputs)
    if holds_labels(outputs, targets):
        labels = targets.astype(jnp.promote_types(targets.dtype, jnp.int32))
        loss = optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)
        # A gather would silently wrap -1 to the last class.
        loss = jnp.where((labels >= 0) & (labels < outputs.shape[-1]), loss, jnp.nan)
    else:
        loss = optax.losses.safe_softmax_cross_entropy(logits, targets.astype(logits.dtype))
    if label_smoothing:
        uniform = -jnp.mean(jax.nn.log_softmax(logits), axis=-1)
        loss = (1 - label_smoothing) * loss + label_smoothing * uniform
    return _mean_over_outputs(loss)


def mean_squared_error(
    outputs: Float[Array, "batch ..."], targets: Shaped[Array, "..."]
) -> Float[Array, " batch"]:
    r"""Squared error, averaged over the outputs of an example.

    $$\ell = \frac{1}{m} \sum_i (o_i - t_i)^2$$

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
    return _mean_over_outputs(optax.losses.huber_loss(predictions, values, delta=delta))


def binary_cross_entropy(
    outputs: Float[Array, "batch ..."], targets: Shaped[Array, "..."]
) -> Float[Array, " batch"]:
    r"""Cross-entropy of independent yes-or-no targets, on logits, averaged over the outputs.

    $$\ell = -\frac{1}{m} \sum_i t_i \log \sigma(o_i) + (1 - t_i) \log \sigma(-o_i)$$

    Arguments:
        outputs: logits (batch, ...).
        targets: probabilities in [0, 1], or 0 and 1, of exactly the same shape.

    Raises:
        ValueError: shapes that differ.

    Example:
        >>> binary_cross_entropy(jnp.array([0.0, 100.0]), jnp.array([1, 0])).tolist()
        [0.69..., 100.0]

    Source: `torch.nn.BCEWithLogitsLoss`.
    """
    logits, probabilities = _pair(outputs, targets)
    return _mean_over_outputs(optax.losses.sigmoid_binary_cross_entropy(logits, probabilities))


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
