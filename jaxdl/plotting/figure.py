"""An empty figure to draw on."""

from typing import Any, SupportsFloat

from jaxdl.extras import import_extra


def new_figure(width: SupportsFloat, height: SupportsFloat) -> Any:
    """Return an empty matplotlib Figure; it opens no window, and labels keep off each other.

    Arguments:
        width: inches.
        height: inches.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> new_figure(4, 3).get_size_inches().tolist()
        [4.0, 3.0]
    """
    matplotlib_figure = import_extra("matplotlib.figure", "a figure")
    return matplotlib_figure.Figure(figsize=(float(width), float(height)), layout="constrained")
