"""Copy a run's pictures at lecture size, made small enough to be kept with the source code."""

import shutil
from pathlib import Path

from jaxdl.claims.drawings import PANELS, TALK
from jaxdl.claims.past_runs import smaller
from jaxdl.claims.run_page import panels_of

MOST_OF_TALK = 120_000
MOST_OF_PANELS = 120_000
MOST_OF_A_PANEL_SVG = 60_000
"""Bytes: of talk.png, of all panels of a run, of one panel's SVG."""
MOST_OF_TALK_SVG = 220_000
"""Bytes: a larger talk.svg is not kept; its PNG is."""
WIDTHS = (1920, 1280, 960, 640)
"""Pixels: the first is tried first."""


def keep_pictures(run: Path, kept: Path) -> None:
    """Copy talk.svg, talk.png and the panels of a run, those that are there.

    PNGs have at most 128 colours, and fewer pixels where they would be too large. Panels are kept
    in order while there is room: first all PNGs, then the SVGs.

    Arguments:
        run: the folder of a run.
        kept: an existing folder; what stands there of earlier pictures is removed.
    """
    for name in (f"{TALK}.svg", f"{TALK}.png"):
        (kept / name).unlink(missing_ok=True)
    shutil.rmtree(kept / PANELS, ignore_errors=True)
    vector, picture = run / f"{TALK}.svg", run / f"{TALK}.png"
    if vector.is_file() and vector.stat().st_size <= MOST_OF_TALK_SVG:
        shutil.copyfile(vector, kept / vector.name)
    if picture.is_file():
        (kept / picture.name).write_bytes(_at_most(MOST_OF_TALK, picture.read_bytes()))
    if panels := panels_of(run):
        _keep_panels(panels, kept / PANELS)


def _keep_panels(panels: list[Path], folder: Path) -> None:
    folder.mkdir()
    left = MOST_OF_PANELS
    share = MOST_OF_PANELS // len(panels)
    for panel in panels:
        small = _at_most(share, panel.read_bytes())
        if len(small) <= left:
            (folder / panel.name).write_bytes(small)
            left -= len(small)
    for vector in (panel.with_suffix(".svg") for panel in panels):
        size = vector.stat().st_size if vector.is_file() else left + 1
        if size <= min(left, MOST_OF_A_PANEL_SVG):
            shutil.copyfile(vector, folder / vector.name)
            left -= size


def _at_most(size: int, png: bytes) -> bytes:
    """A PNG of at most so many bytes, or as small as it becomes."""
    for width in WIDTHS:
        small = smaller(png, width)
        if len(small) <= size:
            break
    return small
