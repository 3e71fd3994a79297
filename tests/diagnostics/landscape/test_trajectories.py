"""Paths against a plain loop, and their planes against the singular value decomposition."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxdl import optimizers
from jaxdl.diagnostics.landscape import trajectories
from jaxdl.diagnostics.landscape.artificial_landscapes import beale, rosenbrock
from jaxdl.diagnostics.landscape.surface import surface
from jaxdl.diagnostics.landscape.trajectories import descend, principal_directions, project


@pytest.mark.parametrize("optimizer", [optax.sgd(0.01, momentum=0.9), optax.adam(0.1)])
def test_a_path_is_a_loop_over_updates(optimizer):
    start = {"x": jnp.float32(0.5), "y": jnp.ones(2)}

    def function(params):
        return beale(jnp.stack([params["x"], params["y"][0]])) + params["y"][1] ** 2

    path = descend(function, optimizer, start, 6)
    params, opt_state, points = start, optimizer.init(start), [start]
    for _ in range(6):
        updates, opt_state = optimizer.update(jax.grad(function)(params), opt_state, params)
        params = optax.apply_updates(params, updates)
        points.append(params)
    expected = jax.tree.map(lambda *leaves: jnp.stack(leaves), *points)
    # Six steps of a dozen operations, compiled together or one by one.
    chex.assert_trees_all_close(path, expected, rtol=1e-5, atol=1e-6)


def test_paths_over_starts_and_rates_are_one_compiled_call(key):
    starts = jax.random.normal(key, (3, 2))
    rates = jnp.array([1e-4, 1e-3])

    @jax.jit
    @chex.assert_max_traces(1)
    def paths(starts, rates):
        def one(start, rate):
            return descend(rosenbrock, optax.adam(rate), start, 20)

        return jax.vmap(jax.vmap(one, (None, 0)), (0, None))(starts, rates)

    found = paths(starts, rates)
    chex.assert_shape(found, (3, 2, 21, 2))
    for i, start in enumerate(starts):
        for j, rate in enumerate(rates):
            alone = descend(rosenbrock, optax.adam(float(rate)), start, 20)
            np.testing.assert_allclose(found[i, j], alone, rtol=1e-5, atol=1e-6)
    paths(starts + 1, rates * 2)


def test_the_optimizer_is_given_the_value_and_the_gradients_function():
    def update(updates, state, params=None, *, value, grad_fn, **_):
        return jax.tree.map(lambda g: -(g + value), grad_fn(params, 0)), state

    optimizer = optax.GradientTransformationExtraArgs(lambda params: (), update)
    path = descend(lambda x: x**2, optimizer, jnp.float32(1.0), 1)
    assert path.tolist() == [1.0, -2.0]


def run_of(key, points, scale=1.0):
    """A path in a space of 3 + 8 parameters about a point far from the origin."""
    keys = jax.random.split(key, 2)
    shapes = {"b": (points, 3), "k": (points, 2, 4)}
    return {
        name: 10 + scale * jax.random.normal(k, shape)
        for k, (name, shape) in zip(keys, shapes.items(), strict=True)
    }


def flat(tree, points=None):
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
    return np.concatenate([leaf.reshape((points or 1), -1) for leaf in leaves], axis=1)


@pytest.mark.parametrize("columns_at_once", [5, 1 << 16])
def test_principal_directions_are_singular_vectors(key, monkeypatch, columns_at_once):
    monkeypatch.setattr(trajectories, "COLUMNS_AT_ONCE", columns_at_once)
    path = run_of(key, 7)
    found = principal_directions(path, count=3)
    matrix = flat(path, 7)
    _, singular, rows = np.linalg.svd(matrix[:-1] - matrix[-1], full_matrices=False)
    np.testing.assert_allclose(
        found.variance_shares, singular[:3] ** 2 / np.sum(singular**2), rtol=1e-12
    )
    for direction, row in zip(found.directions, rows[:3], strict=True):
        chex.assert_trees_all_equal_shapes_and_dtypes(
            direction, jax.tree.map(lambda leaf: leaf[0], path)
        )
        vector = flat(direction)[0]
        # The directions are returned in float32.
        np.testing.assert_allclose(vector * np.sign(vector @ row), row, atol=1e-7)


def test_a_nearly_straight_path_still_gets_orthonormal_directions():
    steps = np.arange(9.0)[:, None]
    path = jnp.asarray(np.hstack([1e4 * steps, 2e4 * steps, 1e-2 * (-1) ** steps]))
    found = principal_directions(path)
    matrix = np.stack(found.directions).astype(np.float64)
    # Float32's rounding of two unit vectors.
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(2), atol=3e-7)
    np.testing.assert_allclose(np.abs(matrix[0]), np.array([1, 2, 0]) / np.sqrt(5), atol=1e-5)


def test_a_path_in_a_plane_lies_on_its_surface():
    """Projected on its principal plane, a path of two parameters has the surface's heights."""
    path = descend(beale, optax.adam(0.05), jnp.array([1.0, 1.5]), 30)
    found = principal_directions(path)
    np.testing.assert_allclose(found.variance_shares.sum(), 1.0, rtol=1e-12)
    coordinates = project(path, path[-1], found.directions)
    np.testing.assert_allclose(coordinates[-1], 0.0, atol=1e-12)
    heights = surface(beale, path[-1], found.directions, *coordinates.T)
    # A height's rounding: its gradient, up to 100 here, by a coordinate's 1e-7.
    np.testing.assert_allclose(np.diag(heights), beale(path), rtol=1e-4, atol=1e-5)


