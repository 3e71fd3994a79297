"""How results show themselves: one line of text, and a table in a notebook."""

import html
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.table import Table
from rich.text import Text

MOST_ROWS = 40
"""Rows of a table in a notebook; those in the middle of a longer one are left out."""
MOST_VALUES = 6
"""Values named in a line."""
MOST_POINTS = 120
"""Points of a small curve, which is as many pixels wide."""
WIDTH, HEIGHT, EDGE = 120, 24, 2


class Picture(NamedTuple):
    """A cell of a table that is markup already."""

    markup: str


Cell = str | Picture


def number(value: Any) -> str:
    """Four significant digits.

    Example:
        >>> number(0.25), number(2.302585), number(float("nan"))
        ('0.25', '2.303', 'nan')
    """
    return f"{float(value):.4g}"


def counted(count: int, noun: str) -> str:
    """A number of things.

    Example:
        >>> counted(1, "epoch"), counted(1437, "example")
        ('1 epoch', '1,437 examples')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def ends(values: Any) -> str:
    """The first and the last number; "" for none.

    Example:
        >>> ends([2.5, 1.0, 0.5]), ends([0.5]), ends([])
        ('2.5 to 0.5', '0.5', '')
    """
    shown = [number(value) for value in values[:1]] + [number(value) for value in values[1:][-1:]]
    return " to ".join(shown)


def named(texts: Mapping[str, str]) -> str:
    """Values by name, the loss first; of many only some.

    Example:
        >>> named({"accuracy": "0.9", "loss": "0.3"})
        'loss 0.3, accuracy 0.9'
    """
    names = loss_first(texts)
    shown = [f"{name} {texts[name]}" for name in names[:MOST_VALUES]]
    left = len(names) - len(shown)
    return ", ".join(shown) + (f" and {left} more" if left else "")


def loss_first(names: Any) -> list[str]:
    """The names in their order, "loss" in front."""
    return sorted(names, key=lambda name: name != "loss")


def known(values: Any) -> np.ndarray | None:
    """An array's numbers, float64; None for what has none: traced, deleted, a shape."""
    if not hasattr(values, "shape"):
        return None
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError, RuntimeError):
        return None


def seconds(count: float) -> str:
    """A time, to a tenth of a second; a shorter one to two digits.

    Example:
        >>> seconds(75.04), seconds(0.01234)
        ('75.0 s', '0.012 s')
    """
    return f"{count:,.1f} s" if count >= 1 else f"{count:.2g} s"


def notebook_line(text: str) -> Callable[[str], None]:
    """Show a line in a notebook. The function given puts another in its place, also when saved."""
    from IPython.display import display

    show: Any = display  # it has no types
    handle = show({"text/plain": text}, raw=True, display_id=True)
    return lambda text: handle.update({"text/plain": text}, raw=True)


def numbers_in(tree: Any) -> int:
    """How many numbers the arrays of a tree have, or the shapes in their place.

    Example:
        >>> numbers_in({"kernel": np.zeros((3, 4)), "bias": np.zeros(4)})
        16
    """
    return sum(math.prod(getattr(leaf, "shape", ())) for leaf in jax.tree.leaves(tree))


def shape_of(values: Any) -> str:
    """The shape and dtype of an array, as a line has them.

    Example:
        >>> shape_of(np.zeros((5, 2), np.uint8)), shape_of({"left": np.zeros(5)})
        ('(5, 2) uint8', '{left: (5,) float64}')
    """
    if hasattr(values, "shape") and hasattr(values, "dtype"):
        return f"{tuple(values.shape)} {values.dtype}"
    if isinstance(values, Mapping):
        return "{" + ", ".join(f"{name}: {shape_of(part)}" for name, part in values.items()) + "}"
    if isinstance(values, tuple | list):
        return "(" + ", ".join(map(shape_of, values)) + ")"
    return type(values).__name__


