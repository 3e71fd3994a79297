"""Does a batch size that is a power of two matter? 63, 64, 65 and 127, 128, 129, timed.

An MLP 784-128-10 and a small convolutional network on images of noise, Adam. The arms are whole
compiled train steps, interleaved in one process, warmed up; a round has many
steps. What counts is the time for an example: if powers of two mattered, 64 and 128 would stand
below their neighbours by more than the spread of the rounds.

The first losses are compared before: each size gets the same examples, 63 first, then one more.

Run: python experiments/benchmarks/batch_sizes.py
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from comparison import Row, measure, options_of, run, show

from jaxdl import losses, models, optimizers, training

POWERS = (64, 128)
SIZES = tuple(power + more for power in POWERS for more in (-1, 0, 1))
MODELS = {"784-128-10": models.MLP([128, 10]), "convolutional": models.ConvNet([16, 32], [10])}
STEPS = {"784-128-10": 200, "convolutional": 10}


def stepper(model: Any, size: int) -> tuple[Callable[[int], float], float]:
    """A function that takes so many steps and returns their seconds; the loss of the first step."""
    task, optimizer = training.Task(model, losses.cross_entropy), optimizers.adam(1e-3)
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (max(SIZES), 28, 28, 1)).astype(np.uint8)
    labels = draw.integers(0, 10, max(SIZES)).astype(np.int32)
    batch = jax.device_put({"inputs": images[:size], "targets": labels[:size]})
    step = jax.jit(training.make_train_step(task, optimizer))
    sample = training.scale_images(batch["inputs"])
    state = training.init_state(jax.random.key(0), task, optimizer, sample)
    first = float(step(state, batch)[1]["loss"])

    def take(steps: int) -> float:
        now = state
        started = time.perf_counter()
        for _ in range(steps):
            now, _ = step(now, batch)
        jax.block_until_ready(now)
        return time.perf_counter() - started

    take(3)
    return take, first


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """The time of an example, for each network: a size beside the power of two next to it."""
    for name, model in MODELS.items():
        arms = {size: stepper(model, size) for size in SIZES}
        losses_seen = [loss for _, loss in arms.values()]
        np.testing.assert_allclose(losses_seen, losses_seen[0], rtol=0.2)
        calls = {str(size): functools.partial(arms[size][0], STEPS[name]) for size in SIZES}
        taken = measure(calls, arguments.rounds, clock=lambda steps: steps(), warm=False)
        example = {size: seconds / STEPS[name] / int(size) for size, seconds in taken.items()}
        for power in POWERS:
            near = {str(size): example[str(size)] for size in (power - 1, power, power + 1)}
            yield from show(f"{name}, an example in a batch of", near, str(power))


if __name__ == "__main__":
    sys.exit(run(rows, options_of(__doc__, rounds=15), __file__))
