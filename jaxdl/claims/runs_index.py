"""`index.html` of a folder of runs: a link to the page of every one."""

import contextlib
import html
import os
import re
from pathlib import Path

from jaxdl.claims.past_runs import find_run, tally
from jaxdl.claims.run_page import PAGE
from jaxdl.files import as_path, partial_folder, publish
from jaxdl.plotting.cards import Card, gallery_page

GALLERY = "gallery.html"
_DESCRIPTION = re.compile(r'<meta name="description" content="([^"]*)">')
_HEAD = 4000
"""Characters of a page in which its description stands."""


def write_index(runs: str | os.PathLike[str]) -> Path:
    """Write `index.html` into a folder of runs, or write it anew.

    It shows every folder that `main` wrote there, of experiments of this project and of others,
    and links `gallery.html` if there is one. Several processes may call this at once: a reader
    finds the old page or the new one, never a part, and the last page has every run.

    Arguments:
        runs: the folder.

    Returns:
        The page's path.

    Example:
        >>> import tempfile
        >>> write_index(tempfile.mkdtemp()).name
        'index.html'
    """
    runs = as_path(runs)
    shown = None
    # Another process may end in between. Who writes last looks again and finds its run.
    while shown != (there := _state(runs)):
        shown = there
        cards = [_card(runs / name) for name, _ in shown if name != GALLERY]
        links = {GALLERY: "the gallery, by theme"} if (runs / GALLERY).is_file() else {}
        lead = f"{len(cards)} experiment{'s' * (len(cards) != 1)}, each with its last run."
        page = gallery_page("Runs", lead, {"By name": ("", cards)}, links)
        with partial_folder(runs) as partial:
            (partial / PAGE).write_text(page, encoding="utf-8")
            publish(partial / PAGE, runs / PAGE)
    return runs / PAGE


def _state(runs: Path) -> list[tuple[str, int]]:
    """What the page depends on: the names of the runs, and when their pages were written."""
    found = []
    for folder in sorted(runs.glob("*/")):
        # Another process may begin this run again, and remove its files.
        with contextlib.suppress(FileNotFoundError):
            (folder / "claims.json").stat()
            found.append((folder.name, (folder / PAGE).stat().st_mtime_ns))
    return found + [(GALLERY, 0)] * (runs / GALLERY).is_file()


def _card(folder: Path) -> Card:
    name = folder.name
    try:
        run = find_run(folder)
    except (ValueError, KeyError, OSError):  # of an earlier version, or being written just now
        run = None
    picture = "figure.png" if (folder / "figure.png").is_file() else "thumbnail.png"
    return Card(
        name,
        _described(folder / PAGE),
        tally(run.claims) if run else "an earlier version wrote its claims",
        link=f"{name}/{PAGE}",
        thumbnail=f"{name}/{picture}" if (folder / picture).is_file() else None,
        note=run.how() if run else "",
    )


def _described(page: Path) -> str:
    """The line in which a page says what it shows."""
    try:
        with page.open(encoding="utf-8") as file:
            found = _DESCRIPTION.search(file.read(_HEAD))
    except FileNotFoundError:
        return ""
    return html.unescape(found[1]) if found else ""
