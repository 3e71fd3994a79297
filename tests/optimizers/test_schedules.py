"""Every schedule against its equation in float64, for small and large steps."""

import inspect
import math
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.optimizers import schedules

RATE = 0.3


def falling(t, end, power=1.0):
    return (1 - np.minimum(t, end) / end) ** power


def half_cosine(x):
    return np.sin(np.pi / 2 * (1 - x)) ** 2


def restarts(t, length, growth, low):
    rates = []
    for step in t:
        cycle = length
        while step >= cycle:
            step, cycle = step - cycle, cycle * growth
        rates.append(low + (RATE - low) * half_cosine(step / cycle))
    return np.array(rates)


def one_cycle(t, steps, fraction, divisor, final, three_phase, shape):
    marks, levels = [0, fraction * steps - 1, steps - 1], [1 / divisor, 1, 1 / divisor / final]
    if three_phase:
        marks.insert(2, 2 * fraction * steps - 2)
        levels.insert(2, 1 / divisor)
    rates = []
    for step in np.minimum(t, steps - 1):
        i = next(i for i in range(len(marks) - 1) if step <= marks[i + 1])
        x = (step - marks[i]) / (marks[i + 1] - marks[i])
        weight = half_cosine(x) if shape == "cosine" else 1 - x
        rates.append(RATE * (levels[i + 1] + (levels[i] - levels[i + 1]) * weight))
    return np.array(rates)


def one_cycles(shape, three):
    return (
        lambda r: schedules.one_cycle(
            r, steps=10**6, warmup_fraction=0.333, anneal=shape, three_phase=three
        ),
        lambda t: one_cycle(t, 10**6, 0.333, 25, 1e4, three, shape),
        None,
    )


