"""BatchNorm's and residual sums' mean field against closed forms and networks in NumPy."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import activations
from jaxdl.diagnostics import batch_norm_gradient_growth, mean_field

RELU_VARIANCE = 1 / 2 - 1 / (2 * math.pi)
LIMIT = math.pi / (math.pi - 1)


@pytest.mark.parametrize("weight_variance", [0.1, 2.0])
def test_batch_norm_makes_relus_gradient_grow_whatever_the_weights(weight_variance):
    predicted = mean_field(
        activations.relu,
        weight_variance=weight_variance,
        depth=4,
        bias_variance=3.0,
        input_second_moment=5.0,
        batch_norm=True,
    )
    rtol = 1e-12
    np.testing.assert_allclose(predicted.gradient_factor[0], 0.5 / 5.0, rtol=rtol)
    np.testing.assert_allclose(predicted.gradient_factor[1:], LIMIT, rtol=rtol)
    np.testing.assert_allclose(predicted.activation_second_moment, 0.5, rtol=rtol)
    np.testing.assert_allclose(predicted.activation_variance, RELU_VARIANCE, rtol=rtol)
    np.testing.assert_allclose(
        predicted.preactivation_variance[1:], weight_variance / 2 + 3.0, rtol=rtol
    )
    np.testing.assert_allclose(
        predicted.activation_gradient, LIMIT ** np.arange(3, -1, -1), rtol=rtol
    )


def test_a_residual_sum_of_he_layers_doubles_signal_and_gradient():
    predicted = mean_field(activations.relu, weight_variance=2.0, depth=6, residual=True)
    doublings = 2.0 ** np.arange(6)
    np.testing.assert_allclose(predicted.preactivation_variance, 2 * doublings, rtol=1e-12)
    np.testing.assert_allclose(predicted.preactivation_gradient, doublings[::-1], rtol=1e-12)


def test_with_batch_norm_in_the_branch_the_gradient_grows_like_a_power_of_the_depth():
    depth = 2000
    predicted = mean_field(
        activations.relu, weight_variance=2.0, depth=depth, batch_norm=True, residual=True
    )
    between = 2.0 + 2.0 * RELU_VARIANCE * np.arange(depth)
    np.testing.assert_allclose(predicted.gradient_factor, 1 + 1.0 / between, rtol=1e-11)
    np.testing.assert_allclose(
        predicted.preactivation_variance, 2.0 + 1.0 * np.arange(depth), rtol=1e-11
    )
    # The sum of log(1 + LIMIT / (k + c)) is LIMIT log k, up to a constant and terms of 1 / k.
    steps = np.log(predicted.preactivation_gradient)
    exponent = (steps[999] - steps[-1]) / math.log(2)
    assert abs(exponent - LIMIT) < 0.01


def closed_form_of_relu(examples):
    """From the orthant's probability, and from Cho and Saul's kernel of one ReLU."""
    r = -1 / (examples - 1)
    both_on = 1 / 4 + math.asin(r) / (2 * math.pi)
    kernel = (math.sqrt(1 - r**2) + r * (math.pi - math.acos(r))) / (2 * math.pi)
    share = 1 - 1 / examples
    own = share * (0.5 - 1 / examples)  # E[z^2 f'^2] = E[f'^2] = 1/2
    shared = share / examples * (both_on + kernel)
    return examples / (examples - 3) * (own + shared) / (share * (0.5 - kernel))


@pytest.mark.parametrize("examples", [4, 5, 8, 64, 1_000_000])
def test_the_growth_in_a_batch_of_any_size_in_closed_form(examples):
    identity = batch_norm_gradient_growth(activations.identity, batch_size=examples)
    np.testing.assert_allclose(identity, (examples - 2) / (examples - 3), rtol=1e-9)
    # In 3 dimensions the terms of a step are k^-2 times a Legendre polynomial, (3 / k)^0.5 or so;
    # they alternate, so 256 terms leave half of one: 2e-6.
    relu = batch_norm_gradient_growth(activations.relu, batch_size=examples)
    np.testing.assert_allclose(relu, closed_form_of_relu(examples), rtol=1e-5)


def test_large_batches_have_the_limit():
    assert batch_norm_gradient_growth(activations.relu) == pytest.approx(LIMIT, rel=1e-12)
    for f in (activations.tanh, activations.gelu):
        # The correction is some 1 / B.
        close = batch_norm_gradient_growth(f, batch_size=100_000)
        np.testing.assert_allclose(close, batch_norm_gradient_growth(f), rtol=1e-4)


def normalise(z):
    deviation = z.std(axis=0)
    return (z - z.mean(axis=0)) / deviation, deviation


def back(gradient, normalised, deviation):
    """Through BatchNorm, by its Jacobian."""
    along = normalised * np.mean(gradient * normalised, axis=0)
    return (gradient - gradient.mean(axis=0) - along) / deviation


def test_the_growth_of_tanh_in_batches_of_12_against_a_million_units():
    examples, units, parts = 12, 100_000, 10
    draw, growths = np.random.default_rng(0), []
    for _ in range(parts):
        z, deviation = normalise(draw.standard_normal((examples, units)))
        a = np.tanh(z)
        # The next layer's values have this variance between examples, weights of variance 1 / n.
        between = np.mean(a**2) - np.mean(a.sum(axis=0) ** 2 - (a**2).sum(axis=0)) / (
            examples * (examples - 1)
        )
        h = draw.standard_normal(z.shape)
        h -= h.mean(axis=0)  # as a gradient that came through BatchNorm
        g = back(h * (1 - a**2), z, deviation)
        growths.append(np.mean(g**2) / np.mean(h**2) / between)
    error = np.std(growths, ddof=1) / math.sqrt(parts)
    predicted = batch_norm_gradient_growth(jnp.tanh, batch_size=examples)
    # Student's t with 9 degrees: beyond 7 once in 16,000. The error is 0.1 % or so; the limit of
    # large batches is 8 % off.
    assert abs(np.mean(growths) - predicted) < 7 * error < 0.03 * predicted
    assert abs(batch_norm_gradient_growth(jnp.tanh) / predicted - 1) > 0.05


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("residual", [False, True])
def test_a_wide_network_in_numpy_shows_what_is_predicted(batch_norm, residual):
    weight_variance = 1.2
    width, depth, seeds = 256, 6, 20
    predicted = mean_field(
        activations.relu,
        weight_variance=weight_variance,
        depth=depth,
        batch_norm=batch_norm,
        residual=residual,
    )
    forward, backward = [], []
    for seed in range(seeds):
        draw = np.random.default_rng(seed)
        x = draw.standard_normal((width, width))  # as many examples as units
        weights = draw.standard_normal((depth, width, width)) * math.sqrt(weight_variance / width)
        z, seen = [x @ weights[0]], []
        for kernel in [*weights[1:], None]:
            seen.append(normalise(z[-1]) if batch_norm else (z[-1], None))
            if kernel is not None:
                z.append(residual * z[-1] + np.maximum(seen[-1][0], 0) @ kernel)
        gradient = draw.standard_normal((width, width))
        squares = [np.mean(gradient**2)]
        for layer in range(depth - 2, -1, -1):
            normalised, deviation = seen[layer]
            branch = (gradient @ weights[layer + 1].T) * (normalised > 0)
            branch = back(branch, normalised, deviation) if batch_norm else branch
            gradient = residual * gradient + branch
            squares.append(np.mean(gradient**2))
        forward.append([np.mean(each**2) for each in z])
        backward.append(squares[::-1])
    layers = np.arange(depth)
    for measured, expected, passed in (
        (forward, predicted.preactivation_variance, layers),
        (np.array(backward) / np.array(backward)[:, -1:], predicted.preactivation_gradient,
         layers[::-1]),
    ):  # fmt: skip
        ratio = np.array(measured) / expected
        error = ratio.std(axis=0, ddof=1) / math.sqrt(seeds)
        # Student's t with 19 degrees: of 44 numbers one is beyond 7 once in 20,000. A finite layer
        # departs by up to 5 / width, a finite batch by 2 / B, and the inputs by 1 / width.
        limit = 7 * error + (7 * passed + 1) / width
        np.testing.assert_array_less(np.abs(ratio.mean(axis=0) - 1), limit + 1e-12)
        # Any other of the four networks departs by a factor of 1.7 or more after 5 layers.
        assert limit.max() < 0.7


@pytest.mark.parametrize("batch_size", [3, 0, 4.0, True, "8"])
def test_batches_that_have_no_growth_are_refused(batch_size):
    with pytest.raises(ValueError, match=r"at least 4 examples, .* got .*; pass 4 or more"):
        batch_norm_gradient_growth(activations.relu, batch_size=batch_size)


def test_refusals():
    for size in (None, 8):
        with pytest.raises(ValueError, match="must differ between the examples"):
            batch_norm_gradient_growth(jnp.zeros_like, batch_size=size)
    with pytest.raises(ValueError, match="elementwise"):
        batch_norm_gradient_growth(activations.softmax, batch_size=8)
    with pytest.raises(ValueError, match="kink must be"):
        batch_norm_gradient_growth(activations.relu, batch_size=8, kinks=[math.nan])
    with pytest.raises(ValueError, match="layers of one width, got fan_ratio=2"):
        mean_field(activations.relu, weight_variance=2.0, depth=2, residual=True, fan_ratio=2.0)
    with pytest.raises(ValueError, match="differs between examples, got the variance 0 at layer 1"):
        mean_field(activations.relu, weight_variance=0.0, depth=2, batch_norm=True)
