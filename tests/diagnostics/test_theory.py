"""The infinitely wide network against closed forms, Monte Carlo and a wide network."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import activations, losses, models
from jaxdl.diagnostics import critical_weight_variance, mean_field, propagation
from jaxdl.initializers.gains import gaussian_expectation


@pytest.mark.parametrize(("weight_variance", "depth"), [(0.1, 50), (2.0, 8), (10.0, 8)])
def test_relu_multiplies_by_half_the_weight_variance(weight_variance, depth):
    predicted = mean_field(
        activations.relu, weight_variance=weight_variance, depth=depth, input_second_moment=3.0
    )
    factor = weight_variance / 2
    layers = np.arange(depth)
    rtol = 1e-12
    q = 3.0 * weight_variance * factor**layers
    np.testing.assert_allclose(predicted.preactivation_variance, q, rtol=rtol)
    np.testing.assert_allclose(predicted.activation_second_moment, q / 2, rtol=rtol)
    np.testing.assert_allclose(predicted.activation_mean, np.sqrt(q / (2 * math.pi)), rtol=rtol)
    np.testing.assert_allclose(
        predicted.activation_variance, q * (1 / 2 - 1 / (2 * math.pi)), rtol=rtol
    )
    np.testing.assert_allclose(predicted.gradient_factor, factor, rtol=rtol)
    for gradient in (predicted.activation_gradient, predicted.preactivation_gradient):
        np.testing.assert_allclose(gradient, factor ** (depth - 1.0 - layers), rtol=rtol)


def test_gradients_by_layer_are_products_of_the_factors_above():
    predicted = mean_field(activations.tanh, weight_variance=1.5, depth=4, fan_ratio=0.5)
    chi = predicted.gradient_factor
    assert chi[0] != chi[1]
    np.testing.assert_allclose(
        predicted.preactivation_gradient, [chi[0] * chi[1] * chi[2], chi[1] * chi[2], chi[2], 1]
    )
    np.testing.assert_allclose(
        predicted.activation_gradient, [chi[1] * chi[2] * chi[3], chi[2] * chi[3], chi[3], 1]
    )
    square = mean_field(activations.tanh, weight_variance=1.5, depth=4)
    np.testing.assert_allclose(chi, square.gradient_factor / 2)
    np.testing.assert_array_equal(square.preactivation_variance, predicted.preactivation_variance)


def test_zero_weights_leave_the_activation_of_zero():
    predicted = mean_field(activations.sigmoid, weight_variance=0.0, depth=2)
    np.testing.assert_array_equal(predicted.activation_mean, [0.5, 0.5])
    np.testing.assert_array_equal(predicted.activation_variance, [0.0, 0.0])
    np.testing.assert_array_equal(predicted.gradient_factor, [0.0, 0.0])


def test_a_small_variance_on_a_large_mean_is_not_lost():
    # sigmoid(z) = 1/2 + z/4 - z^3/48: a variance of q/16 to a share of q/2. The roundings of
    # 1e-16 are 4e-10 of z/4, and 2e-3 of the variance where E[f]^2 = 1/4 is subtracted.
    predicted = mean_field(
        activations.sigmoid, weight_variance=1.0, depth=1, input_second_moment=1e-12
    )
    np.testing.assert_allclose(predicted.activation_variance, 1e-12 / 16, rtol=1e-8)


def test_the_fixed_point_of_sigmoid_against_monte_carlo():
    weight_variance, bias_variance = 4.0, 0.3
    predicted = mean_field(
        activations.sigmoid, weight_variance=weight_variance, bias_variance=bias_variance, depth=40
    )
    q = predicted.preactivation_variance[-1]
    np.testing.assert_allclose(q, predicted.preactivation_variance[-2], rtol=1e-12)
    z = math.sqrt(q) * np.random.default_rng(0).standard_normal(1_000_000)
    next_q = weight_variance / (1 + np.exp(-z)) ** 2 + bias_variance
    # 4.9 standard errors: a false alarm in a million.
    assert abs(next_q.mean() - q) < 4.9 * next_q.std() / math.sqrt(z.size)


def test_standard_initialisation_of_glorot_and_bengio():
    # Var(W) = (1/sqrt(n))^2 / 3, so n Var(W) = 1/3; tanh is linear for a small signal.
    predicted = mean_field(
        activations.tanh, weight_variance=1 / 3, depth=5, input_second_moment=1e-6
    )
    forward = predicted.activation_variance
    np.testing.assert_allclose(forward[1:] / forward[:-1], 1 / 3, rtol=1e-5)
    backward = predicted.activation_gradient
    np.testing.assert_allclose(backward[:-1] / backward[1:], 1 / 3, rtol=1e-5)


@pytest.mark.parametrize(
    ("activation", "expected"),
    [
        (activations.identity, 1.0),
        (activations.relu, 2.0),
        (activations.tanh, 1.0),
        (activations.leaky_relu, 2 / (1 + 0.01**2)),
        (activations.gelu, 4.0),
        (activations.softsign, 1.0),
    ],
)
def test_critical_weight_variance_in_closed_form(activation, expected):
    # softsign's slope departs from 1 by 2 sqrt(2 q / pi) at q = 1e-24.
    np.testing.assert_allclose(critical_weight_variance(activation), expected, rtol=1e-11)


@pytest.mark.parametrize(
    ("activation", "bias_variance"), [(activations.tanh, 0.05), (activations.sigmoid, 0.0)]
)
def test_a_critical_point_keeps_both_signal_and_gradient(activation, bias_variance):
    weight_variance = critical_weight_variance(activation, bias_variance=bias_variance)
    # The forward map converges like a power of depth at worst; its fixed point is the q of chi = 1.
    predicted = mean_field(
        activation,
        weight_variance=weight_variance,
        bias_variance=bias_variance,
        depth=60,
        input_second_moment=1.0,
    )
    factors = predicted.gradient_factor
    assert abs(factors[-1] - 1) < 1e-2
    assert abs(factors[-1] - 1) < abs(factors[0] - 1)


def test_the_published_critical_point_of_tanh():
    # Schoenholz et al. (2017), figure 5: sigma_w^2 = 1.76 at sigma_b^2 = 0.05.
    assert round(critical_weight_variance(activations.tanh, bias_variance=0.05), 2) == 1.76


def test_refusals():
    with pytest.raises(ValueError, match=r"got none for relu with bias_variance=0\.1"):
        critical_weight_variance(activations.relu, bias_variance=0.1)
    with pytest.raises(ValueError, match="depth must be at least 1 hidden layer, got 0"):
        mean_field(activations.relu, weight_variance=2.0, depth=0)
    with pytest.raises(ValueError, match="not finite at layer 3 of 9"):
        mean_field(activations.identity, weight_variance=1e120, depth=9)
    with pytest.raises(ValueError, match="weight_variance must be"):
        mean_field(activations.relu, weight_variance=-2.0, depth=1)
    with pytest.raises(ValueError, match="bias_variance must be"):
        mean_field(activations.relu, weight_variance=2.0, bias_variance=math.nan, depth=1)
    with pytest.raises(ValueError, match="elementwise"):
        mean_field(activations.softmax, weight_variance=2.0, depth=1)


def relative_variance_of_moments(activation, q, width):
    """Of log q_l over draws of the weights, to first order in 1 / width.

    Given q_l, q_{l+1} is a mean over `width` units of f(z)^2, z ~ N(0, q_l): its relative variance
    is k / width with k = E[f^4] / E[f^2]^2 - 1. A departure of log q_l is passed on times the
    elasticity d log q_{l+1} / d log q_l.
    """
    spread = [0.0]
    for now in q[:-1]:
        square = gaussian_expectation(lambda z: activation(z) ** 2, now)
        fourth = gaussian_expectation(lambda z: activation(z) ** 4, now)
        nearby = gaussian_expectation(lambda z: activation(z) ** 2, now * 1.001)
        elasticity = math.log(nearby / square) / math.log(1.001)
        spread.append(elasticity**2 * spread[-1] + (fourth / square**2 - 1) / width)
    return np.array(spread)


def spread_of_gradients(activation, q, spread_of_q, width):
    """Standard deviation of log (gradient at l / gradient at the last), likewise.

    Going back through a layer is a mean over units of f'(z)^2 g^2 with g Gaussian: 3 E[f'^4] /
    E[f'^2]^2 - 1. What q_l departs by moves f'(z), in all layers the same way at worst.
    """

    def moment(power, variance):
        slope = jax.grad(lambda z: activation(z).sum())
        return gaussian_expectation(lambda z: slope(z) ** power, variance)

    noise, drift = [], []
    for variance, relative in zip(q, spread_of_q, strict=True):
        square = moment(2, variance)
        noise.append((3 * moment(4, variance) / square**2 - 1) / width)
        elasticity = math.log(moment(2, variance * 1.001) / square) / math.log(1.001)
        drift.append(abs(elasticity) * math.sqrt(relative))
    # The gradient at l has passed the units of l + 1 to the last.
    passed = [np.cumsum(np.array(part)[::-1])[::-1][1:] for part in (noise, drift)]
    return np.sqrt(passed[0]) + passed[1]


@pytest.mark.parametrize(
    ("activation", "weight_variance"), [(activations.relu, 1.6), (activations.tanh, 1.0)]
)
def test_a_wide_network_shows_what_is_predicted(activation, weight_variance):
    width, depth, seeds = 500, 10, 8
    predicted = mean_field(activation, weight_variance=weight_variance, depth=depth)
    model = models.MLP(
        [width] * depth + [1],
        activation=activation,
        kernel_init=jax.nn.initializers.normal(math.sqrt(weight_variance / width)),
    )
    inputs = jax.random.normal(jax.random.key(0), (4, width))
    inputs /= jnp.sqrt(jnp.mean(inputs**2, axis=1, keepdims=True))
    # Targets out of reach: the gradient of every output is 1.
    batch = {"inputs": inputs, "targets": jnp.full((4, 1), -1e3)}

    @jax.jit
    def measure(key):
        variables = model.init(key, inputs, train=False)
        return propagation(model, variables, batch, loss=losses.mean_absolute_error)

    runs = [measure(key) for key in jax.random.split(jax.random.key(1), seeds)]
    forward = np.mean([run.second_moment[: 2 * depth : 2] for run in runs], axis=0)
    backward = np.mean([run.gradient_second_moment[1 : 2 * depth : 2] for run in runs], axis=0)

    # 4.9 standard deviations of a mean over the seeds: of 38 comparisons, 4e-5 false alarms in
    # all. The batch counts as one input, for one draw of weights moves all of it at worst; the
    # mean square over the units themselves adds 2 / width.
    q = predicted.preactivation_variance
    spread = relative_variance_of_moments(activation, q, width)
    limit = 4.9 * np.sqrt((spread + 2 / width) / seeds)
    np.testing.assert_array_less(np.abs(np.log(forward / q)), limit)
    limit_back = 4.9 * spread_of_gradients(activation, q, spread, width) / math.sqrt(seeds)
    ratio = (backward / backward[-1])[:-1] / predicted.activation_gradient[:-1]
    np.testing.assert_array_less(np.abs(np.log(ratio)), limit_back)
    # A weight variance 10 % off over 10 layers would be a log ratio of 0.95.
    assert limit.max() < 0.6
    assert limit_back.max() < 0.6
