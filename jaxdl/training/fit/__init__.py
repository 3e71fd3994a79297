"""One run, driven from the host, which does what a pure function cannot do.

`fit` (fit.py) is the whole run, read from top to bottom. It takes the steps of a call with
advance.py: batches of batches.py, programs of programs.py, on the devices of layouts.py. moment.py
is where the run stands between two calls, and observing.py what observers are told of it.
"""

from jaxdl.data.streamed import Streamed
from jaxdl.training.fit.fit import fit
from jaxdl.training.fit.history import History
from jaxdl.training.fit.layouts import initialize
from jaxdl.training.fit.loading import load
from jaxdl.training.fit.nonfinite import NonFiniteError
from jaxdl.training.fit.observing import Change, Event, Observer, Setup
from jaxdl.training.fit.result import Result

__all__ = [
    "Change",
    "Event",
    "History",
    "NonFiniteError",
    "Observer",
    "Result",
    "Setup",
    "Streamed",
    "fit",
    "initialize",
    "load",
]
