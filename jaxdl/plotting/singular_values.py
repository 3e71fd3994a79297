"""Singular values in order of size: how evenly a map stretches its directions."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxdl.plotting.figure import new_figure


def singular_values_figure(
    values: ArrayLike, *, expected: Mapping[str, ArrayLike] | None = None, title: str = ""
) -> Any:
    """A figure of the singular values of some matrices, each a line from the largest down.

    A flat line is a map that stretches all directions alike. A value of zero has no point. Values
    below the dotted line, the largest times the precision of their dtype, are rounding.

    Arguments:
        values: from the largest down, (matrices, values).
        expected: what a theory expects by its label, from the largest down, of any number.
        title: above the figure.

    Example:
        >>> figure = singular_values_figure([[2.0, 1.0, 0.5]], expected={"isometry": [1.0, 1.0]})
        >>> figure.axes[0].get_yscale()
        'log'
    """
    figure = new_figure(6, 4)
    axes = figure.subplots()
    given = np.asarray(values)
    measured = given.astype(np.float64)
    precise = np.finfo(given.dtype if given.dtype.kind == "f" else np.float64).eps
    rounding = float(measured.max(initial=0) * precise)
    measured[measured <= 0] = np.nan

    def share(count: int) -> np.ndarray:
        return np.asarray((np.arange(count) + 0.5) / count)

    for number, line in enumerate(measured):
        once = "measured, an example each" if number == 0 else None
        axes.plot(share(len(line)), line, "k.-", ms=3, lw=0.8, alpha=0.6, label=once)
    for number, (label, theory) in enumerate((expected or {}).items()):
        line = np.asarray(theory, np.float64)
        axes.plot(share(len(line)), line, f"C{number + 3}--", label=label)
    if (measured < rounding).any():
        axes.axhline(rounding, color="0.5", ls=":", lw=1, label="rounding")
    axes.set(
        yscale="log", xlabel="share of the values that are larger", ylabel="singular value",
        title=title,
    )  # fmt: skip
    axes.grid(lw=0.3)
    axes.legend()
    return figure
