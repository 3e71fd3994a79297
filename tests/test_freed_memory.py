"""Memory that is kept: a convolutional step takes no page anew, and computes the same."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from jaxdl import data, losses, models, optimizers, training

STEPS = """
import json, resource, sys
import jax, jax.numpy as jnp
from jaxdl import losses, models, optimizers, training

jax.block_until_ready(jnp.ones((500, 500)) @ jnp.ones((500, 500)))  # its threads have started
kept = sys.argv[1] == "keep" and training.keep_memory()
model, optimizer = models.ConvNet([16, 16], [10]), optimizers.sgd(0.1)
batch = {"inputs": jax.random.normal(jax.random.key(1), (512, 32, 32, 3)),
         "targets": jnp.arange(512) % 10}
state = training.init_state(jax.random.key(0), model, optimizer, batch["inputs"])
step = jax.jit(training.make_train_step(model, optimizer, losses.cross_entropy))
losses, faults = [], []
for _ in range(8):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    state, metrics = jax.block_until_ready(step(state, batch))
    losses.append(float(metrics["loss"]))
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
temporary = step.lower(state, batch).compile().memory_analysis().temp_size_in_bytes
print(json.dumps({"kept": kept, "losses": losses, "pages": temporary / resource.getpagesize(),
                  "faults": sorted(faults[3:])[2]}))
"""


def steps(how, **variables):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("MALLOC_", "GLIBC"))}
    command = [sys.executable, "-c", STEPS, how]
    environment = clean | {"JAX_PLATFORMS": "cpu"} | variables
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="a setting of Linux's C library")
def test_a_step_finds_its_memory_and_computes_the_same():
    given, kept = steps("give"), steps("keep")
    if not kept["kept"]:
        pytest.skip("another C library than glibc")
    # glibc itself keeps pieces up to 32 MB, and 64 MB in the heap of a thread. What is given back
    # is taken anew, at least in its larger part; what is kept is not.
    assert given["pages"] * os.sysconf("SC_PAGESIZE") > 2**26
    if given["faults"] < given["pages"] / 2:
        pytest.skip("this system hands memory out in pages larger than its own size of a page")
    assert kept["faults"] < kept["pages"] / 10
    assert kept["losses"] == given["losses"]


def test_the_users_own_settings_of_the_allocator_are_left():
    assert steps("keep", MALLOC_ARENA_MAX="4")["kept"] is False


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="steps of a CPU")
def test_fit_keeps_memory_where_steps_have_convolutions(monkeypatch):
    calls = []
    monkeypatch.setattr(
        sys.modules[training.fit.__module__], "keep_memory", lambda: calls.append(True)
    )
    images = data.Arrays(jnp.zeros((8, 8, 8, 1)), jnp.zeros(8, jnp.int32))

    def train(model):
        training.fit(
            model,
            data.Dataset("images", images, None, None),
            optimizers.sgd(0.1),
            loss=losses.cross_entropy,
            epochs=1,
            batch_size=4,
            key=jax.random.key(0),
            progress=False,
        )

    train(models.MLP([3]))
    assert not calls
    train(models.ConvNet([2], [3]))
    assert calls == [True]
