"""Pages of the experiments, written from what `docs/gallery` keeps before the site is built."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.__main__ import THEMES, by_theme
from jaxdl.claims.claim import Claim
from jaxdl.claims.descriptions import described
from jaxdl.claims.past_runs import PastRun, find_run, tally, tally_of
from jaxdl.claims.refuted_claims import Refuted, refuted_claims

VERDICTS = {"refuted": "✗ refuted", "undecided": "? undecided", "holds": "✓ holds"}


class Shown(NamedTuple):
    """An experiment, and the run of it that is kept."""

    script: Path
    run: PastRun

    @property
    def name(self) -> str:
        """The experiment's name."""
        return self.script.stem


def write_experiments(root: Path, folder: Path) -> None:
    """Write a page an experiment, one of all of them by theme, and one of those refuted.

    Arguments:
        root: the checkout.
        folder: where the pages go.
    """
    folder.mkdir(exist_ok=True)
    kept = root / "docs" / "gallery"
    found = by_theme()
    runs = {s: find_run(kept / s.stem) for scripts in found.values() for s in scripts}
    themes = {
        theme: [Shown(script, run) for script in scripts if (run := runs[script])]
        for theme, scripts in found.items()
    }
    every = [shown for group in themes.values() for shown in group]
    for shown in every:
        _write(folder / f"{shown.name}.md", page_of(shown))
    for theme, group in themes.items():
        _write(folder / f"theme_{theme}.md", theme_page(theme, group, len(found[theme])))
    _write(folder / "index.md", gallery(themes, sum(map(len, found.values()))))
    judgements = refuted_claims(found, kept)
    for verdict in ("refuted", "undecided"):
        _write(folder / f"{verdict}.md", judged(judgements, verdict))


def page_of(shown: Shown) -> str:
    """The page of one experiment."""
    about = described(shown.script)
    parts = [f"# {shown.name}", f"**{about.summary}**", about.meaning]
    files = shown.run.folder
    if (files / "figure.svg").is_file():
        parts += [_figure(shown), _downloads(shown)]
    parts += ["## Claims", f"{tally(shown.run.claims)}.".capitalize(), _claims(shown.run.claims)]
    parts += ["## How it is done", about.text]
    said = {
        "Data": about.data,
        "Source": about.source,
        "Expected": _sentence(about.expected),
        "Run": f"`{about.run}`" if about.run else "",
        "This run": shown.run.how(),
    }
    parts += [f"{name}\n: {_indented(text)}" for name, text in said.items() if text]
    return "\n\n".join(filter(None, parts)) + "\n"


def theme_page(theme: str, group: Sequence[Shown], count: int) -> str:
    """The page of a theme: of each experiment the figure, what it means, and what came of it."""
    parts = [f"# {THEMES[theme]}", tally_of([shown.run for shown in group], count)]
    for shown in group:
        about = described(shown.script)
        parts += [f"## [{shown.name}]({shown.name}.md)", f"**{about.summary}**", about.meaning]
        if (shown.run.folder / "figure.svg").is_file():
            parts.append(_figure(shown))
        time = f"{shown.run.made['seconds']:.0f} s" if shown.run.made else about.time
        said = [f"{tally(shown.run.claims)}", time, about.data.rstrip("."), f"`{about.run}`"]
        parts.append(" · ".join(filter(None, said)))
    parts.append(_toctree(shown.name for shown in group))
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
    for theme, group in themes.items():
        parts += [f"## [{THEMES[theme]}](theme_{theme}.md)", "::::{grid} 1 2 2 3\n:gutter: 3"]
        parts += [_card(shown) for shown in group]
        parts.append("::::")
    pages = ["refuted", "undecided", *(f"theme_{theme}" for theme in themes)]
    return "\n\n".join([*parts, _toctree(pages)]) + "\n"


def judged(judgements: Iterable[Refuted], verdict: str) -> str:
    """The page of the claims with a verdict: what was said, what was measured, why."""
    about = {
        "refuted": "# Refuted claims\n\nWhat the notes or the papers say, and what was measured "
        "here instead. The whole interval that holds the true number with great probability lies "
        "outside the range in which the claim would be true.",
        "undecided": "# Undecided claims\n\nThese runs cannot tell: the interval of the measured "
        "number reaches over the end of the range in which the claim would be true.",
    }
    parts = [about[verdict]]
    for script, said, refuted, undecided in judgements:
        claims = {"refuted": refuted, "undecided": undecided}[verdict]
        if claims:
            found = _sentence(said.expected)
            parts += [f"## [{script.stem}]({script.stem}.md)", said.summary, _claims(claims)]
            parts += [f"Source\n: {_indented(said.source)}"] if said.source else []
            parts += [f"Expected, and found\n: {_indented(found)}"] if found else []
    return "\n\n".join(parts) + "\n"


def _card(shown: Shown) -> str:
    about = described(shown.script)
    lines = [f":::{{grid-item-card}} {shown.name}", f":link: {shown.name}", ":link-type: doc"]
    if (shown.run.folder / "thumbnail.png").is_file():
        lines.append(f":img-top: ../gallery/{shown.name}/thumbnail.png")
    return "\n".join([*lines, "", about.summary, "", f"*{tally(shown.run.claims)}*", ":::"])


def _claims(claims: Sequence[Claim]) -> str:
    rows = ["{.claims}", "| claim | measured | expected | |", "| --- | --- | --- | --- |"]
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


def _figure(shown: Shown) -> str:
    return f"![The figure of {shown.name}](../gallery/{shown.name}/figure.svg)"


def _toctree(pages: Iterable[str]) -> str:
    return "\n".join(["```{toctree}", ":hidden:", "", *pages, "```"])


def _sentence(text: str) -> str:
    """The text with a capital letter."""
    return text[:1].upper() + text[1:]


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
