"""The closed-form derivative of standardisation against differentiation of its forward pass."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

from jaxdl.layers.standardization import standardize


def sum_of(x, which):
    return x.sum((0, 1), keepdims=True)


def plain(values, scale, bias):
    mean = values.mean((0, 1), keepdims=True)
    var = jnp.square(values - mean).mean((0, 1), keepdims=True)
    return (values - mean) * lax.rsqrt(var + 1e-3) * scale + bias, mean, var


def closed(values, scale, bias):
    return standardize(values, scale, bias, values[:1, :1], (None, 20.0), sum_of, 1e-3)


@pytest.fixture
def arguments():
    draw = np.random.default_rng(0)
    with jax.enable_x64(True):
        yield tuple(jnp.asarray(draw.normal(1, 2, shape)) for shape in ((5, 4, 3), (3,), (3,)))


def test_forward_and_reverse_mode_equal_those_of_the_forward_pass(arguments):
    # All three outputs have a derivative: the running statistics are functions of x as well.
    @functools.partial(jax.jit, static_argnums=0)
    def derivatives(function, arguments):
        tangents = tuple(jnp.cos(3 * x) for x in arguments)
        value, back = jax.vjp(function, *arguments)
        upstream = tuple(jnp.sin(2 * y) for y in value)
        return jax.jvp(function, arguments, tangents), back(upstream)

    (forward, reverse), (plain_forward, plain_reverse) = (
        derivatives(function, arguments) for function in (closed, plain)
    )
    chex.assert_trees_all_close(forward, plain_forward, rtol=1e-12, atol=1e-14)
    chex.assert_trees_all_close(reverse, plain_reverse, rtol=1e-12, atol=1e-14)


def test_second_derivatives_exist(arguments):
    @jax.jit
    def outputs(*numbers):
        return closed(*map(jnp.asarray, numbers))[0]

    check_grads(outputs, arguments, order=2, modes=["fwd", "rev"], rtol=1e-4)


def test_the_derivative_takes_the_moments_once():
    # Two for the moments, two for the tangents: over devices each is a sum that all wait for.
    taken = []

    def sum_of(values, which):
        taken.append(values)
        return values.sum(0, keepdims=True)

    def outputs(x):
        return standardize(x, jnp.ones(1), jnp.zeros(1), x[:1], (None, 2), sum_of, 1e-5)

    x = jnp.array([[1.0], [3.0]])
    jax.jvp(outputs, (x,), (x,))
    assert len(taken) == 4
