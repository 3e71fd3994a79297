"""Arms timed in turns: what slows the machine for a while meets all of them."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

Arm = Callable[[], Any]


def seconds_of(arm: Arm) -> float:
    """The time of a call until its results are there.

    Example:
        >>> seconds_of(lambda: time.sleep(0.01)) >= 0.01
        True
    """
    started = time.perf_counter()
    jax.block_until_ready(arm())
    return time.perf_counter() - started


def measure(
    arms: Mapping[str, Arm],
    rounds: int,
    *,
    clock: Callable[[Arm], Any] = seconds_of,
    warm: bool = True,
    settle: float = 0.0,
) -> dict[str, np.ndarray]:
    """What the clock says of each arm in each round; every round begins with another arm.

    Arguments:
        arms: calls without arguments, by name.
        rounds: how often each is timed.
        clock: takes an arm, calls it and gives its seconds, or several numbers. An arm that times
            itself is read with `lambda arm: arm()`.
        warm: each arm is called once before, so that nothing is compiled in a timed call.
        settle: seconds of pause before a timed call, and then one that is not timed. The threads of
            the arm before spin on for some milliseconds, which on two cores doubles the time of
            what comes next.

    Returns:
        By name, an array of `rounds` entries.

    Example:
        >>> ticks = iter(range(10))
        >>> taken = measure({"a": str, "b": str}, 2, clock=lambda arm: next(ticks))
        >>> taken["a"].tolist(), taken["b"].tolist()
        ([0, 3], [1, 2])
    """
    if warm:
        for arm in arms.values():
            jax.block_until_ready(arm())
    taken: dict[str, list[Any]] = {name: [] for name in arms}
    names = list(arms)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            if settle:
                time.sleep(settle)
                jax.block_until_ready(arms[name]())
            taken[name].append(clock(arms[name]))
    return {name: np.array(values) for name, values in taken.items()}
