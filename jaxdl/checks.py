"""Refuse bad settings where they are given, with the rule, the value received, and the fix."""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


def is_traced(value: Any) -> bool:
    """Whether the value is known only when the compiled function runs."""
    return isinstance(value, jax.core.Tracer)


def require_finite(name: str, value: ArrayLike) -> None:
    """Refuse a NaN or infinite setting; a traced one passes, because its value is unknown."""
    _require(name, value, "finite", math.isfinite)


def require_positive(name: str, value: ArrayLike) -> None:
    """Refuse a setting that is not finite and above zero; a traced one passes."""
    _require(name, value, "finite and positive", lambda x: math.isfinite(x) and x > 0)


def require_non_negative(name: str, value: ArrayLike) -> None:
    """Refuse a setting that is not finite and at least zero; a traced one passes."""
    _require(name, value, "finite and at least 0", lambda x: math.isfinite(x) and x >= 0)


def require_decay(name: str, value: Any) -> None:
    """Refuse a decay rate of a moving average outside [0, 1); a traced one passes."""
    if callable(value) or isinstance(value, tuple):
        raise TypeError(
            f"{name} must be a number in [0, 1), got {type(value).__name__}; chain optimizers: "
            "optimizers.chain(adam(1e-3), ema(0.999))"
        )
    if not is_traced(value) and not np.all((np.asarray(value) >= 0) & (np.asarray(value) < 1)):
        raise ValueError(
            f"{name} must lie in [0, 1), got {value}; it is the weight of the old value"
        )


Count = Any
"""A whole number: an int, or NumPy's. Wide, so that `require_at_least` refuses what is none."""


def require_at_least(least: int, **counts: Any) -> None:
    """Refuse what is no whole number, and counts below `least`. None means the default.

    Example:
        >>> require_at_least(1, epochs=0)
        Traceback (most recent call last):
        ...
        ValueError: epochs must be at least 1, got 0; pass 1 or more
        >>> require_at_least(1, batch_size=10.0)
        Traceback (most recent call last):
        ...
        TypeError: batch_size must be a whole number, got 10.0; pass an int, 1 or more
    """
    for name, count in counts.items():
        if count is not None:
            whole_number(name, count, least)


def whole_number(name: str, count: Any, least: int = 1) -> int:
    """A count as a Python int, which JSON can store; what is none, or below `least`, is refused.

    Raises:
        TypeError: what is no whole number: 1.5, "3", True.
        ValueError: a smaller one.

    Example:
        >>> whole_number("keep", np.int64(3))
        3
    """
    try:
        if isinstance(count, bool | np.bool_):
            raise TypeError
        whole = operator.index(count)
    except TypeError:
        raise TypeError(
            f"{name} must be a whole number, got {count!r}; pass an int, {least} or more"
        ) from None
    if whole < least:
        raise ValueError(f"{name} must be at least {least}, got {count}; pass {least} or more")
    return whole


def require_order(
    owner: str, low_name: str, low: ArrayLike, high_name: str, high: ArrayLike
) -> None:
    """Refuse bounds that are not in order; traced ones pass."""
    try:
        ordered = float(low) < float(high)  # type: ignore[arg-type]  # a traced one raises
    except jax.errors.ConcretizationTypeError:
        return
    if not ordered:
        raise ValueError(
            f"{owner} needs {low_name} < {high_name}, got {low_name}={low}, {high_name}={high}; "
            "swap or widen the bounds"
        )


def require_optimizer(owner: str, optimizer: Any) -> None:
    """Refuse what is no optax gradient transformation, such as a rate or a factory.

    Raises:
        TypeError: what has no `init` and `update`.

    Example:
        >>> require_optimizer("lookahead", 0.1)
        Traceback (most recent call last):
        ...
        TypeError: lookahead needs an optimizer, got 0.1; pass e.g. optimizers.sgd(0.1)
    """
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise TypeError(
            f"{owner} needs an optimizer, got {optimizer!r}; pass e.g. optimizers.sgd(0.1)"
        )


def require_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuse a word that is not one of the choices, and list them."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}; pass one")


def require_key(key: Any) -> None:
    """Refuse anything but a single key of `jax.random.key`; a traced key passes.

    Raises:
        TypeError: a seed, an old-style uint32 key, several keys.
    """
    if not (hasattr(key, "dtype") and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        raise TypeError(
            f"key must be made by jax.random.key(seed), got {type(key).__name__} {key!r}; "
            "a bare seed or an old-style uint32 key is not taken"
        )
    if key.shape != ():
        raise TypeError(
            f"key must be a single key of shape (), got shape {key.shape}; pass one of them"
        )


def require_held(name: str, values: Any) -> None:
    """Refuse numbers that are too large for the type in which JAX holds them.

    JAX holds 64 bits as 32, unless `jax_enable_x64` is set: a larger integer would wrap, and a
    larger float become infinite. What is no array of NumPy passes.

    Raises:
        ValueError: such a number.

    Example:
        >>> require_held("the targets", np.array([0, 2**31]))
        Traceback (most recent call last):
        ...
        ValueError: the targets must fit int32, in which JAX holds int64, got 2147483648; use
        smaller numbers, or set jax_enable_x64
    """
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf" or not values.size:
        return
    held = np.dtype(jax.dtypes.canonicalize_dtype(values.dtype))
    if held == values.dtype:
        return
    bounds: Any = np.finfo(held) if held.kind == "f" else np.iinfo(held)
    for value in (values.min(), values.max()):
        if np.isfinite(value) and not bounds.min <= value <= bounds.max:
            raise ValueError(
                f"{name} must fit {held}, in which JAX holds {values.dtype}, got {value}; use "
                "smaller numbers, or set jax_enable_x64"
            )


def require_like(name: str, given: Any, expected: Any) -> Any:
    """Return `given`; refuse a pytree whose names or shapes are not those of `expected`.

    Example:
        >>> require_like("params", {"kernel": np.ones((2, 3))}, {"kernel": np.ones((4, 3))})
        Traceback (most recent call last):
        ...
        ValueError: params must fit the model and its inputs: ['kernel'] (4, 3), got (2, 3); ...
    """
    shapes = [
        {
            jax.tree_util.keystr(path): np.shape(leaf)
            for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
        }
        for tree in (expected, given)
    ]
    for path in dict.fromkeys([*shapes[0], *shapes[1]]):
        wanted, got = (named.get(path, "nothing") for named in shapes)
        if wanted != got:
            if path.startswith("['opt_state']"):
                raise ValueError(
                    f"{name} must be of this optimizer too: {path} {wanted}, got {got}; load it "
                    "with its optimizer, or begin anew: init_state(..., variables=state.variables)"
                )
            raise ValueError(
                f"{name} must fit the model and its inputs: {path} {wanted}, got {got}; make them "
                "with the same model and data"
            )
    return given


def _require(name: str, value: ArrayLike, rule: str, holds: Callable[[float], bool]) -> None:
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be a number, got {value}; pass e.g. {float(value)}")
    try:
        number = float(value)  # type: ignore[arg-type]  # a traced one raises
    except jax.errors.ConcretizationTypeError:
        return
    if not holds(number):
        raise ValueError(f"{name} must be {rule}, got {number}; pass another {name}")
