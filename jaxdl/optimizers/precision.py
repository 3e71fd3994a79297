"""Moments and averages in float32 at least; complex parameters as pairs of real ones."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike


def in_wide_type(rule: optax.GradientTransformation, moment_dtype: DTypeLike | None = None) -> Any:
    r"""`rule`, computed and remembered in float32 at least; its updates have the parameters' type.

    In float16 an epsilon of 1e-8 and (1 - 0.999) g^2 are 0, so Adam's step would be 0 / 0. In
    bfloat16, with 8 bits, a moment that decays by 0.999 would never move. A complex parameter is
    the pair of its real and imaginary part, as in PyTorch: its state has a last axis of 2. What
    `jax.grad` gives for it is the conjugate of the direction of ascent; `make_train_step` knows.

    Arguments:
        rule: an optax gradient transformation.
        moment_dtype: the type of state and arithmetic, float32 or wider; None for float32, or the
            type of the parameter if that is wider.

    Raises:
        ValueError: a `moment_dtype` that is no real type of float32's precision or more.

    Example:
        >>> from jaxdl import optimizers
        >>> rule = in_wide_type(optax.scale_by_adam())
        >>> gradient = jnp.float16([0.0, 1e-3])
        >>> state = rule.init(gradient)
        >>> updates, state = rule.update(gradient, state)
        >>> updates.tolist(), updates.dtype.name, state.nu.dtype.name
        ([0.0, 1.0], 'float16', 'float32')
    """
    if moment_dtype is not None and not (
        jnp.issubdtype(moment_dtype, jnp.floating) and jnp.finfo(moment_dtype).nmant >= 23
    ):
        raise ValueError(
            f"moment_dtype must be float32 or wider, got {jnp.dtype(moment_dtype).name}; moments "
            "stall or vanish in less"
        )

    def wide(tree: Any) -> Any:
        return jax.tree.map(lambda leaf: _wide(leaf, moment_dtype), tree)

    def init_fn(params: Any) -> Any:
        return rule.init(wide(params))

    def update_fn(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        like = updates if params is None else params
        moved, state = rule.update(
            wide(updates), state, None if params is None else wide(params), **extra
        )
        return jax.tree.map(narrowed, moved, like), state

    return type(rule)(init_fn, update_fn)


def _wide(leaf: Any, dtype: DTypeLike | None) -> Any:
    own = jnp.result_type(leaf)
    if jnp.issubdtype(own, jnp.complexfloating):
        leaf = jnp.stack([jnp.real(leaf), jnp.imag(leaf)], axis=-1)
    elif not jnp.issubdtype(own, jnp.floating):
        return leaf
    return jnp.asarray(leaf, dtype or jnp.promote_types(jnp.result_type(leaf), jnp.float32))


def narrowed(leaf: Any, like: Any) -> Any:
    """A leaf of the wide state or updates, in the type of its parameter."""
    own = jnp.result_type(like)
    if jnp.issubdtype(own, jnp.complexfloating):
        leaf = jax.lax.complex(leaf[..., 0], leaf[..., 1])
    return jnp.asarray(leaf, own)
