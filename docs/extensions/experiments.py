"""Pages of the experiments, written from what `docs/gallery` keeps before the site is built."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.__main__ import THEMES, by_theme
from jaxdl.claims.claim import Claim
from jaxdl.claims.past_runs import PastRun, described, find_run, tally, tally_of

VERDICTS = {"refuted": "✗ refuted", "undecided": "? undecided", "holds": "✓ holds"}


class Shown(NamedTuple):
    """An experiment, and the run of it that is kept."""

    script: Path
    run: PastRun

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.script.stem

    def with_verdict(self, verdict: str) -> list[Claim]:
        """Its claims with a verdict."""
        return [claim for claim in self.run.claims if claim.verdict == verdict]


def write_experiments(root: Path, folder: Path) -> None:
    """Write a page an experiment, one of all of them by theme, and one of those refuted.

    Arguments:
        root: the checkout.
        folder: where the pages go.
    """
    folder.mkdir(exist_ok=True)
    kept = root / "docs" / "gallery"
    themes = {
        THEMES[theme]: [
            Shown(script, run) for script in scripts if (run := find_run(kept / script.stem))
        ]
        for theme, scripts in by_theme().items()
    }
    every = [shown for group in themes.values() for shown in group]
    for shown in every:
        _write(folder / f"{shown.name}.md", page_of(shown))
    _write(folder / "index.md", gallery(themes, sum(map(len, by_theme().values()))))
    _write(folder / "refuted.md", judged(every, "refuted"))
    _write(folder / "undecided.md", judged(every, "undecided"))


def page_of(shown: Shown) -> str:
    """The page of one experiment."""
    about = described(shown.script)
    parts = [f"# {shown.name}", f"**{about.summary}**", about.meaning]
    files = shown.run.folder
    if (files / "figure.svg").is_file():
        parts.append(f"![The figure of {shown.name}](../gallery/{shown.name}/figure.svg)")
        parts.append(_downloads(shown))
    parts += ["## Claims", f"{tally(shown.run.claims)}.".capitalize(), _claims(shown.run.claims)]
    parts += ["## How it is done", about.text]
    said = {
        "Data": about.data,
        "Source": about.source,
        "Expected": about.expected,
        "Run": f"`{about.run}`" if about.run else "",
        "This run": shown.run.how(),
    }
    parts += [f"{name}\n: {_indented(text)}" for name, text in said.items() if text]
    return "\n\n".join(filter(None, parts)) + "\n"


def gallery(themes: dict[str, list[Shown]], count: int) -> str:
    """The page of all of them, by theme."""
    every = [shown.run for group in themes.values() for shown in group]
    parts = [
        "# Experiments",
        "Each is a script that measures what a lecture or a paper says, draws a figure, and judges "
        "its claims. A claim holds, is refuted, or is undecided: these runs cannot tell. "
        f"{tally_of(every, count)}",
        "What is [refuted](refuted.md), and what these runs [cannot decide](undecided.md).",
    ]
    for title, group in themes.items():
        parts += [f"## {title}", "::::{grid} 1 2 2 3\n:gutter: 3"]
        parts += [_card(shown) for shown in group]
        parts.append("::::")
    parts.append(_toctree(["refuted", "undecided"]))
    for title, group in themes.items():
        parts.append(_toctree([shown.name for shown in group], title))
    return "\n\n".join(parts) + "\n"


def judged(every: Iterable[Shown], verdict: str) -> str:
    """The page of the claims with a verdict: what was said, what was measured, why."""
    about = {
        "refuted": "# Refuted claims\n\nWhat the notes or the papers say, and what was measured "
        "here instead. The whole interval that holds the true number with great probability lies "
        "outside the range in which the claim would be true.",
        "undecided": "# Undecided claims\n\nThese runs cannot tell: the interval of the measured "
        "number reaches over the end of the range in which the claim would be true.",
    }
    parts = [about[verdict]]
    for shown in every:
        if claims := shown.with_verdict(verdict):
            said = described(shown.script)
            parts += [f"## [{shown.name}]({shown.name}.md)", said.summary, _claims(claims)]
            parts += [f"Source\n: {_indented(said.source)}"] if said.source else []
            parts += [f"Expected, and found\n: {_indented(said.expected)}"] if said.expected else []
    return "\n\n".join(parts) + "\n"


def _card(shown: Shown) -> str:
    about = described(shown.script)
    lines = [f":::{{grid-item-card}} {shown.name}", f":link: {shown.name}", ":link-type: doc"]
    if (shown.run.folder / "thumbnail.png").is_file():
        lines.append(f":img-top: ../gallery/{shown.name}/thumbnail.png")
    return "\n".join([*lines, "", about.summary, "", "+++", f"{tally(shown.run.claims)}", ":::"])


def _claims(claims: Sequence[Claim]) -> str:
    rows = ["| claim | measured | expected | |", "| --- | --- | --- | --- |"]
    for claim in claims:
        meaning = f"**{_cell(claim.meaning)}**<br>{_cell(claim.quantity)}"
        rows.append(f"| {meaning} | {claim.number} | {claim.band} | {VERDICTS[claim.verdict]} |")
    return "\n".join(rows)


def _downloads(shown: Shown) -> str:
    """Links to the figure as files: for a page, and for a lecture."""
    wanted = {
        "figure.svg": "figure, SVG",
        "talk.svg": "for a lecture, SVG",
        "talk.png": "for a lecture, PNG",
    }
    found = [
        f"{{download}}`{text} <../gallery/{shown.name}/{name}>`"
        for name, text in wanted.items()
        if (shown.run.folder / name).is_file()
    ]
    for panel in sorted(shown.run.folder.glob("panels/*")):
        text = f"panel {panel.stem.replace('_', ' ')}, {panel.suffix[1:].upper()}"
        found.append(f"{{download}}`{text} <../gallery/{shown.name}/panels/{panel.name}>`")
    return " · ".join(found)


def _toctree(pages: Iterable[str], caption: str = "") -> str:
    options = [":hidden:", *([f":caption: {caption}"] if caption else [])]
    return "\n".join(["```{toctree}", *options, "", *pages, "```"])


def _cell(text: str) -> str:
    return text.replace("|", r"\|").replace("*", r"\*").replace("<", "&lt;")


def _indented(text: str) -> str:
    return text.replace("\n", "\n  ")


def _write(file: Path, text: str) -> None:
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        file.write_text(text, encoding="utf-8")


def setup(app: Any) -> dict[str, bool]:
    """Tell Sphinx when to write."""
    folder = Path(app.srcdir)
    app.connect(
        "builder-inited", lambda _: write_experiments(folder.parent, folder / "experiments")
    )
    return {"parallel_read_safe": True}
