"""The layer at which signal or gradient changes its size, and the start that fits such a layer."""

from collections.abc import Collection

import numpy as np

from jaxdl.diagnostics.signal.names import ACTIVATION, PARAMETERS
from jaxdl.diagnostics.signal.propagation import Propagation
from jaxdl.diagnostics.signal.trunk import readers_of

# float32 sums of shares are 1 to a few units of 6e-8.
SOFTMAX = 1e-5


def source_of_signal(measured: Propagation, sizes: np.ndarray, before: int, row: int) -> int:
    """The first row that has the size of `row`, and not that of `before`, on the way between.

    Arguments:
        sizes: of every row.
    """
    grows = sizes[row] > sizes[before]
    middle = np.sqrt(sizes[before]) * np.sqrt(sizes[row])
    while True:
        changed = [
            feed for feed in measured.feeds[row]
            if before < feed < row and (sizes[feed] > middle) == grows
        ]  # fmt: skip
        if not changed:
            return row
        row = max(changed, key=lambda feed: sizes[feed] if grows else -sizes[feed])


def source_of_gradient(measured: Propagation, sizes: np.ndarray, after: int, row: int) -> int:
    """The row on the way from `row` to `after` whose derivative changes the gradient's size.

    Arguments:
        sizes: the gradient's, of every row.
    """
    grows = sizes[row] > sizes[after]
    middle = np.sqrt(sizes[after]) * np.sqrt(sizes[row])
    readers = readers_of(measured.feeds)
    norms = np.nan_to_num(np.asarray(measured.weight_norm, np.float64))
    while True:
        between = [reader for reader in readers[row] if reader <= after]
        changed = [reader for reader in between if (sizes[reader] > middle) == grows]
        if not changed:
            learned = [reader for reader in between if measured.has_weights[reader]]
            # The gradient grows through the largest kernel, and vanishes in the smallest.
            return max(
                learned or between or [row],
                key=lambda reader: norms[reader] if grows else -norms[reader],
            )
        row = max(changed, key=lambda reader: sizes[reader] if grows else -sizes[reader])


def is_activated(measured: Propagation, row: int) -> bool:
    """Whether an elementwise function alone follows: no softmax, product, sum or attention."""
    units = measured.shapes[row][-1]
    return any(
        measured.kinds[reader] == ACTIVATION
        and set(measured.feeds[reader]) == {row}
        and measured.shapes[reader] == measured.shapes[row]
        and abs(float(measured.mean[reader]) * units - 1) > SOFTMAX
        for reader in readers_of(measured.feeds)[row]
    )


def meets(measured: Propagation, row: int) -> bool:
    """Whether several values meet there, as in a residual sum."""
    return not measured.has_weights[row] and len({*measured.feeds[row]}) > 1


def resized(measured: Propagation, row: int, size: str) -> str:
    """How to start a layer smaller or larger.

    Arguments:
        size: "smaller" or "larger".
    """
    kind = measured.kinds[row]
    if meets(measured, row):
        return f"start the last layer of each branch from {size} weights"
    if not measured.has_weights[row]:
        return f"make what this function returns {size}"
    if "Embed" in kind:
        fit = "a normal with a standard deviation of 0.02 to 1"
    elif "Norm" in kind:
        fit = "a scale of 1"
    elif "Cell" in kind or any(feed >= row for feed in measured.feeds[row]):
        fit = "orthogonal for a recurrence"
    elif kind == PARAMETERS:
        fit = "of the size of those beside them"
    elif is_activated(measured, row):
        fit = "he_normal for ReLU and glorot_normal for tanh"
    else:
        fit = "lecun_normal or glorot_uniform where no ReLU follows"
    return f"start from {size} weights, {fit}"


def revived(measured: Propagation, row: int) -> str:
    """What to change where units never change over the batch."""
    feeds: Collection[int] = {*measured.feeds[row]}
    if measured.kinds[row] == ACTIVATION and len(feeds) == 1:
        return "lower the learning rate, start biases at 0, or use leaky_relu"
    return "look for zeros in its weights, or for inputs that never change"
