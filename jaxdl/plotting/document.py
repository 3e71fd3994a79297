"""The frame of every HTML page: one file, light and dark, for a phone and for a desk."""

import base64
import html
from collections.abc import Sequence

from jaxdl.plotting.formulas import with_formulas

Rows = Sequence[tuple[str, str, str, str, str]]
"""(meaning, quantity, measured, expected, verdict) of each claim. A verdict is one word."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fff; --ink: #1b1b1b; --faint: #595959; --line: #ccc; --box: #f2f5f9; --link: #0b57a4;
  --holds: #11691d; --undecided: #7a5000; --refuted: #b00020;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #16181c; --ink: #e6e6e6; --faint: #a9a9a9; --line: #444; --box: #22262d;
    --link: #8ab8f0; --holds: #7fce8a; --undecided: #e6b655; --refuted: #ff8a95;
  }
}
* { box-sizing: border-box; }
body {
  max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 sans-serif;
  color: var(--ink); background: var(--paper); overflow-wrap: break-word;
}
a { color: var(--link); }
code { font-size: .9em; overflow-wrap: anywhere; }
h2 { margin: 2rem 0 .5rem; border-bottom: 1px solid var(--line); font-size: 1.3rem; }
h3 { margin: 1.5rem 0 0; }
h4 { margin: 1rem 0 0; }
details h3 { display: inline; }
.lead { font-size: 1.15rem; }
.meaning {
  margin: 1rem 0; padding: .7rem 1rem; border-left: 4px solid var(--link); background: var(--box);
}
.note { color: var(--faint); font-size: .9rem; }
figure { margin: 1.5rem 0; }
/* Figures are drawn in black: they need a white ground. */
figure img, .card img {
  display: block; max-width: 100%; height: auto; padding: .4rem; background: #fff;
  border: 1px solid var(--line); border-radius: 4px;
}
figcaption { margin-top: .3rem; color: var(--faint); font-size: .9rem; }
table { width: 100%; margin: .5rem 0 1rem; border-collapse: collapse; }
th, td {
  padding: .5rem .7rem .5rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top;
}
td + td { white-space: nowrap; }
.quantity { display: block; color: var(--faint); font-size: .85rem; }
.holds td:last-child { color: var(--holds); }
.undecided td:last-child { color: var(--undecided); }
.refuted td:last-child { color: var(--refuted); font-weight: bold; }
math { font-size: 1.05em; }
math[display=block] { margin: .5rem 0; overflow-x: auto; }
.text pre { margin: 0 0 1rem; overflow-x: auto; font: inherit; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .4rem 1.2rem; }
dt { font-weight: bold; }
dd { margin: 0; min-width: 0; }
.links a { margin-right: 1rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(17rem, 1fr)); gap: 1rem; }
.card { border: 1px solid var(--line); border-radius: 4px; padding: .7rem; }
.card { overflow-wrap: anywhere; }
.card p { margin: .3rem 0 0; }
.card a { display: block; }
.card img { width: 100%; margin-bottom: .5rem; }
@media (max-width: 40rem) {
  body { margin: 1rem auto; }
  table, tbody, tr, td, dl { display: block; }
  tr:first-child { display: none; }
  tr { border-bottom: 1px solid var(--line); padding: .7rem 0; }
  td { border: 0; padding: 0; }
  td + td { white-space: normal; }
  td:nth-child(2)::before { content: "measured: "; color: var(--faint); }
  td:nth-child(3)::before { content: "expected: "; color: var(--faint); }
  dd { margin: 0 0 .7rem; }
}
@media print { :root { color-scheme: light; } details > * { display: block; } }
"""


def document(title: str, parts: Sequence[str], description: str = "") -> str:
    """A whole HTML page that needs no network, no script and no other file.

    Arguments:
        title: plain text.
        parts: HTML, one under the other.
        description: what the page shows, in a line; plain text. It stands in the page's head.

    Example:
        >>> '<meta name="description" content="1 &lt; 2">' in document("toy", [], "1 < 2")
        True
    """
    body = "\n".join(parts)
    said = f'<meta name="description" content="{html.escape(description)}">\n' * bool(description)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{said}<title>{html.escape(title)}</title>
<style>{STYLE}</style></head><body>
{body}
</body></html>
"""


def claims_table(claims: Rows) -> str:
    """Claims as a table, each with what it means above what was measured; on a phone as a list."""
    rows = "\n".join(_row(*claim) for claim in claims)
    head = "<tr><th>claim</th><th>measured</th><th>expected</th><th>verdict</th></tr>"
    return f"<table>{head}\n{rows}\n</table>"


def _row(meaning: str, quantity: str, measured: str, expected: str, verdict: str) -> str:
    said = f"<b>{with_formulas(as_sentence(meaning))}</b>"
    if quantity:
        said += f" <span class=quantity>{with_formulas(quantity)}</span>"
    numbers = "".join(f"<td>{html.escape(cell)}</td>" for cell in (measured, expected, verdict))
    return f"<tr class={verdict}><td>{said}</td>{numbers}</tr>"


def as_sentence(text: str) -> str:
    """A text with a full stop at its end.

    Example:
        >>> as_sentence("It trains"), as_sentence("Does it?")
        ('It trains.', 'Does it?')
    """
    return text if text.endswith((".", "?", "!")) else f"{text}."


def image(alternative: str, kind: str, data: str | bytes) -> str:
    """An image inside the page, or that at an address."""
    if isinstance(data, bytes):
        data = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    return f'<img alt="{html.escape(alternative)}" src="{html.escape(data)}">'
