"""Gains against closed forms, and the quadrature at kinks, scales and in traces."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.initializers import gains

# Sums of a few thousand float64 terms of one sign: well under 1e-12 relative.
EXACT = 1e-12


@pytest.mark.parametrize("variance", [1e-6, 0.04, 1.0, 7.3, 1e4])
def test_even_moments_are_exact(variance):
    for order, factor in ((2, 1), (4, 3), (6, 15), (8, 105)):

        def power(z, order=order):
            return z**order

        moment = gains.gaussian_expectation(power, variance)
        assert moment == pytest.approx(factor * variance ** (order / 2), rel=EXACT)


@pytest.mark.parametrize("variance", [1e-6, 0.04, 1.0, 7.3, 1e4])
def test_functions_of_unit_scale_are_resolved_under_any_variance(variance):
    bell = gains.gaussian_expectation(lambda z: jnp.exp(-(z**2)), variance)
    assert bell == pytest.approx(1 / math.sqrt(1 + 2 * variance), rel=EXACT)
    # E[1/(1+e^-z)] is 1/2 by symmetry whatever the variance; its square has no such help.
    assert gains.gaussian_expectation(jax.nn.sigmoid, variance) == pytest.approx(0.5, rel=EXACT)
    cosine = gains.gaussian_expectation(lambda z: jnp.cos(z / 10), variance)
    assert cosine == pytest.approx(math.exp(-variance / 200), abs=EXACT)


@pytest.mark.parametrize("kink", [0.0, 0.5, -1.0, 3.0, 6.0])
def test_a_step_at_a_usual_kink_is_exact(kink):
    tail = gains.gaussian_expectation(lambda z: (z > kink) * 1.0, 4.0)
    assert tail == pytest.approx(math.erfc(kink / 2 / math.sqrt(2)) / 2, rel=EXACT)


def test_a_step_elsewhere_is_exact_once_named():
    def step(z):
        return jnp.where(z > 0.37, 1.0, 0.0)

    exact = math.erfc(0.37 / math.sqrt(2)) / 2
    assert abs(gains.gaussian_expectation(step) - exact) > 1e-5
    assert gains.gaussian_expectation(step, kinks=[0.37]) == pytest.approx(exact, rel=EXACT)


def hard_tanh_moment():
    density = math.exp(-0.5) / math.sqrt(2 * math.pi)
    inside = math.erf(1 / math.sqrt(2))
    return inside - 2 * density + (1 - inside)


@pytest.mark.parametrize(
    ("f", "forward", "backward"),
    [
        (lambda x: x, 1.0, 1.0),
        (jax.nn.relu, 0.5, 0.5),
        (lambda x: jax.nn.leaky_relu(x, 0.2), 0.52, 0.52),
        (jnp.abs, 1.0, 1.0),
        (lambda x: jnp.clip(x, -1, 1), hard_tanh_moment(), math.erf(1 / math.sqrt(2))),
        (
            lambda x: jax.scipy.special.erf(x),
            2 / math.pi * math.asin(2 / 3),
            4 / math.pi / math.sqrt(5),
        ),
        (jnp.sin, (1 - math.exp(-2)) / 2, (1 + math.exp(-2)) / 2),
        (jnp.exp, math.exp(2), math.exp(2)),
    ],
)
def test_gains_of_functions_equal_closed_forms(f, forward, backward):
    assert gains.variance_preserving_gain(f) == pytest.approx(forward**-0.5, rel=EXACT)
    assert gains.backward_gain(f) == pytest.approx(backward**-0.5, rel=EXACT)


def test_selu_is_its_own_fixed_point():
    # Klambauer et al. (2017): under alpha and lambda a unit normal keeps mean 0 and variance 1.
    # JAX holds both constants to 30 digits, so float64 rounding is what remains.
    assert gains.gaussian_expectation(jax.nn.selu) == pytest.approx(0, abs=EXACT)
    assert gains.variance_preserving_gain(jax.nn.selu) == pytest.approx(1, rel=EXACT)


def test_a_gain_keeps_the_second_moment_of_tanh(key):
    # 1e6 draws of tanh(z)^2, whose standard deviation is below 0.5: five standard errors, 2.5e-3.
    z = jax.random.normal(key, (1_000_000,))
    scaled = gains.gain(jnp.tanh) * jnp.tanh(z)
    assert float(jnp.mean(scaled**2)) == pytest.approx(1, abs=2.5e-3 * gains.gain(jnp.tanh) ** 2)


def test_the_process_keeps_its_own_precision():
    before = jnp.zeros(1).dtype
    gains.gain(jax.nn.gelu)
    assert jnp.zeros(1).dtype == before == jnp.float32


def test_a_gain_inside_a_trace_is_a_number():
    scaled = jax.jit(lambda x: x * gains.gain(jnp.tanh) + gains.backward_gain(jnp.tanh))(1.0)
    expected = gains.gain(jnp.tanh) + gains.backward_gain(jnp.tanh)
    assert float(scaled) == pytest.approx(expected, rel=2.0**-23)


def test_numpy_functions_are_expected_too():
    assert gains.gaussian_expectation(lambda z: np.maximum(z, 0.0)) == pytest.approx(
        1 / math.sqrt(2 * math.pi), rel=EXACT
    )


def test_settings_reach_a_function():
    slope = gains.gain(jax.nn.leaky_relu, negative_slope=0.3)
    assert slope == pytest.approx(gains.gain("leaky_relu", negative_slope=0.3), rel=EXACT)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: gains.gain("swish"), "one of linear, identity, conv, conv1d"),
        (lambda: gains.gain("relu", negative_slope=0.1), "relu takes no settings"),
        (lambda: gains.gain("leaky_relu", slope=0.1), "takes negative_slope, got slope"),
        (
            lambda: gains.gain("leaky_relu", negative_slope=math.nan),
            "negative_slope must be finite",
        ),
        (lambda: gains.gain(jax.nn.softmax), "softmax must be elementwise"),
        (lambda: gains.gain(jnp.log), "log must be finite within 12"),
        (lambda: gains.gain(lambda x: 0.0 * x), "must not vanish"),
        (lambda: gains.backward_gain(jnp.sign), "sign must not vanish"),
        (lambda: gains.gaussian_expectation(jnp.sin, 0.0), "variance must be finite and positive"),
        (lambda: gains.gaussian_expectation(jnp.sin, kinks=[math.inf]), "kink must be finite"),
    ],
)
def test_what_has_no_gain_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
