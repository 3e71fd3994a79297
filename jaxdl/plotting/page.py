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
a { color: #0b57a4; }
code { overflow-wrap: anywhere; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { border-bottom: 1px solid #ccc; padding: .3rem .7rem; text-align: left; }
td + td { white-space: nowrap; }
h2 { margin-top: 3rem; border-bottom: 2px solid; }
h3 { margin: 1.5rem 0 0; }
h4 { margin: 1rem 0 0; }
details h3 { display: inline; }
.note { color: #555; font-size: .9rem; }
.links a { margin-right: 1rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem; }
.card { border: 1px solid #ccc; padding: .7rem; overflow-wrap: anywhere; }
.card p { margin: .3rem 0 0; }
.card a { display: block; }
.card img { display: block; width: 100%; margin-bottom: .5rem; }
.refuted td:last-child { color: #b00020; font-weight: bold; }
.holds td:last-child { color: #11691d; }
.undecided td:last-child { color: #8a5a00; }
@media (max-width: 40rem) {
  td, tr { display: block; }
  tr:first-child { display: none; }
  td { border: 0; padding: 0; }
  td + td { white-space: normal; }
  td:nth-child(2)::before { content: "measured: "; }
  td:nth-child(3)::before { content: "expected: "; }
  tr { border-bottom: 1px solid #ccc; padding: .5rem 0; }
}
"""
_VERDICTS = {"refuted": "Refuted", "undecided": "Undecided", "holds": "Holds"}
"""In the order in which a page shows them, with their headings."""


class Card(NamedTuple):
    """An experiment on the page of many.

    Attributes:
        name: the experiment's name.
        summary: what it shows, in one line.
        state: what came of it, in a few words; without a link, how to run it.
        link: the address of its own page, "" if it was not run.
        thumbnail: its figure as a small PNG.
        note: how it was made, a line.
        claims: its claims.
    """

    name: str
    summary: str
    state: str
    link: str = ""
    thumbnail: bytes | None = None
    note: str = ""
    claims: Rows = ()


def html_page(
    title: str,
    text: str,
    claims: Rows,
    note: str,
    figure: str | bytes | None = None,
    gifs: Sequence[bytes] = (),
) -> str:
    """The page of one experiment. It needs no other file but a figure that is given by address.

    Arguments:
        title: the page's title.
        text: the text above the table; line breaks are kept.
        claims: the table; a verdict is also the class of its row.
        note: a sentence below the table.
        figure: a PNG, or the address of a figure; None if there is none.
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
        *([_image(f"{title}: the figure", "png", figure)] if figure else []),
        *(_image(f"{title}: the animation", "gif", gif) for gif in gifs),
    ]
    return _document(title, parts)


def gallery_page(title: str, lead: str, groups: Mapping[str, tuple[str, Sequence[Card]]]) -> str:
    """A page of many experiments in groups: thumbnails, then the claims by verdict.

    It needs no other file. Refuted claims come first, those that hold are folded in.

    Arguments:
        title: the page's title.
        lead: the text below it.
        groups: by title, a line on the group, and its experiments.

    Example:
        >>> toy = Card("toy", "Is 1 < 2?", "python toy.py")
        >>> page = gallery_page("All", "One.", {"Toys": ("None was run.", [toy])})
        >>> "<b>toy</b> Is 1 &lt; 2?" in page
        True
    """
    links = [f'<a href="#{_anchor(group)}">{html.escape(group)}</a>' for group in groups]
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{html.escape(lead)}</p>",
        f"<p class=links>{' '.join(links)}</p>",
    ]
    for group, (line, cards) in groups.items():
        ran = [card for card in cards if card.link]
        parts += [
            f'<h2 id="{_anchor(group)}">{html.escape(group)}</h2>',
            f"<p>{html.escape(line)}</p>",
            "<div class=cards>\n" + "\n".join(map(_card, ran)) + "\n</div>",
            *map(_not_run, (card for card in cards if not card.link)),
            *(_of_verdict(verdict, ran) for verdict in _VERDICTS),
        ]
    return _document(title, parts)


def _card(card: Card) -> str:
    name, link = html.escape(card.name), html.escape(card.link)
    picture = f"<b>{name}</b>"
    if card.thumbnail:
        picture = _image(f"{card.name}: the figure", "png", card.thumbnail) + picture
    return (
        f'<div class=card><a href="{link}">{picture}</a> {html.escape(card.summary)}'
        f"<p>{html.escape(card.state)}</p><p class=note>{html.escape(card.note)}</p></div>"
    )


def _not_run(card: Card) -> str:
    name, summary = html.escape(card.name), html.escape(card.summary)
    return (
        f"<p class=note><b>{name}</b> {summary} Not run: <code>{html.escape(card.state)}</code></p>"
    )


def _of_verdict(verdict: str, cards: Sequence[Card]) -> str:
    """The claims of one verdict, by experiment; "" if there are none."""
    bodies, count = [], 0
    for card in cards:
        claims = [claim for claim in card.claims if claim[-1] == verdict]
        if claims:
            name, link = html.escape(card.name), html.escape(card.link)
            bodies.append(f'<h4><a href="{link}">{name}</a></h4>\n{_table(claims)}')
        count += len(claims)
    if not count:
        return ""
    heading = f"{_VERDICTS[verdict]}: {count} claim{'s' * (count > 1)}"
    if verdict == "holds":
        body = "\n".join(bodies)
        return f"<details><summary><h3>{heading}</h3></summary>\n{body}\n</details>"
    return "\n".join([f"<h3>{heading}</h3>", *bodies])


def _anchor(group: str) -> str:
    return html.escape(group.replace(" ", "-"))


def _table(claims: Rows) -> str:
    rows = "\n".join(
        f"<tr class={cells[-1]}>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"
        for cells in claims
    )
    head = "<tr><th>claim</th><th>measured</th><th>expected</th><th></th></tr>"
    return f"<table>{head}\n{rows}\n</table>"


def _image(alternative: str, kind: str, data: str | bytes) -> str:
    """An image inside the page, or that at an address."""
    if isinstance(data, bytes):
        data = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<img alt="{html.escape(alternative)}" src="{data}">'


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
