"""The bar of a run on a terminal: measurements, examples per second, time left."""

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

from jaxdl.showing import named
from jaxdl.training.fit.moment import Moment
from jaxdl.training.fit.standing import SECONDS_BETWEEN, Length, Style, Values, place_of


def as_bar(console: Console, start: Moment, length: Length) -> Style:
    """A bar: measurements, examples per second, time left."""
    columns = (
        TextColumn("epoch {task.fields[epoch]}/{task.fields[epochs]}"),
        BarColumn(),
        TextColumn("{task.fields[measured]}"),
        _ExamplesPerSecond(length.examples),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console, refresh_per_second=1 / SECONDS_BETWEEN)
    task = bar.add_task(
        "",
        total=length.end - length.first,
        completed=start.step - length.first,
        epoch=len(start.epochs),
        epochs=length.epochs,
        measured="",
    )
    bar.start()

    def renew(moment: Moment, measured: Values) -> None:
        bar.update(task, completed=moment.step - length.first, epoch=len(moment.epochs))
        if measured:
            texts = {name: f"{value:#.4g}" for name, value in measured.items()}
            bar.update(task, measured=named(texts))

    def end(last: Moment, ending: str) -> None:
        bar.stop()
        if ending:
            console.print(f"{place_of(last, length)}{ending}", markup=False, highlight=False)

    return renew, end


class _ExamplesPerSecond(ProgressColumn):
    def __init__(self, examples: float) -> None:
        super().__init__()
        self.examples = examples

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed * self.examples:,.0f} examples/s")