def html_table(
    line: str, head: Sequence[str], rows: Sequence[Sequence[Cell]], notes: Sequence[str] = ()
) -> str:
    """A line, a table and notes as HTML for a notebook, in the colours of the page around it.

    Arguments:
        line: above the table.
        head: the columns' names.
        rows: their cells. A text is escaped. The first stands left, the others right.
        notes: below the table, a line each.

    Example:
        >>> page = html_table("One < two", ["name", "value"], [["<a>", "1"]])
        >>> "One &lt; two" in page, "&lt;a&gt;</td>" in page
        (True, True)
    """
    if len(rows) > MOST_ROWS:
        half = MOST_ROWS // 2
        left = f"... {len(rows) - 2 * half:,} more rows, not shown here"
        blank = [""] * (len(head) - 1)
        rows = [*rows[:half], [left, *blank], *rows[-half:]]
    body = "".join(f"<tr>{_cells('td', row)}</tr>\n" for row in rows)
    table = (
        f"<table>\n<thead><tr>{_cells('th', head)}</tr></thead>\n<tbody>\n{body}</tbody></table>"
    )
    below = "<br/>\n".join(html.escape(note) for note in notes)
    return "\n".join(
        [
            f"<div><p>{html.escape(line)}</p>",
            *([table] if rows else []),
            *([f"<p><small>{below}</small></p>"] if below else []),
            "</div>",
        ]
    )


def _cells(tag: str, cells: Sequence[Cell]) -> str:
    return "".join(
        f'<{tag} style="padding:0 .6em;text-align:{"right" if index else "left"}">'
        f"{cell.markup if isinstance(cell, Picture) else html.escape(cell)}</{tag}>"
        for index, cell in enumerate(cells)
    )


def html_of(line: str, table: Table) -> str:
    """A table of the terminal as HTML for a notebook, below a line.

    Example:
        >>> table = Table("satu-\\nrated", caption="twelve")
        >>> table.add_row("12 %")
        >>> page = html_of("All:", table)
        >>> [word in page for word in ("saturated", "12 %", "twelve")]
        [True, True, True]
    """
    rows = [list(map(_plain, row)) for row in zip(*(c.cells for c in table.columns), strict=True)]
    if table.show_footer:
        rows.append([_plain(column.footer) for column in table.columns])
    caption = _plain(table.caption or "")
    notes = caption.split("\n") if caption else []
    return html_table(line, [_unfolded(_plain(c.header)) for c in table.columns], rows, notes)


def _plain(cell: Any) -> str:
    return cell.plain if isinstance(cell, Text) else str(cell)


def _unfolded(header: str) -> str:
    """A header without the line breaks that a terminal needs."""
    return header.replace("-\n", "").replace("/\n", "/").replace("\n", " ")


def curve(*lines: Any) -> Picture:
    """A small drawing of curves on one scale: the first solid, the second dashed.

    Numbers that are not finite leave gaps. A curve of one number is a dot.

    Example:
        >>> curve([2.0, 1.0, 1.5]).markup.count("<polyline")
        1
        >>> curve([], [float("nan")]).markup
        ''
    """
    curves = [_thinned(np.asarray(line, np.float64)) for line in lines]
    finite = np.concatenate([values[np.isfinite(values)] for values in curves])
    if not finite.size:
        return Picture("")
    low, high = finite.min() / 2, finite.max() / 2  # half, so that the difference is finite
    marks = []
    for index, values in enumerate(curves):
        across = np.linspace(EDGE, WIDTH - EDGE, len(values)) if len(values) > 1 else [WIDTH / 2]
        share = (values / 2 - low) / (high - low) if high > low else np.full(len(values), 0.5)
        down = HEIGHT - EDGE - share * (HEIGHT - 2 * EDGE)
        dashes = ' stroke-dasharray="3 2"' if index else ""
        whole = np.isfinite(values)
        starts = np.flatnonzero(np.diff(whole, prepend=False, append=False))
        for start, stop in starts.reshape(-1, 2):
            points = [f"{across[i]:.1f},{down[i]:.1f}" for i in range(start, stop)]
            if len(points) == 1:
                x, y = points[0].split(",")
                marks.append(f'<circle cx="{x}" cy="{y}" r="1.5" fill="currentColor"/>')
            else:
                marks.append(
                    f'<polyline points="{" ".join(points)}" fill="none" stroke="currentColor"'
                    f' stroke-width="1.2"{dashes}/>'
                )
    drawn = "".join(marks)
    return Picture(f'<svg role="img" width="{WIDTH}" height="{HEIGHT}">{drawn}</svg>')


def _thinned(values: np.ndarray) -> np.ndarray:
    """Some of the values, at equal distances, the first and the last among them."""
    if len(values) <= MOST_POINTS:
        return values
    chosen: np.ndarray = values[np.linspace(0, len(values) - 1, MOST_POINTS).round().astype(int)]
    return chosen
