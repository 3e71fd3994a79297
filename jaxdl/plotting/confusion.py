"""A confusion matrix: which class is taken for which."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

MOST_NUMBERED = 20
"""Classes beyond which the cells are too small for numbers."""


def confusion_matrix(
    axes: Any, counts: ArrayLike, names: Sequence[str] = (), *, shares: bool = True
) -> Any:
    r"""Draw how often class i (row) was predicted as class j (column), in blue where i = j.

    A cell says which share of its row it is, in percent, rounded:

    $$100\, C_{ij} / \sum_k C_{ik}$$

    and is empty at 0; "<1" and ">99" stand for what would be rounded to none or to all. Off the
    diagonal, where the prediction is wrong, cells are orange. The square root of the share sets the
    shade, for rare confusions would be invisible otherwise. More than 20 classes have no numbers.

    Arguments:
        axes: matplotlib's.
        counts: (classes, classes), row i the true class, as `metrics.confusion` returns them;
            counts or sums of weights. The row of a class without examples is empty.
        names: of the classes; by default 0, 1, ...
        shares: whether cells show shares; False for the counts themselves.

    Returns:
        matplotlib's image of the cells' colours.

    Raises:
        ValueError: counts that are no square table of numbers of at least 0; another number of
            names than of classes.

    Example:
        >>> from jaxdl.plotting import new_figure
        >>> axes = new_figure(3, 3).subplots()
        >>> _ = confusion_matrix(axes, [[8, 2], [0, 5]], ["cat", "dog"])
        >>> [text.get_text() for text in axes.texts]
        ['80', '20', '100']
    """
    from matplotlib import colormaps

    table = np.asarray(counts, np.float64)
    if table.ndim != 2 or len(table) != table.shape[1] or not len(table):
        raise ValueError(
            f"counts must be a square table (classes, classes), got the shape {table.shape}; "
            "pass what metrics.confusion returns"
        )
    if not (np.isfinite(table) & (table >= 0)).all():
        raise ValueError(
            f"counts must be finite and at least 0, got {table.min()}; pass numbers of examples"
        )
    classes = len(table)
    if len(names) not in (0, classes):
        raise ValueError(
            f"there must be a name for each class or none, got {len(names)} for {classes}"
        )
    totals = table.sum(1, keepdims=True)
    share = np.divide(table, totals, out=np.zeros_like(table), where=totals > 0)
    # The darkest tenth of the maps would leave the numbers hard to read.
    shade = 0.9 * np.sqrt(share)
    is_right = np.eye(classes, dtype=bool)
    colours = np.where(
        is_right[..., None], colormaps["Blues"](shade), colormaps["Oranges"](0.8 * shade)
    )
    colours[table == 0] = 1.0
    drawn = axes.imshow(colours, interpolation="nearest")
    if classes <= MOST_NUMBERED:
        for (row, column), count in np.ndenumerate(table):
            if count:
                words = _percent(share[row, column]) if shares else f"{count:.6g}"
                axes.text(
                    column, row, words, ha="center", va="center", fontsize=9,
                    color=_ink(colours[row, column]),
                )  # fmt: skip
    _name_the_classes(axes, names or [str(each) for each in range(classes)])
    return drawn


def _percent(share: float) -> str:
    rounded = round(100 * share)
    if rounded == 0:
        return "<1"
    return ">99" if rounded == 100 and share < 1 else str(rounded)


def _ink(background: np.ndarray) -> str:
    """Black or white, whichever has the higher contrast: (lighter + 0.05) / (darker + 0.05).

    The relative luminance and the contrast are those of the Web Content Accessibility Guidelines
    2.1. Black and white have the same contrast where (L + 0.05)^2 = 0.05 * 1.05.
    """
    red_green_blue = background[:3]
    linear = np.where(
        red_green_blue <= 0.04045, red_green_blue / 12.92, ((red_green_blue + 0.055) / 1.055) ** 2.4
    )
    return "k" if (linear @ (0.2126, 0.7152, 0.0722) + 0.05) ** 2 > 0.05 * 1.05 else "w"


def _name_the_classes(axes: Any, names: Sequence[str]) -> None:
    """Ticks with the names; thin lines between the cells."""
    ticks = np.arange(len(names))
    axes.set(
        xticks=ticks, yticks=ticks, yticklabels=names, xlabel="predicted class", ylabel="true class"
    )
    is_long = max(map(len, names)) > 2
    axes.set_xticklabels(
        names, rotation=45 if is_long else 0, ha="right" if is_long else "center",
        rotation_mode="anchor" if is_long else "default",
    )  # fmt: skip
    edges = ticks[1:] - 0.5
    axes.set_xticks(edges, minor=True)
    axes.set_yticks(edges, minor=True)
    axes.grid(which="minor", color="0.85", lw=0.6)
    axes.tick_params(which="minor", length=0)
