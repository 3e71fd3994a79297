"""The table of conventions in docs/optimizers.md against optax's own aliases."""

import conventions
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from problems import MATRIX, PROBLEMS, Problem, relative_error, trajectory

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
        "adamax", "nadam", "radam", "lion", "lamb", "adafactor", "muon", "schedule_free",
    }  # fmt: skip
    assert all(f"{rule}(" in named for rule in rules)
    assert len(ROWS) >= len(rules)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[4])
@pytest.mark.parametrize("problem", [BOTH, MATRIX], ids=["both", "matrix"])
def test_equals_optax(row, problem):
    *_, ours, theirs = row
    for rate in (0.002, lambda step: 0.004 / (1 + 0.1 * step)):
        here = trajectory(eval(ours, OURS, {"rate": rate}), problem)
        # In float64, because optax's bias correction and RAdam's length round coarsely in float32.
        with jax.enable_x64(True):
            optimizer = eval(theirs, vars(optax), {"rate": rate})
            there = trajectory(optimizer, problem, dtype=jnp.float64)
        assert relative_error(here, there) < 1e-5


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_first_column_steps(row):
    optimizer = eval(row[0], OURS, {"rate": 0.5})
    params = {"kernel": jnp.ones(3)}
    updates, _ = optimizer.update(params, optimizer.init(params), params)
    assert (updates["kernel"] < 0).all()


@pytest.mark.parametrize("reset", [False, True])
def test_lookahead_equals_optaxs_pair(reset):
    problem = PROBLEMS["mlp"]
    pair = optax.lookahead(optax.sgd(0.05, momentum=0.9), 3, 0.4, reset_state=reset)
    fast = optimizers.momentum(0.05, rate_position="outside")
    ours = optimizers.lookahead(fast, period=3, step_size=0.4, reset=reset)
    here = trajectory(
        ours, problem, lambda w, state: jnp.stack([w, optimizers.evaluated_parameters(state, w)])
    )

    def step(carry, _):
        params, state = carry
        updates, state = pair.update(problem.gradient(jnp, params.fast), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), jnp.stack([params.fast, params.slow])

    start = optax.LookaheadParams.init_synced(jnp.asarray(problem.start, jnp.float32))
    _, there = jax.lax.scan(step, (start, pair.init(start)), None, len(here))
    assert relative_error(here, there) < 1e-5


def test_schedule_free_evaluates_what_optax_solves_for():
    problem = PROBLEMS["mlp"]
    ours = optimizers.schedule_free(optimizers.sgd(0.1), beta=0.8)
    here = trajectory(ours, problem, lambda w, state: optimizers.evaluated_parameters(state, w))
    with jax.enable_x64(True):
        there = trajectory(
            optax.contrib.schedule_free(optax.sgd(0.1), 0.1, b1=0.8),
            problem,
            lambda w, state: optax.contrib.schedule_free_eval_params(state, w),
            dtype=jnp.float64,
        )
    assert relative_error(here, there) < 1e-5
