"""Rates that fall from the first step on."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxdl.checks import require_non_negative, require_positive
from jaxdl.factories import factory
from jaxdl.optimizers.schedules.numerics import (
    Schedule,
    as_count,
    boundaries_passed,
    float32,
    half_cosine,
    line,
    require_boundaries,
    require_rate,
    require_steps,
    to_power,
)


@factory
def constant(learning_rate: ArrayLike) -> Schedule:
    r"""$\eta_t = \eta_0$.

    Arguments:
        learning_rate: eta_0, 0 or more.

    Raises:
        ValueError: a rate that is negative, not finite or no scalar.

    Example:
        >>> constant(0.5)(1000).item()
        0.5
    """
    require_rate("learning_rate", learning_rate)
    return lambda step: jnp.broadcast_to(float32(learning_rate), as_count(step).shape)


@factory
def step_decay(learning_rate: ArrayLike, *, every: int, factor: float = 0.1) -> Schedule:
    r"""The rate falls by a factor after every `every` steps.

    $$\eta_t = \eta_0\, \gamma^{\lfloor t / s \rfloor}$$

    PyTorch's `StepLR(step_size=every, gamma=factor)`.

    Arguments:
        learning_rate: eta_0, 0 or more.
        every: s, in steps.
        factor: gamma, positive.

    Raises:
        ValueError: a bad rate, see `constant`; every < 1; a factor that is not positive.

    Example:
        >>> step_decay(1.0, every=30, factor=0.5)(jnp.array([0, 29, 30, 90])).tolist()
        [1.0, 1.0, 0.5, 0.125]
    """
    require_rate("learning_rate", learning_rate)
    require_steps("every", every)
    require_positive("factor", factor)
    log_factor = math.log(factor)
    return lambda step: float32(learning_rate) * to_power(log_factor, as_count(step) // every)


@factory
def multistep_decay(
    learning_rate: ArrayLike, *, boundaries: Sequence[int], factor: float = 0.1
) -> Schedule:
    r"""The rate falls by a factor at each of the given steps.

    $$\eta_t = \eta_0\, \gamma^{|\{b : b \le t\}|}$$

    PyTorch's `MultiStepLR(milestones=boundaries, gamma=factor)`, which also takes a boundary twice.

    Arguments:
        learning_rate: eta_0, 0 or more.
        boundaries: the steps b, increasing, from 1.
        factor: gamma, positive.

    Raises:
        ValueError: a bad rate, see `constant`; boundaries that do not increase from 1; a factor
            that is not positive.

    Example:
        >>> multistep_decay(1.0, boundaries=[2, 5], factor=0.5)(jnp.arange(6)).tolist()
        [1.0, 1.0, 0.5, 0.5, 0.5, 0.25]
    """
    require_rate("learning_rate", learning_rate)
    bounds = require_boundaries(boundaries)
    require_positive("factor", factor)
    log_factor = math.log(factor)

    def schedule(step: ArrayLike) -> Float[Array, "*steps"]:
        passed = boundaries_passed(bounds, as_count(step))
        return float32(learning_rate) * to_power(log_factor, passed)

    return schedule


@factory
def exponential_decay(learning_rate: ArrayLike, *, factor: float, every: int = 1) -> Schedule:
    r"""The rate falls smoothly, by a factor over `every` steps.

    $$\eta_t = \eta_0\, \gamma^{t / s}$$

    PyTorch's `ExponentialLR(gamma=factor)` for s = 1; PyTorch multiplies the previous rate by gamma
    at each step. A factor above 1 makes the rate grow, as in a range test.

    Arguments:
        learning_rate: eta_0, 0 or more.
        factor: gamma, positive.
        every: s, in steps.

    Raises:
        ValueError: a bad rate, see `constant`; a factor that is not positive; every < 1.

    Example:
        >>> exponential_decay(1.0, factor=0.5, every=100)(200).item()
        0.25
    """
    require_rate("learning_rate", learning_rate)
    require_positive("factor", factor)
    require_steps("every", every)
    log_factor = math.log(factor) / every
    return lambda step: float32(learning_rate) * to_power(log_factor, as_count(step))


@factory
def inverse_time_decay(learning_rate: ArrayLike, *, decay: float) -> Schedule:
    r"""The rate falls as one over the number of steps.

    $$\eta_t = \frac{\eta_0}{1 + \lambda t}$$

    PyTorch's `LambdaLR(lr_lambda=lambda t: 1 / (1 + decay * t))`.

    Arguments:
        learning_rate: eta_0, 0 or more.
        decay: lambda, 0 or more, per step; the rate has halved after 1 / lambda steps.

    Raises:
        ValueError: a bad rate, see `constant`; a negative decay.

    Example:
        >>> inverse_time_decay(1.0, decay=0.01)(300).item()
        0.25

    Source: Robbins and Monro (1951); it meets their conditions on the sums of rates.
    """
    require_rate("learning_rate", learning_rate)
    require_non_negative("decay", decay)
    return lambda step: float32(learning_rate) / (1 + float32(decay) * float32(as_count(step)))


@factory
def polynomial_decay(
    learning_rate: ArrayLike, *, steps: int, power: float = 1.0, end_rate: ArrayLike = 0.0
) -> Schedule:
    r"""The rate falls to its end as a power of the steps that remain, and stays there.

    $$\eta_t = \eta_T + (\eta_0 - \eta_T) \left(1 - \frac{\min(t, T)}{T}\right)^p$$

    PyTorch's `PolynomialLR(total_iters=steps, power=power)`, which ends at 0. With power 1,
    PyTorch's `LinearLR(start_factor=1, end_factor=end_rate / learning_rate, total_iters=steps)`.
    PyTorch multiplies the previous rate at each step.

    Arguments:
        learning_rate: eta_0, 0 or more.
        steps: T.
        power: p, positive.
        end_rate: eta_T, 0 or more.

    Raises:
        ValueError: a bad rate, see `constant`; steps < 1; a power that is not positive.

    Example:
        >>> polynomial_decay(1.0, steps=4)(jnp.arange(6)).tolist()
        [1.0, 0.75, 0.5, 0.25, 0.0, 0.0]
    """
    require_rate("learning_rate", learning_rate)
    require_steps("steps", steps)
    require_positive("power", power)
    require_rate("end_rate", end_rate)

    def schedule(step: ArrayLike) -> Float[Array, "*steps"]:
        passed = jnp.minimum(as_count(step), steps)
        share = line(1.0, 0.0, float32(passed), float32(steps - passed))
        weight = share ** float32(power)
        return float32(learning_rate) * weight + float32(end_rate) * (1 - weight)

    return schedule


@factory
def cosine_decay(learning_rate: ArrayLike, *, steps: int, end_rate: ArrayLike = 0.0) -> Schedule:
    r"""The rate falls to its end along half a cosine, and stays there.

    $$\eta_t = \eta_T + \frac{\eta_0 - \eta_T}{2}
      \left(1 + \cos\frac{\pi \min(t, T)}{T}\right)$$

    PyTorch's `CosineAnnealingLR(T_max=steps, eta_min=end_rate)` up to T. After T PyTorch's rate
    rises again. PyTorch computes it from the previous rate at each step.

    Arguments:
        learning_rate: eta_0, 0 or more.
        steps: T.
        end_rate: eta_T, 0 or more.

    Raises:
        ValueError: a bad rate, see `constant`; steps < 1.

    Example:
        >>> cosine_decay(1.0, steps=4)(jnp.array([0, 2, 4, 9])).round(6).tolist()
        [1.0, 0.5, 0.0, 0.0]

    Source: Loshchilov and Hutter (2017), equation 5, for one period.
    """
    require_rate("learning_rate", learning_rate)
    require_steps("steps", steps)
    require_rate("end_rate", end_rate)

    def schedule(step: ArrayLike) -> Float[Array, "*steps"]:
        passed = jnp.minimum(as_count(step), steps)
        return half_cosine(learning_rate, end_rate, float32(passed), float32(steps - passed))

    return schedule
