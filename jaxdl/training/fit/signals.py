"""SIGTERM and SIGINT as a flag that a run looks at between two calls."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextlib.contextmanager
def caught(enabled: bool = True) -> Iterator[Callable[[], int]]:
    """Hold back SIGTERM and SIGINT; the yielded function returns the signal that came, or 0.

    If the same signal comes again, the previous handler acts. Python sets handlers in the main
    thread only: in another thread, or if `enabled` is false, no signal is held back. The previous
    handlers are restored at the end.

    Example:
        >>> import os, signal
        >>> with caught() as received:
        ...     os.kill(os.getpid(), signal.SIGTERM)
        ...     received() == signal.SIGTERM
        True
    """
    if not enabled or threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return
    received = 0
    before: dict[signal.Signals, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = number
        signal.signal(number, before[signal.Signals(number)])

    for each in SIGNALS:
        # None means a handler that was not set from Python; it cannot be restored.
        before[each] = signal.getsignal(each) or signal.SIG_DFL
    try:
        for each in SIGNALS:
            signal.signal(each, note)
        yield lambda: received
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def exit_status(number: int) -> int:
    """The exit status of a process that a signal ended: 143 for SIGTERM, 130 for SIGINT.

    Example:
        >>> exit_status(signal.SIGTERM), exit_status(signal.SIGINT)
        (143, 130)
    """
    return 128 + number
