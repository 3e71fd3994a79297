"""The laws of singular values: their moments, and the networks that they are about."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special

from jaxdl.diagnostics import (
    gaussian_product_singular_values,
    jacobian_moments,
    jacobian_spectrum,
    mean_field,
)
from jaxdl.initializers import orthogonal


@pytest.mark.parametrize("depth", [1, 2, 5, 30])
def test_the_quantiles_have_the_moments_of_fuss_and_catalan(depth):
    values = gaussian_product_singular_values(depth, 200_000)
    assert (np.diff(values) <= 0).all()
    for power in (1, 2):
        # Raney's numbers: 1 and L + 1.
        expected = special.comb((depth + 1) * power, power, exact=True) / (depth * power + 1)
        # The few largest of 200,000 squares carry the moments of a law as long as this one's.
        assert np.mean(values ** (2 * power)) == pytest.approx(expected, rel=2e-3)
    largest = math.sqrt((depth + 1) ** (depth + 1) / depth**depth)
    assert largest * 0.98 < values[0] <= largest * (1 + 1e-6)


def test_one_matrix_has_the_quarter_circle():
    count = 1000
    values = gaussian_product_singular_values(1, count)
    for place in (10, 300, 900):
        above = integrate.quad(lambda s: math.sqrt(4 - s**2) / math.pi, values[place], 2)[0]
        assert above == pytest.approx((place + 0.5) / count, abs=1e-6)


def test_products_of_drawn_matrices_have_the_law():
    n, depth, draws = 200, 4, 6
    product = np.eye(n)
    found = []
    for draw in range(draws):
        product = np.eye(n)
        rng = np.random.default_rng(draw)
        for _ in range(depth):
            product = rng.normal(size=(n, n)) / math.sqrt(n) @ product
        found.append(np.linalg.svd(product)[1])
    expected = gaussian_product_singular_values(depth, n)
    # Eigenvalues repel: a quantile of n values varies like 1 / n, and is biased like 1 / n.
    for share in (0.05, 0.25, 0.5, 0.75):
        place = int(share * n)
        assert np.mean([each[place] for each in found]) == pytest.approx(expected[place], rel=0.05)


def linear(z):
    return z


@functools.cache
def network_of(activation):
    """One function for each activation, so that its program is compiled once."""

    def network(weights, x):
        return jax.lax.scan(lambda x, w: (activation(x @ w), None), x, weights)[0]

    return network


def drawn(activation, depth, gain, is_orthogonal, seed, n=200):
    key, x_key = jax.random.split(jax.random.key(seed))
    draw = orthogonal() if is_orthogonal else jax.nn.initializers.normal(n**-0.5)
    weights = jnp.stack([draw(key, (n, n)) for key in jax.random.split(key, depth)]) * gain
    x = jax.random.normal(x_key, (1, n))
    return jacobian_spectrum(network_of(activation), weights, {"inputs": x})


@pytest.mark.parametrize("is_orthogonal", [False, True], ids=["gaussian", "orthogonal"])
@pytest.mark.parametrize(
    ("activation", "variance"), [(jax.nn.relu, 2.0), (jnp.tanh, 1.2), (linear, 1.0)],
    ids=["relu", "tanh", "linear"],
)  # fmt: skip
def test_networks_have_the_moments(activation, variance, is_orthogonal):
    depth = 4
    theory = jacobian_moments(
        activation, weight_variance=variance, depth=depth, orthogonal=is_orthogonal
    )
    found = [drawn(activation, depth, variance**0.5, is_orthogonal, seed) for seed in range(6)]
    squares = np.array([each.mean_square[0] for each in found])
    spreads = np.array([each.spread[0] for each in found])
    # Six standard errors of six draws, and the bias of a width of 200, which falls like 1 / n.
    for values, expected in ((squares, theory.mean_square[-1]), (spreads, theory.spread[-1])):
        allowed = 6 * values.std(ddof=1) / math.sqrt(len(values)) + 2 * depth / 200
        assert abs(values.mean() - expected) < allowed * max(expected, 1)


def test_the_mean_square_is_that_of_the_mean_field():
    settings = {"weight_variance": 1.7, "bias_variance": 0.1, "depth": 6}
    found = jacobian_moments(jnp.tanh, **settings)
    field = mean_field(jnp.tanh, **settings)
    np.testing.assert_allclose(found.mean_square, np.cumprod(field.gradient_factor), rtol=1e-12)
    orthogonal_too = jacobian_moments(jnp.tanh, orthogonal=True, **settings)
    np.testing.assert_allclose(found.spread - orthogonal_too.spread, np.arange(1, 7), rtol=1e-9)
    assert "JacobianMoments(6 layers: mean_square" in repr(found)


def test_what_has_no_law_is_refused():
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        gaussian_product_singular_values(0, 5)
    with pytest.raises(ValueError, match="must have a slope"):
        jacobian_moments(jnp.sign, weight_variance=1.0, depth=2)
