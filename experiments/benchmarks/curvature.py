"""What the largest eigenvalue of a Hessian costs, beside its matrix-vector products alone.

An MLP of about 100,000 parameters and 1,000 examples. One arm is `diagnostics.sharpness`. The other
is a compiled loop with as many Hessian-vector products, the derivative of the gradient along a
vector, each of the last product made one long. After the warm-up the two must agree: the second
arm, run on, is the power method, whose limit is the eigenvalue of the largest size. Then they are
timed in turns.

Run: python experiments/benchmarks/curvature.py
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from rich.console import Console
from rich.table import Table

from jaxdl import diagnostics, losses, models

TARGET = 1.1
EXAMPLES, INPUTS, WIDTHS = 1000, 784, (128, 10)
MOST_POWERS = 1000
"""Products in which the power method must agree."""


def problem() -> tuple[Any, Any, dict[str, jax.Array]]:
    """Model, variables and a batch of normal numbers whose classes are a linear function."""
    draw = np.random.default_rng(0)
    inputs = draw.standard_normal((EXAMPLES, INPUTS), np.float32)
    targets = (inputs @ draw.standard_normal((INPUTS, WIDTHS[-1]), np.float32)).argmax(1)
    model = models.MLP(WIDTHS)
    variables = jax.jit(model.init, static_argnames="train")(
        jax.random.key(0), inputs[:1], train=False
    )
    return model, variables, {"inputs": jnp.asarray(inputs), "targets": jnp.asarray(targets)}


def products_alone(model: Any) -> Callable[..., jax.Array]:
    """(params, batch, direction, count) -> the eigenvalue's estimate after so many products."""

    def unit(tree: Any) -> tuple[Any, jax.Array]:
        length = jnp.sqrt(sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(tree)))
        return jax.tree.map(lambda leaf: leaf / length, tree), length

    def run(params: Any, batch: Any, direction: Any, count: Any) -> jax.Array:
        def loss(params: Any) -> jax.Array:
            outputs = model.apply({"params": params}, batch["inputs"], train=True)
            mean: jax.Array = losses.cross_entropy(outputs, batch["targets"]).mean()
            return mean

        def product(_: Any, carry: Any) -> Any:
            return unit(jax.jvp(jax.grad(loss), (params,), (carry[0],))[1])

        start = (direction, jnp.zeros(()))
        length: jax.Array = lax.fori_loop(0, count, product, start)[1]
        return length

    compiled: Callable[..., jax.Array] = jax.jit(run)
    return compiled


def seconds_of(run: Callable[[], Any]) -> float:
    """The time of a call."""
    started = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - started


def main() -> None:
    """Print the times and their ratio, and exit with 1 if it is over the target."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15, help="timings of each arm, in turns")
    rounds = parser.parse_args().rounds
    model, variables, batch = problem()
    params = variables["params"]
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    direction = jax.tree.map(lambda leaf: jax.random.normal(jax.random.key(1), leaf.shape), params)
    alone = products_alone(model)

    def eigenvalue() -> Any:
        return diagnostics.sharpness(model, variables, batch, loss=losses.cross_entropy)

    found = eigenvalue()
    count = int(found.products[0])
    power = float(alone(params, batch, direction, MOST_POWERS))
    if not np.isclose(float(found.largest[0]), power, rtol=1e-3):
        sys.exit(f"sharpness {found.largest[0]} is not that of the power method, {power}")
    arms = (eigenvalue, lambda: alone(params, batch, direction, count))
    for arm in arms:
        seconds_of(arm)
    times = np.array([[seconds_of(arm) for arm in arms] for _ in range(rounds)])
    ratio = float(np.median(times[:, 0] / times[:, 1]))
    here, there = 1e3 * np.median(times, 0)
    table = Table(f"{size:,} parameters, {EXAMPLES:,} examples", "products", "ms", "ratio")
    table.add_row("sharpness", str(count), f"{here:.1f}", f"{ratio:.3f}")
    table.add_row("products alone", str(count), f"{there:.1f}", "")
    Console().print(table)
    if ratio > TARGET:
        sys.exit(f"over the target of {TARGET}: {ratio:.3f}")


if __name__ == "__main__":
    main()
