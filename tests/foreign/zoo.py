"""What a foreign model comes with: a batch, a loss, and the same network without lifts."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxdl import training

BATCH = 8


@dataclass(frozen=True)
class Foreign:
    """A model as a stranger wrote it.

    Attributes:
        model: the module.
        inputs: of a batch.
        targets: of a batch.
        loss: per example.
        twin: the same network without remat, scan, vmap and jit; None where it is `model`.
        unstack: makes the twin's variables from the model's.
        named: makes the name of a row from the path of the twin's module.
        over_time: whether all calls of a module have one row.
        finish: adds to an oracle's gradients what a tap on a module's output cannot see.
        has_names: whether the rows of modules are known by name, and not by their values alone.
        settings: of `training.Task`.
        train: whether it is measured in training. A scan splits its random numbers otherwise than
            a loop, so a scanned dropout is off.
    """

    model: nn.Module
    inputs: Any
    targets: Any
    loss: Callable[[Any, Any], Any]
    twin: nn.Module | None = None
    unstack: Callable[[Any], Any] = lambda variables: variables
    named: Callable[[str], str] = lambda path: path
    over_time: bool = False
    finish: Callable[[Any], Any] = lambda rows: rows
    has_names: bool = True
    settings: dict[str, Any] = field(default_factory=dict)
    train: bool = True

    @property
    def task(self) -> training.Task:
        return training.Task(self.model, self.loss, **self.settings)

    @property
    def batch(self) -> dict[str, Any]:
        return {"inputs": self.inputs, "targets": self.targets}

    def init(self) -> Any:
        """The variables of its standard start."""
        task = self.task
        variables = jax.jit(task.init)(jax.random.key(0), self.inputs)
        # What init sows is no state.
        return {name: tree for name, tree in variables.items() if name in ("params", "batch_stats")}


def normal(*shape: int, seed: int = 1) -> jax.Array:
    return jax.random.normal(jax.random.key(seed), shape)


def tokens(*shape: int, vocabulary: int, seed: int = 1) -> jax.Array:
    return jax.random.randint(jax.random.key(seed), shape, 1, vocabulary)


def unstacked(stack: str, count: int, names: str) -> Callable[[Any], Any]:
    """Variables with `stack` taken apart: layer n is `names.format(n)`."""

    def apart(variables: Any) -> Any:
        return {
            collection: {name: node for name, node in tree.items() if name != stack}
            | {
                names.format(n): jax.tree.map(lambda leaf, n=n: leaf[n], tree[stack])
                for n in range(count)
                if stack in tree
            }
            for collection, tree in nn.meta.unbox(variables).items()
        }

    return apart


def squared(outputs: Any, targets: Any) -> Any:
    """Half the squared error, summed over all axes but the batch."""
    return 0.5 * jnp.square(outputs - targets).reshape(len(outputs), -1).sum(-1)
