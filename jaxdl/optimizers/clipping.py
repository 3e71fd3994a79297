"""Bounds on the gradient, chained before an optimizer. They are defined for every input."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxdl.checks import is_traced
from jaxdl.factories import factory


@factory
def clip_by_value(limit: Any) -> optax.GradientTransformation:
    r"""Each element by itself: $g \leftarrow \min(\max(g, -c), c)$, the lecture's clipping.

    Infinite elements become plus or minus the limit. NaN stays NaN, so that it is noticed. The
    direction of the gradient changes.

    PyTorch: the defaults, `clip_grad_value_`. optax: the defaults, `optax.clip`.

    Arguments:
        limit: c, above 0, in units of the gradient.

    Raises:
        ValueError: a limit that is not above 0.

    Example:
        >>> import jax.numpy as jnp
        >>> clip = clip_by_value(1.0)
        >>> clip.update(jnp.array([0.5, -3.0, jnp.inf]), clip.init(None))[0].tolist()
        [0.5, -1.0, 1.0]
    """
    check_limit(limit)
    return optax.clip(limit)


@factory
def clip_by_global_norm(limit: Any) -> optax.GradientTransformation:
    r"""All elements together: $g \leftarrow g\,\min(1, c / \lVert g\rVert)$, the direction kept.

    The norm is that of the whole tree. It is computed in a unit in which no square overflows or
    vanishes, so any finite gradient keeps its direction. With infinite elements the result is the
    limit of the direction: infinite elements keep their signs and share the norm c, finite ones
    become 0. One NaN makes all elements NaN, because no norm is defined: a broken gradient must not
    pass for a good one.

    PyTorch: the defaults, but for 1e-6 that `clip_grad_norm_` adds to the norm. With an infinite
    element, it and optax make that element NaN and every other 0.

    Arguments:
        limit: c, above 0, in units of the gradient.

    Raises:
        ValueError: a limit that is not above 0.

    Example:
        >>> import jax.numpy as jnp
        >>> clip = clip_by_global_norm(1.0)
        >>> gradients = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([4.0])}
        >>> jax.tree.map(lambda g: g.round(6).tolist(), clip.update(gradients, clip.init(None))[0])
        {'a': [0.6..., 0.0], 'b': [0.8...]}

    Source: Pascanu, Mikolov and Bengio (2013), algorithm 1.
    """
    check_limit(limit)

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        if not jax.tree.leaves(updates):
            return updates, state
        unit, scaled, norm = scaled_norm(updates)
        within = norm <= limit * unit
        factor = limit / norm

        def clipped(g: Any, in_unit: Array) -> Array:
            return jnp.where(within, g, (in_unit * factor).astype(jnp.result_type(g)))

        return jax.tree.map(clipped, updates, scaled), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update_fn)


def scaled_norm(updates: Any) -> tuple[Array, Any, Array]:
    r"""A unit s, the tree times s, and its norm: $\lVert g\rVert = n / s$ without overflow.

    The unit is a power of two: 1, unless the largest element is so large or so small that squares
    would overflow or vanish. It never makes a number subnormal that counts. With infinite elements
    the tree is the limit of its direction: they are their signs, and finite ones are 0.

    Example:
        >>> unit, scaled, norm = scaled_norm([jnp.float32([1.5e38, -2e38])])
        >>> round(norm.item() / unit.item() / 1e38, 4), (scaled[0] / norm).round(6).tolist()
        (2.5, [0.6..., -0.8...])
    """
    wide = jax.tree.map(widen, updates)
    leaves = jax.tree.leaves(wide)
    kind = jnp.result_type(*map(jnp.abs, leaves))
    largest = jnp.stack([jnp.max(jnp.abs(leaf), initial=0).astype(kind) for leaf in leaves]).max()
    exponent = jnp.finfo(kind).maxexp
    far, near = 2.0 ** (exponent * 25 // 32), 2.0 ** (exponent * 13 // 32)
    unit = jnp.where(largest > near, 1 / far, jnp.where(largest < 1 / near, far, 1.0)).astype(kind)
    infinite = jnp.isinf(largest)

    def in_unit(g: Array) -> Array:
        return jnp.where(infinite, jnp.where(jnp.isinf(g), _sign(g), 0), g * unit)

    scaled = jax.tree.map(in_unit, wide)
    squares = [jnp.sum(jnp.square(jnp.abs(leaf))) for leaf in jax.tree.leaves(scaled)]
    norm = jnp.sqrt(sum(squares, jnp.zeros((), kind)))
    return jnp.where(infinite, 0.0, unit).astype(kind), scaled, norm


def _sign(g: Array) -> Array:
    """Of an infinite element: of its real and imaginary part, each by itself, if it is complex."""
    if not jnp.iscomplexobj(g):
        return jnp.sign(g)
    signs = (jnp.where(jnp.isinf(part), jnp.sign(part), 0) for part in (g.real, g.imag))
    return jax.lax.complex(*signs)


def widen(g: Any) -> Array:
    """In float32, or in its own type if that is wider."""
    return jnp.asarray(g, jnp.promote_types(jnp.result_type(g), jnp.float32))


def check_limit(limit: Any, *, name: str = "limit") -> None:
    """Refuse a bound that is not above 0."""
    if not is_traced(limit) and not limit > 0:
        raise ValueError(f"{name} must be above 0, got {limit}; leave the link out for none")
