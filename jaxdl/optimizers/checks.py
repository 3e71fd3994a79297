"""Settings are refused where they are given, before anything is traced."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax


def check_rate(learning_rate: Any) -> None:
    """Refuse a rate below zero, infinite or NaN, and a schedule that begins with one.

    Traced arrays, and plateaus, which have checked their own rate, are taken as they are.
    """
    if is_traced(learning_rate) or isinstance(learning_rate, optax.GradientTransformation):
        return
    if callable(learning_rate):
        with jax.ensure_compile_time_eval():
            rate = learning_rate(jnp.zeros((), jnp.int32))
        given = f"a schedule that gives {rate} at step 0; steps are counted from 0"
    else:
        rate = learning_rate
        given = f"{rate}; the update already points downhill"
    if not is_traced(rate) and not np.all(np.isfinite(rate) & (np.asarray(rate) >= 0)):
        raise ValueError(f"learning_rate must be finite and 0 or more, got {given}")


def check_decay(name: str, value: Any) -> None:
    """Refuse a decay rate of a moving average outside [0, 1)."""
    if not is_traced(value) and not np.all((np.asarray(value) >= 0) & (np.asarray(value) < 1)):
        raise ValueError(
            f"{name} must lie in [0, 1), got {value}; it is the weight of the old value"
        )


def is_traced(value: Any) -> bool:
    """Whether the value is known only when the compiled function runs."""
    return isinstance(value, jax.core.Tracer)
