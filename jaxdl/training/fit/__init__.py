"""One run, driven from the host, which does what a pure function cannot do.

`fit` (fit.py) checks its arguments, compiles the programs and starts the loop (loop.py). advance.py
takes the steps of a call, with the batches of batches.py and the programs of programs.py, on the
devices of layouts.py. observing.py says what observers are told.
"""

from jaxdl.training.fit.batches import Streamed
from jaxdl.training.fit.fit import EpochEnd, fit
from jaxdl.training.fit.history import History
from jaxdl.training.fit.layouts import initialize
from jaxdl.training.fit.nonfinite import NonFiniteError
from jaxdl.training.fit.observing import Change, Event, Observer, Setup
from jaxdl.training.fit.result import Result

__all__ = [
    "Change",
    "EpochEnd",
    "Event",
    "History",
    "NonFiniteError",
    "Observer",
    "Result",
    "Setup",
    "Streamed",
    "fit",
    "initialize",
]