# name: (schedule of a rate, its equation in float64, x of the power e^x that it holds)
CASES: dict[str, Any] = {
    "constant": (lambda r: schedules.constant(r), lambda t: RATE + 0 * t, None),
    # 41 * (1 / 41) is below 1 in float32.
    "step": (
        lambda r: schedules.step_decay(r, every=41, factor=0.9),
        lambda t: RATE * 0.9 ** (t // 41),
        lambda t: t // 41 * math.log(0.9),
    ),
    "multistep": (
        lambda r: schedules.multistep_decay(r, boundaries=[3, 41, 10**5]),
        lambda t: RATE * 0.1 ** np.sum([t >= b for b in (3, 41, 10**5)], axis=0),
        lambda t: 3 * math.log(0.1) + 0 * t,
    ),
    "exponential": (
        lambda r: schedules.exponential_decay(r, factor=0.99999),
        lambda t: RATE * 0.99999**t,
        lambda t: t * math.log(0.99999),
    ),
    "exponential, growing": (
        lambda r: schedules.exponential_decay(r, factor=1.1, every=10**5),
        lambda t: RATE * 1.1 ** (t / 10**5),
        lambda t: t / 10**5 * math.log(1.1),
    ),
    "inverse time": (
        lambda r: schedules.inverse_time_decay(r, decay=0.01),
        lambda t: RATE / (1 + 0.01 * t),
        None,
    ),
    "linear": (
        lambda r: schedules.polynomial_decay(r, steps=10**6),
        lambda t: RATE * falling(t, 10**6),
        None,
    ),
    "polynomial": (
        lambda r: schedules.polynomial_decay(r, steps=10**6 - 1, power=2.5, end_rate=1e-9),
        lambda t: 1e-9 + (RATE - 1e-9) * falling(t, 10**6 - 1, 2.5),
        lambda t: 2.5 * np.log(falling(np.minimum(t, 10**6 - 2), 10**6 - 1)) - 2.5,
    ),
    "cosine": (
        lambda r: schedules.cosine_decay(r, steps=10**6),
        lambda t: RATE * half_cosine(np.minimum(t, 10**6) / 10**6),
        None,
    ),
    "cosine to an end": (
        lambda r: schedules.cosine_decay(r, steps=100, end_rate=0.01),
        lambda t: 0.01 + (RATE - 0.01) * half_cosine(np.minimum(t, 100) / 100),
        None,
    ),
    "restarts": (
        lambda r: schedules.cosine_restarts(r, cycle_steps=41, end_rate=0.001),
        lambda t: restarts(t % 41, 41, 1, 0.001),
        None,
    ),
    "growing restarts": (
        lambda r: schedules.cosine_restarts(r, cycle_steps=3, growth=2),
        lambda t: restarts(t, 3, 2, 0.0),
        None,
    ),
    "restarts that outgrow integers": (
        lambda r: schedules.cosine_restarts(r, cycle_steps=20, growth=50_000),
        lambda t: restarts(t, 20, 50_000, 0.0),
        None,
    ),
    "warm-up": (
        lambda r: schedules.warmup(r, steps=10**6, start_factor=1e-3),
        lambda t: RATE * (1e-3 + (1 - 1e-3) * np.minimum(t, 10**6) / 10**6),
        None,
    ),
    "one cycle, cosine, 2 phases": one_cycles("cosine", False),
    "one cycle, cosine, 3 phases": one_cycles("cosine", True),
    "one cycle, linear, 2 phases": one_cycles("linear", False),
    "one cycle, linear, 3 phases": one_cycles("linear", True),
    "joined": (
        lambda r: schedules.joined(
            [schedules.warmup(r, steps=50), schedules.inverse_time_decay(r, decay=0.1)],
            boundaries=[50],
        ),
        lambda t: np.where(t < 50, RATE * t / 50, RATE / (1 + 0.1 * np.maximum(t - 50, 0))),
        None,
    ),
}
STEPS = np.unique(
    np.concatenate(
        [
            np.arange(400),
            np.arange(331_990, 333_010, 7),
            np.geomspace(400, 10**6, 200).astype(int),
            10**6 + np.arange(-100, 100),
            [2**24],
        ]
    )
)


@pytest.mark.parametrize("name", CASES)
def test_equals_the_equation_to_rounding(name):
    make, equation, exponent = CASES[name]
    # Under jit, where XLA turns divisions by constants into products. In the equation the rate
    # is the one that float32 holds.
    rates = jax.jit(make(RATE))(jnp.asarray(STEPS))
    assert rates.dtype == jnp.float32
    exact = equation(STEPS) * (np.float64(np.float32(RATE)) / RATE)
    x = 0.0 if exponent is None else np.abs(exponent(STEPS))
    # The module's claim; below float32's normal numbers, 2^-126, the result is 0.
    bound = (16 + 2 * x) * 2.0**-24 * exact + 2.0**-126
    # The equation cancels too, in float64: 1 - x loses 2^-53 of 1.
    bound = bound + 8 * 2.0**-53
    assert np.all(np.abs(np.asarray(rates, np.float64) - exact) <= bound)


@pytest.mark.parametrize("name", CASES)
def test_one_step_many_steps_and_many_rates_agree(name):
    make, _, _ = CASES[name]
    steps, factors = jnp.array([0, 1, 41, 999_999, 2**31 - 1]), jnp.array([0.0, 0.1, 1.0])
    for step in steps:
        chex.assert_shape(make(RATE)(step), ())
    alone = np.stack([make(float(rate))(steps) for rate in factors])
    chex.assert_shape(alone, (3, 5))
    together = jax.jit(jax.vmap(lambda rate: jax.vmap(make(rate))(steps)))(factors)
    # As exact as the claim; of two float32 results either may err, and x is 99 at most at the
    # steps where the rate is a normal number.
    np.testing.assert_allclose(together, alone, rtol=2 * (16 + 2 * 99) * 2**-24, atol=2**-126)
    np.testing.assert_array_equal(make(1.0)(jnp.arange(3)), [make(1.0)(t) for t in range(3)])


@pytest.mark.parametrize("name", [name for name in CASES if "warm" not in name])
def test_the_first_step_takes_the_rate_itself(name):
    make, equation, _ = CASES[name]
    if "one cycle" in name or name == "joined":
        np.testing.assert_allclose(make(RATE)(0), equation(np.array([0]))[0], rtol=4 * 2**-24)
    else:
        assert jax.jit(make(RATE))(0) == np.float32(RATE)


@pytest.mark.parametrize(
    ("schedule", "last", "end"),
    [
        (schedules.polynomial_decay(0.1, steps=7, end_rate=0.03), 7, 0.03),
        (schedules.polynomial_decay(0.1, steps=7, power=0.5), 7, 0.0),
        (schedules.cosine_decay(0.1, steps=7, end_rate=0.03), 7, 0.03),
        (schedules.cosine_decay(0.1, steps=7), 7, 0.0),
        (schedules.warmup(0.1, steps=7), 7, 0.1),
    ],
)
def test_the_end_is_exact_and_held(schedule, last, end):
    steps = jnp.array([last, last + 1, 10**6, 2**31 - 1])
    np.testing.assert_array_equal(schedule(steps), np.float32(end))
    assert schedule(last - 1) != np.float32(end)


def test_one_cycle_holds_its_last_rate():
    schedule = schedules.one_cycle(1.0, steps=100)
    np.testing.assert_allclose(schedule(jnp.array([99, 100, 10**6])), 1 / 25e4, rtol=4 * 2**-24)
    assert schedule(98) > schedule(99)


def test_a_schedule_drives_an_optimizer_without_retracing():
    schedule = schedules.joined(
        [schedules.warmup(1.0, steps=2), schedules.step_decay(1.0, every=2, factor=0.5)],
        boundaries=[2],
    )

    @jax.jit
    @chex.assert_max_traces(n=1)
    def rate(step):
        return schedule(step)

    assert [rate(jnp.int32(t)).item() for t in range(7)] == [0.0, 0.5, 1, 1, 0.5, 0.5, 0.25]


def test_any_function_of_the_step_can_be_joined():
    schedule = schedules.joined([lambda t: 0.5, lambda t: 1 / t], boundaries=[3])
    # 1 / t is infinite where it begins, and nowhere else.
    np.testing.assert_allclose([schedule(t) for t in (0, 2, 3, 5)], [0.5, 0.5, np.inf, 0.5])


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.int16, jnp.uint32, jnp.int32])
def test_steps_of_any_integer_type(dtype):
    schedule = schedules.cosine_decay(1.0, steps=300)
    np.testing.assert_array_equal(schedule(jnp.array(100, dtype)), schedule(100))


