"""Observers: small functions between the compiled calls of `training.fit`."""

from jaxdl.observers.attention_every import attention_every
from jaxdl.observers.lines import history_lines, read_lines
from jaxdl.observers.live_page import clipped_share, page
from jaxdl.observers.propagation_every import propagation_every
from jaxdl.observers.report_plateau import report_plateau
from jaxdl.observers.stopping import early_stopping
from jaxdl.observers.tensorboard import tensorboard
from jaxdl.public import public_names
from jaxdl.training.fit.observing import Change, Event, Observer, Setup

__all__ = [
    "Change",
    "Event",
    "Observer",
    "Setup",
    "attention_every",
    "clipped_share",
    "early_stopping",
    "history_lines",
    "page",
    "propagation_every",
    "read_lines",
    "report_plateau",
    "tensorboard",
]

__dir__ = public_names(globals())
