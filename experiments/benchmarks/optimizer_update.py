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
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from comparison import Row, measure, options_of, run, show

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

    def update(self, gradients: Any, steps: int) -> Any:
        """So many updates; the parameters."""
        for _ in range(steps):
            self.params, self.state = self.step(gradients, self.state, self.params)
        return self.params, self.state


def distance(ours: Arm, theirs: Arm) -> float:
    """The largest difference between the two arms' parameters."""
    differences = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), ours.params, theirs.params)
    return float(max(jax.tree.leaves(differences)))


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """Each pair: three updates that must agree, then the times."""
    gradients = tree(1)
    for name, (ours, theirs) in PAIRS.items():
        arms = {"optax": Arm(theirs), "jaxdl": Arm(ours)}
        for arm in arms.values():
            arm.update(gradients, 3)
        apart = distance(arms["jaxdl"], arms["optax"])
        # A hundredth of a step, which is about the rate.
        if not apart < 0.01 * RATE:
            sys.exit(f"{name}: the arms are {apart} apart after 3 updates: not the same arithmetic")
        calls = {
            label: functools.partial(arm.update, gradients, arguments.steps)
            for label, arm in arms.items()
        }
        seconds = measure(calls, arguments.rounds, warm=False)
        yield from show(
            f"{name}, {arguments.steps} updates of 10,000,000 parameters", seconds, "optax",
            at_most={"jaxdl": TARGET}, note=f"{apart:.1e} apart after 3 updates",
        )  # fmt: skip


if __name__ == "__main__":
    parser = options_of(__doc__, rounds=9)
    parser.add_argument("--steps", type=int, default=10, help="updates in a timing")
    sys.exit(run(rows, parser, __file__))
