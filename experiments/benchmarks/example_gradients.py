"""What the norms of every example's gradient cost, beside one gradient of the batch.

The arms take the same parameters and the same batch, are compiled with the same options, and are
timed in turns, warmed up. First their numbers are compared: the mean gradient's norm that
`gradient_noise` gives with that of the plain gradient, and the norms with those of the mapped one,
`jax.vmap(jax.grad(...))`, which makes the gradient of every example.

`gradient_noise` is timed whole: norms, cosines with the mean gradient, noise scale and intervals.
What bounds it is what a gradient has, too: the products forward and backward, and one product more
for the cosines. A convolution's gradient of an example is made, but not kept: its batched product
of patches has the gradient's operations, at less speed, and reads the patches, which are as many
times the input as the window has entries.

Run: python experiments/benchmarks/example_gradients.py
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from comparison import Row, measure, options_of, run, show

from jaxdl import diagnostics, losses, models, training

TARGET = 3.0
IMAGE = (28, 28, 1)
NETWORKS: dict[str, tuple[Any, int, bool]] = {
    "MLP 784-128-10, batch 128": (models.MLP([128, 10]), 128, True),
    "MLP 784-512-512-10, batch 128": (models.MLP([512, 512, 10]), 128, True),
    "MLP 784-128-10, batch 1000": (models.MLP([128, 10]), 1000, False),
    "ConvNet 16-32-64, batch 64": (models.ConvNet([16, 32], [64, 10]), 64, False),
}
"""The model, its batch, and whether the mapped gradient is timed too: where it is not, it is slow
or needs gigabytes."""
APART = 1e-3
"""A share of the norms: float32 in sums of another order."""


def arms_of(model: Any, batch_size: int, mapped: bool) -> dict[str, Callable[[], Any]]:
    """The compiled arms; each gives the norms, or the norm of the mean."""
    shape = (batch_size, *IMAGE) if isinstance(model, models.ConvNet) else (batch_size, 784)
    inputs = jax.random.normal(jax.random.key(1), shape)
    targets = jax.random.randint(jax.random.key(2), (batch_size,), 0, 10)
    task = training.Task(model, losses.cross_entropy)
    variables = jax.jit(task.init)(jax.random.key(0), inputs[:1])
    params = variables["params"]

    def each(params: Any, inputs: Any, targets: Any) -> Any:
        outputs = task.outputs({"params": params}, inputs, train=True)[0]
        return losses.cross_entropy(outputs, targets)

    def one(params: Any, example: Any, target: Any) -> Any:
        return each(params, example[None], target[None])[0]

    def gradient(params: Any, inputs: Any, targets: Any) -> Any:
        return jax.grad(lambda params: each(params, inputs, targets).mean())(params)

    def noise(params: Any, inputs: Any, targets: Any) -> Any:
        return diagnostics.gradient_noise(task, {"params": params}, (inputs, targets))

    def norms(params: Any, inputs: Any, targets: Any) -> Any:
        found = jax.vmap(jax.grad(one), (None, 0, 0))(params, inputs, targets)
        return jnp.sqrt(sum(jnp.sum(g**2, range(1, g.ndim)) for g in jax.tree.leaves(found)))

    options = training.compiler_options(convolutional=isinstance(model, models.ConvNet))
    functions = {"gradient": gradient, "gradient_noise": noise} | (
        {"mapped": norms} if mapped else {}
    )

    def ready(function: Any) -> Callable[[], Any]:
        compiled = jax.jit(function, compiler_options=options)
        return lambda: jax.block_until_ready(compiled(params, inputs, targets))

    return {name: ready(function) for name, function in functions.items()}


def difference(arms: dict[str, Callable[[], Any]]) -> float:
    """The largest difference between what the arms say, as a share."""
    noise, plain = arms["gradient_noise"](), jax.tree.leaves(arms["gradient"]())
    norm = float(np.sqrt(sum(float(jnp.sum(leaf**2)) for leaf in plain)))
    apart: list[float] = [abs(noise.gradient_norm.item() / norm - 1)]
    if "mapped" in arms:
        apart.append(float(jnp.max(jnp.abs(noise.norms[0] / arms["mapped"]() - 1))))
    return max(apart)


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """The gradient of the batch beside the norms of all examples', for each network."""
    for name, (model, batch_size, mapped) in NETWORKS.items():
        arms = arms_of(model, batch_size, mapped)
        apart = difference(arms)
        if not apart < APART:
            sys.exit(f"{name}: the arms are {apart} apart: not the same norms")
        seconds = measure(arms, arguments.rounds)
        note = f"the norms are {apart:.1e} apart"
        yield from show(name, seconds, "gradient", at_most={"gradient_noise": TARGET}, note=note)


if __name__ == "__main__":
    sys.exit(run(rows, options_of(__doc__, rounds=15), __file__))
