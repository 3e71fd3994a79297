"""The results of an earlier run, to judge and draw them again without measuring."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxdl.claims.past_runs import CONFIG
from jaxdl.claims.stored_results import FILE, Results, read_results


class NothingStoredError(LookupError):
    """There is no run with the settings that were asked for; the text has the fix."""


def stored_results(folder: Path, settings: Mapping[str, Any]) -> Results:
    """Read what a run with the same settings measured.

    Arguments:
        folder: where `main` wrote the run.
        settings: the preset's name and every knob.

    Raises:
        NothingStoredError: there is no such run in the folder, or it had other settings.

    Example:
        >>> stored_results(Path("no_such_folder"), {"preset": "default"})
        Traceback (most recent call last):
        ...
        jaxdl.claims.redrawing.NothingStoredError: --redraw needs a run in no_such_folder, got no
        results.npz there; run it once without --redraw
    """
    for name in (FILE, CONFIG):
        if not (folder / name).is_file():
            raise NothingStoredError(
                f"--redraw needs a run in {folder}, got no {name} there; run it once without "
                "--redraw"
            )
    stored = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    asked = json.loads(json.dumps(settings, default=str))  # as it would have been stored
    if stored != asked:
        raise NothingStoredError(_how_they_differ(folder, stored, asked))
    return read_results(folder)


def _how_they_differ(folder: Path, stored: Mapping[str, Any], asked: Mapping[str, Any]) -> str:
    names = [name for name in {**asked, **stored} if stored.get(name, ...) != asked.get(name, ...)]
    had = ", ".join(f"{name} {stored.get(name, 'unknown')}" for name in names)
    wanted = ", ".join(f"{name} {asked.get(name, 'unknown')}" for name in names)
    return (
        f"--redraw must be asked with the settings of the run in {folder}, got {wanted} where it "
        f"had {had}; give those settings, or run it without --redraw"
    )
