"""The learning rate as a link of the chain, and how to read it back."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from jaxdl.checks import is_traced

LearningRate = Any
"""A float, a schedule (step -> rate, steps counted from 0), a traced array, or a `plateau`."""


class LearningRateState(NamedTuple):
    """The number of updates made, and the rate of the next update, which follows from it."""

    step: Int[Array, ""]
    learning_rate: Float[Array, ""]


def scale_by_learning_rate(learning_rate: LearningRate) -> optax.GradientTransformation:
    r"""Multiply by minus the rate: $u_t = -\eta_t\, g_t$, with $\eta_t$ the schedule at step t.

    It is `optax.scale_by_learning_rate` with a state that shows the rate to
    `current_learning_rate`. A product in half precision is computed in the rate's type and rounded
    once.

    Raises:
        ValueError: the rate is negative, infinite or NaN, or a schedule begins with such a rate.

    Example:
        >>> link = scale_by_learning_rate(lambda step: 1.0 / (1 + step))
        >>> updates, state = link.update(4.0, link.init(0.0))
        >>> updates.item(), link.update(4.0, state)[0].item()
        (-4.0, -2.0)
    """
    require_rate(learning_rate)
    if isinstance(learning_rate, optax.GradientTransformation):
        return learning_rate

    def rate_at(step: Array) -> Array:
        rate = learning_rate(step) if callable(learning_rate) else learning_rate
        return jnp.asarray(rate, dtype=float)

    def init_fn(params: Any) -> LearningRateState:
        del params
        step = jnp.zeros((), jnp.int32)
        return LearningRateState(step, rate_at(step))

    def update_fn(
        updates: Any, state: LearningRateState, params: Any = None
    ) -> tuple[Any, LearningRateState]:
        del params
        rate, step = rate_at(state.step), optax.safe_increment(state.step)
        return downhill(updates, rate), LearningRateState(step, rate_at(step))

    return optax.GradientTransformation(init_fn, update_fn)


def downhill(updates: Any, rate: Array) -> Any:
    """Minus the rate times each leaf, in the leaf's own type."""
    return jax.tree.map(lambda g: (-rate * g).astype(jnp.result_type(g)), updates)


def require_rate(learning_rate: Any) -> None:
    """Refuse a rate that is negative, infinite or NaN, and a schedule that begins with one.

    Traced arrays pass. Plateaus pass too: they have checked their own rate.
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


def current_learning_rate(opt_state: optax.OptState) -> Float[Array, "..."]:
    """The rate of the next update, read from the optimizer's state.

    Every optimizer of `jaxdl` shows it, inside any wrapper; so does `optax.inject_hyperparams`.

    Raises:
        ValueError: the state holds no rate, or more than one.

    Example:
        >>> from jaxdl import optimizers
        >>> optimizer = optimizers.adam(lambda step: 0.5 / (1 + step))
        >>> state = optimizer.init({"w": 1.0})
        >>> _, state = optimizer.update({"w": 1.0}, state)
        >>> current_learning_rate(state).item()
        0.25
    """
    found = [rate for node in nodes(opt_state, rate_of) if (rate := rate_of(node)) is not None]
    if not found:
        raise ValueError(
            "opt_state must hold a learning rate, and this one holds none; build the optimizer "
            "with jaxdl.optimizers, or wrap optax's in optax.inject_hyperparams"
        )
    if len(found) > 1:
        raise ValueError(
            f"opt_state must hold one learning rate, and this one holds {len(found)}; "
            "pass the part of it that belongs to the group in question, e.g. opt_state.groups[0]"
        )
    return found[0]


def rate_of(node: Any) -> Array | None:
    """The rate that a state shows, or None."""
    if "learning_rate" in getattr(node, "_fields", ()):
        rate: Array = node.learning_rate
        return rate
    return getattr(node, "hyperparams", {}).get("learning_rate")


def nodes(opt_state: Any, is_wanted: Callable[[Any], Any]) -> list[Any]:
    """The outermost nodes of a state for which `is_wanted` is not None, and the other leaves."""
    return jax.tree.leaves(opt_state, is_leaf=lambda node: is_wanted(node) is not None)
