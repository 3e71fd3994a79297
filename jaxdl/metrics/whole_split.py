"""Measures of all predictions of a split: functions (targets, predictions) on the host."""

from typing import Any

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
        targets: labels (n, ...), from 0.
        predictions: predicted labels of the same shape; see `predicted_class`.
        classes: their number; by default one more than the largest label.
        sample_weight: w, (n, ...); 1 by default.

    Returns:
        (classes, classes), row i the true class: counts, or float64 sums of weights.

    Raises:
        TypeError: what is no labels.
        ValueError: different shapes, a label outside the classes.

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
    if largest >= count or min(true.min(initial=0), guess.min(initial=0)) < 0:
        raise ValueError(
            f"labels must be in 0..{count - 1}, got {min(true.min(), guess.min())}..{largest}; "
            "pass more classes, or leave these examples out"
        )
    pairs = (true * count + guess).ravel()
    weights = None if sample_weight is None else np.asarray(sample_weight, np.float64).ravel()
    counted: np.ndarray = np.bincount(pairs, weights, count * count).reshape(count, count)
    return counted


def f1(
    targets: Any, predictions: Any, *, average: str = "macro", sample_weight: Any = None
) -> float:
    r"""The harmonic mean of precision and recall.

    $$F_1 = \frac{2\, TP}{2\, TP + FP + FN}$$

    of each class that occurs among targets or predictions; 0 where the denominator is 0.

    Arguments:
        targets: labels (n, ...), from 0.
        predictions: predicted labels of the same shape; see `predicted_class`.
        average: "macro", the mean over classes; "weighted", the same weighted with the number of
            true examples; "micro", of the sums over classes; "binary", of class 1 alone.
        sample_weight: the weight of each example; 1 by default.

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
        ValueError: other shapes, fewer than two examples.

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
    weights = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, np.float64)
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
        sample_weight: the weight of each example; 1 by default.

    Raises:
        TypeError: what is no labels.
        ValueError: rows that are no probabilities, other shapes.

    Example:
        >>> round(calibration([0, 1, 1, 1], [[0.25, 0.75]] * 4), 12)
        0.0

    Source: Guo et al. (2017), On calibration of modern neural networks, equation 3.
    """
    require_at_least(1, bins=bins)
    labels, shares = _labels("targets", targets), np.asarray(probabilities, np.float64)
    if shares.ndim == 1 or shares.shape[1:] == (1,):
        second = shares.reshape(len(shares))
        shares = np.stack([1 - second, second], axis=1)
    if shares.ndim != 2 or labels.shape != shares.shape[:1]:
        raise ValueError(
            f"calibration takes labels (n,) and probabilities (n, classes), got {labels.shape} and "
            f"{shares.shape}; flatten them"
        )
    if (shares < 0).any() or (np.abs(shares.sum(1) - 1) > _ROUNDING).any():
        raise ValueError(
            f"probabilities must be at least 0 and sum to 1, got a row that sums to "
            f"{shares.sum(1)[np.abs(shares.sum(1) - 1).argmax()]:.4g}; pass "
            "predict=metrics.probabilities for logits"
        )
    confidence, right = shares.max(1), shares.argmax(1) == labels
    weights = np.ones(len(labels)) if sample_weight is None else np.asarray(sample_weight)
    place = np.clip(np.ceil(confidence * int(bins)).astype(int) - 1, 0, int(bins) - 1)
    gaps = np.bincount(place, weights * (right - confidence), int(bins))
    return float(np.abs(gaps).sum() / weights.sum())


def _labels(name: str, given: Any) -> np.ndarray:
    labels = np.asarray(given)
    if labels.dtype.kind not in "biu":
        raise TypeError(
            f"{name} must be labels, whole numbers from 0, got {labels.dtype} of shape "
            f"{labels.shape}; pass predict=metrics.predicted_class for logits"
        )
    return labels.astype(np.int64)


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 0.0
