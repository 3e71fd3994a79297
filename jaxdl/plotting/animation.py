"""Animate the paths of optimizers over contours, step by step, as a GIF or an MP4."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxdl.extras import import_extra
from jaxdl.files import as_path
from jaxdl.plotting.contours import COLOURS, Landscape, add_legends, backdrop, path_styles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SHADES = 12
"""Shades of each path's colour in a GIF; the other 160 of its 256 colours are greys."""


def animate_paths(
    *landscapes: Landscape,
    path: str | os.PathLike[str],
    steps: int | None = None,
    seconds: float = 8.0,
    hold: float = 2.0,
    frames_per_second: int = 20,
    columns: int | None = None,
    size: tuple[float, float] | None = None,
    dpi: int = 80,
) -> Path:
    """Draw the paths of `contours` growing step by step, as a GIF or as an MP4.

    Step t of all the paths is shown at the same time; the last frame stays for a while. In a GIF
    equal frames become one longer frame, and durations are whole hundredths of a second.

    Arguments:
        landscapes: the panels, at least one path in them.
        path: the file to write, ".gif" or ".mp4"; the latter needs ffmpeg (see `has_ffmpeg`).
        steps: the last step to show; None for the last of the longest path.
        seconds: the duration of all steps together.
        hold: the seconds for which the last frame stays before a GIF begins anew.
        frames_per_second: at most 50 in a GIF.
        columns: panels side by side; None for all.
        size: width and height in inches.
        dpi: pixels per inch.

    Returns:
        The file's path.

    Raises:
        ValueError: another suffix; no path; no step; fewer than two frames; a negative `hold`;
            heights that `contour_levels` refuses.
        RuntimeError: an MP4 without ffmpeg.

    Example:
        >>> x = np.linspace(-1.0, 1.0, 5)
        >>> panel = Landscape(x, x, x[:, None] ** 2 + x**2, {"sgd": np.eye(2)})
        >>> animate_paths(panel, path="paths.webm")
        Traceback (most recent call last):
        ValueError: path must end in .gif or .mp4, got paths.webm; name one of these
    """
    animation = import_extra("matplotlib.animation", "an animation")
    path = as_path(path)
    if path.suffix not in (".gif", ".mp4"):
        raise ValueError(f"path must end in .gif or .mp4, got {path}; name one of these")
    longest = max((len(p) for each in landscapes for p in each.paths.values()), default=0) - 1
    steps = longest if steps is None else steps
    if not 1 <= steps <= longest:
        raise ValueError(
            f"steps must be 1 to {max(longest, 0)}, those of the longest path, got {steps}; "
            "pass fewer steps or longer paths"
        )
    frames = round(seconds * frames_per_second)
    if frames < 2 or (path.suffix == ".gif" and frames_per_second > 50):
        raise ValueError(
            "frames must be two or more, at most 50 a second in a GIF, got "
            f"{frames} at {frames_per_second} a second; pass other seconds or frames_per_second"
        )
    if hold < 0:
        raise ValueError(f"hold must be at least 0 s, got {hold}; pass 0.0 for no pause")
    if path.suffix == ".mp4" and not has_ffmpeg():
        raise RuntimeError(
            f"an .mp4 needs the program ffmpeg on the PATH, got none for {path}; "
            "install ffmpeg, or write a .gif"
        )
    figure, draw = _stage(landscapes, columns, size, dpi)
    shown = [int(step) for step in np.round(np.linspace(0, steps, frames))]
    shown += [steps] * round(hold * frames_per_second)
    if path.suffix == ".gif":
        _write_gif(path, [draw(step) for step in shown], frames_per_second)
        return path
    writer = animation.FFMpegWriter(fps=frames_per_second)
    with writer.saving(figure, str(path), dpi):
        for step in shown:
            draw(step)
            writer.grab_frame()
    return path


def has_ffmpeg() -> bool:
    """Whether `animate_paths` can write an MP4: the program ffmpeg is on the PATH."""
    animation = import_extra("matplotlib.animation", "an animation")
    return bool(animation.FFMpegWriter.isAvailable())


def _write_gif(path: Path, frames: Sequence[np.ndarray], frames_per_second: int) -> None:
    """Use one palette for all frames: the paths' colours, their mixtures with white, and greys.

    matplotlib uses a palette for each frame. This makes the background flicker, and the file ten
    times as large. A palette fitted to one frame tints the greys.
    """
    from matplotlib.colors import to_rgb
    from PIL import Image

    pure = np.array([to_rgb(colour) for colour in COLOURS])
    share = np.linspace(0.0, 1.0, SHADES, endpoint=False)[:, None, None]
    mixed = (pure + share * (1 - pure)).reshape(-1, 3)
    # Pillow maps 252..255 to the colour nearest to 252. This must be white: white stays white.
    grey = np.append(np.linspace(0.0, 248 / 255, 255 - len(mixed)), 1.0)[:, None].repeat(3, axis=1)
    palette = Image.new("P", (1, 1))
    palette.putpalette(np.round(255 * np.concatenate([mixed, grey])).astype(np.uint8).tobytes())
    first, *others = (
        Image.fromarray(frame).quantize(palette=palette, dither=Image.Dither.NONE)
        for frame in frames
    )
    first.save(
        path, save_all=True, append_images=others, duration=round(1000 / frames_per_second), loop=0
    )


def _stage(
    landscapes: Sequence[Landscape],
    columns: int | None,
    size: tuple[float, float] | None,
    dpi: int,
) -> tuple["Figure", Callable[[int], np.ndarray]]:
    """A figure with the backdrop as an image, and a function that draws a step: (h, w, 3) bytes.

    The contours take far longer to draw than the paths, so they are drawn once.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    still, places = backdrop(landscapes, columns, size)
    styles = path_styles(landscapes)
    add_legends(places, landscapes, styles)
    place_of_step = still.suptitle(" ")
    still.set_dpi(dpi)
    canvas = FigureCanvasAgg(still)
    canvas.draw()
    figure = Figure(figsize=tuple(still.get_size_inches()), dpi=dpi)
    figure.figimage(np.asarray(canvas.buffer_rgba()), zorder=-1)
    title = figure.text(*place_of_step.get_position(), "", ha="center", va="top", fontsize="large")
    lines = []
    for place, landscape in zip(places, landscapes, strict=True):
        axes = figure.add_axes(place.get_position(), frameon=False)
        axes.set(xlim=place.get_xlim(), ylim=place.get_ylim(), xticks=[], yticks=[])
        for name, points in landscape.paths.items():
            # The marker goes with the last point, so that paths that agree can be told apart.
            style = styles[name] | {"ms": 8}
            (line,) = axes.plot([], [], **style, lw=1.6, markevery=[-1])
            lines.append((line, np.asarray(points, np.float64)))

    canvas = FigureCanvasAgg(figure)

    def draw(step: int) -> np.ndarray:
        title.set_text(f"step {step}")
        for line, points in lines:
            line.set_data(*points[: step + 1].T)
        canvas.draw()
        return np.asarray(canvas.buffer_rgba())[..., :3].copy()

    return figure, draw
