"""Test functions of optimisation in two variables, for watching an optimizer's path.

Each takes points (..., 2), with x and y on the last axis, and returns their heights (...).
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxdl.public import public_names

__all__ = ["beale", "ravine", "rosenbrock", "saddle"]

__dir__ = public_names(globals())


def ravine(
    point: Any, *, condition_number: float = 100.0, angle: float = 0.0
) -> Float[Array, "*batch"]:
    r"""A long valley: a quadratic whose curvatures differ by the condition number.

    $$f = \tfrac{1}{2}(u^2 + \kappa v^2), \qquad
      u = x\cos\alpha + y\sin\alpha, \quad v = y\cos\alpha - x\sin\alpha$$

    Minimum: 0 at (0, 0). At an angle the axes of the valley are not those of the parameters. An
    optimizer with a step size for each parameter relies on these axes.

    Arguments:
        point: x and y.
        condition_number: kappa, 1 or more for a valley along u.
        angle: alpha, radians from the x axis to the valley's floor.

    Example:
        >>> ravine(jnp.array([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])).tolist()
        [0.0, 2.0, 200.0]

    Source: Polyak (1964) analyses gradient descent and momentum on it.
    """
    x, y = _coordinates(point)
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    along, across = x * cosine + y * sine, y * cosine - x * sine
    return (along**2 + condition_number * across**2) / 2


def beale(point: Any) -> Float[Array, "*batch"]:
    r"""Beale's function: a plain with steep walls and one narrow valley.

    $$f = (1.5 - x + xy)^2 + (2.25 - x + xy^2)^2 + (2.625 - x + xy^3)^2$$

    Minimum: 0 at (3, 0.5). A saddle of height 14.203125 at (0, 1).

    Arguments:
        point: x and y; usually in [-4.5, 4.5].

    Example:
        >>> beale(jnp.array([[3.0, 0.5], [0.0, 1.0]])).tolist()
        [0.0, 14.203125]

    Source: Beale (1958).
    """
    x, y = _coordinates(point)
    return (1.5 - x + x * y) ** 2 + (2.25 - x + x * y**2) ** 2 + (2.625 - x + x * y**3) ** 2


def rosenbrock(point: Any, *, steepness: float = 100.0) -> Float[Array, "*batch"]:
    r"""Rosenbrock's function: a valley along a parabola.

    $$f = (1 - x)^2 + b\, (y - x^2)^2$$

    Minimum: 0 at (1, 1).

    Arguments:
        point: x and y.
        steepness: b, the steepness of the walls.

    Example:
        >>> rosenbrock(jnp.array([[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]])).tolist()
        [0.0, 1.0, 101.0]

    Source: Rosenbrock (1960).
    """
    x, y = _coordinates(point)
    return (1 - x) ** 2 + steepness * (y - x**2) ** 2


def saddle(point: Any) -> Float[Array, "*batch"]:
    r"""A saddle between two minima.

    $$f = x^2 - y^2 + \tfrac{1}{4} y^4$$

    Near the origin this is the saddle x^2 - y^2; the fourth power bounds it below, so a path that
    leaves the ridge y = 0 ends in a minimum. Minima: -1 at (0, sqrt(2)) and (0, -sqrt(2)).
    The saddle: 0 at (0, 0), with curvatures 2 and -2.

    Arguments:
        point: x and y.

    Example:
        >>> saddle(jnp.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2**0.5]])).round(6).tolist()
        [0.0, 1.0, -1.0]
    """
    x, y = _coordinates(point)
    return x**2 - y**2 + y**4 / 4


def _coordinates(point: Any) -> tuple[Array, Array]:
    """x and y, the last axis, as floats."""
    point = jnp.asarray(point)
    if jnp.iscomplexobj(point) or point.shape[-1:] != (2,):
        raise ValueError(
            "a point must be two real numbers on the last axis, got "
            f"{point.dtype} of shape {point.shape}; pass x and y, (..., 2)"
        )
    point = point.astype(jnp.result_type(point, float))
    return point[..., 0], point[..., 1]
