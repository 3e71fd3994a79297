"""The page of a run: `index.html` in its folder, from what stands there."""

from collections.abc import Sequence
from pathlib import Path

from jaxdl.claims.descriptions import Described
from jaxdl.claims.past_runs import PastRun
from jaxdl.claims.report import EXPLAINED, as_row, chance_in_words
from jaxdl.plotting.page import html_page

PAGE = "index.html"
_FILES = {
    "figure.svg": "the figure",
    "talk.svg": "at lecture size",
    "talk.png": "as a picture for slides",
}


def write_page(
    run: PastRun,
    described: Described,
    figure: bytes | None = None,
    gifs: Sequence[bytes] = (),
) -> Path:
    """Write the page of a run into its folder.

    Arguments:
        run: the run.
        described: what its script says.
        figure: a PNG that the page holds; None for the address of figure.svg, if there is one.
        gifs: animations that the page holds.
    """
    files = {name: said for name, said in _FILES.items() if (run.folder / name).is_file()}
    for panel in panels_of(run.folder):
        files[f"panels/{panel.name}"] = f"panel {panel.stem.partition('-')[0]}"
    page = html_page(
        run.folder.name,
        described.summary,
        [as_row(claim) for claim in run.claims],
        f"{EXPLAINED} {chance_in_words(run.claims)}",
        figure or ("figure.svg" if "figure.svg" in files else None),
        gifs,
        meaning=described.meaning,
        text=described.text,
        facts={
            "Expected": described.expected,
            "Data": described.data,
            "Source": described.source,
            "Command": f"`{described.run}`" if described.run else "",
            "Time": described.time,
            "This run": run.how(),
        },
        files=files,
    )
    file = run.folder / PAGE
    file.write_text(page, encoding="utf-8")
    return file


def panels_of(folder: Path) -> list[Path]:
    """The pictures of single panels that a run has at lecture size, in order."""
    numbered = (folder / "panels").glob("*-*.png")
    return sorted(numbered, key=lambda file: int(file.stem.partition("-")[0]))
