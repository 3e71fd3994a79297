"""Text with formulas as HTML: TeX becomes MathML, which a browser draws without a script."""

import html
import re

from jaxdl.extras import import_extra

_PIECES = re.compile(
    r"\$\$(?P<display>[^$]+)\$\$"
    # As in prose, "from $3 to $5" are prices: no space inside, no digit behind.
    r"|\$(?P<inline>[^\s$](?:[^$]*[^\s$])?)\$(?!\d)"
    r"|`(?P<code>[^`]+)`"
)


def with_formulas(text: str) -> str:
    r"""Escape a text for HTML, with `$...$` and `$$...$$` as MathML and backticks as code.

    Without the package latex2mathml, and for TeX that it does not read, a formula stays as it was
    written, dollars included.

    Arguments:
        text: plain text.

    Example:
        >>> with_formulas("if `a` < 1")
        'if <code>a</code> &lt; 1'
        >>> with_formulas("from $3 to $5")
        'from $3 to $5'
    """
    done, parts = 0, []
    for found in _PIECES.finditer(text):
        parts.append(html.escape(text[done : found.start()]))
        if found["code"]:
            parts.append(f"<code>{html.escape(found['code'])}</code>")
        else:
            parts.append(_formula(found["display"] or found["inline"], bool(found["display"])))
        done = found.end()
    return "".join(parts) + html.escape(text[done:])


def _formula(tex: str, display: bool) -> str:
    dollars = "$$" if display else "$"
    as_written = f"<code>{html.escape(f'{dollars}{tex}{dollars}')}</code>"
    try:
        converter = import_extra("latex2mathml.converter", "a formula")
    except ImportError:
        return as_written
    try:
        # The package writes a "<" inside of words as it is.
        safe = tex.replace("<", r"\lt ")
        made: str = converter.convert(safe, display="block" if display else "inline")
    except Exception:  # its errors have no common base
        return as_written
    return made
