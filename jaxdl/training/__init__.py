"""The train step, written once, whole runs of it, and many runs at once."""

from jaxdl.training import checkpoints, observers
from jaxdl.training.compilation import compiler_options
from jaxdl.training.events import Change, Event, Observer, Run
from jaxdl.training.feeding import Streamed
from jaxdl.training.history import History
from jaxdl.training.loop import EpochEnd, Result, fit
from jaxdl.training.nonfinite import NonFiniteError
from jaxdl.training.order import epoch_order
from jaxdl.training.parallel import initialize
from jaxdl.training.state import TrainState, init_state
from jaxdl.training.steps import make_eval_step, make_train_epoch, make_train_step, scale_images
from jaxdl.training.sweep import order_key, sweep

__all__ = [
    "Change",
    "EpochEnd",
    "Event",
    "History",
    "NonFiniteError",
    "Observer",
    "Result",
    "Run",
    "Streamed",
    "TrainState",
    "checkpoints",
    "compiler_options",
    "epoch_order",
    "fit",
    "init_state",
    "initialize",
    "make_eval_step",
    "make_train_epoch",
    "make_train_step",
    "observers",
    "order_key",
    "scale_images",
    "sweep",
]
