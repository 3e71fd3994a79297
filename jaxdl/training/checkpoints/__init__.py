"""Checkpoints: a run's state on disk. They are written whole and verified when read.

`open` locks a folder and returns its `Store` (store.py). The store writes each checkpoint as a
folder of its own (on_disk.py), from the arrays of a pytree (packing.py), and appends what grows
with the run to a log (log.py). `load_variables` reads one without its run (newest.py).
"""

from jaxdl.public import public_names
from jaxdl.training.checkpoints.errors import DamagedError
from jaxdl.training.checkpoints.identity import identify
from jaxdl.training.checkpoints.newest import load_variables
from jaxdl.training.checkpoints.store import Store, open

__all__ = ["DamagedError", "Store", "identify", "load_variables", "open"]

__dir__ = public_names(globals())
