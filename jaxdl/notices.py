"""Warnings that point at the caller's own line."""

import sys
import warnings
from pathlib import Path

import flax
import jax

_ROOTS = tuple(str(Path(file).parent) for file in (jax.__file__, flax.__file__ or "", __file__))


def notice(message: str) -> None:
    """Warn at the line that called this library: none of its own, nor one of JAX or Flax.

    Example:
        >>> import warnings
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     notice("something is hidden")
        >>> str(caught[0].message)
        'something is hidden'
    """
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and _is_inside(frame.f_code.co_filename):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def _is_inside(filename: str) -> bool:
    # Type checkers at run time wrap functions in code of their own, "<@beartype(...)>".
    return filename.startswith((*_ROOTS, "<")) or "jaxtyping" in filename
