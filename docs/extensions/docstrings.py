"""The docstrings of the library as Markdown: sections, examples and links to other names."""

import ast
import re
import textwrap
from collections.abc import Callable

Link = Callable[[str], str | None]
"""The full public name of a name in backticks, None if there is none."""

_SECTION = re.compile(r"(Arguments|Attributes|Example|Examples|Raises|Returns|Yields):")
_ENTRY = re.compile(r"(\S[^:\n]*): ?(.*)", re.DOTALL)
_CODE = re.compile(r"(?<![`\\}])`([^`\n]+)`(?!`)")
_VERBATIM = re.compile(r"(`[^`]*`|\$\$.*?\$\$|\$[^$]*\$)", re.DOTALL)
_NAME = re.compile(r"[A-Za-z_][\w.]*")


def as_markdown(docstring: str, link: Link) -> str:
    """A docstring as Markdown.

    A section is a line such as `Arguments:` and what is indented below it. Examples become code;
    so does what is indented elsewhere. Names in backticks become links where `link` knows them.
    """
    parts, text, lines = [], [], docstring.expandtabs().splitlines()
    while lines:
        line = lines.pop(0)
        in_equation = "\n".join(text).count("$$") % 2
        found = _SECTION.fullmatch(line.rstrip())
        is_code = line.startswith("    ") and not in_equation
        if not found and not is_code:
            text.append(line)
            continue
        parts.append(_linked("\n".join(text), link))
        text = []
        if found:
            parts += _section(found[1], _indented(lines), link)
        else:
            parts.append(_fenced(textwrap.dedent("\n".join([line, *_indented(lines)]))))
    return "\n".join([*parts, _linked("\n".join(text), link)]).strip()


def _indented(lines: list[str]) -> list[str]:
    """Take the indented lines from the front, blank ones between them included."""
    taken: list[str] = []
    while lines and (not lines[0].strip() or lines[0].startswith(" ")):
        taken.append(lines.pop(0))
    while taken and not taken[-1].strip():
        lines.insert(0, taken.pop())
    return taken


def _section(title: str, body: list[str], link: Link) -> list[str]:
    text = textwrap.dedent("\n".join(body)).strip()
    if title.startswith("Example"):
        return ["", "**Example**", "", _fenced(text), ""]
    if title in ("Returns", "Yields"):
        return ["", f"**{title}**", "", _linked(text, link), ""]
    entries: list[str] = []
    for line in text.splitlines():
        if line.strip() and not line.startswith(" "):
            entries.append(line)
        else:
            entries[-1] += "\n" + line.strip()
    return ["", f"**{title}**", "", *(_entry(entry, link) for entry in entries), ""]


def _entry(entry: str, link: Link) -> str:
    """`name: text` as an item of a list; what has another form stays a paragraph of it."""
    found = _ENTRY.fullmatch(entry)
    if not found:
        return "- " + _linked(entry, link).replace("\n", "\n  ")
    names = ", ".join(f"`{name.strip('` ')}`" for name in found[1].split(","))
    return f"- {names}: " + _linked(found[2], link).replace("\n", "\n  ")


def _fenced(code: str) -> str:
    """A block of code, in the language that it is in."""
    if code.lstrip().startswith(">>>"):
        return f"```pycon\n{code}\n```"
    try:
        ast.parse(code)
    except SyntaxError:
        return f"```text\n{code}\n```"
    return f"```python\n{code}\n```"


def _linked(text: str, link: Link) -> str:
    """The text with links in place of the names that `link` knows."""

    def replaced(found: re.Match[str]) -> str:
        name = found[1].removesuffix("()")
        target = link(name) if _NAME.fullmatch(name) else None
        return f"{{py:obj}}`{found[1]} <{target}>`" if target else found[0]

    pieces = _VERBATIM.split(text)  # code and mathematics stand at the odd places
    pieces[::2] = [piece.replace("*", r"\*") for piece in pieces[::2]]
    return _CODE.sub(replaced, "".join(pieces))
