"""Observers: small functions between the compiled calls of `training.fit`."""

from jaxdl.observers.attention_every import attention_every
from jaxdl.observers.gradient_noise_every import gradient_noise_every
from jaxdl.observers.lines import history_lines, read_lines
from jaxdl.observers.live_page import clipped_share, page
from jaxdl.observers.propagation_every import propagation_every
from jaxdl.observers.report_plateau import report_plateau
from jaxdl.observers.sharpness_every import Stability, sharpness_every
from jaxdl.observers.stopping import early_stopping
from jaxdl.observers.tensorboard import tensorboard
from jaxdl.public import public_names
from jaxdl.training.fit.observing import Change, Event, Observer, Setup

__all__ = [
    "Change",
    "Event",
    "Observer",
    "Setup",
    "Stability",
    "attention_every",
    "clipped_share",
    "early_stopping",
    "gradient_noise_every",
    "history_lines",
    "page",
    "propagation_every",
    "read_lines",
    "report_plateau",
    "sharpness_every",
    "tensorboard",
]

__dir__ = public_names(globals())
