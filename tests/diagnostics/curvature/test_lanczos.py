"""Lanczos' method on matrices that are hard for it, against their known eigenvalues."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.diagnostics.curvature import lanczos

SIZE = 200
HARD = {
    "rank_3": np.r_[np.zeros(SIZE - 3), 1, 2, 5],
    "zero": np.zeros(SIZE),
    "identity": np.ones(SIZE),
    "condition_1e8": np.geomspace(1e-8, 1, SIZE),
    "cluster": np.r_[np.linspace(0.98, 1, 10), np.linspace(0, 0.97, SIZE - 10)],
    "negative": -np.linspace(1, 2, SIZE),
    "mostly_negative": np.r_[-100, -50, np.linspace(0, 1, SIZE - 2)],
    "uniform": np.linspace(0, 1, SIZE),
}


def dense(values, dtype=jnp.float32):
    basis = np.linalg.qr(np.random.default_rng(0).normal(size=(len(values), len(values))))[0]
    return jnp.asarray(basis * values @ basis.T, dtype)


@functools.partial(jax.jit, static_argnames=("rows", "careful", "tolerance", "iterations"))
def largest(matrix, start, *, rows=32, careful=False, tolerance=3e-4, iterations=1000):
    space, vector, image, _ = lanczos.converge(
        lambda search: lanczos.seek(
            lambda v: matrix @ v, search, None, tolerance=tolerance, iterations=iterations
        ),
        lanczos.begin(start, rows, careful=careful),
        on_host=False,
    )
    value = vector @ image
    return value, jnp.linalg.norm(image - value * vector), space


def start(size=SIZE, seed=1):
    return jnp.asarray(np.random.default_rng(seed).normal(size=size), jnp.float32)


@pytest.mark.parametrize("careful", [False, True])
@pytest.mark.parametrize("name", HARD)
def test_the_largest_eigenvalue_of_hard_matrices(name, careful):
    values = HARD[name]
    found, residual, space = largest(dense(values), start(), careful=careful)
    # Rounding beside the residual that was asked for; the gap to the next eigenvalue is unknown.
    scale = abs(values).max()
    assert float(residual) <= 4e-4 * scale
    np.testing.assert_allclose(found, values.max(), atol=4e-4 * scale)
    assert int(space.products) < 100


@pytest.mark.parametrize("rows", [2, 3, 8, 64])
def test_a_restart_keeps_what_was_found(rows):
    """With room for few vectors it takes more products, and arrives at the same eigenvalue."""
    found, _, space = largest(dense(HARD["condition_1e8"]), start(), rows=rows, tolerance=1e-4)
    np.testing.assert_allclose(found, 1, rtol=1e-6)
    assert int(space.filled) <= rows < 64 or int(space.products) == int(space.filled)


def test_the_restarts_t_is_the_bases():
    """Q A Q^T is the T of a restarted basis, whose shape is an arrow and a diagonal."""
    matrix = dense(HARD["uniform"])
    _, _, space = largest(matrix, start(), rows=12, careful=True, tolerance=1e-7, iterations=32)
    filled = int(space.filled)
    assert int(space.products) > 12 > filled > 6  # it was restarted, and went on
    basis = np.asarray(space.basis[:filled], np.float64)
    np.testing.assert_allclose(basis @ basis.T, np.eye(filled), atol=1e-5)
    lower = np.tril(space.matrix[:filled, :filled])
    whole = lower + np.tril(lower, -1).T
    np.testing.assert_allclose(basis @ np.asarray(matrix, np.float64) @ basis.T, whole, atol=1e-5)


def test_a_basis_is_turned_part_by_part():
    """The last part overlaps the one before it, and is not turned twice."""
    size = 30_011
    assert size % -(-size // lanczos.PARTS)
    assert size // lanczos.PARTS > 2048
    diagonal = jnp.linspace(0, 1, size)
    found = jax.jit(
        lambda start: lanczos.converge(
            lambda search: lanczos.seek(
                lambda v: diagonal * v, search, None, tolerance=1e-7, iterations=20
            ),
            lanczos.begin(start, 8, careful=True),
            on_host=False,
        )
    )(start(size))
    filled = int(found.space.filled)
    assert int(found.space.products) == 20 > 8 >= filled
    basis = np.asarray(found.space.basis[:filled], np.float64)
    np.testing.assert_allclose(basis @ basis.T, np.eye(filled), atol=1e-5)
    lower = np.tril(found.space.matrix[:filled, :filled])
    whole = lower + np.tril(lower, -1).T
    np.testing.assert_allclose(basis * np.asarray(diagonal) @ basis.T, whole, atol=1e-5)
    np.testing.assert_array_equal(found.image, diagonal * found.vector)


def test_an_eigenvector_to_start_from_is_a_space_of_one_vector():
    values = np.arange(1, SIZE + 1.0)
    found, residual, space = largest(jnp.diag(jnp.asarray(values, jnp.float32)), jnp.eye(SIZE)[3])
    assert (float(found), float(residual), int(space.products)) == (4.0, 0.0, 1)


def test_a_loss_of_orthogonality_is_seen_and_mended():
    """A pair that converges early makes the plain recurrence lose it: Paige's theorem."""
    values = np.r_[np.linspace(0, 1, SIZE - 1), 1e4]
    run = functools.partial(largest, -dense(values), start(), rows=64, iterations=64)
    *_, space = run(tolerance=1e-7)
    assert float(space.overlap) > np.sqrt(np.finfo(np.float32).eps)
    assert bool(space.careful)
    # From the step on in which it was seen.
    *_, careful = run(tolerance=1e-7, careful=True)
    basis = np.asarray(careful.basis[: int(careful.filled)], np.float64)
    np.testing.assert_allclose(basis @ basis.T, np.eye(len(basis)), atol=1e-5)


def test_what_is_not_finite_ends_the_loop():
    found, _, space = largest(jnp.full((SIZE, SIZE), jnp.nan), start())
    assert np.isnan(found)
    assert int(space.products) <= lanczos.CHECK
