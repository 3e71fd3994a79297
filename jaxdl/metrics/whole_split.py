"""Measures of all predictions of a split: functions (targets, predictions) on the host.

Labels are whole numbers of any dtype, so the 0.0 and 1.0 of `binary_cross_entropy` are labels too.
A last axis of length 1 is left out: (n, 1) and (n,) are the same labels. The labels of several
outputs, (n, k), are counted together, as n k labels.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxdl.checks import require_at_least, require_choice

# Float32 softmaxes of a million classes sum to 1 within this.
_ROUNDING = 1e-3


def confusion(
    targets: Any, predictions: Any, *, classes: Any = None, sample_weight: Any = None
) -> np.ndarray:
    r"""How often class i was predicted as class j.

    $$C_{ij} = \sum_n w_n\, [y_n = i]\, [\hat y_n = j]$$

    Arguments:
        targets: labels (n, ...), from 0; all of them are counted together.
        predictions: predicted labels of the same shape; see `predicted_class`.
        classes: their number; by default one more than the largest label.
        sample_weight: w, (n,) or one for each label; 1 by default.

    Returns:
        (classes, classes), row i the true class: counts, or float64 sums of weights.

    Raises:
        TypeError: what is no labels.
        ValueError: different shapes, a label outside the classes; weights that are no weights of
            these examples.

    Example:
        >>> confusion([0, 0, 1], [0, 1, 1]).tolist()
        [[1, 1], [0, 1]]
    """
    true, guess = _labels("targets", targets), _labels("predictions", predictions)
    if true.shape != guess.shape:
        raise ValueError(
            f"targets and predictions must have one shape, got {true.shape} and {guess.shape}; "
            "pass a label for each target"
        )
    largest = max(true.max(initial=-1), guess.max(initial=-1))
    require_at_least(1, classes=classes)
    count = int(largest) + 1 if classes is None else int(classes)
    _require_classes(np.stack([true, guess]), count)
    pairs = (true * count + guess).ravel()
    weights = None if sample_weight is None else _weights(sample_weight, true.shape).ravel()
    counted: np.ndarray = np.bincount(pairs, weights, count * count).reshape(count, count)
    return counted


def f1(
    targets: Any, predictions: Any, *, average: str = "macro", sample_weight: Any = None
) -> float:
    r"""The harmonic mean of precision and recall.

    $$F_1 = \frac{2\, TP}{2\, TP + FP + FN}$$

    of each class that occurs among targets or predictions; 0 where the denominator is 0.

    Arguments:
        targets: labels (n, ...), from 0; all of them are counted together.
        predictions: predicted labels of the same shape; see `predicted_class`.
        average: "macro", the mean over classes; "weighted", the same weighted with the number of
            true examples; "micro", of the sums over classes; "binary", of class 1 alone.
        sample_weight: (n,) or one for each label; 1 by default.

    Raises:
        TypeError, ValueError: as in `confusion`; another word.

    Example:
        >>> f1([0, 0, 1, 1], [0, 1, 1, 1], average="binary")
        0.8

    The words are scikit-learn's, whose default is "binary".
    """
    require_choice("average", average, ("macro", "weighted", "micro", "binary"))
    counted = confusion(targets, predictions, sample_weight=sample_weight).astype(np.float64)
    true, guessed = counted.sum(1), counted.sum(0)
    right = np.diag(counted)
    occurs = (true + guessed) > 0
    if average == "micro":
        return _ratio(2 * right.sum(), true.sum() + guessed.sum())
    if average == "binary":
        if len(counted) > 2:
            raise ValueError(
                f"average='binary' takes the classes 0 and 1, got {len(counted)} classes; pass "
                "average='macro'"
            )
        return _ratio(2 * right[1], true[1] + guessed[1]) if len(counted) == 2 else 0.0
    of_each = 2 * right[occurs] / (true + guessed)[occurs]
    if average == "macro":
        return float(of_each.mean())
    return float(np.average(of_each, weights=true[occurs]))


def r2(targets: Any, predictions: Any, *, sample_weight: Any = None) -> float:
    r"""The share of the targets' variance that the predictions explain, averaged over outputs.

    $$R^2 = 1 - \frac{\sum_n w_n (y_n - \hat y_n)^2}{\sum_n w_n (y_n - \bar y)^2}$$

    An output whose targets are constant counts 1 if it is predicted exactly, else 0, as in
    scikit-learn.

    Arguments:
        targets: (n,) or (n, outputs).
        predictions: of the same shape; (n, 1) and (n,) are taken as one.
        sample_weight: w, (n,); 1 by default.

    Raises:
        ValueError: other shapes, fewer than two examples; weights as in `confusion`.

    Example:
        >>> r2([1.0, 2.0, 3.0], [1.0, 2.0, 4.0])
        0.5
    """
    y, guess = (np.asarray(each, np.float64) for each in (targets, predictions))
    if y.reshape(len(y), -1).shape != guess.reshape(len(guess), -1).shape or len(y) < 2:
        raise ValueError(
            "targets and predictions must have one shape, of at least two examples, got "
            f"{y.shape} and {guess.shape}; pass a prediction for each target"
        )
    y, guess = y.reshape(len(y), -1), guess.reshape(len(y), -1)
    weights = _weights(sample_weight, y.shape[:1])
    left = weights @ (y - guess) ** 2
    whole = weights @ (y - np.average(y, axis=0, weights=weights)) ** 2
    constant = whole == 0
    shares = 1 - left / np.where(constant, 1, whole)
    return float(np.where(constant, left == 0, shares).mean())


def calibration(
    targets: Any, probabilities: Any, *, bins: Any = 15, sample_weight: Any = None
) -> float:
    r"""The expected calibration error: how far confidence lies from accuracy.

    $$ECE = \sum_{m=1}^{M} \frac{|B_m|}{n}\,
      \bigl|\mathrm{acc}(B_m) - \mathrm{conf}(B_m)\bigr|$$

    where the bin B_m holds the examples whose largest probability lies in ((m - 1) / M, m / M].

    Arguments:
        targets: labels (n,), from 0.
        probabilities: (n, classes), or (n,) of class 1; see `metrics.probabilities`.
        bins: M, at least 1.
        sample_weight: (n,); 1 by default.

    Raises:
        TypeError: what is no labels.
        ValueError: rows that are no probabilities, a label outside the classes, other shapes;
            weights as in `confusion`.

    Example:
        >>> round(calibration([0, 1, 1, 1], [[0.25, 0.75]] * 4), 12)
        0.0

    Source: Guo et al. (2017), On calibration of modern neural networks, equation 3.
    """
    require_at_least(1, bins=bins)
    labels, shares = _labels("targets", targets), np.asarray(probabilities, np.float64)
    outside = ~((shares >= 0) & (shares <= 1 + _ROUNDING))
    if outside.any():
        raise ValueError(
            f"probabilities must be in [0, 1], got {shares[outside][0]:.4g} at example "
            f"{int(np.argwhere(outside)[0][0])}; pass predict=metrics.probabilities for logits"
        )
    if shares.ndim == 1 or shares.shape[1:] == (1,):
        second = shares.reshape(len(shares))
        shares = np.stack([1 - second, second], axis=1)
    if shares.ndim != 2 or labels.shape != shares.shape[:1]:
        raise ValueError(
            f"calibration takes labels (n,) and probabilities (n, classes), got {labels.shape} and "
            f"{shares.shape}; flatten them"
        )
    if (np.abs(shares.sum(1) - 1) > _ROUNDING).any():
        raise ValueError(
            f"probabilities must sum to 1, got a row that sums to "
            f"{shares.sum(1)[np.abs(shares.sum(1) - 1).argmax()]:.4g}; pass "
            "predict=metrics.probabilities for logits"
        )
    _require_classes(labels, shares.shape[1])
    confidence, right = shares.max(1), shares.argmax(1) == labels
    weights = _weights(sample_weight, labels.shape)
    place = np.clip(np.ceil(confidence * int(bins)).astype(int) - 1, 0, int(bins) - 1)
    gaps = np.bincount(place, weights * (right - confidence), int(bins))
    return float(np.abs(gaps).sum() / weights.sum())


def _labels(name: str, given: Any) -> np.ndarray:
    """Whole numbers without a last axis of length 1."""
    labels = np.asarray(given)
    whole = labels.dtype.kind in "biu"
    if not whole and jnp.issubdtype(labels.dtype, jnp.floating):
        values = labels.astype(np.float64)
        whole = bool(np.isfinite(values).all() and (values == np.rint(values)).all())
    if not whole:
        raise TypeError(
            f"{name} must be labels, whole numbers from 0, got {labels.dtype} of shape "
            f"{labels.shape}; pass predict=metrics.predicted_class for logits"
        )
    if labels.ndim > 1 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    return labels.astype(np.int64)


def _require_classes(labels: np.ndarray, classes: int) -> None:
    low, high = labels.min(initial=0), labels.max(initial=-1)
    if low < 0 or high >= classes:
        raise ValueError(
            f"labels must be in 0..{classes - 1}, got {labels.min()}..{labels.max()}; "
            "pass more classes, or leave these examples out"
        )


def _weights(given: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The weights of labels of this shape, in float64; a weight of an example is that of each."""
    if given is None:
        return np.ones(shape)
    weights = np.asarray(given, np.float64)
    if weights.ndim > 1 and weights.shape[-1] == 1 and weights.shape != shape:
        weights = weights[..., 0]
    if weights.shape not in (shape, shape[:1]):
        raise ValueError(
            f"sample_weight must have one weight for each of the {shape[0]} examples, got shape "
            f"{np.shape(given)}; pass an array ({shape[0]},)"
        )
    if not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
        raise ValueError(
            "sample_weight must be finite and at least 0, and not all 0, got "
            f"{weights.min()} to {weights.max()}; leave an example out with a weight of 0"
        )
    examples = weights.reshape(weights.shape + (1,) * (len(shape) - weights.ndim))
    return np.broadcast_to(examples, shape)


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
