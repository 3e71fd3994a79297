"""The HTML page of many experiments: thumbnails by theme, and the claims by verdict."""

import html
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from jaxdl.plotting.document import Rows, claims_table, document, image
from jaxdl.plotting.formulas import with_formulas

_VERDICTS = {"refuted": "Refuted", "undecided": "Undecided", "holds": "Holds"}
"""In the order in which a page shows them, with their headings."""


class Card(NamedTuple):
    """An experiment on the page of many.

    Attributes:
        name: the experiment's name.
        summary: what it shows, in one line.
        state: what came of it, in a few words; without a link, how to run it.
        link: the address of its own page, "" if it was not run.
        thumbnail: its figure as a small PNG, or its address.
        note: how it was made, a line.
        claims: its claims.
    """

    name: str
    summary: str
    state: str
    link: str = ""
    thumbnail: str | bytes | None = None
    note: str = ""
    claims: Rows = ()


def gallery_page(
    title: str,
    lead: str,
    groups: Mapping[str, tuple[str, Sequence[Card]]],
    links: Mapping[str, str] | None = None,
) -> str:
    """A page of many experiments in groups: thumbnails, then the claims by verdict.

    It needs no other file. Refuted claims come first, those that hold are folded in.

    Arguments:
        title: the page's title.
        lead: the text below it.
        groups: by title, a line on the group, and its experiments.
        links: by address, the name of another page.

    Example:
        >>> toy = Card("toy", "Is 1 < 2?", "python toy.py")
        >>> page = gallery_page("All", "One.", {"Toys": ("None was run.", [toy])})
        >>> "<b>toy</b> Is 1 &lt; 2?" in page
        True
    """
    addresses = {f"#{_anchor(group)}": group for group in groups} | dict(links or {})
    shown = [
        f'<a href="{html.escape(address)}">{html.escape(name)}</a>'
        for address, name in addresses.items()
    ]
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{html.escape(lead)}</p>",
        f"<p class=links>{' '.join(shown)}</p>",
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
    return document(title, parts, lead)


def _card(card: Card) -> str:
    name, link = html.escape(card.name), html.escape(card.link)
    picture = f"<b>{name}</b>"
    if card.thumbnail:
        picture = image(f"{card.name}: the figure", "png", card.thumbnail) + picture
    return (
        f'<div class=card><a href="{link}">{picture}</a> {with_formulas(card.summary)}'
        f"<p>{html.escape(card.state)}</p><p class=note>{html.escape(card.note)}</p></div>"
    )


def _not_run(card: Card) -> str:
    name, summary = html.escape(card.name), with_formulas(card.summary)
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
            bodies.append(f'<h4><a href="{link}">{name}</a></h4>\n{claims_table(claims)}')
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
