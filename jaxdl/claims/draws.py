"""The best of several independent draws, expected from many that were made."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def expected_best(scores: ArrayLike, draws: Any, outcomes: ArrayLike | None = None) -> np.ndarray:
    r"""What the best of n independent draws gives on average, where N draws were made.

    $$\sum_{i=1}^{N} y_{(i)} \left[(i / N)^n - ((i - 1) / N)^n\right]$$

    with y_(i) the outcome of the draw of the i-th lowest score. It is how good random search is
    after n trials.

    Arguments:
        scores: what the best is chosen by, higher is better, (N,); equal ones rank in their order.
        draws: n, one or several, each 1 or more.
        outcomes: what the chosen one is judged by, (N,); by default the scores.

    Returns:
        One number for each n, in the outcomes' units, float64.

    Raises:
        ValueError: no scores, scores that are NaN, outcomes of another shape, n below 1.

    Example:
        >>> expected_best([0.0, 1.0], [1, 2, 3])
        array([0.5  , 0.75 , 0.875])

    Source: David and Nagaraja (2003), Order Statistics, for the distribution of a maximum.
    """
    scores, counts = np.asarray(scores, np.float64), np.atleast_1d(draws)
    judged = scores if outcomes is None else np.asarray(outcomes, np.float64)
    if scores.ndim != 1 or not scores.size or judged.shape != scores.shape:
        raise ValueError(
            "scores and outcomes must be numbers of the same draws, (N,), got shapes "
            f"{scores.shape} and {judged.shape}; pass one of each a draw"
        )
    if np.isnan(scores).any() or not (counts >= 1).all():
        raise ValueError(
            f"scores must not be NaN and draws at least 1, got {np.isnan(scores).sum()} NaN and "
            f"{draws} draws; give a failed draw -inf"
        )
    share = np.arange(len(scores) + 1) / len(scores)
    weights = np.diff(share ** counts[:, None])
    return np.asarray(weights @ judged[np.argsort(scores, kind="stable")])
