"""A kernel between examples, and its eigenvalues."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from jaxdl.plotting.figure import new_figure


def kernel_figure(matrix: ArrayLike, *, is_square: bool = True) -> Any:
    """A figure of a kernel as an image, and of its eigenvalues from the largest down.

    Eigenvalues that fall over many powers of ten are directions that are learned one after another.

    Arguments:
        matrix: (n, m).
        is_square: whether it is the kernel of examples with themselves, and has eigenvalues.

    Example:
        >>> figure = kernel_figure([[2.0, 1.0], [1.0, 2.0]])
        >>> len(figure.axes)
        3
    """
    values = np.asarray(matrix, np.float64)
    figure = new_figure(9 if is_square else 5, 4)
    panels = figure.subplots(1, 2 if is_square else 1, squeeze=False)[0]
    image = panels[0].imshow(values, interpolation="nearest")
    panels[0].set(xlabel="example", ylabel="example", title="kernel")
    figure.colorbar(image, ax=panels[0])
    if is_square:
        found = np.linalg.eigvalsh(values)[::-1]
        found[found <= 0] = np.nan
        panels[1].plot(np.arange(1, len(found) + 1), found, "ks-", ms=4, lw=0.8)
        panels[1].set(
            yscale="log", xlabel="eigenvalue, from the largest", ylabel="size",
            title="eigenvalues",
        )  # fmt: skip
        panels[1].grid(lw=0.3)
    return figure