ALL = {
    "constant": schedules.constant,
    "step_decay": lambda r: schedules.step_decay(r, every=3),
    "multistep_decay": lambda r: schedules.multistep_decay(r, boundaries=[3]),
    "exponential_decay": lambda r: schedules.exponential_decay(r, factor=0.5),
    "inverse_time_decay": lambda r: schedules.inverse_time_decay(r, decay=1.0),
    "polynomial_decay": lambda r: schedules.polynomial_decay(r, steps=3),
    "cosine_decay": lambda r: schedules.cosine_decay(r, steps=3),
    "cosine_restarts": lambda r: schedules.cosine_restarts(r, cycle_steps=3),
    "warmup": lambda r: schedules.warmup(r, steps=3),
    "one_cycle": lambda r: schedules.one_cycle(r, steps=30),
}


@pytest.mark.parametrize("name", ALL)
def test_refuses_rates_and_steps(name):
    for rate in (-0.1, math.nan, math.inf, jnp.array(-1.0)):
        with pytest.raises(ValueError, match="learning_rate must be finite and at least 0"):
            ALL[name](rate)
    with pytest.raises(ValueError, match=r"learning_rate must be a scalar, got .* \(2,\); vmap"):
        ALL[name](jnp.ones(2))
    with pytest.raises(ValueError, match="step must be an integer, got float32"):
        ALL[name](0.1)(jnp.float32(1))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: schedules.step_decay(0.1, every=0), "every must be a whole number from 1"),
        (lambda: schedules.step_decay(0.1, every=3, factor=0.0), "factor must be finite and pos"),
        (lambda: schedules.step_decay(0.1, every=2**31), "every must be .* got 2147483648"),
        (lambda: schedules.multistep_decay(0.1, boundaries=[3, 3]), r"increase, got \[3, 3\]"),
        (lambda: schedules.multistep_decay(0.1, boundaries=[0, 3]), "boundaries must be a whole"),
        (lambda: schedules.multistep_decay(0.1, boundaries=[3], factor=-1.0), "factor"),
        (lambda: schedules.exponential_decay(0.1, factor=math.nan), "factor"),
        (lambda: schedules.exponential_decay(0.1, factor=0.5, every=-1), "every"),
        (lambda: schedules.inverse_time_decay(0.1, decay=-1.0), "decay"),
        (lambda: schedules.polynomial_decay(0.1, steps=0), "steps"),
        (lambda: schedules.polynomial_decay(0.1, steps=3, power=0.0), "power"),
        (lambda: schedules.polynomial_decay(0.1, steps=3, end_rate=-0.1), "end_rate"),
        (lambda: schedules.cosine_decay(0.1, steps=-1), "steps"),
        (lambda: schedules.cosine_decay(0.1, steps=3, end_rate=math.inf), "end_rate"),
        (lambda: schedules.cosine_restarts(0.1, cycle_steps=0), "cycle_steps"),
        (lambda: schedules.cosine_restarts(0.1, cycle_steps=3, growth=0), "growth"),
        (lambda: schedules.cosine_restarts(0.1, cycle_steps=3, end_rate=-1.0), "end_rate"),
        (lambda: schedules.warmup(0.1, steps=0), "steps"),
        (lambda: schedules.warmup(0.1, steps=3, start_factor=1.1), r"start_factor .* \[0, 1\]"),
        (lambda: schedules.warmup(0.1, steps=3, start_factor=math.nan), "start_factor"),
        (lambda: schedules.one_cycle(0.1, steps=0), "steps"),
        (lambda: schedules.one_cycle(0.1, steps=30, warmup_fraction=0.0), "every phase some"),
        (lambda: schedules.one_cycle(0.1, steps=30, warmup_fraction=1.0), "every phase some"),
        (lambda: schedules.one_cycle(0.1, steps=30, warmup_fraction=math.nan), "every phase"),
        (
            lambda: schedules.one_cycle(0.1, steps=30, warmup_fraction=0.6, three_phase=True),
            "every phase some steps, got 0.6 of 30",
        ),
        (lambda: schedules.one_cycle(0.1, steps=30, initial_divisor=0.5), "initial_divisor"),
        (lambda: schedules.one_cycle(0.1, steps=30, final_divisor=math.inf), "final_divisor"),
        (lambda: schedules.joined([], boundaries=[]), "one fewer than the 0 schedules"),
        (
            lambda: schedules.joined([schedules.constant(1.0)], boundaries=[3]),
            "one fewer than the 1 schedules, got 1",
        ),
        (lambda: schedules.joined([schedules.constant(1.0)] * 3, boundaries=[5, 3]), "increase"),
    ],
)
def test_refuses(make, text):
    with pytest.raises(ValueError, match=text):
        make()


def test_refuses_an_unknown_shape():
    # Not through the types, which the tests check and a user's process does not.
    unchecked: Any = inspect.unwrap(schedules.one_cycle)
    with pytest.raises(ValueError, match="anneal must be one of cosine, linear, got 'cos'"):
        unchecked(0.1, steps=30, anneal="cos")
