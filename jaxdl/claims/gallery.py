"""Many experiments on one page: by theme, with figures, claims and what chance may refute."""

import ast
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxdl.claims.claim import Claim
from jaxdl.claims.report import EXPLAINED, as_row, chance_in_words, read_claims
from jaxdl.files import as_path
from jaxdl.plotting.page import Entry, gallery_page

_HEADING = re.compile(r"(?m)^[A-Z][a-z]+: ")


def write_gallery(themes: Mapping[str, Sequence[Path]], output: str | os.PathLike[str]) -> Path:
    """Write `gallery.html`: the experiments that were run, and those that were not.

    Figures are inside: the page needs no other file. Each experiment has a link to its own page.

    Arguments:
        themes: by title of a theme, its scripts' files. They are read, not imported.
        output: the folder where `main` wrote each script's folder; the page goes there, too.

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
    scripts = [script for of in themes.values() for script in of]
    ran = {script: read_claims(output / script.stem) for script in scripts if _ran(script, output)}
    entries = {
        title: [_entry(script, ran.get(script), output) for script in of]
        for title, of in themes.items()
    }
    claims = [claim for of in ran.values() for claim in of]
    lead = f"{len(ran)} of {len(scripts)} experiments were run. "
    if claims:
        lead += f"They make {len(claims)} claims: {_tally(claims)}. {EXPLAINED} "
        lead += chance_in_words(claims)
    output.mkdir(parents=True, exist_ok=True)
    file = output / "gallery.html"
    file.write_text(gallery_page("Experiments and their claims", lead, entries), encoding="utf-8")
    return file


def docstring(script: Path) -> str:
    """A script's docstring, "" if it has none; the script is not run."""
    return ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""


def _ran(script: Path, output: Path) -> bool:
    return (output / script.stem / "claims.json").is_file()


def _entry(script: Path, claims: Sequence[Claim] | None, output: Path) -> Entry:
    """What the page shows of a script; of one that was not run there are no claims."""
    summary, text = _first_paragraph(script)
    if claims is None:
        return Entry(script.stem, summary, f"not run yet: python {script}")
    folder = output / script.stem
    preset = json.loads((folder / "config.json").read_text(encoding="utf-8"))["preset"]
    figure = folder / "figure.png"
    return Entry(
        script.stem,
        summary,
        state=_tally(claims) or "no claims",
        link=f"{script.stem}/index.html",
        text=text,
        claims=[as_row(claim) for claim in claims],
        note=f'Preset "{preset}". {chance_in_words(claims)}',
        png=figure.read_bytes() if figure.is_file() else None,
    )


def _first_paragraph(script: Path) -> tuple[str, str]:
    """The docstring's first line, and what follows up to an empty line, "Run: " or the like."""
    summary, _, rest = docstring(script).partition("\n")
    paragraph = rest.strip().partition("\n\n")[0]
    return summary, " ".join(_HEADING.split(paragraph)[0].split())


def _tally(claims: Sequence[Claim]) -> str:
    """How many hold, are undecided, are refuted, in words.

    Example:
        >>> _tally([Claim("", 1, 0, 2), Claim("", 3, 0, 2), Claim("", 2, 0, 2)])
        '2 hold, 1 is refuted'
    """
    words = {
        "holds": ("holds", "hold"),
        "undecided": ("is undecided", "are undecided"),
        "refuted": ("is refuted", "are refuted"),
    }
    counts: Counter[str] = Counter(claim.verdict for claim in claims)
    return ", ".join(
        f"{counts[verdict]} {words[verdict][counts[verdict] > 1]}"
        for verdict in words
        if counts[verdict]
    )
