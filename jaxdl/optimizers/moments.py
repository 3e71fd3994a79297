"""What the optimizers with moments share: the averages, their correction, the root below them."""

import math
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxdl.checks import require_decay, require_non_negative

EpsilonPosition = Literal["inside", "outside"]
"""Of the root: sqrt(v + epsilon), or sqrt(v) + epsilon."""

POSITIONS = ("inside", "outside")

Moment = Literal["raw", "corrected"]
"""The second moment as it is accumulated, or divided by 1 - beta2^t."""

MOMENTS = ("raw", "corrected")


def require_moments(beta1: Any, beta2: Any, epsilon: Any) -> None:
    """The settings that all of them share."""
    require_decay("beta1", beta1)
    require_decay("beta2", beta2)
    require_non_negative("epsilon", epsilon)


def first_moments(params: Any) -> optax.ScaleByAdamState:
    """No step made, both moments zero."""
    return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros(params), zeros(params))


def next_moments(
    updates: Any, state: optax.ScaleByAdamState, beta1: Any, beta2: Any
) -> optax.ScaleByAdamState:
    """The moving averages of the gradient and of its square, a step on."""
    return optax.ScaleByAdamState(
        optax.safe_increment(state.count),
        optax.tree.update_moment(updates, state.mu, beta1, 1),
        optax.tree.update_moment(updates, state.nu, beta2, 2),
    )


def bias_correction(decay: Any, count: Array) -> Array:
    r"""1 / (1 - decay^count): what a moving average that started at zero is multiplied by.

    Computed as -1 / expm1(count log(decay)), which is right to float32's rounding. The formula as
    it stands is not: 0.999^t is rounded at 6e-8 before 1 - 0.999^t, 1e-3 at first, is formed.
    The 3e-5 that is lost so in Adam's step leaves the float64 path of a small network by 1e-3 of
    the loss within a hundred steps, where this form stays within 1e-7.

    Example:
        >>> import jax.numpy as jnp
        >>> round(bias_correction(0.999, jnp.int32(1)).item(), 2)
        1000.0
    """
    return -1.0 / jnp.expm1(count * log(decay))


def log(decay: Any) -> Any:
    """The logarithm, in double precision where the decay is a plain number."""
    if isinstance(decay, (int, float)):
        return math.log(decay) if decay > 0 else -math.inf
    return jnp.log(decay)


def root(square: Array, epsilon: Any, position: EpsilonPosition) -> Array:
    """sqrt(square + epsilon), or sqrt(square) + epsilon."""
    return jnp.sqrt(square + epsilon) if position == "inside" else jnp.sqrt(square) + epsilon


def zeros(params: Any) -> Any:
    """A tree of zeros of its own: one buffer in two places could not be donated."""
    return jax.tree.map(jnp.zeros_like, params)


def quotient(numerator: Any, denominator: Any) -> Any:
    """Leaf by leaf, in the numerator's own type."""
    return jax.tree.map(lambda n, d: (n / d).astype(jnp.result_type(n)), numerator, denominator)
