r"""Lanczos' method: the ends of a symmetric matrix's spectrum, from products with it alone.

$$A q_j = \beta_{j-1} q_{j-1} + \alpha_j q_j + \beta_j q_{j+1}, \qquad A Q_j = Q_j T_j + \beta_j
  q_{j+1} e_j^T$$

`matfree` 0.6.3 was tried for it, and does not hold where the Krylov space is exhausted: it divides
by a length of 0 for the zero matrix or an eigenvector to start from (NaN), and gives 1.50 for the
largest eigenvalue of a float32 identity, whose basis it fills with rounding. It makes a fixed
number of products, has no restart, and orthogonalises against all rows, empty ones too, which
would cost as much as the products of a small network. So here is a short one:

- it stops when a pair has converged, or the space is exhausted;
- a full basis is restarted from its best half (thick restart), so memory does not grow;
- every few steps it measures whether the next vector is still orthogonal to the basis, and sooner
  where a short vector makes rounding grow. A basis that is not is orthogonalised in full from then
  on, and the loss is kept to be told.

Source: Lanczos (1950); Paige (1980) for when orthogonality is lost: where a pair converges; Wu and
Simon (2000), section 3, for the thick restart.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

CHECK = 4
"""Steps from one look at convergence and orthogonality to the next."""

PARTS = 8
"""Of the columns, one after another of which is turned in a restart."""

Product = Callable[[Array], Array]


class Krylov(NamedTuple):
    """A Krylov space that grows.

    Attributes:
        basis: (rows, size), orthonormal; the rows from `filled` on are 0.
        matrix: (rows, rows), the lower half of the basis' T.
        vector: (size,), the unit vector that comes next; 0 if there is none.
        length: beta, the length that it had.
        behind: (size,), the part of its product that lies in the basis' span.
        coupling: (rows,), the products of `behind` with the basis.
        filled: rows of the basis.
        products: made so far.
        careful: whether each vector is orthogonalised against the whole basis.
        overlap: the largest product of a unit vector with the basis that was seen.
        risk: how large a product with the basis may be by now: rounding, grown by scale / length
            in every step since it was measured.
        scale: the largest entry of T in size, or of what was measured before.
        done: whether the method has ended.
    """

    basis: Array
    matrix: Array
    vector: Array
    length: Array
    behind: Array
    coupling: Array
    filled: Array
    products: Array
    careful: Array
    overlap: Array
    risk: Array
    scale: Array
    done: Array


class Search(NamedTuple):
    """A Krylov space and, in the end, the vector of its largest Ritz pair.

    Attributes:
        space: it grows until it is done.
        vector: (size,), the vector of the last product.
        image: (size,), that product.
        ended: whether the vector is the unit vector of the largest Ritz pair.
    """

    space: Krylov
    vector: Array
    image: Array
    ended: Array


def begin(start: Array, rows: int, *, careful: bool, scale: Array | float = 0.0) -> Krylov:
    """The empty space that starts from a vector, with room for some rows.

    Arguments:
        start: (size,), of any length.
        rows: of the basis.
        careful: orthogonalise every vector against the whole basis, from the first on.
        scale: the size of an eigenvalue that is known already.
    """
    dtype, size = start.dtype, start.shape[0]
    zero = jnp.zeros((), dtype)
    vector, length = _unit(start)
    return Krylov(
        basis=jnp.zeros((rows, size), dtype),
        matrix=jnp.zeros((rows, rows), dtype),
        vector=vector,
        length=zero,
        behind=jnp.zeros_like(start),
        coupling=jnp.zeros(rows, dtype),
        filled=jnp.zeros((), jnp.int32),
        products=jnp.zeros((), jnp.int32),
        careful=jnp.asarray(careful),
        overlap=zero,
        risk=jnp.asarray(jnp.finfo(dtype).eps, dtype),
        scale=jnp.asarray(scale, dtype),
        done=~(length > 0),
    )


def advance(
    product: Product,
    space: Krylov,
    locked: Array | None,
    *,
    tolerance: float | None,
    iterations: int,
) -> Krylov:
    """One product more.

    Arguments:
        product: v -> A v.
        space: if it is done, its rows and numbers are left as they were.
        locked: (some, size), vectors to stay orthogonal to; None for none.
        tolerance: the residual of the largest pair over the largest eigenvalue in size at which the
            method ends; None fills the basis once, and orthogonalises every vector in full.
        iterations: the most products.
    """
    place, vector = space.filled, space.vector
    image = product(vector) - space.behind
    inside = vector @ image
    image = image - inside * vector
    basis = space.basis.at[place].set(vector)
    matrix = space.matrix.at[place].set(space.coupling.at[place].set(inside))
    if locked is not None:
        image = _without(image, locked)
    kept: Array | float = 1.0
    if tolerance is None:
        image = _without(image, basis)
    following, length = _unit(image)
    if tolerance is None:
        # What was left may be rounding: its direction is checked again at full length.
        following, kept = _again(following, basis)
    grows = ~space.done
    scale = jnp.maximum(space.scale, jnp.where(grows, jnp.max(jnp.abs(matrix[place])), 0))
    exhausted = ~(length > 10 * jnp.finfo(length.dtype).eps * scale) | ~(jnp.asarray(kept) > 0.5)
    length = jnp.where(exhausted, 0, length)
    after = space._replace(
        basis=basis,
        matrix=matrix,
        vector=jnp.where(exhausted, 0, following),
        length=length,
        behind=length * vector,
        coupling=jnp.zeros_like(space.coupling).at[place].set(length),
        filled=place + grows,
        products=space.products + grows,
        risk=space.risk * scale / jnp.where(length > 0, length, 1),
        scale=scale,
    )
    full = after.filled == len(basis)
    if tolerance is None:
        return after._replace(done=full | exhausted | ~jnp.isfinite(scale))
    risky = after.careful | (after.risk > jnp.sqrt(jnp.finfo(length.dtype).eps))
    due = full | exhausted | risky | (after.filled % CHECK == 0) | (length <= tolerance * scale)
    due = due | (after.products >= iterations) | ~jnp.isfinite(scale)
    # Only what changes goes through the condition: the basis would be copied in every step.
    changed = lax.cond(
        due & grows,
        lambda: _look(after, tolerance, iterations),
        lambda: tuple(getattr(after, n) for n in LOOKED),
    )
    return after._replace(**dict(zip(LOOKED, changed, strict=True)))


def seek(
    product: Product,
    search: Search,
    locked: Array | None,
    *,
    tolerance: float,
    iterations: int,
) -> Search:
    """One product more: `advance`, or the product of what was found if the space is done.

    It is made here, not after the loop, so that a program holds the product once, and what it has
    in common for all vectors is computed once.
    """
    space = search.space
    vector = lax.cond(space.done, lambda: largest(space), lambda: space.vector)
    image = product(vector)
    # That the row depends on the condition says that it is written after what the condition reads.
    space = space._replace(vector=vector)
    after = advance(lambda _: image, space, locked, tolerance=tolerance, iterations=iterations)
    return Search(after, vector, image, space.done)


def converge(step: Callable[[Search], Search], space: Krylov, *, on_host: bool) -> Search:
    """The largest Ritz pair, when the method has ended.

    Arguments:
        step: `seek` with its arguments.
        space: the one to start from.
        on_host: whether a loop on the host calls `step`.
    """

    def further(search: Search) -> Search:
        space = search.space
        if not on_host:
            space = _roomy(space)
        elif jax.device_get(_is_full(space)):
            space = jax.jit(_roomy)(space)
        return step(search._replace(space=space))

    nothing = jnp.zeros_like(space.vector)
    search = Search(space, nothing, nothing, jnp.zeros((), bool))
    more: Search = drive(lambda search: ~search.ended, further, search, on_host=on_host)
    return more


def largest(space: Krylov) -> Array:
    """The unit vector of the largest Ritz pair, (size,)."""
    _, vectors = ritz(space)
    return _unit(vectors[:, -1] @ space.basis)[0]


def ritz(space: Krylov) -> tuple[Array, Array]:
    """Eigenvalues of T in ascending order and its eigenvectors, as columns.

    Those of the rows that are not filled come first, below all others.
    """
    lower = jnp.tril(space.matrix)
    matrix = lower + jnp.tril(lower, -1).T
    bound = jnp.max(jnp.sum(jnp.abs(matrix), axis=1))
    empty = jnp.arange(len(matrix)) >= space.filled
    values, vectors = jnp.linalg.eigh(
        matrix - jnp.diag(jnp.where(empty, 2 * bound + 1, 0)), symmetrize_input=False
    )
    return values, vectors


LOOKED = ("vector", "careful", "overlap", "risk", "scale", "done")
"""What a look may change."""


def _look(space: Krylov, tolerance: float, iterations: int) -> tuple[Array, ...]:
    """End, if the largest pair has converged; orthogonalise what is not orthogonal."""
    values, vectors = ritz(space)
    rows = len(space.basis)
    is_real = jnp.arange(rows) >= rows - space.filled
    scale = jnp.maximum(space.scale, jnp.max(jnp.where(is_real, jnp.abs(values), 0)))
    residual = space.length * jnp.abs(vectors[space.filled - 1, -1])
    finite = jnp.isfinite(scale) & jnp.isfinite(residual)
    done = (residual <= tolerance * scale) | (space.products >= iterations) | ~finite
    overlap = jnp.max(jnp.abs(space.basis @ space.vector))
    lost = space.careful | (overlap > jnp.sqrt(jnp.finfo(overlap.dtype).eps))
    vector = lax.cond(
        lost,
        lambda vector, basis: _again(_again(vector, basis)[0], basis)[0],
        lambda vector, _: vector,
        space.vector,
        space.basis,
    )
    risk = jnp.maximum(overlap, jnp.finfo(overlap.dtype).eps)
    return vector, lost, jnp.maximum(space.overlap, overlap), risk, scale, done


def _is_full(space: Krylov) -> Array:
    return ~space.done & (space.filled == len(space.basis))


def _roomy(space: Krylov) -> Krylov:
    """A full space of the best half of its pairs, whose T has an arrow's shape from then on.

    The basis is turned a part of its columns after another, in no turns if it is not full: a
    condition, or a product of all of it, would copy it.
    """
    rows, size = space.basis.shape
    kept, width = rows // 2, min(size, max(-(-size // PARTS), 2048))
    full = _is_full(space)
    values, vectors = lax.cond(
        full,
        lambda: ritz(space),
        lambda: (jnp.zeros_like(space.coupling), jnp.zeros_like(space.matrix)),
    )
    best = vectors[:, -kept:]
    ties = space.length * best[-1]

    def going(state: tuple[Array, Array, Array]) -> Array:
        return full & (state[0] < size)

    def turned(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        first, basis, behind = state
        place = jnp.minimum(first, size - width)
        is_new = place + jnp.arange(width) >= first
        corner = (jnp.zeros_like(place), place)
        old = lax.dynamic_slice(basis, corner, (rows, width))
        half = best.T @ old
        new = jnp.where(is_new, jnp.zeros_like(old).at[:kept].set(half), old)
        tied = jnp.where(is_new, ties @ half, lax.dynamic_slice(behind, (place,), (width,)))
        return (
            first + width,
            lax.dynamic_update_slice(basis, new, corner),
            lax.dynamic_update_slice(behind, tied, (place,)),
        )

    start = (jnp.zeros((), jnp.int32), space.basis, space.behind)
    _, basis, behind = lax.while_loop(going, turned, start)
    diagonal = jnp.zeros(rows, values.dtype).at[:kept].set(values[-kept:])
    coupling = jnp.zeros_like(space.coupling).at[:kept].set(ties)
    return space._replace(
        basis=basis,
        matrix=jnp.where(full, jnp.diag(diagonal), space.matrix),
        behind=behind,
        coupling=jnp.where(full, coupling, space.coupling),
        filled=jnp.where(full, kept, space.filled),
    )


def _unit(vector: Array) -> tuple[Array, Array]:
    length = jnp.linalg.norm(vector)
    return vector / jnp.where(length > 0, length, 1), length


def _without(vector: Array, rows: Array) -> Array:
    return vector - (rows @ vector) @ rows


def _again(vector: Array, basis: Array) -> tuple[Array, Array]:
    return _unit(_without(vector, basis))


def drive(going: Any, step: Any, state: Any, *, on_host: bool) -> Any:
    """`lax.while_loop`, or the same loop on the host."""
    if not on_host:
        return lax.while_loop(going, step, state)
    while jax.device_get(going(state)):
        state = step(state)
    return state
