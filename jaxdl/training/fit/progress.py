"""The progress bar of a run."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

Bar = Callable[[int, Mapping[str, float]], None]
"""(examples seen since the last call, the measurements to show)."""


class _ExamplesPerSecond(ProgressColumn):
    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} examples/s")


@contextlib.contextmanager
def progress_bar(
    epochs: int, examples: int, *, show: bool | None = None, console: Console | None = None
) -> Iterator[Bar]:
    """A bar over `epochs` of `examples` each: measurements, examples per second, time left.

    Arguments:
        show: True or False; None shows it when the output is a terminal.
        console: where to draw; by default standard error, which keeps standard output for results.

    Example:
        >>> with progress_bar(2, 100, show=False) as update:
        ...     update(100, {"loss": 0.5})
    """
    console = console or Console(stderr=True)
    if not (console.is_terminal if show is None else show):
        yield lambda seen, measured: None
        return
    columns = (
        TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
        BarColumn(),
        TextColumn("{task.fields[measured]}"),
        _ExamplesPerSecond(),
        TimeRemainingColumn(),
    )
    # Two redraws a second keep the bar's own thread below 1 % of a core.
    with Progress(*columns, console=console, refresh_per_second=2) as bar:
        task = bar.add_task("", total=epochs * examples, epoch=0, epochs=epochs, measured="")

        def update(seen: int, measured: Mapping[str, float]) -> None:
            loss_first = sorted(measured, key=lambda name: name != "loss")
            shown = "  ".join(f"{name} {measured[name]:.4f}" for name in loss_first)
            bar.update(task, advance=seen, measured=shown)
            done = int(bar.tasks[0].completed // examples)
            bar.update(task, epoch=done)

        yield update
