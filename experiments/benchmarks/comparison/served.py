"""An arm in a process of its own: its memory, threads and libraries are not the other arms'."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from .timing import seconds_of


class Served:
    """A process of a script that takes a step when it is told to; `serve` is its other end.

    Attributes:
        first: what the process said when it was ready.
    """

    def __init__(self, script: str, *options: str, **changed: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, script, *options],
            env=os.environ | changed,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.first = self._answer()

    def __call__(self) -> float:
        """The seconds of a step, by the process's own clock."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._answer())

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args!r} must answer, got its end")
        return json.loads(line)


def serve(
    step: Callable[[], Any], first: Any, clock: Callable[[Callable[[], Any]], float] = seconds_of
) -> None:
    """Say `first`, then the seconds of a step for each line that is read, to the end of input."""
    print(json.dumps(first), flush=True)
    for _ in sys.stdin:
        print(clock(step), flush=True)
