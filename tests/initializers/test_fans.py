"""Fans of kernels, what has none, and the binding of a bias to its layer's fan_in."""

import jax
import jax.numpy as jnp
import pytest

from jaxdl.initializers import (
    Fans,
    bind_fan_in,
    compute_fans,
    constant,
    he_normal,
    normal,
    torch_bias,
    zeros,
)


@pytest.mark.parametrize(
    ("shape", "fans"),
    [
        ((7, 5), Fans(7, 5)),
        ((3, 7, 5), Fans(21, 15)),
        ((3, 2, 7, 5), Fans(42, 30)),
        ((2, 3, 4, 7, 5), Fans(168, 120)),
        ((3, 3, 1, 8), Fans(9, 72)),
        ([7, 5], Fans(7, 5)),
    ],
)
def test_fans_are_channels_times_the_window(shape, fans):
    assert compute_fans(shape) == fans


@pytest.mark.parametrize("shape", [(), (8,)])
def test_a_vector_has_no_fans(shape):
    with pytest.raises(ValueError, match=r"at least two axes.*torch_bias\(fan_in\)"):
        compute_fans(shape)


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 2, 2)])
def test_an_empty_kernel_has_no_fans(shape):
    with pytest.raises(ValueError, match="at least one value"):
        compute_fans(shape)


def test_a_function_of_fan_in_is_bound(key):
    bound = bind_fan_in(torch_bias, 25)(key, (1000,))
    assert 0.19 < float(jnp.abs(bound).max()) <= 0.2
    narrow = bind_fan_in(lambda fan_in: constant(1 / fan_in), 4)
    assert narrow(key, (1,)).tolist() == [0.25]


@pytest.mark.parametrize(
    "init",
    [zeros(), normal(), he_normal(), jax.nn.initializers.zeros, jax.nn.initializers.normal()],
)
def test_an_initializer_is_left_alone(init):
    assert bind_fan_in(init, 25) is init
