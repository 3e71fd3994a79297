"""Bounds on the gradient, chained before an optimizer, and defined for every input."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxdl.checks import is_traced


def clip_by_value(limit: Any) -> optax.GradientTransformation:
    r"""Each element by itself: $g \leftarrow \min(\max(g, -c), c)$, the lecture's clipping.

    Infinite elements become plus or minus the limit; NaN stays NaN, so that it is seen. The
    direction of the gradient changes. PyTorch's `clip_grad_value_`, `optax.clip`.

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

    The norm is that of the whole tree. Where its square overflows, it is formed again of the
    scaled elements. Infinite elements leave the limit of the direction: they share the norm
    c among them, with their signs, and finite ones become 0. One NaN makes all of them NaN,
    since no norm is defined: nothing of a broken gradient is taken for a good one.
    PyTorch's `clip_grad_norm_` divides by the norm plus 1e-6, and makes an infinite element NaN
    and every other 0, as optax does.

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
        largest, norm = jax.lax.cond(jnp.isfinite(norm), of_ordinary, of_extreme, norm, updates)
        factor = jnp.minimum(limit / norm, largest)
        clipped = jax.tree.map(
            lambda g: (in_units_of(largest, g) * factor).astype(jnp.result_type(g)), updates
        )
        return clipped, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update_fn)


def of_ordinary(norm: Array, updates: Any) -> tuple[Array, Array]:
    """The unit 1, and the norm in it."""
    del updates
    return jnp.ones_like(norm), norm


def of_extreme(norm: Array, updates: Any) -> tuple[Array, Array]:
    """The largest element, NaN if there is one, and the norm in units of it."""
    del norm
    largest = [jnp.max(jnp.abs(widen(g)), initial=0) for g in jax.tree.leaves(updates)]
    unit = jnp.stack(largest).max()
    return unit, global_norm(jax.tree.map(lambda g: in_units_of(unit, g), updates))


def in_units_of(largest: Array, g: Any) -> Array:
    """The quotient, and its limit where elements are infinite."""
    of_infinity = jnp.where(jnp.isinf(g), jnp.sign(widen(g)), 0)
    return jnp.where(jnp.isinf(largest), of_infinity, widen(g) / largest)


def global_norm(updates: Any) -> Array:
    """The root of the sum of all squares, in float32 at least."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(widen(g))) for g in jax.tree.leaves(updates)))


def widen(g: Any) -> Array:
    """As float32, or as it is if it is wider."""
    return jnp.asarray(g, jnp.promote_types(jnp.result_type(g), jnp.float32))


def check_limit(limit: Any, *, name: str = "limit") -> None:
    """Refuse a bound at 0, below it, or NaN."""
    if not is_traced(limit) and not limit > 0:
        raise ValueError(f"{name} must be above 0, got {limit}; leave the link out for none")
