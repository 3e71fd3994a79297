"""What a run says while it lasts: a bar, a line in a notebook, or a line an epoch."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
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

from jaxdl.showing import counted, named, notebook_line, seconds
from jaxdl.training.fit.described import measured_line
from jaxdl.training.fit.moment import Moment

Values = Mapping[str, float]
Show = Callable[..., None]
"""(where the run stands, the measurements of its last steps, why it stops here or None)."""
Style = tuple[Callable[[Moment, Values], None], Callable[[Moment, str], None]]
"""A function for each call, and one for the end: (where the run stands, how it ended)."""

SECONDS_BETWEEN = 0.5
"""Two redraws a second keep a bar's own thread below 1 % of a core."""


class Length(NamedTuple):
    """How long a run is.

    Attributes:
        first: the step of the state that it started from, before any checkpoint.
        end: the step at which it ends, if nothing stops it.
        epochs: how many of them these steps are.
        examples: in a step, on average.
    """

    first: int
    end: int
    epochs: int
    examples: float


def check_progress(progress: Any) -> None:
    """Refuse an argument `progress` that is none of those that `shown` takes."""
    given = isinstance(progress, bool | np.bool_) or progress is None
    if not given and not (isinstance(progress, str) and progress == "lines"):
        raise ValueError(
            f'progress must be True, False, None or "lines", got {progress!r}; "lines" says a line '
            "an epoch"
        )


@contextlib.contextmanager
def shown(
    progress: Any, start: Moment, length: Length, console: Console | None = None
) -> Iterator[Show]:
    """Say where a run stands, as often as it calls the function that this gives, and how it ended.

    | `progress` | on a terminal | in a notebook | elsewhere |
    | --- | --- | --- | --- |
    | None | a bar | nothing | nothing |
    | True | a bar | one line, renewed, which stays | a line an epoch |
    | "lines" | a line an epoch | a line an epoch | a line an epoch |
    | False | nothing | nothing | nothing |

    Everything goes to standard error, which keeps standard output for results. Only a notebook's
    lines go to standard output, because a notebook paints the other red. Of several processes the
    first one speaks.

    Arguments:
        progress: None, True, False or "lines".
        start: where the run starts, or goes on from.
        length: of the run.
        console: where a bar is drawn; by default on standard error.

    Example:
        >>> from jaxdl.training import TrainState
        >>> start = Moment(0, TrainState(jax.numpy.int32(0), {}, {}, (), jax.random.key(0)))
        >>> with shown(False, start, Length(0, 10, 2, 32.0)) as show:
        ...     show(start, {"loss": 0.5})
    """
    console = console or Console(stderr=True)
    asked = console.is_terminal if progress is None else bool(progress)
    if not asked or jax.process_index():
        yield lambda moment, measured, stopped=None: None
        return
    notebook, terminal = console.is_jupyter, console.is_terminal
    if isinstance(progress, str) or not (notebook or terminal):
        renew, end = _lines(sys.stdout if notebook else sys.stderr, start, length)
    elif notebook:
        renew, end = _line(start, length)
    else:
        renew, end = _bar(console, start, length)
    last, ending = start, ""

    def show(moment: Moment, measured: Values, stopped: str | None = None) -> None:
        nonlocal last, ending
        last, ending = moment, f"; stopped: {stopped}" if stopped else ""
        renew(moment, measured)

    try:
        yield show
    except BaseException as error:
        ending = f"; ended by {type(error).__name__}"
        raise
    finally:
        end(last, ending)


def _lines(stream: Any, start: Moment, length: Length) -> Style:
    """A line an epoch."""
    said = len(start.epochs)

    def say(line: str) -> None:
        print(line, file=stream, flush=True)

    def renew(moment: Moment, measured: Values) -> None:
        nonlocal said
        for epoch in moment.epochs[said:]:
            said += 1
            number = f"{said:{len(str(length.epochs))}}"
            of_epoch = measured_line(epoch.train, epoch.validation, digits="#.4g")
            say(f"epoch {number}/{length.epochs}: {of_epoch}; {seconds(epoch.seconds)}")

    def end(last: Moment, ending: str) -> None:
        if ending:
            say(f"{_place(last, length)}{ending}")

    if start.step > length.first:
        say(f"goes on after {_place(start, length)}")
    return renew, end


def _line(start: Moment, length: Length) -> Style:
    """One line in a notebook. It is renewed where it stands; the last one is saved with it."""
    began = shown_at = time.monotonic()
    replace = notebook_line(_place(start, length))

    def renew(moment: Moment, measured: Values) -> None:
        nonlocal shown_at
        now = time.monotonic()
        if now - shown_at >= SECONDS_BETWEEN and measured:
            shown_at = now
            left = (now - began) * (length.end - moment.step) / (moment.step - start.step)
            of_steps = measured_line(measured, {}, digits="#.4g")
            replace(f"{_place(moment, length)}: {of_steps}; {left:,.0f} s left")

    def end(last: Moment, ending: str) -> None:
        measured = ""
        if last.epochs:
            newest = last.epochs[-1]
            measured = f": {measured_line(newest.train, newest.validation)}"
        taken = sum(epoch.seconds for epoch in last.epochs) + last.seconds
        replace(f"{_place(last, length)}{measured}; {seconds(taken)}{ending}")

    return renew, end


def _bar(console: Console, start: Moment, length: Length) -> Style:
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
            console.print(f"{_place(last, length)}{ending}", markup=False, highlight=False)

    return renew, end


def _place(moment: Moment, length: Length) -> str:
    """How far a run came."""
    place = f"{len(moment.epochs)}/{length.epochs} epochs"
    beyond = len(moment.steps.get("loss", ()))
    return f"{place} and {counted(beyond, 'step')}" if beyond else place


class _ExamplesPerSecond(ProgressColumn):
    def __init__(self, examples: float) -> None:
        super().__init__()
        self.examples = examples

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed * self.examples:,.0f} examples/s")
