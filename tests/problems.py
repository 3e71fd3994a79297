"""Two small problems for optimizers, stepped alike in NumPy's float64 and JAX's float32.

Each is a start and a function `gradient(xp, w)` with xp either `numpy` or `jax.numpy`.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

STEPS = 100


class Problem(NamedTuple):
    """Where to start, (n,) in float64, and the gradient by hand."""

    start: np.ndarray
    gradient: Any


CURVATURE = np.array([100.0, 10.0, 1.0, 0.01])


def quadratic_gradient(xp, w):
    """f(w) = sum(c w^2) / 2, of condition number 10,000."""
    return xp.asarray(CURVATURE, w.dtype) * w


DRAW = np.random.default_rng(0)
INPUTS, TARGETS = DRAW.normal(size=(16, 5)), DRAW.normal(size=(16, 3))
SHAPES = ((5, 8), (8,), (8, 3), (3,))
SIZES = [int(np.prod(shape)) for shape in SHAPES]


def mlp_gradient(xp, w):
    """Back-propagation through 5-8-3 with tanh and half the mean squared error."""
    x, y = xp.asarray(INPUTS, w.dtype), xp.asarray(TARGETS, w.dtype)
    cuts = np.cumsum(SIZES)[:-1]
    parts = xp.split(w, cuts)
    w1, b1, w2, b2 = (part.reshape(shape) for part, shape in zip(parts, SHAPES, strict=True))
    hidden = xp.tanh(x @ w1 + b1)
    error = (hidden @ w2 + b2 - y) / len(x)
    back = (error @ w2.T) * (1 - hidden**2)
    return xp.concatenate(
        [(x.T @ back).ravel(), back.sum(0), (hidden.T @ error).ravel(), error.sum(0)]
    )


PROBLEMS = {
    "quadratic": Problem(np.array([1.0, -2.0, 3.0, -4.0]), quadratic_gradient),
    "mlp": Problem(0.5 * DRAW.normal(size=sum(SIZES)), mlp_gradient),
}

MIXING, GOAL = DRAW.normal(size=(9, 6)), DRAW.normal(size=(9, 4))


def matrix_gradient(xp, w):
    """f(W) = |A W - B|^2 / 18, for W of 6 inputs and 4 outputs."""
    mixing, goal = xp.asarray(MIXING, w.dtype), xp.asarray(GOAL, w.dtype)
    return mixing.T @ (mixing @ w - goal) / len(MIXING)


MATRIX = Problem(2.0 * DRAW.normal(size=(6, 4)), matrix_gradient)


def for_leaf(optimizer, name):
    """The optimizer of a bare array, which it sees as a leaf of this name."""

    def update(gradient, state, params):
        moved, state = optimizer.update({name: gradient}, state, {name: params})
        return moved[name], state

    return optax.GradientTransformation(lambda params: optimizer.init({name: params}), update)


def trajectory(optimizer, problem, observe=lambda w, state: w, dtype=jnp.float32):
    """The parameters after each step, (STEPS, n)."""

    def step(carry, _):
        w, state = carry
        updates, state = optimizer.update(problem.gradient(jnp, w), state, w)
        w = optax.apply_updates(w, updates)
        return (w, state), observe(w, state)

    @jax.jit
    def run(start):
        return jax.lax.scan(step, (start, optimizer.init(start)), None, STEPS)[1]

    return run(jnp.asarray(problem.start, dtype))


def relative_error(path, expected):
    """The largest error of a path, over the steps, relative to each coordinate's own scale.

    A path that crosses zero has no relative error at that point, so the scale is the largest
    value that the coordinate takes.
    """
    path, expected = np.asarray(path, np.float64), np.asarray(expected)
    return (np.abs(path - expected).max(0) / np.abs(expected).max(0)).max()
