"""The HTML page of one experiment: what it means, its figure, its claims, where they come from."""

import html
from collections.abc import Mapping, Sequence

from jaxdl.plotting.document import Rows, claims_table, document, image
from jaxdl.plotting.formulas import with_formulas


def html_page(
    title: str,
    lead: str,
    claims: Rows,
    note: str,
    figure: str | bytes | None = None,
    gifs: Sequence[bytes] = (),
    *,
    meaning: str = "",
    text: str = "",
    facts: Mapping[str, str] | None = None,
    files: Mapping[str, str] | None = None,
) -> str:
    """The page of one experiment. It needs no other file but a figure that is given by address.

    Texts are plain; formulas in dollars are rendered, see `with_formulas`.

    Arguments:
        title: the page's title.
        lead: what the experiment shows, a line.
        claims: the table; a verdict is also the class of its row.
        note: a sentence below the table.
        figure: a PNG, or the address of a figure; None if there is none.
        gifs: animations below it.
        meaning: what the figure means, above it.
        text: paragraphs with empty lines between them; line breaks of indented ones are kept.
        facts: by its name, what is told of the experiment: its data, its source.
        files: by address, the name of a file to open; the first is the figure in full size.

    Example:
        >>> row = ("1 < 2", "the number", "1", "at most 2", "holds")
        >>> page = html_page("toy", "Is 1 < 2?", [row], "", meaning="One is less.")
        >>> "<b>1 &lt; 2.</b> <span class=quantity>the number</span>" in page
        True
    """
    files = files or {}
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p class=lead>{with_formulas(lead)}</p>"]
    if meaning:
        parts.append(f"<p class=meaning>{with_formulas(meaning)}</p>")
    if figure:
        shown = image(f"{title}: the figure", "png", figure)
        parts.append(f"<figure>{_linked(shown, files)}{_caption(files)}</figure>")
    parts += [f"<figure>{image(f'{title}: the animation', 'gif', gif)}</figure>" for gif in gifs]
    parts += ["<h2>Claims</h2>", claims_table(claims), f"<p class=note>{html.escape(note)}</p>"]
    if text:
        parts += ["<h2>The experiment</h2>", f"<div class=text>{_paragraphs(text)}</div>"]
    told = {name: _begun(said) for name, said in (facts or {}).items() if said}
    if told:
        rows = (
            f"<dt>{html.escape(name)}</dt><dd>{with_formulas(said)}</dd>"
            for name, said in told.items()
        )
        parts.append("<dl>\n" + "\n".join(rows) + "\n</dl>")
    return document(title, parts, lead)


def _linked(shown: str, files: Mapping[str, str]) -> str:
    first = next(iter(files), None)
    return shown if first is None else f'<a href="{html.escape(first)}">{shown}</a>'


def _caption(files: Mapping[str, str]) -> str:
    if not files:
        return ""
    links = (
        f'<a href="{html.escape(address)}">{html.escape(name)}</a>'
        for address, name in files.items()
    )
    return f"<figcaption class=links>Open: {' '.join(links)}</figcaption>"


def _paragraphs(text: str) -> str:
    shown = []
    for paragraph in text.split("\n\n"):
        kind = "pre" if "\n" in paragraph else "p"
        shown.append(f"<{kind}>{with_formulas(paragraph)}</{kind}>")
    return "\n".join(shown)


def _begun(said: str) -> str:
    """With a capital letter, unless a name of code stands first."""
    first = said.split(maxsplit=1)[0].strip(",;:.")
    return f"{said[0].upper()}{said[1:]}" if first.isalpha() else said
