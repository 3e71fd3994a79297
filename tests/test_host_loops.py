"""Loops driven from the host give what compiled loops give, whatever stands around them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxdl.host_loops import with_loops_on_host

# Sums of at most 9 products, a few steps long, in float32.
RTOL = 1e-5


def convolve(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME")


def image(seed, channels=2):
    return 0.3 * jax.random.normal(jax.random.key(seed), (1, channels, 4, 4))


KERNEL = 0.3 * jax.random.normal(jax.random.key(9), (2, 2, 3, 3))


def with_rows(x, kernel, rows, *, reverse=False):
    def step(carry, row):
        x, count = carry
        x = jnp.tanh(convolve(x, kernel)) + row
        return (x, count + 1), {"sum": x.sum(), "count": count}

    return lax.scan(step, (x, 0), rows, reverse=reverse)


def nested(x, kernel, rows):
    def epoch(x, scale):
        (x, _), measured = with_rows(x, scale * kernel, rows)
        # A forward pass in a map, as an evaluation is.
        return x, (measured, lax.map(lambda row: convolve(x + row, kernel).mean(), rows))

    return lax.scan(epoch, x, jnp.array([0.5, 1.0]))


def inside_jit(x, kernel, rows):
    before = jnp.sin(rows)
    (x, _), measured = jax.jit(with_rows)(x, kernel, before)
    return 2 * x, measured, before


def without_rows(x, kernel, rows):
    return lax.scan(lambda x, _: (jnp.tanh(convolve(x, kernel)), None), x, None, length=3)


def no_steps(x, kernel, rows):
    return with_rows(x, kernel, rows[:0])


def gradients(x, kernel, rows):
    return jax.grad(lambda kernel: with_rows(x, kernel, rows)[1]["sum"].sum())(kernel)


def with_keys(x, kernel, rows):
    def step(state, row):
        x, key = state
        key, noise_key = jax.random.split(key)
        return (convolve(x, kernel) + jax.random.normal(noise_key, x.shape), key), row.sum()

    (x, key), sums = lax.scan(step, (x, jax.random.key(0)), rows)
    return x, jax.random.key_data(key), sums


CASES = [
    with_rows, functools.partial(with_rows, reverse=True), nested, inside_jit, without_rows,
    no_steps, gradients, with_keys, jax.vmap(with_rows, in_axes=(0, None, None)),
    lambda x, kernel, rows: (x, kernel), lambda x, kernel, rows: jnp.sin(rows),
]  # fmt: skip


@pytest.mark.parametrize("function", CASES, ids=range(len(CASES)))
def test_gives_what_the_compiled_function_gives(function):
    mapped = function is CASES[8]
    x = jnp.stack([image(0), image(1)]) if mapped else image(0)
    rows = jnp.stack([image(i) for i in range(3, 6)])
    expected = jax.jit(function)(x, KERNEL, rows)
    driven = with_loops_on_host(function)
    for _ in range(2):
        found = driven(x, KERNEL, rows)
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_allclose(one, other, rtol=RTOL, atol=1e-6)


def test_a_function_is_traced_once_for_arguments_of_one_kind():
    traced = []

    def function(x, kernel):
        traced.append(x.shape)
        return lax.scan(lambda x, _: (convolve(x, kernel), None), x, None, length=2)[0]

    driven = with_loops_on_host(function)
    for _ in range(3):
        driven(image(0), KERNEL)
    driven(jnp.concatenate([image(0)] * 2), KERNEL)
    assert len(set(traced)) == 2
    assert len(traced) <= 4  # the body of a scan may be traced twice
