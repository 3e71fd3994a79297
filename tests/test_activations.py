"""Activations far from zero, at NaN, in every precision, and by name."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import activations
from jaxdl.activations import by_name

ELEMENTWISE = {name: f for name, f in by_name.items() if "softm" not in name}


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_values_and_derivatives_are_finite_far_from_zero(name):
    x = jnp.array([-1e4, -200.0, -100.0, -90.0, 90.0, 100.0, 200.0, 1e4])
    value, derivative = jax.jvp(by_name[name], (x,), (jnp.ones_like(x),))
    assert np.all(np.isfinite(value))
    # No activation here is steeper than selu's 1.76.
    assert np.all(np.abs(derivative) < 2)


def test_softmax_is_finite_far_from_zero():
    x = jnp.array([-1e4, 0.0, 1e4])
    np.testing.assert_array_equal(activations.softmax(x), [0, 0, 1])
    assert np.all(np.isfinite(jax.jacobian(activations.softmax)(x)))


@pytest.mark.parametrize("name", by_name)
@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
def test_dtype_and_shape_are_kept_under_jit_and_vmap(name, dtype):
    x = jnp.linspace(-4, 4, 24, dtype=dtype).reshape(2, 3, 4)
    f = by_name[name]
    direct, jitted, mapped = f(x), jax.jit(f)(x), jax.vmap(f)(x)
    chex.assert_type(direct, dtype)
    chex.assert_shape(direct, x.shape)
    # Fused code may keep more digits than the dtype between operations; values are at most 4.
    tolerance = 16 * float(jnp.finfo(dtype).eps)
    chex.assert_trees_all_close(*(a.astype(jnp.float32) for a in (direct, jitted)), atol=tolerance)
    chex.assert_trees_all_close(*(a.astype(jnp.float32) for a in (direct, mapped)), atol=tolerance)


@pytest.mark.parametrize("name", by_name)
def test_a_nan_is_not_hidden(name):
    assert np.isnan(by_name[name](jnp.array([jnp.nan])))[0]


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_derivatives_are_those_of_the_values(name):
    # Away from the kinks, a centred difference in float64 with step 1e-5 errs by at most
    # f''' h^2 / 6 + eps |f| / h, below 1e-9.
    with jax.enable_x64(True):
        x = jnp.linspace(-7.03, 7.03, 200, dtype=jnp.float64)
        f = by_name[name]
        difference = (f(x + 1e-5) - f(x - 1e-5)) / 2e-5
        derivative = jax.jvp(f, (x,), (jnp.ones_like(x),))[1]
        chex.assert_trees_all_close(derivative, difference, atol=1e-9)


@pytest.mark.parametrize(
    ("f", "point", "slope"),
    [
        (activations.relu, 0.0, 0.0),
        (activations.leaky_relu, 0.0, 0.01),
        (activations.relu6, 0.0, 0.0),
        (activations.relu6, 6.0, 0.0),
        (activations.hard_tanh, 1.0, 0.0),
        (activations.hard_tanh, -1.0, 0.0),
        (activations.hard_sigmoid, 3.0, 0.0),
        (activations.hard_sigmoid, -3.0, 0.0),
        (activations.hard_swish, 3.0, 1.0),
        (activations.hard_swish, -3.0, 0.0),
        (activations.hard_shrink, 0.5, 0.0),
        (activations.soft_shrink, -0.5, 0.0),
        (activations.elu, 0.0, 1.0),
        (activations.celu, 0.0, 1.0),
        (activations.selu, 0.0, 1.0507009873554805 * 1.6732632423543772),
        (activations.softsign, 0.0, 1.0),
    ],
)
def test_the_derivative_at_a_kink_is_the_documented_one(f, point, slope):
    assert float(jax.grad(f)(point)) == pytest.approx(slope, rel=2.0**-22)


def test_the_table_holds_every_public_function_and_cannot_be_changed():
    public = {
        name
        for name, value in vars(activations).items()
        if callable(value) and getattr(value, "__module__", "") == activations.__name__
    }
    assert {name for name in public if not name.startswith("_")} == {*by_name, "glu"}
    with pytest.raises(TypeError):
        by_name["relu"] = jnp.sin  # type: ignore[index]
