"""What a run says while it lasts: a bar, a line in a notebook, or a line an epoch."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from rich.console import Console

from jaxdl.showing import notebook_line, seconds
from jaxdl.training.fit.described import measured_line
from jaxdl.training.fit.moment import Moment
from jaxdl.training.fit.standing import SECONDS_BETWEEN, Length, Style, Values, place_of

Show = Callable[..., None]
"""(where the run stands, the measurements of its last steps, why it stops here or None)."""


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
        from jaxdl.training.fit.progress_bar import as_bar

        renew, end = as_bar(console, start, length)
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
            say(f"{place_of(last, length)}{ending}")

    if start.step > length.first:
        say(f"goes on after {place_of(start, length)}")
    return renew, end


def _line(start: Moment, length: Length) -> Style:
    """One line in a notebook. It is renewed where it stands; the last one is saved with it."""
    began = shown_at = time.monotonic()
    replace = notebook_line(place_of(start, length))

    def renew(moment: Moment, measured: Values) -> None:
        nonlocal shown_at
        now = time.monotonic()
        if now - shown_at >= SECONDS_BETWEEN and measured:
            shown_at = now
            left = (now - began) * (length.end - moment.step) / (moment.step - start.step)
            of_steps = measured_line(measured, {}, digits="#.4g")
            replace(f"{place_of(moment, length)}: {of_steps}; {left:,.0f} s left")

    def end(last: Moment, ending: str) -> None:
        measured = ""
        if last.epochs:
            newest = last.epochs[-1]
            measured = f": {measured_line(newest.train, newest.validation)}"
        taken = sum(epoch.seconds for epoch in last.epochs) + last.seconds
        replace(f"{place_of(last, length)}{measured}; {seconds(taken)}{ending}")

    return renew, end
