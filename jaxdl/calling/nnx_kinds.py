"""Whether a value is of Flax NNX, which is imported only by those who use it."""

import sys
from typing import Any


def is_of_nnx(value: Any, kind: str) -> bool:
    """Whether a value is an instance of the class `kind` of `flax.nnx`.

    Importing NNX takes longer than importing this library. Whoever has a value of it has imported
    it: so where it is not imported, no value is of it.

    Example:
        >>> from flax import nnx
        >>> is_of_nnx(nnx.Dropout(0.5), "Dropout"), is_of_nnx(nnx.Dropout(0.5), "BatchNorm")
        (True, False)
    """
    nnx = sys.modules.get("flax.nnx")
    return nnx is not None and isinstance(value, getattr(nnx, kind))
