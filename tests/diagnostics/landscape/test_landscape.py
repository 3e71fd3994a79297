"""Surfaces and directions against closed forms and the rescaling of ReLU networks."""

import re
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import losses, models
from jaxdl.diagnostics.landscape.artificial_landscapes import beale, ravine, rosenbrock, saddle
from jaxdl.diagnostics.landscape.surface import random_directions, surface


@pytest.fixture(scope="module")
def network():
    """A ReLU network, its loss on a batch, and its parameters, biases not zero."""
    model = models.MLP([5, 4, 2])
    x_key, y_key, init_key, bias_key = jax.random.split(jax.random.key(7), 4)
    x, y = jax.random.normal(x_key, (16, 3)), jax.random.normal(y_key, (16, 2))
    params = model.init(init_key, x, train=False)["params"]
    for number, layer in enumerate(params):
        bias = params[layer]["bias"]
        params[layer]["bias"] = bias + 0.3 * jax.random.normal(
            jax.random.fold_in(bias_key, number), bias.shape
        )

    def loss(params):
        outputs: Any = model.apply({"params": params}, x, train=False)
        return jnp.mean(losses.mean_squared_error(outputs, y))

    return loss, params


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_the_surface_of_a_quadratic(key, batch_size):
    keys = jax.random.split(key, 3)
    theta, d1, d2 = (
        {"a": jax.random.normal(k, (3,)), "b": {"c": jax.random.normal(k, (2, 2))}} for k in keys
    )
    x, y = np.linspace(-2, 2, 5), np.linspace(-1, 1, 4)

    def loss(params):
        return sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))

    heights = surface(loss, theta, [d1, d2], x, y, batch_size=batch_size)

    def dot(one, other):
        pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
        return sum(np.vdot(np.float64(a), np.float64(b)) for a, b in pairs)

    u, v = np.meshgrid(x, y, indexing="ij")
    expected = (
        dot(theta, theta) + u**2 * dot(d1, d1) + v**2 * dot(d2, d2)
        + 2 * (u * dot(theta, d1) + v * dot(theta, d2) + u * v * dot(d1, d2))
    )  # fmt: skip
    chex.assert_shape(heights, (5, 4))
    # Seven squares of entries up to about 10: 20 roundings of 6e-8 of at most 100 each.
    np.testing.assert_allclose(heights, expected, rtol=1e-5, atol=1e-4)


def test_a_line_is_a_surface_and_jits_to_the_same():
    start, direction = jnp.array([1.0, 2.0]), jnp.array([1.0, 0.0])
    x = jnp.linspace(-1, 1, 9)

    @jax.jit
    def line(start):
        return surface(rosenbrock, start, [direction], x, batch_size=4)

    points = jnp.stack([1 + x, jnp.full_like(x, 2.0)], axis=-1)
    # Fused multiply-adds round once where two operations round twice.
    np.testing.assert_allclose(line(start), rosenbrock(points), rtol=1e-5)
    np.testing.assert_allclose(surface(rosenbrock, start, [direction], x), line(start), rtol=1e-5)


def test_losses_that_overflow_stay_infinite():
    heights = surface(jnp.exp, jnp.float32(0.0), [jnp.float32(1.0)], jnp.array([0.0, 1e3]))
    assert heights.tolist() == [1.0, np.inf]


@pytest.mark.parametrize("normalization", ["filter", "layer"])
def test_directions_have_the_norms_of_the_parameters(key, normalization):
    keys = jax.random.split(key, 3)
    scales = jnp.array([1e-3, 1.0, 0.0, 50.0])
    params = {
        "dense": jax.random.normal(keys[0], (6, 4)) * scales,
        "conv": jax.random.normal(keys[1], (3, 3, 2, 4)) * scales,
        "bias": jnp.ones(4),
        "scale": jnp.float32(2.0),
    }
    directions = random_directions(keys[2], params, normalization=normalization)
    for direction in directions:
        chex.assert_trees_all_equal_shapes_and_dtypes(direction, params)
        assert not np.any(direction["bias"])
        assert direction["scale"] == 0
        for name in ("dense", "conv"):
            axis = tuple(range(params[name].ndim - 1)) if normalization == "filter" else None
            np.testing.assert_allclose(
                np.sqrt(np.sum(np.float64(direction[name]) ** 2, axis=axis)),
                np.sqrt(np.sum(np.float64(params[name]) ** 2, axis=axis)),
                rtol=1e-6,  # 18 squares, a root, a division: ten roundings of 6e-8
            )
    first, second = directions
    assert np.abs(first["dense"] - second["dense"]).max() > 0


