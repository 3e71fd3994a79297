"""Why does this network train, or not? Pure functions in JAX that answer by measurement.

Sub-packages are imported when they are first used: `import jaxdl` alone loads none of them.
"""

import importlib
from types import ModuleType

from jaxdl.public import public_names

__version__ = "0.1.0"

__all__ = [
    "activations",
    "backpropagation",
    "calling",
    "claims",
    "data",
    "diagnostics",
    "initializers",
    "interop",
    "layers",
    "losses",
    "metrics",
    "models",
    "observers",
    "optimizers",
    "plotting",
    "training",
]

__dir__ = public_names(globals())


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"jaxdl.{name}")
    raise AttributeError(f"module 'jaxdl' has no attribute {name!r}")
