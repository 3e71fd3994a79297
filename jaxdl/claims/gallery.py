"""Many experiments on one page: by lecture, with thumbnails and claims by verdict."""

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from jaxdl.claims.descriptions import described
from jaxdl.claims.keeping import keep_pictures
from jaxdl.claims.past_runs import (
    THUMBNAIL,
    PastRun,
    Themes,
    find_run,
    tally,
    tally_of,
)
from jaxdl.claims.report import EXPLAINED, as_row, chance_in_words
from jaxdl.claims.run_page import write_page
from jaxdl.claims.runs_index import GALLERY, write_index
from jaxdl.files import as_path
from jaxdl.plotting.cards import Card, gallery_page


def write_gallery(
    themes: Themes,
    output: str | os.PathLike[str],
    kept: str | os.PathLike[str] | None = None,
) -> Path:
    """Write `gallery.html`: the experiments that were run, and those that were not.

    Thumbnails are inside the page, with a link from each to the page of its experiment. Claims are
    listed by verdict, the refuted ones first. `index.html` beside it links every run in that
    folder, also those of scripts that stand in no theme.

    Arguments:
        themes: by title of a theme, its scripts' files.
        output: the folder where `main` wrote each script's folder; the page goes there, too.
        kept: a folder of `keep_runs`, for those that are not in `output`.

    Returns:
        The page's path.

    Raises:
        ValueError: the claims of a run were written by an earlier version.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "mine.py").write_text("'What it shows.'")
        >>> write_gallery({"My experiments": [folder / "mine.py"]}, folder / "runs").name
        'gallery.html'
    """
    output = as_path(output)
    places = [output] if kept is None else [output, as_path(kept)]
    groups, ran = {}, []
    for title, scripts in themes.items():
        runs = {script: _first_run(script, places) for script in scripts}
        found = [run for run in runs.values() if run]
        cards = [_card(script, run, output) for script, run in runs.items()]
        groups[title] = tally_of(found, len(scripts)), cards
        ran += found
    lead = tally_of(ran, sum(map(len, themes.values())))
    if claims := [claim for run in ran for claim in run.claims]:
        lead += f" {EXPLAINED} {chance_in_words(claims)}"
    output.mkdir(parents=True, exist_ok=True)
    file = output / GALLERY
    links = {"index.html": "every run in this folder"}
    page = gallery_page("Experiments and their claims", lead, groups, links)
    file.write_text(page, encoding="utf-8")
    write_index(output)
    return file


def keep_runs(
    themes: Themes, output: str | os.PathLike[str], kept: str | os.PathLike[str]
) -> dict[str, str]:
    """Copy from every run of a default preset what a gallery needs: about 0.6 MB each.

    That is claims.json, config.json, made.json, figure.svg, a thumbnail and a page; of a run that
    was drawn with `--style talk` also the pictures at lecture size, see `keep_pictures`. A
    README.md is made of all that are kept, these and earlier ones.

    Arguments:
        themes: by title of a theme, its scripts' files.
        output: the folder where `main` wrote each script's folder.
        kept: the folder to copy to.

    Returns:
        Why a script's run was not copied, by its name.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> _ = (folder / "mine.py").write_text("'What it shows.'")
        >>> keep_runs({"Mine": [folder / "mine.py"]}, folder / "runs", folder / "kept")
        {'mine': 'not run'}
    """
    output, kept = as_path(output), as_path(kept)
    refused = {}
    for script in (script for scripts in themes.values() for script in scripts):
        run = find_run(output / script.stem)
        if run is None:
            refused[script.stem] = "not run"
        elif not run.is_default:
            refused[script.stem] = f"not a run of the default preset alone: {run.how()}"
        else:
            _copy(script, run, kept / script.stem)
    kept.mkdir(parents=True, exist_ok=True)
    (kept / "README.md").write_text(_overview(themes, kept), encoding="utf-8")
    return refused


def _first_run(script: Path, places: Iterable[Path]) -> PastRun | None:
    return next(filter(None, (find_run(place / script.stem) for place in places)), None)


def _card(script: Path, run: PastRun | None, output: Path) -> Card:
    """What the page shows of a script; of one that was not run there are no claims."""
    if run is None:
        return Card(script.stem, described(script).summary, f"python {script}")
    return Card(
        script.stem,
        described(script).summary,
        tally(run.claims),
        link=Path(os.path.relpath(run.folder / "index.html", output)).as_posix(),
        thumbnail=run.thumbnail(),
        note=run.how(),
        claims=[as_row(claim) for claim in run.claims],
    )


def _copy(script: Path, run: PastRun, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("claims.json", "config.json", "made.json", "figure.svg"):
        if (run.folder / name).is_file():
            shutil.copyfile(run.folder / name, folder / name)
    if small := run.thumbnail():
        (folder / THUMBNAIL).write_bytes(small)
    keep_pictures(run.folder, folder)
    write_page(run._replace(folder=folder), described(script))


def _overview(themes: Themes, kept: Path) -> str:
    """Markdown: of every theme the figures, and the claims that were refuted or undecided."""
    runs = {title: [(s, find_run(kept / s.stem)) for s in of] for title, of in themes.items()}
    found = {title: [(s, run) for s, run in of if run] for title, of in runs.items()}
    every = [run for of in found.values() for _, run in of]
    count = sum(map(len, themes.values()))
    lines = [
        "# Experiments and their claims",
        "",
        f"{tally_of(every, count)} {EXPLAINED}",
        "`python -m experiments gallery` writes a page of these, and of your own runs.",
    ]
    for title, of in found.items():
        lines += ["", f"## {title}", "", tally_of([run for _, run in of], len(themes[title]))]
        lines += ["", "| | |", "|---|---|"]
        for script, run in of:
            name = script.stem
            code = Path(os.path.relpath(script, kept)).as_posix()
            lines.append(
                f'| <a href="{name}/figure.svg"><img src="{name}/{THUMBNAIL}" width="280"></a> '
                f"| **[{name}]({code})** {described(script).summary} <br>{tally(run.claims)}. "
                f"<br>{run.how()} |"
            )
        for verdict in ("refuted", "undecided"):
            rows = [
                f"- **{script.stem}**: {claim.text}: {claim.number}, expected {claim.band}"
                for script, run in of
                for claim in run.claims
                if claim.verdict == verdict
            ]
            lines += ["", f"{verdict.capitalize()}:", "", *rows] if rows else []
    return "\n".join(lines) + "\n"
