"""Members that decompose matrices: XLA may wait for ever when two such programs run at once."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import training
from jaxdl.training.sweep import calls as sweep_calls
from jaxdl.training.sweep import program as sweep_program

OPERATIONS = {
    "svd": lambda w: jnp.linalg.svd(w, compute_uv=False),
    "eigh": lambda w: jnp.linalg.eigvalsh(w + w.T),
    "qr": lambda w: jnp.diag(jnp.linalg.qr(w)[1]),
    "cholesky": lambda w: jnp.diag(jnp.linalg.cholesky(w @ w.T + jnp.eye(len(w)))),
    "solve": lambda w: jnp.linalg.solve(w @ w.T + jnp.eye(len(w)), w[0]),
}


def member(key, *, scale, operation):
    matrix = scale * jax.random.normal(key, (12, 12))

    def step(w, _):
        return w - 0.01 * jnp.tanh(w @ w), None

    return {"values": operation(jax.lax.scan(step, matrix, None, 20)[0])}


@pytest.mark.parametrize("name", OPERATIONS)
def test_they_run_one_call_at_a_time_and_are_right(name):
    run = functools.partial(member, operation=OPERATIONS[name])
    traced = sweep_program.trace_member(run, {"scale": np.dtype(np.float32)})
    plan = sweep_calls.plan_calls(traced, 8, 2)
    if jax.default_backend() == "cpu":
        assert (plan.threads, len(plan.devices)) == (1, 1)
    swept = training.sweep(run, {"scale": [0.1, 0.2]}, seeds=4, chunk=2)["values"]
    alone = jax.jit(run)(jax.random.key(3), scale=jnp.float32(0.2))["values"]
    np.testing.assert_allclose(swept.sel(seed=3, scale=0.2), alone, rtol=1e-3, atol=1e-5)
