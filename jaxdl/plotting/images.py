"""A few examples of a set of images, as stored or brought back from a normalisation."""

from typing import Any, SupportsIndex

import numpy as np

from jaxdl.checks import require_at_least
from jaxdl.plotting.figure import new_figure


def images(
    pictures: Any,
    titles: Any = (),
    *,
    columns: SupportsIndex = 8,
    mean: Any = None,
    std: Any = None,
) -> Any:
    r"""A matplotlib figure of images in rows, each under its title.

    With the statistics of `data.normalize_images` they are brought back first:
    $x_c = \sigma_c z_c + \mu_c$, cut to [0, 1].

    Arguments:
        pictures: (n, height, width) or (n, height, width, channels), 1 or 3 channels; uint8, or
            floats. Floats outside [0, 1] are drawn from the smallest to the largest, which the
            figure says.
        titles: one for each image, such as the names of their classes; none by default.
        columns: images in a row, at least 1.
        mean, std: a number for each channel, in units of [0, 1]; both or neither.

    Raises:
        ValueError: another shape, no images, as many titles as there are not images, or a mean
            without a std.

    Example:
        >>> from jaxdl import data
        >>> digits = data.load("digits")
        >>> figure = images(digits.train.inputs[:10], digits.train.targets[:10], columns=5)
        >>> len(figure.axes)
        10
    """
    require_at_least(1, columns=columns)
    stack = np.asarray(pictures)
    if stack.ndim == 3:
        stack = stack[..., None]
    if stack.ndim != 4 or stack.shape[-1] not in (1, 3) or not len(stack):
        raise ValueError(
            "images must be (n, height, width) or (n, height, width, 1 or 3), with at least one, "
            f"got {np.shape(pictures)}; add or move an axis"
        )
    if len(titles) not in (0, len(stack)):
        raise ValueError(
            f"there must be a title for each image or none, got {len(titles)} for {len(stack)}"
        )
    if (mean is None) != (std is None):
        raise ValueError("mean and std must be given together, got one of them; pass both")
    wide = stack / 255.0 if stack.dtype == np.uint8 else stack.astype(np.float64)
    note = ""
    if mean is not None and std is not None:
        wide = np.clip(wide * np.asarray(std, np.float64) + np.asarray(mean, np.float64), 0, 1)
    elif wide.min() < 0 or wide.max() > 1:
        low, high = float(wide.min()), float(wide.max())
        wide, note = (wide - low) / (high - low), f"from {low:.3g} (black) to {high:.3g} (white)"
    across = min(int(columns), len(stack))
    down = -(-len(stack) // across)
    figure = new_figure(1.3 * across, (1.6 if len(titles) else 1.35) * down + 0.3 * bool(note))
    cells = np.ravel(figure.subplots(down, across, squeeze=False))
    for cell in cells[len(stack) :]:
        cell.remove()
    for index, (cell, picture) in enumerate(zip(cells, wide, strict=False)):
        one = picture[..., 0] if picture.shape[-1] == 1 else picture
        cell.imshow(one, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        cell.set_axis_off()
        if len(titles):
            cell.set_title(str(titles[index]), fontsize=9)
    if note:
        figure.supxlabel(note, fontsize=9)
    return figure