def test_without_normalization_all_leaves_are_standard_normal(key):
    params = {"kernel": 1e3 * jnp.ones((100, 100)), "bias": jnp.ones(10_000)}
    (direction,) = random_directions(key, params, count=1, normalization=None)
    for leaf in direction.values():
        # Mean of 10,000: 5 standard errors of 0.01; variance: 5 of sqrt(2)/100. 1e-6 false alarms.
        assert abs(leaf.mean()) < 0.05
        assert abs(leaf.var() - 1) < 0.071


@pytest.mark.parametrize("normalization", ["filter", "layer", None])
def test_rescaling_relu_layers_changes_the_surface_only_without_normalization(
    network, key, normalization
):
    loss, params = network
    rescaled = jax.tree.map(lambda leaf: leaf, params)
    # Powers of two are exact, so the two networks are the same to the last bit.
    rescaled["dense_0"] = jax.tree.map(lambda leaf: 8 * leaf, params["dense_0"])
    rescaled["dense_1"] = {
        "kernel": params["dense_1"]["kernel"] / 8 / 4,
        "bias": params["dense_1"]["bias"] / 4,
    }
    rescaled["dense_2"] = params["dense_2"] | {"kernel": params["dense_2"]["kernel"] * 4}
    x = y = np.linspace(-1, 1, 5)
    before, after = (
        surface(loss, each, random_directions(key, each, normalization=normalization), x, y)
        for each in (params, rescaled)
    )
    assert before.std() > 0.1
    centre = (2, 2)
    assert before[centre] == after[centre]
    if normalization is None:
        assert np.abs(before - after).max() > 1
    else:
        np.testing.assert_allclose(before, after, rtol=1e-5)


@pytest.mark.parametrize(
    ("function", "minima", "lowest"),
    [
        (ravine, [(0.0, 0.0)], 0.0),
        (beale, [(3.0, 0.5)], 0.0),
        (rosenbrock, [(1.0, 1.0)], 0.0),
        (saddle, [(0.0, 2**0.5), (0.0, -(2**0.5))], -1.0),
    ],
)
def test_minima(function, minima, lowest):
    points = jnp.array(minima)
    np.testing.assert_allclose(function(points), lowest, atol=1e-6)
    # The gradient at the rounding of the root of two: curvature 4 by 1e-7.
    np.testing.assert_allclose(jax.vmap(jax.grad(function))(points), 0.0, atol=1e-5)
    around = jax.random.uniform(jax.random.key(0), (1000, 2), minval=-4.5, maxval=4.5)
    assert function(around).min() > lowest
    for curvatures in np.linalg.eigvalsh(jax.vmap(jax.hessian(function))(points)):
        assert curvatures.min() > 0


@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_the_ravines_curvatures_and_axes(angle):
    hessian = jax.hessian(lambda p: ravine(p, condition_number=25.0, angle=angle))(jnp.ones(2))
    curvatures, axes = np.linalg.eigh(hessian)
    np.testing.assert_allclose(curvatures, [1.0, 25.0], rtol=1e-5)
    np.testing.assert_allclose(abs(axes[:, 0] @ [np.cos(angle), np.sin(angle)]), 1.0, rtol=1e-6)


@pytest.mark.parametrize(
    ("function", "point", "height"), [(saddle, (0.0, 0.0), 0.0), (beale, (0.0, 1.0), 14.203125)]
)
def test_saddles(function, point, height):
    point = jnp.array(point)
    assert function(point) == height
    assert not np.any(jax.grad(function)(point))
    low, high = np.linalg.eigvalsh(jax.hessian(function)(point))
    assert low < 0 < high


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: surface(ravine, jnp.zeros(2), []), "got none"),
        (lambda: surface(ravine, jnp.zeros(2), [jnp.ones(2)]), "each of the 1 directions, got 0"),
        (lambda: surface(ravine, jnp.zeros(2), [jnp.ones(3)], jnp.ones(1)), "got {'': (3,)}"),
        (lambda: surface(ravine, jnp.zeros(2), [{"a": jnp.ones(2)}], jnp.ones(1)), "at place 0"),
        (lambda: surface(jnp.sin, jnp.ones(2), [jnp.ones(2)], jnp.ones(1)), "got shape (2,)"),
        (
            lambda: surface(ravine, jnp.ones(2), [jnp.ones(2)], jnp.ones(1), batch_size=0),
            "at least 1 point, got 0",
        ),
        (lambda: random_directions(jax.random.key(0), {"b": jnp.ones(3)}), "normalization=None"),
        (lambda: random_directions(jax.random.key(0), {"w": jnp.ones((2, 2), int)}), "int32"),
        (lambda: random_directions(jax.random.key(0), jnp.ones((2, 2)), count=0), "got 0"),
    ],
)
def test_refuses(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()
