"""What a function computes has one digest in every process; what it computes else, another."""

import hashlib
import json
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from processes import environment

from jaxdl import optimizers
from jaxdl.fingerprints import data_digest, fingerprint

X = jnp.ones((4, 3))


def digest(function: Any, *arguments: Any) -> str:
    return fingerprint(function, *(arguments or (X,))).program


def test_names_order_and_unused_code_leave_no_trace() -> None:
    def one(x: Any) -> Any:
        return jnp.sin(x) + jnp.cos(x)

    def other(renamed: Any) -> Any:
        second = jnp.cos(renamed)
        jnp.exp(renamed)
        return jnp.sin(renamed) + second

    assert digest(one) == digest(other) == digest(jax.jit(other)) == digest(jax.remat(one))


@pytest.mark.parametrize(
    "other",
    [
        lambda x: jnp.sin(x) + 2.0000002,
        lambda x: jnp.sin(x.astype(jnp.float16)).astype(jnp.float32) + 2.0,
        lambda x: 2.0 - jnp.sin(x),
        lambda x: lax.stop_gradient(jnp.sin(x)) * 1 + 2.0,
        lambda x: jnp.sin(x.T).T + 2.0,
        lambda x: jnp.sin(x) + jnp.full((4, 3), 2.0).at[0, 0].set(1.0),
        lambda x: lax.fori_loop(0, 2, lambda i, y: jnp.sin(y), x) + 2.0,
    ],
)
def test_what_computes_else_has_another_digest(other: Any) -> None:
    assert digest(lambda x: jnp.sin(x) + 2.0) != digest(other)


def test_the_body_of_a_loop_counts() -> None:
    def loop(body: Any) -> str:
        return digest(lambda x: lax.scan(lambda c, _: (body(c), None), x, length=3)[0])

    assert loop(jnp.sin) == loop(lambda c: jnp.sin(c))
    assert loop(jnp.sin) != loop(jnp.cos)
    branches = [lambda x: x, lambda x: 2 * x, lambda x: 3 * x]
    first, second = (
        digest(lambda x, n, some=some: lax.switch(n, some, x), X, jnp.array(0))
        for some in (branches, branches[::-1])
    )
    assert first != second


def test_constants_count_to_the_bit() -> None:
    table = np.linspace(0, 1, 12).reshape(4, 3).astype(np.float32)
    nudged = table.copy()
    nudged[2, 1] = np.nextafter(nudged[2, 1], np.float32(2))
    # A digest must not see the shape alone.
    assert digest(lambda x: x * table) != digest(lambda x: x * nudged)
    assert digest(lambda x: x * table) == digest(lambda x: x * table.copy())


def is_count(leaf: Any) -> bool:
    return leaf.shape == () and leaf.dtype == jnp.int32


@pytest.mark.parametrize(
    "schedule", [optax.cosine_decay_schedule, optax.warmup_cosine_decay_schedule]
)
def test_a_schedule_has_a_digest_of_its_own(schedule: Any) -> None:
    def of(steps: int, beta: float = 0.9) -> Any:
        settings = (0.0, 0.1, 2) if schedule is optax.warmup_cosine_decay_schedule else (0.1,)
        optimizer = optax.adam(schedule(*settings, steps), b1=beta)
        state = optimizer.init(X)
        return fingerprint(optimizer.update, X, state, X, counts=is_count)

    short, long = of(100), of(200)
    assert short.program == long.program
    assert short.schedules != long.schedules
    assert short.program != of(100, beta=0.8).program


def test_a_count_that_decides_is_no_schedule() -> None:
    """Every second or every fourth step: the count decides, and no float follows from it."""

    def of(every: int) -> Any:
        optimizer = optimizers.accumulate(optimizers.sgd(0.1), steps=every)
        return fingerprint(optimizer.update, X, optimizer.init(X), X, counts=is_count)

    assert of(2).program != of(4).program
    assert of(2) == of(2)


SCRIPT = """
import functools, json
import jax, jax.numpy as jnp
from jaxdl import layers, losses, models, optimizers, training
from jaxdl.fingerprints import fingerprint
shapes = {
    "mlp": (models.MLP([8, 3], norm=layers.BatchNorm, dropout_rate=0.1), (4, 6)),
    "resnet": (models.ResNet(20, 3), (4, 8, 8, 3)),
}
digests = {}
for name, (model, shape) in shapes.items():
    for rule in (optimizers.adam(1e-3), optimizers.nadam(1e-3), optimizers.rmsprop(1e-3)):
        task = training.Task(model, losses.cross_entropy)
        make = functools.partial(training.init_state, model=task, optimizer=rule)
        state = jax.eval_shape(lambda k: make(k, sample_inputs=jnp.zeros(shape)), jax.random.key(0))
        batch = {
            "inputs": jax.ShapeDtypeStruct(shape, jnp.float32),
            "targets": jax.ShapeDtypeStruct(shape[:1], jnp.int32),
        }
        step = training.make_train_step(task, rule)
        digests[name + str(len(digests))] = fingerprint(step, state, batch)
print(json.dumps(digests))
"""


def test_processes_agree() -> None:
    told = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            capture_output=True, text=True, timeout=300, env=environment(PYTHONHASHSEED=seed),
        )
        for seed in ("1", "2")
    ]  # fmt: skip
    assert told[0].returncode == 0, told[0].stderr
    first, second = (json.loads(each.stdout) for each in told)
    assert first == second
    assert len({tuple(digest) for digest in first.values()}) == len(first)


def test_data_are_known_by_shape_dtype_and_bytes() -> None:
    values = np.arange(6.0)
    others = [values.reshape(2, 3), values.astype(np.float32), values[::-1], {"a": values}]
    assert len({data_digest(each) for each in [values, *others]}) == 5
    assert data_digest(values) == data_digest(np.stack([values, values], 1)[:, 0])


def test_the_digest_of_data_is_that_of_every_version() -> None:
    """Written out: a later version must give the same, or old checkpoints are refused."""
    arrays = {"inputs": np.arange(3, dtype=np.float32), "targets": [np.int32(7)]}
    parts: list[bytes] = []
    for name, dtype, values in (
        ("inputs", "float32(3,)", arrays["inputs"].tobytes()),
        ("targets/0", "int32()", np.int32(7).tobytes()),
    ):
        inner = hashlib.blake2b(digest_size=8)
        for part in (dtype.encode(), values):
            inner.update(f"{len(part)}:".encode() + part)
        parts += [name.encode(), inner.digest()]
    outer = hashlib.blake2b(digest_size=8)
    for part in parts:
        outer.update(f"{len(part)}:".encode() + part)
    assert data_digest(arrays) == outer.hexdigest()
