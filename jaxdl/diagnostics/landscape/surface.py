"""The loss around a point: its values over a line or a plane of directions, and random directions.

For the path of a run over such a plane see trajectories.py.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdl.checks import require_choice
from jaxdl.diagnostics.sizes import norm


def surface(
    loss: Callable[[Any], Array],
    params: Any,
    directions: Sequence[Any],
    *coordinates: Float[Array | np.ndarray, " _"],
    batch_size: int = 1,
) -> Float[Array, "..."]:
    r"""The loss on a grid around a point, one axis for each direction.

    $$s_{ij} = L(\theta + x_i\, d_1 + y_j\, d_2)$$

    A pure function: it may be jitted. A loss that is not finite stays NaN or infinite.

    Arguments:
        loss: L, a pure function of the parameters that returns a scalar.
        params: theta, any tree of floating-point or complex arrays.
        directions: d_1, d_2, ..., trees like `params`; one for a line, two for a plane.
        coordinates: x, y, ..., one array for each direction, in multiples of it.
        batch_size: points evaluated at once. More than 1 is faster if one point leaves the device
            idle, and needs that many times the memory.

    Raises:
        ValueError: not one array of coordinates for each direction; parameters of whole numbers; a
            direction with another tree or other shapes than the parameters, or complex where they
            are real; a loss that is no real scalar.

    Example:
        >>> def loss(params):
        ...     return jnp.sum(params["w"] ** 2)
        >>> line = surface(loss, {"w": jnp.zeros(2)}, [{"w": jnp.ones(2)}], jnp.arange(3.0))
        >>> line.tolist()
        [0.0, 2.0, 8.0]

    Source: Li, Xu, Taylor, Studer and Goldstein (2018), section 3.
    """
    check_directions(params, directions)
    if len(coordinates) != len(directions):
        raise ValueError(
            f"coordinates must be one array for each of the {len(directions)} directions, "
            f"got {len(coordinates)}; pass x for a line, x and y for a plane"
        )
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1 point, got {batch_size}; pass 1 or more")
    made = jax.eval_shape(loss, params)
    shape = getattr(made, "shape", None)
    if shape != ():
        raise ValueError(
            f"loss must return a scalar, got shape {shape}; take the mean over the batch"
        )
    if jnp.issubdtype(made.dtype, jnp.complexfloating):
        raise ValueError(
            f"loss must return a real number, got {made.dtype}; take its modulus or its real part"
        )

    def at(point: Float[Array, " directions"]) -> Array:
        def move(value: Array, *along: Array) -> Array:
            dtype = jnp.result_type(value)
            wide = jnp.promote_types(dtype, jnp.float32)  # coordinates are not half precision
            moved = jnp.asarray(value, wide)
            for x, direction in zip(point, along, strict=True):
                moved = moved + x.astype(wide) * jnp.asarray(direction, wide)
            return moved.astype(dtype)

        return loss(jax.tree.map(move, params, *directions))

    grid = jnp.meshgrid(*(jnp.asarray(each) for each in coordinates), indexing="ij")
    points = jnp.stack([axis.ravel() for axis in grid], axis=-1)
    heights: Array = jax.lax.map(at, points, batch_size=batch_size).reshape(grid[0].shape)
    return heights


def random_directions(
    key: PRNGKeyArray,
    params: Any,
    *,
    count: int = 2,
    normalization: Literal["filter", "layer"] | None = "filter",
) -> tuple[Any, ...]:
    r"""Standard normal directions in parameter space, with the parameters' own norms.

    $$d_{ij} \leftarrow \frac{d_{ij}}{\lVert d_{ij} \rVert}\, \lVert \theta_{ij} \rVert$$

    where i is the layer and j the filter: the weights into one output unit, an index of the
    kernel's last axis. Divide one ReLU layer by a factor and multiply the next by it: the network
    stays the same. With "filter" or "layer" the surface along these directions stays the same too.
    Without normalisation the rescaled network looks flatter or sharper. Leaves with fewer than two
    axes (biases, scales and shifts of norms) have the direction 0, as in the authors' code. Without
    normalisation they move too.

    In many dimensions the directions are nearly, not exactly, orthogonal. Of a complex leaf the
    direction is a complex normal, and a norm is that of the moduli. Norms are right for weights
    from the smallest float to the largest.

    Arguments:
        key: the key of the draws.
        params: theta, a tree of floating-point or complex arrays.
        count: the number of directions.
        normalization: "filter", "layer" (the norm of a whole kernel), or None for the normal draws.

    Raises:
        ValueError: no direction to draw; a leaf of whole numbers; a normalisation where
            no leaf has two axes; an unknown normalisation.

    Example:
        >>> params = {"kernel": jnp.array([[3.0, 0.0], [4.0, 2.0]]), "bias": jnp.ones(2)}
        >>> direction, = random_directions(jax.random.key(0), params, count=1)
        >>> jnp.linalg.norm(direction["kernel"], axis=0).round(5).tolist()
        [5.0, 2.0]
        >>> direction["bias"].tolist()
        [0.0, 0.0]

    Source: Li, Xu, Taylor, Studer and Goldstein (2018), section 4.
    """
    if normalization is not None:
        require_choice("normalization", normalization, ("filter", "layer"))
    if count < 1:
        raise ValueError(f"count must be at least 1 direction, got {count}; pass 1 or 2")
    leaves, tree = jax.tree.flatten(params)
    _check_inexact(leaves)
    if not any(jnp.ndim(leaf) >= (2 if normalization else 0) for leaf in leaves):
        raise ValueError(
            "params must hold a kernel (a leaf of two axes or more) to move, got shapes "
            f"{[jnp.shape(leaf) for leaf in leaves]}; pass normalization=None to move every leaf"
        )

    def draw(leaf_key: PRNGKeyArray, leaf: Array) -> Array:
        direction = jax.random.normal(leaf_key, jnp.shape(leaf), jnp.result_type(leaf))
        if normalization is None:
            return direction
        if jnp.ndim(leaf) < 2:
            return jnp.zeros_like(direction)
        axes = tuple(range(leaf.ndim - (normalization == "filter")))
        ratio = norm([leaf], axes) / norm([direction], axes)
        return (direction * ratio).astype(leaf.dtype)

    def draw_all(direction_key: PRNGKeyArray) -> Any:
        keys = jax.random.split(direction_key, len(leaves))
        return jax.tree.unflatten(tree, [draw(*pair) for pair in zip(keys, leaves, strict=True)])

    return tuple(draw_all(direction_key) for direction_key in jax.random.split(key, count))


def _check_inexact(leaves: Sequence[Any]) -> None:
    for leaf in leaves:
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.inexact):
            raise ValueError(
                "params must be floating-point or complex arrays, got a leaf of "
                f"{jnp.result_type(leaf)}; leave it out of the parameters"
            )


def check_directions(params: Any, directions: Sequence[Any]) -> None:
    """Refuse no directions, and those that the parameters cannot follow."""
    _check_inexact(jax.tree.leaves(params))
    if not directions:
        raise ValueError("directions must be at least one tree, got none; pass one or two")
    shapes = _shapes(params)
    for number, direction in enumerate(directions):
        if _shapes(direction) != shapes:
            raise ValueError(
                f"directions must have the parameters' tree and shapes {shapes}, got "
                f"{_shapes(direction)} at place {number}; "
                "draw them with random_directions, or find them with principal_directions"
            )
        for leaf, along in zip(jax.tree.leaves(params), jax.tree.leaves(direction), strict=True):
            if jnp.iscomplexobj(along) and not jnp.iscomplexobj(leaf):
                raise ValueError(
                    "directions must be real where the parameters are, got "
                    f"{jnp.result_type(along)} along {jnp.result_type(leaf)} at place {number}; "
                    "take the real part"
                )


def _shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path): tuple(jnp.shape(leaf)) for path, leaf in leaves}
