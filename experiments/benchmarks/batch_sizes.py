"""Does a batch size that is a power of two matter? 63, 64, 65 and 127, 128, 129, timed.

An MLP 784-128-10 and a small convolutional network on images of noise, Adam. The arms are whole
compiled train steps, interleaved in one process, warmed up; the time of one step is the median over
the rounds, each of many steps. What counts is the time for an example: if powers of two mattered,
64 and 128 would stand below their neighbours by more than the spread of the rounds.

The first losses are compared before: each size gets the same examples, 63 first, then one more.

Run: python experiments/benchmarks/batch_sizes.py
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from jaxdl import losses, models, optimizers, training

SIZES = (63, 64, 65, 127, 128, 129)
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


def main() -> None:
    """Print a table for each network."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="timings of each arm, in turns")
    rounds = parser.parse_args().rounds
    for name, model in MODELS.items():
        arms = {size: stepper(model, size) for size in SIZES}
        losses_seen = [loss for _, loss in arms.values()]
        np.testing.assert_allclose(losses_seen, losses_seen[0], rtol=0.2)
        seconds: dict[int, list[float]] = {size: [] for size in SIZES}
        for turn in range(rounds):
            for size in np.roll(SIZES, turn).tolist():
                seconds[size].append(arms[size][0](STEPS[name]) / STEPS[name])
        table = Table("batch", "us a step", "ns an example", "5 to 95 % of the rounds", title=name)
        for size in SIZES:
            each = 1e9 * np.array(seconds[size]) / size
            low, high = np.percentile(each, [5, 95])
            table.add_row(
                str(size),
                f"{1e6 * np.median(seconds[size]):.0f}",
                f"{np.median(each):.0f}",
                f"{low:.0f} to {high:.0f}",
            )
        Console().print(table)


if __name__ == "__main__":
    main()
