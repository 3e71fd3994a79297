"""In a process forked after JAX had started, what would wait for ever is refused."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="only POSIX forks")

SCRIPT = """
import os, sys, warnings
import jax, numpy as np
from jaxdl import data, losses, models, optimizers, training
warnings.simplefilter("ignore")  # Python's and JAX's, of the fork

if started := "started" in sys.argv:
    key = jax.random.key(0)
    task = training.Task(models.MLP([1]), losses.mean_squared_error)
    x = np.ones((8, 2), np.float32)
    arrays = data.Arrays(x, x[:, :1])
    given = data.Dataset("ones", arrays, None, arrays)
    sgd = optimizers.sgd(0.1)
    run = training.make_run(task, sgd, batch_size=4)
    orders, state = training.orders(key, 1, 8), run.init(key, arrays)
    result = training.fit(task, given, sgd, epochs=1, batch_size=4, key=key)
pid = os.fork()
if pid:
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
if not started:
    x = np.ones((8, 2), np.float32)
    given = data.Dataset("ones", data.Arrays(x, x[:, :1]), None, None)
    training.fit(
        models.MLP([1]), given, optimizers.sgd(0.1), loss=losses.mean_squared_error, epochs=1,
        batch_size=4, key=jax.random.key(0))
    print("trained", flush=True)
    os._exit(0)
for name, call in {
    "fit": lambda: training.fit(task, given, sgd, epochs=1, batch_size=4, key=key),
    "a Run": lambda: run(key, {"train": arrays}, orders),
    "Run.evaluate": lambda: run.evaluate(state, arrays),
    "make_run": lambda: training.make_run(task, sgd, batch_size=4),
    "evaluate": lambda: result.evaluate("test"),
    "sweep": lambda: training.sweep(lambda key: {"x": key}, seeds=2),
    "search": lambda: training.search(
        lambda key, *, x: {"x": x}, {"x": [1, 2]}, trials=1, batch=1, minimize="x"),
}.items():
    try:
        call()
    except RuntimeError as error:
        assert str(error).startswith(name + " must run in a process that has JAX's threads"), error
        assert "spawn" in str(error)
        print(name, flush=True)
os._exit(0)
"""


def printed(*arguments):
    # A child that waits for ever fails the test instead of holding up the suite.
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_fork_after_jax_has_started_is_refused_everywhere():
    everywhere = ["fit", "a Run", "Run.evaluate", "make_run", "evaluate", "sweep", "search"]
    assert printed("started") == everywhere


def test_a_fork_before_jax_has_started_trains():
    assert printed() == ["trained"]
