"""Why does this network train, or not? Pure functions in JAX that answer by measurement.

Sub-packages are imported when they are first used: `import jaxdl` alone loads none of them.
"""

import importlib
from types import ModuleType

__version__ = "0.1.0"

__all__ = [
    "activations",
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


def __getattr__(name: str) -> ModuleType:
    if name in __all__:
        return importlib.import_module(f"jaxdl.{name}")
    raise AttributeError(f"module 'jaxdl' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
