"""Every address in the built pages leads to a file, and to a place in it, that is there.

Nothing that a page needs comes from another host: the site is whole without a network. Addresses
that a reader may follow to other hosts are not asked. A chapter without any figure is an error,
too: its cells ran, but drew on another screen.
"""

from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_ADDRESSES = {"a": "href", "link": "href", "img": "src", "script": "src", "iframe": "src"}
_GENERATED = ("_modules", "genindex.html", "search.html")
"""Sphinx's own pages: their links are its affair."""


class Page(HTMLParser):
    """The places of a page, and the addresses in it, each with its tag."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.places: set[str] = set()
        self.addresses: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what is an address or a place."""
        found = dict(attrs)
        self.places |= {value for name in ("id", "name") if (value := found.get(name))}
        address = found.get(_ADDRESSES.get(tag, ""))
        is_needed = tag != "link" or found.get("rel") in ("stylesheet", "icon", "next", "prev")
        if address and is_needed:
            self.addresses.append((tag, address))


def broken_links(site: Path) -> list[str]:
    """What is wrong, a line each: page, address, reason.

    Arguments:
        site: the folder of a built site.
    """
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    wrong = defaultdict(set)
    for path, page in pages.items():
        if path.relative_to(site).parts[0] in _GENERATED:
            continue
        for tag, address in page.addresses:
            if reason := _reason(path, tag, address, pages):
                wrong[f"{path.relative_to(site)}: {address} {reason}"].add(tag)
    return sorted(wrong)


def _reason(path: Path, tag: str, address: str, pages: dict[Path, Page]) -> str | None:
    parts = urlsplit(address)
    if parts.scheme == "data":
        return None
    if parts.scheme or parts.netloc:
        return None if tag == "a" else "comes from another host"
    target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
    if not target.is_file():
        return "leads to no file"
    place = unquote(parts.fragment)
    if place and target in pages and "=" not in place and place not in pages[target].places:
        return "leads to no place on that page"
    return None


def _check(app: Any, exception: Exception | None) -> None:
    from sphinx.errors import SphinxError

    if exception is None and app.builder.name == "html":
        wrong = broken_links(Path(app.outdir).resolve())
        if wrong:
            raise SphinxError("addresses that lead nowhere:\n" + "\n".join(wrong))
        for path in Path(app.outdir, "chapters").glob("*.html"):
            if path.stem != "index" and "<img" not in path.read_text(encoding="utf-8"):
                raise SphinxError(f"{path.name} shows none of its figures")


def setup(app: Any) -> dict[str, bool]:
    """Tell Sphinx when to check."""
    app.connect("build-finished", _check)
    return {"parallel_read_safe": True}
