"""What survives a kill: a run's state on disk, written whole, verified when it is read.

`open` takes a folder and gives its `Store` (store.py), which writes a checkpoint as a folder of its
own (on_disk.py) from the bytes of a pytree (packing.py).
"""

from jaxdl.training.checkpoints.identity import identify
from jaxdl.training.checkpoints.on_disk import DamagedError
from jaxdl.training.checkpoints.store import Store, open

__all__ = ["DamagedError", "Store", "identify", "open"]
