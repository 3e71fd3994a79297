"""Rates that also rise (warm-up, restarts, one cycle), and schedules one after another."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxdl.checks import require_choice
from jaxdl.factories import factory
from jaxdl.optimizers.schedules.numerics import (
    LAST_STEP,
    Schedule,
    as_count,
    boundaries_passed,
    float32,
    half_cosine,
    line,
    require_boundaries,
    require_rate,
    require_steps,
)


@factory
def warmup(learning_rate: ArrayLike, *, steps: int, start_factor: float = 0.0) -> Schedule:
    r"""The rate grows linearly to its full size, and stays there.

    $$\eta_t = \eta \left(a + (1 - a) \frac{\min(t, T)}{T}\right)$$

    PyTorch's `LinearLR(start_factor=start_factor, total_iters=steps)`, whose default is 1/3.
    PyTorch multiplies the previous rate at each step. With a = 0 the first update is zero. `joined`
    puts another schedule after it.

    Arguments:
        learning_rate: eta, 0 or more.
        steps: T.
        start_factor: a, in [0, 1], the share of the rate in the first update.

    Raises:
        ValueError: a bad rate, see `constant`; steps < 1; a start_factor outside [0, 1].

    Example:
        >>> warmup(1.0, steps=4)(jnp.arange(6)).tolist()
        [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]

    Source: Goyal et al. (2017), section 2.2.
    """
    require_rate("learning_rate", learning_rate)
    require_steps("steps", steps)
    if not 0.0 <= start_factor <= 1.0:
        raise ValueError(
            f"start_factor must lie in [0, 1], got {start_factor}; it is the share of the rate "
            "that the first update takes"
        )

    def schedule(step: ArrayLike) -> Float[Array, "*steps"]:
        passed = jnp.minimum(as_count(step), steps)
        level = line(start_factor, 1.0, float32(passed), float32(steps - passed))
        return float32(learning_rate) * level

    return schedule


@factory
def cosine_restarts(
    learning_rate: ArrayLike, *, cycle_steps: int, growth: int = 1, end_rate: ArrayLike = 0.0
) -> Schedule:
    r"""Half a cosine, repeated; each cycle is longer than the last by a factor.

    $$\eta_t = \eta_{\min} + \frac{\eta_0 - \eta_{\min}}{2}
      \left(1 + \cos\frac{\pi\, T_{cur}}{T_i}\right), \qquad T_{i+1} = m\, T_i$$

    with T_cur the steps since the cycle began and T_i the length of cycle i. A new cycle starts at
    the step at which the rate would have reached its end. Same as PyTorch's
    `CosineAnnealingWarmRestarts(T_0=cycle_steps, T_mult=growth, eta_min=end_rate)`.

    Arguments:
        learning_rate: eta_0, 0 or more, the rate after a restart.
        cycle_steps: T_0, the steps of the first cycle.
        growth: m, a whole number.
        end_rate: eta_min, 0 or more.

    Raises:
        ValueError: a bad rate, see `constant`; cycle_steps or growth < 1.

    Example:
        >>> schedule = cosine_restarts(1.0, cycle_steps=2, growth=2)
        >>> schedule(jnp.arange(7)).round(4).tolist()
        [1.0, 0.5, 1.0, 0.853..., 0.5, 0.146..., 1.0]

    Source: Loshchilov and Hutter (2017), equation 5.
    """
    require_rate("learning_rate", learning_rate)
    require_steps("cycle_steps", cycle_steps)
    require_steps("growth", growth)
    require_rate("end_rate", end_rate)
    starts, lengths = [0], [cycle_steps]
    # All cycles that begin within the range of a step counter: at most 31.
    while growth > 1 and starts[-1] + lengths[-1] <= LAST_STEP:
        starts.append(starts[-1] + lengths[-1])
        lengths.append(lengths[-1] * growth)

    def schedule(step: ArrayLike) -> Float[Array, "*steps"]:
        count = as_count(step)
        if growth == 1:
            begun, length = count - count % cycle_steps, float32(cycle_steps)
        else:
            cycle = boundaries_passed(starts[1:], count)
            begun, length = jnp.asarray(starts)[cycle], float32(lengths)[cycle]
        passed = float32(count - begun)
        # In floating point, because the last length may be too large for an integer.
        return half_cosine(learning_rate, end_rate, passed, length - passed)

    return schedule


@factory
def one_cycle(
    learning_rate: ArrayLike,
    *,
    steps: int,
    warmup_fraction: float = 0.3,
    anneal: Literal["cosine", "linear"] = "cosine",
    initial_divisor: float = 25.0,
    final_divisor: float = 1e4,
    three_phase: bool = False,
) -> Schedule:
    r"""The rate grows to a peak and falls to nearly nothing, in one cycle.

    $$\eta_t:\quad \frac{\eta}{d_0} \;\to\; \eta \;\to\; \frac{\eta}{d_0 d_1},
      \qquad \text{reached at}\quad 0,\;\; f T - 1,\;\; T - 1$$

    interpolated by a line or half a cosine, and constant after the last. With three phases the rate
    first falls to eta / d_0, as fast as it grew, until step 2 f T - 2. Same as PyTorch's
    `OneCycleLR(max_lr, total_steps, pct_start, anneal_strategy, div_factor, final_div_factor,
    three_phase)` without its cycle of the momentum. PyTorch extrapolates at step T and raises an
    error after it. optax's one-cycle schedules reach the peak a step later.

    Arguments:
        learning_rate: eta, the peak, 0 or more.
        steps: T, the length of the whole cycle.
        warmup_fraction: f, the share of the steps in which the rate grows.
        anneal: "cosine" or "linear".
        initial_divisor: d_0, 1 or more.
        final_divisor: d_1, 1 or more; it divides the initial rate.
        three_phase: whether to fall to the initial rate first.

    Raises:
        ValueError: a bad rate, see `constant`; steps < 1; a warmup_fraction that leaves a phase
            without a step; an unknown anneal; a divisor below 1.

    Example:
        >>> schedule = one_cycle(1.0, steps=11, warmup_fraction=6 / 11, initial_divisor=4.0)
        >>> schedule(jnp.array([0, 5, 10])).round(6).tolist()
        [0.25, 1.0, 2.4999...e-05]

    Source: Smith and Topin (2019), in PyTorch's phases.
    """
    require_rate("learning_rate", learning_rate)
    require_steps("steps", steps)
    require_choice("anneal", anneal, ("cosine", "linear"))
    for name, value in (("initial_divisor", initial_divisor), ("final_divisor", final_divisor)):
        if not 1.0 <= value < math.inf:
            raise ValueError(f"{name} must be finite and at least 1, got {value}; pass another")
    peak, initial, final = 1.0, 1 / initial_divisor, 1 / (initial_divisor * final_divisor)
    marks = [0.0, warmup_fraction * steps - 1, steps - 1.0]
    levels = [initial, peak, final]
    if three_phase:
        marks.insert(2, 2 * warmup_fraction * steps - 2)
        levels.insert(2, initial)
    if not all(begin < end for begin, end in pairwise(marks)):
        raise ValueError(
            f"warmup_fraction must leave every phase some steps, got {warmup_fraction} of {steps} "
            f"steps, where the phases end at {marks[1:]}; pass another fraction or more steps"
        )
    # Whole and fractional steps are kept apart, so that the rest of a phase is not rounded.
    begins, ends = np.asarray(marks[:-1]), np.asarray(marks[1:])
    first, last = np.ceil(begins).astype(int), np.floor(ends).astype(int)
    interpolate = line if anneal == "linear" else half_cosine

    def schedule(step: ArrayLike) -> Float[Array, "*steps"]:
        count = jnp.minimum(as_count(step), steps - 1)
        phase = jnp.searchsorted(jnp.asarray(last[:-1]), count, side="left")
        level = interpolate(
            float32(levels[:-1])[phase],
            float32(levels[1:])[phase],
            float32(count - jnp.asarray(first)[phase]) + float32(first - begins)[phase],
            float32(jnp.asarray(last)[phase] - count) + float32(ends - last)[phase],
        )
        return float32(learning_rate) * level

    return schedule


@factory
def joined(schedules: Sequence[optax.Schedule], *, boundaries: Sequence[int]) -> Schedule:
    r"""One schedule after another, each counting from its own beginning.

    $$\eta_t = \eta^{(i)}_{t - b_i}, \qquad b_i \le t < b_{i+1}, \quad b_0 = 0$$

    PyTorch's `SequentialLR(schedulers=schedules, milestones=boundaries)`, `optax.join_schedules`.

    Arguments:
        schedules: functions of the step.
        boundaries: the steps at which the second and later schedules begin, increasing, from 1.

    Raises:
        ValueError: the boundaries do not increase from 1, or are not one fewer than the schedules.

    Example:
        >>> from jaxdl.optimizers.schedules import cosine_decay, warmup
        >>> parts = [warmup(1.0, steps=2), cosine_decay(1.0, steps=4)]
        >>> joined(parts, boundaries=[2])(jnp.arange(7)).round(4).tolist()
        [0.0, 0.5, 1.0, 0.853..., 0.5, 0.146..., 0.0]
    """
    bounds = require_boundaries(boundaries)
    if len(schedules) != len(bounds) + 1:
        raise ValueError(
            f"boundaries must be one fewer than the {len(schedules)} schedules, got {len(bounds)}; "
            "pass the steps at which the second and the following begin"
        )

    def from_zero(schedule: optax.Schedule) -> optax.Schedule:
        # A schedule is also evaluated before it begins, and then at its first step.
        return lambda step: schedule(jnp.maximum(step, 0))

    whole = optax.join_schedules([from_zero(schedule) for schedule in schedules], bounds)
    return lambda step: float32(whole(as_count(step)))