def test_projection_on_directions_that_are_not_orthogonal(key):
    path, origin = run_of(key, 5), jax.tree.map(lambda leaf: leaf[0], run_of(key, 1))
    directions = [
        jax.tree.map(lambda leaf, i=i: leaf[i], run_of(jax.random.key(3), 2)) for i in range(2)
    ]
    matrix = np.concatenate([flat(each) for each in directions])
    assert abs(matrix[0] @ matrix[1]) > 0.9 * (matrix[0] @ matrix[0])
    expected = np.linalg.lstsq(matrix.T, (flat(path, 5) - flat(origin)).T, rcond=None)[0].T
    found = project(path, origin, directions)
    # The normal equations lose twice the digits of the directions' near-dependence, about 1e2.
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)
    known = np.array([[0.0, 0.0], [1.5, -2.0]])
    points = jax.tree.map(
        lambda start, one, other: np.stack([np.float64(start) + a * one + b * other
                                            for a, b in known]),
        *(jax.tree.map(np.float64, tree) for tree in (origin, *directions)),
    )  # fmt: skip
    np.testing.assert_allclose(project(points, origin, directions), known, atol=1e-9)


LINE = jnp.outer(jnp.arange(4.0), jnp.array([1.0, 2.0, 3.0]))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: descend(beale, optax.sgd(0.1), jnp.zeros(2), 0), "at least 1 update, got 0"),
        (lambda: principal_directions(LINE), "count must be 1 to 1"),
        (lambda: principal_directions(LINE[:1]), "count must be 1 to 0"),
        (lambda: principal_directions(LINE, count=0), "got 0"),
        (lambda: principal_directions(LINE.at[1].set(jnp.nan)), "must be finite"),
        (lambda: principal_directions({"a": LINE, "b": LINE[1:]}), "got lengths [3, 4]"),
        (lambda: principal_directions(jnp.float32(1.0)), "got lengths [0]"),
        (lambda: project(LINE, jnp.zeros(3), [LINE[1], LINE[2]]), "must not depend"),
        (lambda: project(LINE, jnp.zeros(3), [jnp.zeros(3)]), "must not depend"),
        (lambda: project(LINE, jnp.zeros(2), [jnp.ones(2)]), "got {'': (3,)}"),
        (lambda: project(LINE, jnp.zeros(3), []), "got none"),
    ],
)
def test_refuses(call, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        call()


@pytest.mark.parametrize(
    "optimizer",
    [
        optimizers.sam(optimizers.sgd(0.1)),
        optax.contrib.sam(optax.sgd(0.1), optax.sgd(0.05), opaque_mode=True),
        optax.lbfgs(),
        optax.chain(optax.sgd(0.1), optax.contrib.reduce_on_plateau()),
    ],
    ids=["sam", "optax's sam", "lbfgs", "reduce_on_plateau"],
)
def test_optimizers_get_what_they_ask_for(optimizer):
    path = descend(lambda x: jnp.sum(x**2), optimizer, jnp.array([1.0, -2.0]), 20)
    assert jnp.linalg.norm(path[-1]) < 0.1
