"""Bounds on the gradient, chained before an optimizer. They are defined for every input."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxdl.checks import is_traced


def clip_by_value(limit: Any) -> optax.GradientTransformation:
    r"""Each element by itself: $g \leftarrow \min(\max(g, -c), c)$, the lecture's clipping.

    Infinite elements become plus or minus the limit. NaN stays NaN, so that it is noticed. The
    direction of the gradient changes. Same as PyTorch's `clip_grad_value_` and `optax.clip`.

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


def clip_by_global_norm(limit: Any) -> optax.GradientTransformation:
    r"""All elements together: $g \leftarrow g\,\min(1, c / \lVert g\rVert)$, the direction kept.

    The norm is that of the whole tree. If its square overflows, it is computed again from scaled
    elements. With infinite elements the result is the limit of the direction: infinite elements
    keep their signs and share the norm c, finite ones become 0. One NaN makes all elements NaN,
    because no norm is defined: a broken gradient must not pass for a good one. PyTorch's
    `clip_grad_norm_` divides by the norm plus 1e-6. With an infinite element, it and optax make
    that element NaN and every other 0.

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
        norm = global_norm(updates)
        largest, norm = jax.lax.cond(jnp.isfinite(norm), plain_norm, scaled_norm, norm, updates)
        factor = jnp.minimum(limit / norm, largest)
        clipped = jax.tree.map(
            lambda g: (divided_by(largest, g) * factor).astype(jnp.result_type(g)), updates
        )
        return clipped, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update_fn)


def plain_norm(norm: Array, updates: Any) -> tuple[Array, Array]:
    """The unit 1, and the norm."""
    del updates
    return jnp.ones_like(norm), norm


def scaled_norm(norm: Array, updates: Any) -> tuple[Array, Array]:
    """The largest element (NaN if any is NaN) as the unit, and the norm in this unit."""
    del norm
    largest = [jnp.max(jnp.abs(widen(g)), initial=0) for g in jax.tree.leaves(updates)]
    unit = jnp.stack(largest).max()
    return unit, global_norm(jax.tree.map(lambda g: divided_by(unit, g), updates))


def divided_by(largest: Array, g: Any) -> Array:
    """The quotient, or its limit if elements are infinite."""
    of_infinity = jnp.where(jnp.isinf(g), jnp.sign(widen(g)), 0)
    return jnp.where(jnp.isinf(largest), of_infinity, widen(g) / largest)


def global_norm(updates: Any) -> Array:
    """The root of the sum of all squares, in float32 at least."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(widen(g))) for g in jax.tree.leaves(updates)))


def widen(g: Any) -> Array:
    """In float32, or in its own type if that is wider."""
    return jnp.asarray(g, jnp.promote_types(jnp.result_type(g), jnp.float32))


def check_limit(limit: Any, *, name: str = "limit") -> None:
    """Refuse a bound that is not above 0."""
    if not is_traced(limit) and not limit > 0:
        raise ValueError(f"{name} must be above 0, got {limit}; leave the link out for none")
