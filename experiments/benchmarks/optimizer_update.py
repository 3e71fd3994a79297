"""What an update of 10 million parameters costs, beside optax's own alias.

Each pair is the same arithmetic by the table of docs/optimizers.md. An update, applied to the
parameters, is compiled with its buffers donated, as a training step has them. The two arms start
from the same parameters and take the same gradients; after the warm-up their parameters are
compared, then they are timed in turns.

What bounds both is memory: Adam reads and writes 280 MB of parameters, gradient and moments, and
computes almost nothing. The arms compile to the same loops but for the scalars before them. Muon is
left out: what bounds it are its products of matrices, which are the same in both. So is
Schedule-Free: it reads and writes one sequence more than optax's, which solves for it.

Run: python experiments/benchmarks/optimizer_update.py
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

from jaxdl import optimizers

TARGET = 1.1
SHAPES = {"a": (2000, 2500), "b": (1000, 4000), "c": (1_000_000,)}
RATE = 1e-3
PAIRS: dict[str, tuple[Any, Any]] = {
    "sgd": (optimizers.sgd(RATE), optax.sgd(RATE)),
    "momentum": (
        optimizers.momentum(RATE, rate_position="outside"),
        optax.sgd(RATE, momentum=0.9),
    ),
    "nesterov": (
        optimizers.nesterov(RATE, rate_position="outside"),
        optax.sgd(RATE, momentum=0.9, nesterov=True),
    ),
    "adagrad": (
        optimizers.adagrad(RATE, initial_accumulator=0.1, epsilon=1e-7),
        optax.adagrad(RATE),
    ),
    "adadelta": (optimizers.adadelta(), optax.adadelta(1.0)),
    "rmsprop": (optimizers.rmsprop(RATE), optax.rmsprop(RATE)),
    "rmsprop, centered": (
        optimizers.rmsprop(RATE, centered=True),
        optax.rmsprop(RATE, centered=True),
    ),
    "adam": (optimizers.adam(RATE, epsilon_position="outside"), optax.adam(RATE)),
    "amsgrad": (
        optimizers.adam(RATE, epsilon_position="outside", amsgrad=True, maximum_of="corrected"),
        optax.amsgrad(RATE),
    ),
    "adamw": (optimizers.adamw(RATE, weight_decay=1e-4, mask=None), optax.adamw(RATE)),
    "adamax": (optimizers.adamax(RATE), optax.adamax(RATE)),
    "nadam": (optimizers.nadam(RATE, momentum_decay=None), optax.nadam(RATE)),
    "radam": (optimizers.radam(RATE, epsilon_added_to="corrected"), optax.radam(RATE)),
    "lion": (optimizers.lion(RATE, weight_decay=1e-3, mask=None), optax.lion(RATE)),
    "lamb": (optimizers.lamb(RATE, weight_decay=0.0), optax.lamb(RATE)),
    "adafactor": (optimizers.adafactor(RATE), optax.adafactor(RATE)),
    "clip_by_global_norm": (optimizers.clip_by_global_norm(1.0), optax.clip_by_global_norm(1.0)),
}


def tree(seed: int) -> dict[str, jax.Array]:
    """Ten million normal numbers."""
    draw = np.random.default_rng(seed)
    return {
        name: jnp.asarray(draw.standard_normal(shape, np.float32)) for name, shape in SHAPES.items()
    }


class Arm:
    """An optimizer with its parameters, and its compiled update."""

    def __init__(self, optimizer: Any) -> None:
        self.params = tree(0)
        self.state = optimizer.init(self.params)

        def step(gradients: Any, state: Any, params: Any) -> Any:
            updates, state = optimizer.update(gradients, state, params)
            return optax.apply_updates(params, updates), state

        self.step: Callable[..., Any] = jax.jit(step, donate_argnums=(1, 2))

    def run(self, gradients: Any, steps: int) -> float:
        """Seconds an update."""
        started = time.perf_counter()
        for _ in range(steps):
            self.params, self.state = self.step(gradients, self.state, self.params)
        jax.block_until_ready((self.params, self.state))
        return (time.perf_counter() - started) / steps


def distance(ours: Arm, theirs: Arm) -> float:
    """The largest difference between the two arms' parameters."""
    differences = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), ours.params, theirs.params)
    return float(max(jax.tree.leaves(differences)))


def main() -> None:
    """Print a row a pair, and exit with 1 if one is over the target."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="timings of each arm, in turns")
    parser.add_argument("--steps", type=int, default=10, help="updates in a timing")
    arguments = parser.parse_args()
    table = Table("update of 10,000,000 parameters", "jaxdl, ms", "optax, ms", "ratio", "apart")
    slow = []
    gradients = tree(1)
    for name, (ours, theirs) in PAIRS.items():
        arms = Arm(ours), Arm(theirs)
        for arm in arms:
            arm.run(gradients, 3)
        apart = distance(*arms)
        # A hundredth of a step, which is about the rate.
        if not apart < 0.01 * RATE:
            sys.exit(f"{name}: the arms are {apart} apart after 3 updates: not the same arithmetic")
        seconds = np.array(
            [[arm.run(gradients, arguments.steps) for arm in arms] for _ in range(arguments.rounds)]
        )
        ratio = float(np.median(seconds[:, 0] / seconds[:, 1]))
        here, there = 1e3 * np.median(seconds, 0)
        table.add_row(name, f"{here:.2f}", f"{there:.2f}", f"{ratio:.3f}", f"{apart:.1e}")
        if ratio > TARGET:
            slow.append(name)
    Console().print(table)
    if slow:
        sys.exit(f"over the target of {TARGET}: {', '.join(slow)}")


if __name__ == "__main__":
    main()
