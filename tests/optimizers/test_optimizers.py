"""Each optimizer against its formula stepped in float64, and against optax's own alias."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl import optimizers
from jaxdl.optimizers.transforms import bias_correction

# An ill-conditioned quadratic, f(w) = sum(c * w^2) / 2, whose gradient is c * w.
CURVATURE = np.array([100.0, 10.0, 1.0, 0.01])
START = np.array([1.0, -2.0, 3.0, -4.0])
STEPS = 100


def decaying(step):
    return 0.01 / (1 + 0.1 * step)


def formula_sgd(rate):
    w = START.copy()
    for t in range(STEPS):
        w = w - rate(t) * CURVATURE * w
        yield w


def formula_momentum(rate, decay, inside):
    w, v = START.copy(), np.zeros(4)
    for t in range(STEPS):
        g = CURVATURE * w
        v = decay * v + (rate(t) * g if inside else g)
        w = w - (v if inside else rate(t) * v)
        yield w


def formula_adam(rate, beta1, beta2, epsilon, inside):
    w, m, v = START.copy(), np.zeros(4), np.zeros(4)
    for t in range(STEPS):
        g = CURVATURE * w
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        m_hat, v_hat = m / (1 - beta1 ** (t + 1)), v / (1 - beta2 ** (t + 1))
        root = np.sqrt(v_hat + epsilon) if inside else np.sqrt(v_hat) + epsilon
        w = w - rate(t) * m_hat / root
        yield w


def trajectory(optimizer, dtype=jnp.float32):
    def step(carry, _):
        w, state = carry
        updates, state = optimizer.update(jnp.asarray(CURVATURE, dtype) * w, state, w)
        w = optax.apply_updates(w, updates)
        return (w, state), w

    start = jnp.asarray(START, dtype)
    return jax.lax.scan(step, (start, optimizer.init(start)), None, STEPS)[1]


def constant(rate):
    return lambda step: rate


CASES = {
    "sgd": (optimizers.sgd(0.01), formula_sgd(constant(0.01))),
    "sgd, schedule": (optimizers.sgd(decaying), formula_sgd(decaying)),
    "momentum": (optimizers.momentum(0.01), formula_momentum(constant(0.01), 0.9, True)),
    "momentum, schedule inside": (
        optimizers.momentum(decaying, decay=0.5),
        formula_momentum(decaying, 0.5, True),
    ),
    "momentum, schedule outside": (
        optimizers.momentum(decaying, decay=0.5, rate_position="outside"),
        formula_momentum(decaying, 0.5, False),
    ),
    "adam": (optimizers.adam(0.1), formula_adam(constant(0.1), 0.9, 0.999, 1e-8, True)),
    "adam, large epsilon inside": (
        optimizers.adam(0.1, beta1=0.8, beta2=0.9, epsilon=0.1),
        formula_adam(constant(0.1), 0.8, 0.9, 0.1, True),
    ),
    "adam, large epsilon outside": (
        optimizers.adam(decaying, epsilon=0.1, epsilon_position="outside"),
        formula_adam(decaying, 0.9, 0.999, 0.1, False),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_the_formula(name):
    optimizer, formula = CASES[name]
    expected = np.stack(list(formula))
    # Relative to the coordinate's own scale: a path that crosses zero has no relative error
    # there. A hundred steps round by 2^-24 of that scale each.
    error = np.abs(trajectory(optimizer) - expected).max(0) / np.abs(START)
    assert error.max() < 100 * 2**-24


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (optimizers.sgd(0.01), optax.sgd(0.01)),
        (
            optimizers.momentum(decaying, rate_position="outside"),
            optax.sgd(decaying, momentum=0.9),
        ),
    ],
    ids=["sgd", "momentum"],
)
def test_equals_optax_where_the_convention_is_its_own(ours, theirs):
    np.testing.assert_array_equal(trajectory(ours), trajectory(theirs))


def test_adam_equals_optax_to_the_rounding_of_its_bias_correction():
    ours = trajectory(optimizers.adam(0.1, epsilon_position="outside"))
    # optax rounds 0.999^t by up to 2^-24 before it takes it from 1: 3e-5 of v_hat after the
    # first step, less than half of that of the step, and ever less after it.
    np.testing.assert_allclose(ours, trajectory(optax.adam(0.1)), atol=3e-5 * 4)


def test_bias_correction_is_exact():
    count = np.arange(1, 5000)
    for decay in (0.0, 0.5, 0.9, 0.999, 0.99999):
        exact = 1 / -np.expm1(count * np.log(np.float64(decay))) if decay else np.ones(len(count))
        # Eight roundings: the product, the quotient, and a few in XLA's expm1.
        np.testing.assert_allclose(
            bias_correction(decay, jnp.asarray(count, jnp.int32)), exact, rtol=8 * 2**-24
        )


FACTORIES = [optimizers.sgd, optimizers.momentum, optimizers.adam]


@pytest.mark.parametrize("factory", FACTORIES)
def test_vmaps_over_learning_rates(factory):
    rates = jnp.array([0.001, 0.003, 0.01])
    together = jax.vmap(lambda rate: trajectory(factory(rate)))(rates)
    alone = jnp.stack([trajectory(factory(float(rate))) for rate in rates])
    np.testing.assert_allclose(together, alone, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("factory", FACTORIES)
def test_keeps_structure_and_dtype_and_takes_an_empty_tree(factory):
    optimizer = factory(0.1)
    params = {"a": jnp.ones((2, 3), jnp.bfloat16), "b": {"c": jnp.ones(4)}, "d": ()}
    updates, state = optimizer.update(params, optimizer.init(params), params)
    chex.assert_trees_all_equal_shapes_and_dtypes(updates, params)
    chex.assert_trees_all_equal_structs(state, optimizer.init(params))
    assert optimizer.update({}, optimizer.init({}), {})[0] == {}


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_zero_gradient_at_the_start_moves_nothing(factory):
    optimizer, params = factory(0.1), jnp.ones(3)
    updates, _ = optimizer.update(jnp.zeros(3), optimizer.init(params), params)
    np.testing.assert_array_equal(updates, 0)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: optimizers.sgd(-0.1), "learning_rate must be finite and 0 or more, got -0.1"),
        (lambda: optimizers.adam(float("nan")), "learning_rate"),
        (lambda: optimizers.momentum(0.1, decay=1.0), r"decay must lie in \[0, 1\), got 1.0"),
        (lambda: optimizers.adam(0.1, beta1=-0.1), "beta1"),
        (lambda: optimizers.adam(0.1, beta2=1.0), "beta2"),
        (lambda: optimizers.adam(0.1, epsilon=-1e-8), "epsilon must be 0 or more"),
    ],
)
def test_refuses(make, text):
    with pytest.raises(ValueError, match=text):
        make()
