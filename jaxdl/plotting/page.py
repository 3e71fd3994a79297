"""One HTML page of an experiment: text, claims, figure and animations in a single file."""

import base64
import html
from collections.abc import Sequence

STYLE = """
body { max-width: 60rem; margin: 2rem auto; padding: 0 1rem; font: 16px/1.5 sans-serif; }
pre { white-space: pre-wrap; font: inherit; }
img { max-width: 100%; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { border-bottom: 1px solid #ccc; padding: .3rem .7rem; text-align: left; }
td + td { white-space: nowrap; }
.refuted td:last-child { color: #b00020; font-weight: bold; }
.holds td:last-child { color: #11691d; }
.undecided td:last-child { color: #8a5a00; }
"""


def html_page(
    title: str,
    text: str,
    claims: Sequence[tuple[str, str, str, str]],
    note: str,
    png: bytes | None = None,
    gifs: Sequence[bytes] = (),
) -> str:
    """A page that needs no other file.

    Arguments:
        title: the page's title.
        text: the text above the table; line breaks are kept.
        claims: (statement, measured, expected, verdict) of each claim. A verdict is one word; it is
            also the class of the row.
        note: a sentence below the table.
        png: the figure, if there is one.
        gifs: animations below it.

    Example:
        >>> page = html_page("toy", "Is 1 < 2?", [("1 < 2", "1", "at most 2", "holds")], "")
        >>> "<td>1 &lt; 2</td>" in page
        True
    """
    rows = "\n".join(
        f"<tr class={cells[-1]}>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>"
        for cells in claims
    )
    kinds = [*([("png", png)] if png else []), *(("gif", gif) for gif in gifs)]
    images = "\n".join(
        f'<img alt="{html.escape(title)}: the {"figure" if kind == "png" else "animation"}" '
        f'src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'
        for kind, data in kinds
    )
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{STYLE}</style></head><body>
<h1>{html.escape(title)}</h1>
<pre>{html.escape(text.strip())}</pre>
<table><tr><th>claim</th><th>measured</th><th>expected</th><th></th></tr>
{rows}
</table>
<p>{html.escape(note)}</p>
{images}
</body></html>
"""
