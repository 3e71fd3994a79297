"""The closed-form derivative of standardisation against differentiation of its forward pass."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.test_util import check_grads

from jaxdl.layers.standardization import standardize


def mean_of(x):
    return x.mean((0, 1), keepdims=True)


def plain(values, scale, bias):
    mean = mean_of(values)
    var = mean_of(jnp.square(values - mean))
    return (values - mean) * lax.rsqrt(var + 1e-3) * scale + bias, mean, var


def closed(values, scale, bias):
    return standardize(values, scale, bias, mean_of, 1e-3)


@pytest.fixture
def arguments():
    draw = np.random.default_rng(0)
    with jax.enable_x64(True):
        yield tuple(jnp.asarray(draw.normal(1, 2, shape)) for shape in ((5, 4, 3), (3,), (3,)))


def test_forward_and_reverse_mode_equal_those_of_the_forward_pass(arguments):
    # All three outputs have a derivative: the running statistics are functions of x as well.
    tangents = tuple(jnp.cos(3 * x) for x in arguments)
    chex.assert_trees_all_close(
        jax.jvp(closed, arguments, tangents), jax.jvp(plain, arguments, tangents), rtol=1e-12
    )
    value, back = jax.vjp(closed, *arguments)
    upstream = tuple(jnp.sin(2 * y) for y in value)
    chex.assert_trees_all_close(
        back(upstream), jax.vjp(plain, *arguments)[1](upstream), rtol=1e-12, atol=1e-14
    )


def test_second_derivatives_exist(arguments):
    def outputs(*numbers):
        return closed(*map(jnp.asarray, numbers))[0]

    check_grads(outputs, arguments, order=2, modes=["fwd", "rev"], rtol=1e-4)
