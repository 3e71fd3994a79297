"""The progress of a sweep: members done, and the time left."""

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console

from jaxdl.showing import notebook_line, seconds


@contextlib.contextmanager
def members_bar(
    members: int, *, show: bool | None = None, console: Console | None = None
) -> Iterator[Callable[[int], None]]:
    """A bar over the members, in a notebook a line; the function given says how many more are done.

    Arguments:
        show: True or False; None shows it when the output is a terminal.
        console: where to draw; by default standard error, which keeps standard output for results.

    Example:
        >>> with members_bar(8, show=False) as tell:
        ...     tell(4)
    """
    console = console or Console(stderr=True)
    if not (console.is_terminal if show is None else show):
        yield lambda done: None
        return
    if console.is_jupyter:
        began, finished = time.monotonic(), 0
        replace = notebook_line(f"0/{members:,} members")

        def tell(done: int) -> None:
            nonlocal finished
            finished += done
            replace(f"{finished:,}/{members:,} members; {seconds(time.monotonic() - began)}")

        yield tell
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("members"), MofNCompleteColumn(), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, refresh_per_second=2) as bar:
        task = bar.add_task("", total=members)
        yield lambda done: bar.advance(task, done)
