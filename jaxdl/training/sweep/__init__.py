"""Many runs at once: `sweep` (sweep.py) over the axes of axes.py, in the calls of calls.py.

A call computes members of a compiled program (program.py): here, or in the workers (worker.py) of
an executor (elsewhere.py).
"""

from jaxdl.training.sweep.sweep import sweep

__all__ = ["sweep"]
