"""Paths of optimizers over a function, and the plane that holds most of a path."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxdl.diagnostics.landscape.surface import check_directions
from jaxdl.showing import counted
from jaxdl.training.steps import extra_arguments, uphill

# Parameters converted to float64 at a time: half a gigabyte for a path of 1,000 points.
COLUMNS_AT_ONCE = 1 << 16


class PrincipalDirections(NamedTuple):
    """The directions in which a path moved most.

    Attributes:
        directions: orthonormal trees like the parameters. The first explains most. Each points to
            where the path began.
        variance_shares: the share of the squared distances from the last point that each direction
            explains.
    """

    directions: tuple[Any, ...]
    variance_shares: Float[np.ndarray, " directions"]

    def __repr__(self) -> str:
        shares = ", ".join(f"{100 * float(share):.3g} %" for share in self.variance_shares)
        directions = counted(len(self.directions), "direction")
        return f"PrincipalDirections({directions}: {shares} of the path)"


def descend(
    function: Callable[[Any], Array],
    optimizer: optax.GradientTransformation,
    start: Any,
    steps: int,
) -> Any:
    r"""The path of an optimizer over a function, in one scan.

    $$\theta_{t+1} = \theta_t + u_t(\nabla f(\theta_t))$$

    A pure function: it may be jitted, and mapped over starts, or over learning rates if the
    optimizer is made inside. The gradient of a complex parameter is that of its two parts: the path
    goes downhill.

    Arguments:
        function: f, a pure function of the parameters that returns a scalar.
        optimizer: any of `jaxdl.optimizers` or optax, line searches and SAM included. The path is
            that of the parameters that it holds (under `nesterov`, the look-ahead point).
        start: theta_0, an array or a tree.
        steps: updates; at least 1.

    Returns:
        A tree like `start` with a leading axis of steps + 1 points. The first is the start.

    Raises:
        ValueError: fewer than one step.

    Example:
        >>> descend(lambda x: x**2 / 2, optax.sgd(0.5), jnp.float32(8.0), 3).tolist()
        [8.0, 4.0, 2.0, 1.0]
    """
    if steps < 1:
        raise ValueError(f"steps must be at least 1 update, got {steps}; pass 1 or more")
    update = optax.with_extra_args_support(optimizer).update

    def step(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], Any]:
        params, opt_state = carry
        value, gradient = jax.value_and_grad(function)(params)
        gradient = uphill(gradient)
        extra = extra_arguments(
            update,
            value=value,
            gradient=gradient,
            value_of=function,
            gradient_of=lambda params: uphill(jax.grad(function)(params)),
        )
        updates, opt_state = update(gradient, opt_state, params, **extra)
        params = optax.apply_updates(params, updates)
        return (params, opt_state), params

    start = jax.tree.map(jnp.asarray, start)
    _, path = jax.lax.scan(step, (start, optimizer.init(start)), length=steps)
    return jax.tree.map(lambda first, rest: jnp.concatenate([first[None], rest]), start, path)


def principal_directions(path: Any, *, count: int = 2) -> PrincipalDirections:
    r"""The orthonormal directions that hold most of a path about its last point.

    $$M = [\theta_0 - \theta_n, \ldots, \theta_{n-1} - \theta_n]^\top, \qquad
      M M^\top u_i = \lambda_i u_i, \qquad d_i = M^\top u_i / \sqrt{\lambda_i}$$

    These are the leading right singular vectors of M. The rows are not centred: distances are from
    the last point, and the plane through this point is the closest to the path. All sums are in
    float64, and form an n x n matrix for any number of parameters. A complex parameter is the pair
    of its parts.

    Arguments:
        path: a tree like the parameters with a leading axis of points, as `descend` returns it.
        count: the number of directions.

    Raises:
        ValueError: leaves with different numbers of points; values that are not finite; a path
            that spans fewer than `count` dimensions.

    Example:
        >>> path = jnp.array([[4.0, 1.0], [2.0, -1.0], [0.0, 0.0]])
        >>> found = principal_directions(path)
        >>> found.variance_shares.round(3).tolist()
        [0.919, 0.081]

    Source: Li, Xu, Taylor, Studer and Goldstein (2018), section 7.2.
    """
    leaves, tree = jax.tree.flatten(path)
    given = [np.asarray(leaf) for leaf in leaves]
    points = _points(given)
    leaves = [_reals(leaf) for leaf in given]
    gram = np.zeros((points - 1, points - 1))
    for _, block in _differences(leaves, [leaf[-1] for leaf in leaves]):
        gram += block[:-1] @ block[:-1].T
    if not np.all(np.isfinite(gram)):
        raise ValueError(
            "path must be finite, got NaN or infinite parameters; end it before the run diverged"
        )
    eigenvalues, vectors = np.linalg.eigh(gram)
    eigenvalues, vectors = eigenvalues[::-1], vectors[:, ::-1]
    # Eigenvalues below this are rounding errors, and their directions are noise.
    smallest = points * np.finfo(np.float64).eps * np.max(eigenvalues, initial=0.0)
    dimensions = int(np.sum(eigenvalues > smallest))
    if not 1 <= count <= dimensions:
        raise ValueError(
            f"count must be 1 to {dimensions}, the dimensions that the path's {points} points span "
            f"about the last, got {count}; pass more points of the run, or fewer directions"
        )
    weights = vectors[:, :count] / np.sqrt(eigenvalues[:count])
    flat = [np.empty((count, leaf[0].size)) for leaf in leaves]
    for (number, columns), block in _differences(leaves, [leaf[-1] for leaf in leaves]):
        flat[number][:, columns] = weights.T @ block[:-1]
    _orthonormalize(flat)

    def as_tree(index: int) -> Any:
        rows = zip((each[index] for each in flat), given, strict=True)
        return jax.tree.unflatten(tree, [_like(row, leaf[0]) for row, leaf in rows])

    directions = tuple(as_tree(index) for index in range(count))
    return PrincipalDirections(directions, eigenvalues[:count] / np.trace(gram))


def project(
    path: Any, origin: Any, directions: Sequence[Any]
) -> Float[np.ndarray, "points directions"]:
    r"""A path's coordinates in a plane: those of the nearest point of the plane.

    $$c_t = (D D^\top)^{-1} D\, (\theta_t - \theta)$$

    where the rows of D are the directions, orthogonal or not. The coordinates are in float64. They
    are the coordinates of `surface` with `params=origin`, so they are real for complex parameters
    too, whose parts count by themselves.

    Arguments:
        path: a tree as the parameters with a leading axis of points.
        origin: theta, the parameters that the plane goes through.
        directions: trees like `origin`.

    Raises:
        ValueError: directions or points of another structure than the origin; directions that are
            linearly dependent.

    Example:
        >>> directions = [jnp.array([1.0, 0.0, 0.0]), jnp.array([1.0, 1.0, 0.0])]
        >>> project(jnp.array([[5.0, 2.0, 7.0]]), jnp.zeros(3), directions).round(6).tolist()
        [[3.0, 2.0]]
    """
    check_directions(origin, directions)
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(path)]
    points = _points(leaves)
    check_directions(origin, [jax.tree.map(lambda leaf: leaf[0], path)])
    origins = [np.asarray(leaf) for leaf in jax.tree.leaves(origin)]
    kinds = [np.iscomplexobj(leaf) for leaf in origins]
    leaves, origins = (list(map(_reals, each, kinds)) for each in (leaves, origins))
    by_leaf = zip(*(jax.tree.leaves(each) for each in directions), strict=True)
    along = [_reals(np.stack(parts), kind) for parts, kind in zip(by_leaf, kinds, strict=True)]
    gram = np.zeros((len(directions), len(directions)))
    products = np.zeros((len(directions), points))
    zeros = [np.zeros_like(leaf) for leaf in origins]
    blocks = zip(_differences(leaves, origins), _differences(along, zeros), strict=True)
    for (_, moved), (_, direction) in blocks:
        gram += direction @ direction.T
        products += direction @ moved.T
    if np.linalg.matrix_rank(gram, hermitian=True) < len(directions):
        raise ValueError(
            "directions must not depend on one another, got squared norms and products "
            f"{gram.tolist()}; pass directions that span as many dimensions as they are"
        )
    return np.linalg.solve(gram, products).T


def _reals(leaf: np.ndarray, is_complex: bool | None = None) -> np.ndarray:
    """The leaf; a complex one (or one of a complex parameter) as the pairs of its parts."""
    if np.iscomplexobj(leaf) if is_complex is None else is_complex:
        return np.stack([leaf.real, leaf.imag], -1)
    return leaf


def _like(row: np.ndarray, leaf: np.ndarray) -> Array:
    """The numbers of `_reals` in the shape and dtype of the leaf that they come from."""
    if np.iscomplexobj(leaf):
        row = row[0::2] + 1j * row[1::2]
    return jnp.asarray(row.reshape(leaf.shape), leaf.dtype)


def _points(leaves: Sequence[np.ndarray]) -> int:
    counts = {leaf.shape[0] if leaf.ndim else 0 for leaf in leaves}
    if len(counts) != 1 or min(counts) < 1:
        raise ValueError(
            "path must have one leading axis of points on every leaf, got lengths "
            f"{sorted(counts)}; stack the parameters of the run's points"
        )
    return counts.pop()


def _differences(
    leaves: Sequence[np.ndarray], origins: Sequence[np.ndarray]
) -> Iterator[tuple[tuple[int, slice], np.ndarray]]:
    """Leaf, columns and float64 differences (points, columns), some columns at a time."""
    for number, (leaf, origin) in enumerate(zip(leaves, origins, strict=True)):
        rows, origin_row = leaf.reshape(len(leaf), -1), np.asarray(origin).reshape(-1)
        for first in range(0, rows.shape[1], COLUMNS_AT_ONCE):
            columns = slice(first, first + COLUMNS_AT_ONCE)
            difference = rows[:, columns].astype(np.float64) - origin_row[columns].astype(
                np.float64
            )
            yield (number, columns), difference


def _orthonormalize(flat: Sequence[np.ndarray]) -> None:
    """Gram-Schmidt in place: remove from each direction what it shares with the earlier ones."""
    for index in range(len(flat[0])):
        for earlier in range(index):
            shared = sum(each[earlier] @ each[index] for each in flat)
            for each in flat:
                each[index] -= shared * each[earlier]
        norm = np.sqrt(sum(each[index] @ each[index] for each in flat))
        for each in flat:
            each[index] /= norm
