"""Which targets a loss can have: the loss says it, and a run looks before it compiles."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax.numpy as jnp
import numpy as np

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Rows of float32 probabilities sum to 1 within this, for a million classes.
_ROUNDING = 1e-3


class Taken(NamedTuple):
    """What a loss takes.

    Attributes:
        rule: in words, such as "in [0, 1]".
        fix: what to do about another target.
        allows: (targets) -> true where the loss can have them, for each number or each row.
    """

    rule: str
    fix: str
    allows: Callable[[np.ndarray], np.ndarray]


def takes(
    rule: str, fix: str, allows: Callable[[np.ndarray], np.ndarray]
) -> Callable[[_Function], _Function]:
    """A decorator that tells of a loss which targets it can have; see `Taken`.

    Example:
        >>> @takes("at least 0", "shift them", lambda targets: targets >= 0)
        ... def loss(outputs, targets): ...
        >>> taken_by(loss).rule
        'at least 0'
    """

    def told(function: _Function) -> _Function:
        vars(function)["targets_taken"] = Taken(rule, fix, allows)
        return function

    return told


def taken_by(loss: Any) -> Taken | None:
    """What a loss takes, also one inside `functools.partial` or `jax.jit`; None if it says nothing.

    Example:
        >>> import functools
        >>> from jaxdl import losses
        >>> taken_by(functools.partial(losses.binary_cross_entropy, positive_weight=2.0)).rule
        'in [0, 1]'
        >>> taken_by(losses.huber) is None
        True
    """
    while loss is not None:
        found = getattr(loss, "targets_taken", None)
        if found is not None:
            return found if isinstance(found, Taken) else None
        loss = getattr(loss, "func", None) or getattr(loss, "__wrapped__", None)
    return None


def name_of_loss(loss: Any) -> str:
    """The name of the function that a loss calls."""
    return str(getattr(getattr(loss, "func", loss), "__name__", "the loss"))


def are_probabilities(targets: np.ndarray) -> np.ndarray:
    """Which numbers are in [0, 1], to the rounding of a mixture of two such."""
    rounding = _epsilon(targets)
    found: np.ndarray = (targets >= 0) & (targets <= 1 + rounding)
    return found


def are_shares(targets: np.ndarray) -> np.ndarray:
    """Which rows are at least 0 and sum to 1, to the rounding of their dtype."""
    rows = targets.astype(np.float64)
    rounding = max(_ROUNDING, _epsilon(targets))
    found: np.ndarray = (rows >= 0).all(-1) & (np.abs(rows.sum(-1) - 1) <= rounding)
    return found


def _epsilon(targets: np.ndarray) -> float:
    """Four roundings of the dtype in which the targets are held; of float32 for wider ones."""
    own = jnp.finfo(targets.dtype).eps if jnp.issubdtype(targets.dtype, jnp.floating) else 0
    return 4 * max(float(own), float(np.finfo(np.float32).eps))
