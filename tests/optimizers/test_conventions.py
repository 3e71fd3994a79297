"""The table of conventions in docs/optimizers.md against optax's own aliases."""

import conventions
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import PROBLEMS, Problem, relative_error, trajectory

from jaxdl import optimizers

ROWS = conventions.rows()


def both_gradients(xp, w):
    parts = xp.split(w, [PROBLEMS["quadratic"].start.size])
    return xp.concatenate(
        [problem.gradient(xp, part) for problem, part in zip(PROBLEMS.values(), parts, strict=True)]
    )


# The rules treat each coordinate by itself, so one run tells of both problems.
BOTH = Problem(np.concatenate([problem.start for problem in PROBLEMS.values()]), both_gradients)
OURS = vars(optimizers) | {"optax": optax}


def test_the_table_names_every_optimizer():
    named = " ".join(cell for row in ROWS for cell in row)
    rules = {
        "sgd", "momentum", "nesterov", "adagrad", "adadelta", "rmsprop", "adam", "adamw",
        "adamax", "nadam", "radam", "lion",
    }  # fmt: skip
    assert all(f"{rule}(" in named for rule in rules)
    assert len(ROWS) >= len(rules)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[4])
def test_equals_optax(row):
    *_, ours, theirs = row
    for rate in (0.002, lambda step: 0.004 / (1 + 0.1 * step)):
        here = trajectory(eval(ours, OURS, {"rate": rate}), BOTH)
        # In float64, because optax's bias correction and RAdam's length round coarsely in float32.
        with jax.enable_x64(True):
            optimizer = eval(theirs, vars(optax), {"rate": rate})
            there = trajectory(optimizer, BOTH, dtype=jnp.float64)
        assert relative_error(here, there) < 1e-5


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_first_column_steps(row):
    optimizer = eval(row[0], OURS, {"rate": 0.5})
    params = {"kernel": jnp.ones(3)}
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert (updates["kernel"] < 0).all()
