"""An empty figure to draw on, and its file."""

import functools
import io
import os
from pathlib import Path
from typing import Any, SupportsFloat

from jaxdl.extras import import_extra
from jaxdl.files import as_path


def new_figure(width: SupportsFloat, height: SupportsFloat) -> Any:
    """Return an empty matplotlib Figure; it opens no window, and labels keep off each other.

    As the last value of a notebook's cell it is shown, once, whether pyplot was imported or not.

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
    figure = matplotlib_figure.Figure(figsize=(float(width), float(height)), layout="constrained")
    # A notebook draws figures only where pyplot has told it how.
    figure._repr_png_ = functools.partial(_png, figure)
    return figure


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return file.getvalue()


def save_figure(figure: Any, file: str | os.PathLike[str], *, dpi: SupportsFloat = 150) -> Path:
    """Write a figure, PNG or SVG by the file's name. Equal figures are written as equal files.

    matplotlib writes the date and random identifiers into an SVG; here it has neither.

    Arguments:
        figure: matplotlib's.
        file: the file to write.
        dpi: pixels an inch, of a PNG.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> one, two = (save_figure(new_figure(4, 3), folder / f"{name}.svg") for name in "ab")
        >>> one.read_bytes() == two.read_bytes()
        True
    """
    matplotlib = import_extra("matplotlib", "a figure")
    file = as_path(file)
    metadata = {"Date": None} if file.suffix == ".svg" else None
    with matplotlib.rc_context({"svg.hashsalt": "jaxdl"}):
        figure.savefig(file, dpi=float(dpi), metadata=metadata)
    return file
