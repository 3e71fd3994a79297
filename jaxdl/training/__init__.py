"""The train step, written once, and whole runs of it."""

from jaxdl.training.history import History
from jaxdl.training.loop import EpochEnd, Observer, Result, fit
from jaxdl.training.order import epoch_order
from jaxdl.training.state import TrainState, init_state
from jaxdl.training.steps import make_eval_step, make_train_epoch, make_train_step, scale_images

__all__ = [
    "EpochEnd",
    "History",
    "Observer",
    "Result",
    "TrainState",
    "epoch_order",
    "fit",
    "init_state",
    "make_eval_step",
    "make_train_epoch",
    "make_train_step",
    "scale_images",
]
