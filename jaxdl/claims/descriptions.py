"""What a script says of itself: its docstring, read field by field; the script is not run."""

import ast
import re
from pathlib import Path
from typing import NamedTuple

FIELDS = ("Meaning", "Data", "Source", "Run", "Expected", "Time")
_FIELD = re.compile(rf"({'|'.join(FIELDS)})(?:, ([^:]*))?:(?: (.*))?")


class Described(NamedTuple):
    """The docstring of an experiment, in parts. A part that it lacks is "".

    Attributes:
        summary: the first paragraph, which says in one line what the experiment shows.
        text: the other paragraphs, with an empty line between two of them.
        meaning: what the figure means, for a student.
        data: the data set, its size, and where it comes from.
        source: the lecture, the papers and the books.
        run: the command.
        expected: what the sources say, what was measured, and why they differ where they do.
        time: how long the default preset takes.
    """

    summary: str = ""
    text: str = ""
    meaning: str = ""
    data: str = ""
    source: str = ""
    run: str = ""
    expected: str = ""
    time: str = ""


def described(script: Path) -> Described:
    """Read the docstring of a script.

    Raises:
        FileNotFoundError: there is no such script.
        SyntaxError: it is no Python.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp(), "toy.py")
        >>> _ = file.write_text("'''What it shows.\\n\\nTime: 2 s.'''")
        >>> described(file).time
        '2 s.'
    """
    return parts_of(ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or "")


def parts_of(docstring: str) -> Described:
    r"""Divide a docstring into its parts.

    A field begins at a line with one of the `FIELDS` and a colon, and ends before an empty line or
    the next field. Words between the name and the colon belong to what it says. Lines of a
    paragraph are joined, unless one of them is indented.

    Example:
        >>> parts_of("A toy.\n\nIt has\none number.\n\nExpected, of one: it\nis 1.\nTime: 2 s.")
        Described(summary='A toy.', text='It has one number.', ..., expected='Of one: it is 1.',
        time='2 s.')
    """
    prose: list[list[str]] = [[]]
    fields: dict[str, list[str]] = {}
    into = prose[-1]
    for line in docstring.strip().splitlines():
        if found := _FIELD.fullmatch(line.rstrip()):
            name, added, said = found.groups(default="")
            into = fields.setdefault(name.lower(), [])
            into.append(f"{added[0].upper()}{added[1:]}: {said}" if added else said)
        elif line.strip():
            into.append(line.rstrip())
        else:
            into = []
            prose.append(into)
    paragraphs = [_joined(lines) for lines in prose if lines]
    return Described(
        "".join(paragraphs[:1]),
        "\n\n".join(paragraphs[1:]),
        **{name: _joined(lines) for name, lines in fields.items()},
    )


def _joined(lines: list[str]) -> str:
    if any(line.startswith(" ") for line in lines):
        return "\n".join(lines)
    return " ".join(filter(None, lines))
