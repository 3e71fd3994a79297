"""Many runs at once: `sweep` (sweep.py) over the axes of axes.py, as the calls of program.py."""

from jaxdl.training.sweep.sweep import sweep

__all__ = ["sweep"]
