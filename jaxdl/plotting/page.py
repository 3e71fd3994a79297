"""HTML pages in a single file: one experiment with its claims and figure, or many."""

import base64
import html
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Rows = Sequence[tuple[str, str, str, str]]
"""(statement, measured, expected, verdict) of each claim. A verdict is one word."""

STYLE = """
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 sans-serif; }
pre { white-space: pre-wrap; font: inherit; }
img { max-width: 100%; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { border-bottom: 1px solid #ccc; padding: .3rem .7rem; text-align: left; }
td + td { white-space: nowrap; }
h2 { margin-top: 3rem; border-bottom: 2px solid; }
h3 { margin: 2.5rem 0 0; }
.note { color: #555; }
.refuted td:last-child { color: #b00020; font-weight: bold; }
.holds td:last-child { color: #11691d; }
.undecided td:last-child { color: #8a5a00; }
"""


class Entry(NamedTuple):
    """An experiment on the page of many.

    Attributes:
        name: the experiment's name.
        summary: what it shows, in one line.
        state: what came of it, in a few words for the list of contents.
        link: the address of its own page; without one it is in the list of contents only.
        text: more of what it shows, a paragraph.
        claims: its claims.
        note: a line below them.
        png: its figure.
    """

    name: str
    summary: str
    state: str
    link: str = ""
    text: str = ""
    claims: Rows = ()
    note: str = ""
    png: bytes | None = None


def html_page(
    title: str,
    text: str,
    claims: Rows,
    note: str,
    png: bytes | None = None,
    gifs: Sequence[bytes] = (),
) -> str:
    """A page that needs no other file.

    Arguments:
        title: the page's title.
        text: the text above the table; line breaks are kept.
        claims: the table; a verdict is also the class of its row.
        note: a sentence below the table.
        png: the figure, if there is one.
        gifs: animations below it.

    Example:
        >>> page = html_page("toy", "Is 1 < 2?", [("1 < 2", "1", "at most 2", "holds")], "")
        >>> "<td>1 &lt; 2</td>" in page
        True
    """
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<pre>{html.escape(text.strip())}</pre>",
        _table(claims),
        f"<p>{html.escape(note)}</p>",
        *([_image(f"{title}: the figure", "png", png)] if png else []),
        *(_image(f"{title}: the animation", "gif", gif) for gif in gifs),
    ]
    return _document(title, parts)


def gallery_page(title: str, lead: str, themes: Mapping[str, Sequence[Entry]]) -> str:
    """A page of many experiments by theme, with a list of contents; it needs no other file.

    Arguments:
        title: the page's title.
        lead: the text below it.
        themes: the experiments, by title of their theme.

    Example:
        >>> page = gallery_page("All", "One.", {"Toys": [Entry("toy", "Is 1 < 2?", "not run")]})
        >>> "<b>toy</b>: Is 1 &lt; 2? <span class=note>(not run)</span>" in page
        True
    """
    parts = [f"<h1>{html.escape(title)}</h1>", f"<p>{html.escape(lead)}</p>"]
    for theme, entries in themes.items():
        lines = "\n".join(f"<li>{_line(entry)}</li>" for entry in entries)
        parts.append(f"<p>{html.escape(theme)}</p>\n<ul>\n{lines}\n</ul>")
    for theme, entries in themes.items():
        articles = [_article(entry) for entry in entries if entry.link]
        parts += [f"<h2>{html.escape(theme)}</h2>", *articles] if articles else []
    return _document(title, parts)


def _line(entry: Entry) -> str:
    name, summary = html.escape(entry.name), html.escape(entry.summary)
    shown = f'<a href="#{name}"><b>{name}</b></a>' if entry.link else f"<b>{name}</b>"
    return f"{shown}: {summary} <span class=note>({html.escape(entry.state)})</span>"


def _article(entry: Entry) -> str:
    name = html.escape(entry.name)
    parts = [
        f'<h3 id="{name}">{name}</h3>',
        f"<p><b>{html.escape(entry.summary)}</b> {html.escape(entry.text)}</p>",
        *([_image(f"{entry.name}: the figure", "png", entry.png)] if entry.png else []),
        _table(entry.claims),
        f"<p class=note>{html.escape(entry.note)} "
        f'<a href="{html.escape(entry.link)}">More on its own page.</a></p>',
    ]
    return "\n".join(parts)


def _table(claims: Rows) -> str:
    rows = "\n".join(
        f"<tr class={cells[-1]}>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"
        for cells in claims
    )
    head = "<tr><th>claim</th><th>measured</th><th>expected</th><th></th></tr>"
    return f"<table>{head}\n{rows}\n</table>"


def _image(alternative: str, kind: str, data: bytes) -> str:
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<img alt="{html.escape(alternative)}" src="{source}">'


def _document(title: str, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{STYLE}</style></head><body>
{body}
</body></html>
"""
