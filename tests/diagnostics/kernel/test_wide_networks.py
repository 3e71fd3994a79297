"""Closed forms of wide networks: against sampled normal variables, and against drawn networks."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import initializers, models
from jaxdl.diagnostics import tangent_kernel
from jaxdl.diagnostics.kernel.wide_networks import (
    arc_cosine,
    erf_moments,
    linear_moments,
    relu_moments,
    wide_kernels,
)
from jaxdl.initializers.gains import gaussian_quadrature
from jaxdl.intervals import students_t

ALARM = 1e-4
"""How often an interval misses the mean, by chance; the keys are fixed."""
X = np.array([[1.0, 0.5, -0.5, 0.2], [0.3, -1.2, 0.7, 0.4], [-1.0, -0.4, 0.4, 0.0]])
NETWORKS = {
    "relu": (jax.nn.relu, relu_moments),
    "erf": (jax.lax.erf, erf_moments),
    "linear": (lambda z: z, linear_moments),
}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("covariance", [(1.0, 0.3, 2.0), (1.5, -1.2, 1.0), (0.7, 0.0, 0.7)])
def test_the_moments_are_those_of_two_normal_variables(name, covariance):
    activation, moments = NETWORKS[name]
    uu, uv, vv = covariance
    points, weights = gaussian_quadrature(1.0)
    u = np.sqrt(uu) * points[:, None]
    v = uv / np.sqrt(uu) * points[:, None] + np.sqrt(vv - uv**2 / uu) * points[None]
    found = moments(uu, uv, vv)
    with jax.enable_x64(True):
        f, g = (np.asarray(activation(jnp.asarray(np.broadcast_to(e, v.shape)))) for e in (u, v))
        slope = jax.vmap(jax.vmap(jax.grad(activation)))
        df, dg = (np.asarray(slope(jnp.asarray(np.broadcast_to(e, v.shape)))) for e in (u, v))
    # ReLU's kink crosses the panels of v at an angle.
    allowed = 1e-9 if name != "relu" else 2e-3
    assert weights @ (f * g) @ weights == pytest.approx(float(found.product), abs=allowed)
    assert weights @ (df * dg) @ weights == pytest.approx(float(found.slopes), abs=allowed)


def test_arc_cosine_kernels_at_their_known_angles():
    for angle, zero, one in ((0, 1, 1), (math.pi / 2, 0.5, 1 / math.pi), (math.pi, 0, 0)):
        uv = 2 * math.cos(angle)
        assert arc_cosine(0, 2, uv, 2) == pytest.approx(zero, abs=1e-7)
        assert arc_cosine(1, 2, uv, 2) == pytest.approx(2 * one, abs=1e-12)
    with pytest.raises(ValueError, match="degree must be 0 or 1, got 2"):
        arc_cosine(2, 1.0, 0.0, 1.0)


def test_a_linear_network_has_kernels_that_are_known():
    found = wide_kernels(linear_moments, X, depth=3, weight_variance=1.5, bias_variance=0.2)
    k = 1.5 * X @ X.T / 4 + 0.2
    theta = k
    for _ in range(3):
        k = 1.5 * k + 0.2
        theta = k + 1.5 * theta
    np.testing.assert_allclose(found.nngp, k, rtol=1e-12)
    np.testing.assert_allclose(found.tangent, theta, rtol=1e-12)
    across = wide_kernels(linear_moments, X, X[:2], depth=3, weight_variance=1.5, bias_variance=0.2)
    np.testing.assert_allclose(across.tangent, theta[:, :2], rtol=1e-12)


def network(activation, depth, width, weight_variance, bias_variance):
    """In the neural-tangent parametrisation."""

    def apply(params, x):
        for index, (w, b) in enumerate(params):
            x = activation(x) if index else x
            scale = math.sqrt(weight_variance / w.shape[0])
            x = scale * x @ w + math.sqrt(bias_variance) * b
        return x

    def init(key):
        sizes = [4, *[width] * depth, 1]
        keys = jax.random.split(key, (depth + 1, 2))
        return [
            (jax.random.normal(kw, (n, m)), jax.random.normal(kb, (m,)))
            for (kw, kb), n, m in zip(keys, sizes[:-1], sizes[1:], strict=True)
        ]

    return apply, init


def check_means(draws, expected):
    """Their means are the closed form within an interval that fails once in 10,000, and a bias.

    The bias of a finite width is of the order of the draws' variance, 1 / n, and so below it.
    """
    mean, error = draws.mean(0), draws.std(0, ddof=1) / math.sqrt(len(draws))
    far = float(students_t(1 - ALARM / 2, len(draws) - 1))
    bias = draws.var(0, ddof=1) / np.abs(expected).max()
    assert (abs(mean - expected) < far * error + bias + 1e-5 * np.abs(expected).max()).all()
    # The interval is narrow enough to tell: draws scatter like 1 / sqrt(width).
    assert (far * error).max() < 0.1 * np.abs(expected).max()


@functools.cache
def drawn_kernels(name, depth, width=2048, seeds=16):
    apply, init = network(NETWORKS[name][0], depth, width, 2.0, 0.1)
    batch = {"inputs": jnp.asarray(X, jnp.float32)}
    # One model at a time: four million parameters each.
    return np.stack(
        [
            np.asarray(tangent_kernel(apply, init(jax.random.key(seed)), batch).total, np.float64)
            for seed in range(seeds)
        ]
    )


@pytest.mark.parametrize(("name", "depth"), [("relu", 2), ("erf", 1)])
def test_networks_of_width_2048_have_the_closed_form_within_their_interval(name, depth):
    settings = {"depth": depth, "weight_variance": 2.0, "bias_variance": 0.1}
    expected = wide_kernels(NETWORKS[name][1], X, **settings)
    draws = drawn_kernels(name, depth)
    check_means(draws, expected.tangent)
    # A draw differs from the closed form by a few 1 / sqrt(width).
    relative = draws.std(0, ddof=1) / np.abs(expected.tangent).max()
    assert relative.max() < 6 / math.sqrt(2048)


def test_the_scatter_falls_with_the_root_of_the_width():
    wide, narrow = (drawn_kernels("erf", 1, width).std(0, ddof=1).mean() for width in (2048, 128))
    # Standard deviations of 16 draws are known to a fifth; the root of 16 is 4.
    assert 2 < narrow / wide < 8


def test_a_model_of_this_library_has_the_standard_parametrisation():
    width, depth, seeds = 2048, 1, 16
    model = models.MLP([width, 1], kernel_init=initializers.he_normal())
    x = jnp.asarray(X, jnp.float32)
    draws = np.stack(
        [
            np.asarray(
                tangent_kernel(
                    model, model.init(jax.random.key(seed), x, train=False), {"inputs": x}
                ).total, np.float64,
            )
            for seed in range(seeds)
        ]
    )  # fmt: skip
    wide = wide_kernels(relu_moments, X, depth=depth, weight_variance=2.0)
    check_means(draws, wide.standard([4, width]))
    assert not np.allclose(wide.standard([4, 2 * width]), draws.mean(0), rtol=0.2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"depth": 0}, "depth must be at least 1"),
        ({"weight_variance": -1.0}, "weight_variance must be finite and at least 0"),
        ({"inputs": np.ones(3)}, r"inputs must be \(examples, numbers\), got shape \(3,\)"),
        ({"other": np.ones((2, 5))}, "as many numbers each, got 4 and 5"),
    ],
)
def test_what_has_no_kernel_is_refused(change, message):
    settings = {"inputs": X, "depth": 1, "weight_variance": 1.0} | change
    with pytest.raises(ValueError, match=message):
        wide_kernels(relu_moments, **settings)
    with pytest.raises(ValueError, match="each of the 2 layers"):
        wide_kernels(relu_moments, X, depth=1, weight_variance=1.0).standard([3])


@pytest.mark.parametrize("activation", [jax.nn.relu, jnp.tanh, lambda u: u, lambda u, v, w: u])
def test_an_activation_alone_has_no_moments(activation):
    with pytest.raises(TypeError, match=r"moments must be a function of .*; pass relu_moments"):
        wide_kernels(activation, X, depth=1, weight_variance=1.0)
