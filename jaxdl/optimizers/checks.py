"""Settings are refused where they are given, before anything is traced."""

from typing import Any

import jax
import numpy as np


def check_rate(learning_rate: Any) -> None:
    """Refuse a negative or NaN rate; schedules and traced arrays are taken as they are."""
    if callable(learning_rate) or isinstance(learning_rate, jax.core.Tracer):
        return
    value = np.asarray(learning_rate)
    if not np.all(value >= 0.0):
        raise ValueError(
            f"learning_rate must be 0 or more, got {learning_rate}; "
            "the update already stands on the side of descent"
        )


def check_decay(name: str, value: Any) -> None:
    """Refuse a decay rate of a moving average outside [0, 1)."""
    if not isinstance(value, jax.core.Tracer) and not 0.0 <= value < 1.0:
        raise ValueError(
            f"{name} must lie in [0, 1), got {value}; it is the weight of the old value"
        )


def check_epsilon(value: Any) -> None:
    """Refuse an epsilon below zero."""
    if not isinstance(value, jax.core.Tracer) and not value >= 0.0:
        raise ValueError(f"epsilon must be 0 or more, got {value}")
