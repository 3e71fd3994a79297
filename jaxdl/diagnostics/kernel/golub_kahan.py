"""The largest singular values of a linear map that is known by its products alone."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Products = Callable[[Array], Array]
Grown = tuple[Array, Array]

SPARE = 16
"""Steps beyond four a value, so that the values at the end of a dense spectrum converge too."""


class Largest(NamedTuple):
    """Singular values from the largest down, of each of several maps.

    Attributes:
        values: (maps, count).
        residual: a singular value of the map lies within this of the value, up to rounding;
            (maps, count).
    """

    values: Float[Array, "maps count"]
    residual: Float[Array, "maps count"]


def largest_singular_values(
    forward: Products, backward: Products, inputs: Float[Array, "maps inputs"], outputs: int,
    count: int,
) -> Largest:  # fmt: skip
    r"""Golub-Kahan bidiagonalisation of several maps side by side, every basis orthogonalised.

    $$A V_m = U_m B, \qquad A^\top U_m = V_m B^\top + r e_m^\top$$

    with a bidiagonal B of m steps, whose singular values s = (U y)^T A (V x) are those of A but for
    ||r|| |y_m|. Where a basis cannot grow it goes on from a random direction, so equal singular
    values are found as often as they are there.

    Arguments:
        forward: v -> A v, (maps, inputs) -> (maps, outputs).
        backward: u -> A^T u.
        inputs: zeros of the shape and dtype of v.
        outputs: the numbers of u.
        count: how many values; at most the smaller side of A.

    Example:
        >>> matrix = jnp.diag(jnp.array([3.0, 2.0, 2.0, 1.0]))
        >>> found = largest_singular_values(
        ...     lambda v: v @ matrix.T, lambda u: u @ matrix, jnp.zeros((1, 4)), 4, 3)
        >>> found.values.round(4).tolist()
        [[3.0, 2.0, 2.0]]

    Source: Golub and Kahan (1965); Golub and Van Loan (2013), section 10.4.
    """
    maps, size = inputs.shape
    if outputs < size:  # so that B's remainder vanishes where it is as large as A
        forward, backward, size, outputs = backward, forward, outputs, size
    steps = min(size, 4 * count + SPARE)
    kind = inputs.dtype
    draws = jax.random.normal(jax.random.key(0), (steps + 1, size + outputs), kind)
    rounding = 10 * jnp.finfo(kind).eps * (size + outputs) ** 0.5

    def grown(basis: Array, place: Any, new: Array, drawn: Array, scale: Array) -> Grown:
        """The length of what is new, and the unit vector orthogonal to the basis so far."""
        known = jnp.arange(basis.shape[1]) < place
        basis = jnp.where(known[None, :, None], basis, 0)

        def apart(vector: Array) -> Array:
            for _ in range(2):  # twice is enough (Giraud et al. 2005)
                shares = jnp.einsum("bni,bi->bn", basis, vector, precision="highest")
                vector = vector - jnp.einsum("bn,bni->bi", shares, basis, precision="highest")
            return vector

        new = apart(new)
        length = jnp.linalg.norm(new, axis=1)
        ended = length <= rounding * scale
        other = apart(jnp.broadcast_to(drawn, new.shape))
        unit = jnp.where(ended[:, None], other, new)
        norm = jnp.linalg.norm(unit, axis=1, keepdims=True)
        return jnp.where(ended, 0, length), unit / jnp.where(norm > 0, norm, 1)

    def step(place: Array, carry: tuple[Array, ...]) -> tuple[Array, ...]:
        right, left, alphas, betas, scale = carry
        v = right[:, place]
        alpha, u = grown(left, place, forward(v), draws[place, size:], scale)
        scale = jnp.maximum(scale, alpha)
        left = left.at[:, place].set(u)
        beta, v = grown(right, place + 1, backward(u), draws[place + 1, :size], scale)
        right = right.at[:, place + 1].set(v)
        scale = jnp.maximum(scale, beta)
        return right, left, alphas.at[:, place].set(alpha), betas.at[:, place].set(beta), scale

    first = draws[0, :size] / jnp.linalg.norm(draws[0, :size])
    right = jnp.zeros((maps, steps + 1, size), kind).at[:, 0].set(first)
    start = (
        right, jnp.zeros((maps, steps, outputs), kind), jnp.zeros((maps, steps), kind),
        jnp.zeros((maps, steps), kind), jnp.zeros(maps, kind),
    )  # fmt: skip
    _, _, alphas, betas, _ = jax.lax.fori_loop(0, steps, step, start)
    above = jax.vmap(lambda beta: jnp.diag(beta[:-1], 1))(betas)
    left, values, _ = jnp.linalg.svd(jax.vmap(jnp.diag)(alphas) + above)
    # B's last row belongs to the last u, so r reaches the values through U.
    residual = betas[:, -1:] * jnp.abs(left[:, -1])
    return Largest(values[:, :count], residual[:, :count])
