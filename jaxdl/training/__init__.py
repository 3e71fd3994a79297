"""Train a model: one step, a whole run, or many runs at once.

In the source, the state of a run is in state.py, one step in steps.py, `fit` in fit/, what survives
a kill in checkpoints/, many runs in sweep/, and the search for good settings in search.py.

With glibc the import lets all threads of the process take memory from one heap (freed_memory.py).
Set a variable of the environment that sets up the allocator, such as MALLOC_ARENA_MAX=8, and
nothing is changed.
"""

from typing import TYPE_CHECKING

from jaxdl.compiling import compiler_options
from jaxdl.freed_memory import keep_memory, one_heap
from jaxdl.public import imported_when_used, public_names
from jaxdl.training import checkpoints
from jaxdl.training.fit import (
    Change,
    Event,
    History,
    NonFiniteError,
    Observer,
    Result,
    Setup,
    Streamed,
    fit,
    initialize,
    load,
)
from jaxdl.training.orders import (
    alternating_flip_orders,
    epoch_order,
    orders,
    step_orders,
)
from jaxdl.training.run import Run, first_weights, make_run
from jaxdl.training.search import Integers, LogUniform, Uniform, search
from jaxdl.training.state import TrainState, init_state
from jaxdl.training.statistics import recalibrate
from jaxdl.training.steps import make_eval_step, make_train_epoch, make_train_step
from jaxdl.training.sweep import sweep
from jaxdl.training.task import Task, scale_images

if TYPE_CHECKING:
    from jaxdl.training.folding import fold
    from jaxdl.training.widths.parametrization import parametrization
    from jaxdl.training.widths.parametrized import ByWidth, Parametrization
else:
    _PARAMETRIZED = "jaxdl.training.widths.parametrized"
    __getattr__ = imported_when_used(
        globals(),
        fold="jaxdl.training.folding",
        parametrization="jaxdl.training.widths.parametrization",
        ByWidth=_PARAMETRIZED,
        Parametrization=_PARAMETRIZED,
    )

one_heap()

__all__ = [
    "ByWidth",
    "Change",
    "Event",
    "History",
    "Integers",
    "LogUniform",
    "NonFiniteError",
    "Observer",
    "Parametrization",
    "Result",
    "Run",
    "Setup",
    "Streamed",
    "Task",
    "TrainState",
    "Uniform",
    "alternating_flip_orders",
    "checkpoints",
    "compiler_options",
    "epoch_order",
    "first_weights",
    "fit",
    "fold",
    "init_state",
    "initialize",
    "keep_memory",
    "load",
    "make_eval_step",
    "make_run",
    "make_train_epoch",
    "make_train_step",
    "orders",
    "parametrization",
    "recalibrate",
    "scale_images",
    "search",
    "step_orders",
    "sweep",
]

__dir__ = public_names(globals())
