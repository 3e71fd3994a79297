"""Observers: small functions between the compiled calls of `training.fit`."""

from jaxdl.training.events import Change, Event, Observer, Run
from jaxdl.training.observers.lines import history_lines, read_lines
from jaxdl.training.observers.plateau import report_plateau
from jaxdl.training.observers.propagation import propagation_every
from jaxdl.training.observers.stopping import early_stopping
from jaxdl.training.observers.tensorboard import tensorboard

__all__ = [
    "Change",
    "Event",
    "Observer",
    "Run",
    "early_stopping",
    "history_lines",
    "propagation_every",
    "read_lines",
    "report_plateau",
    "tensorboard",
]
