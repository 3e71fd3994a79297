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
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from comparison import Row, measure, options_of, run, show
from jax import lax

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


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """Agreement, then the times of both."""
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
    arms = {
        "products alone": lambda: alone(params, batch, direction, count),
        "sharpness": eigenvalue,
    }
    seconds = measure(arms, arguments.rounds)
    yield from show(
        f"{size:,} parameters, {EXAMPLES:,} examples", seconds, "products alone",
        at_most={"sharpness": TARGET}, note=f"{count} products in both",
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(run(rows, options_of(__doc__, rounds=15), __file__))
