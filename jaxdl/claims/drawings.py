"""The pictures of a run: its figure, the same at lecture size, its animations."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

from jaxdl.plotting.figure import save_figure
from jaxdl.plotting.lecture import Plot, lecture_figure, lecture_panels, save_lecture_figure

TALK = "talk"
PANELS = "panels"
KINDS = ("svg", "png")
PICTURES = ("figure.png", "figure.svg", "talk.svg", "talk.png")
"""Files that `draw` may write, beside the folder of the panels and what `animate` writes."""


class Drawn(NamedTuple):
    """What a page holds of the pictures of a run.

    Attributes:
        figure: the figure as PNG; None if the experiment has no `plot`.
        gifs: the animations.
    """

    figure: bytes | None
    gifs: list[bytes]


def draw(folder: Path, experiment: Any, results: Any, *, talk: bool) -> Drawn:
    """Write the figure and the animations of an experiment, if it has any, into a folder.

    Arguments:
        folder: an existing folder.
        experiment: a module with `plot(results)` or `animate(results, folder)`, or neither.
        results: what its `run` returned.
        talk: write talk.svg and talk.png too, and each panel alone into `panels`.
    """
    remove_pictures(folder)  # none of an earlier plot stays beside the new one
    figure, gifs = None, []
    if hasattr(experiment, "plot"):
        drawn = experiment.plot(results)
        save_figure(drawn, folder / "figure.svg")
        figure = save_figure(drawn, folder / "figure.png").read_bytes()
        if talk:
            _draw_talk(folder, lambda: experiment.plot(results))
    if hasattr(experiment, "animate"):
        files = experiment.animate(results, folder)
        gifs = [file.read_bytes() for file in files if file.suffix == ".gif"]
    return Drawn(figure, gifs)


def remove_pictures(folder: Path) -> None:
    """Remove what an earlier `draw` wrote into a folder, but for the animations."""
    for name in PICTURES:
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / PANELS, ignore_errors=True)


def _draw_talk(folder: Path, plot: Plot) -> None:
    whole = lecture_figure(plot)
    for kind in KINDS if whole is not None else ():
        save_lecture_figure(whole, folder / f"{TALK}.{kind}")
    (folder / PANELS).mkdir(exist_ok=True)
    for number, (name, panel) in enumerate(lecture_panels(plot), start=1):
        for kind in KINDS:
            save_lecture_figure(panel, folder / PANELS / f"{number}-{name}.{kind}")
