"""What an optimizer did at each update, kept in its state."""

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from jaxdl.checks import Count, require_at_least
from jaxdl.factories import factory


class RecordedState(NamedTuple):
    """The state of `recorded`.

    Attributes:
        inner: the optimizer's own state.
        step: the updates made.
        values: what was measured, with a leading axis of steps; 0 where no update was made yet.
    """

    inner: Any
    step: Array
    values: Any


@factory
def recorded(
    optimizer: Any, measure: Callable[[Any, Any], Any], *, steps: Count
) -> optax.GradientTransformationExtraArgs:
    r"""The same optimizer, whose state keeps what `measure` says of each of the first updates.

    $$\text{values}_t = \text{measure}(g_t, \theta_{t+1} - \theta_t), \qquad t < \text{steps}$$

    The updates are the optimizer's own. So a whole run or a sweep shows the size of every step, or
    how often a gradient was clipped, without a loop of one's own: the last state's
    `opt_state.values` has them all. The gradients are those that the optimizer is given.

    Arguments:
        optimizer: any optax gradient transformation.
        measure: (gradients, updates) -> any pytree of arrays; both arguments have the structure of
            the parameters.
        steps: at least 1; what later updates do is not kept.

    Raises:
        TypeError: what is no optimizer; steps that are no whole number.
        ValueError: steps below 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxdl import optimizers
        >>> clipped = optimizers.chain(optimizers.clip_by_value(1.0), optimizers.sgd(0.5))
        >>> optimizer = recorded(clipped, lambda g, u: {"gradient": g, "update": u}, steps=2)
        >>> state = optimizer.init(jnp.float32(0))
        >>> for gradient in (0.5, 4.0, 8.0):
        ...     _, state = optimizer.update(jnp.float32(gradient), state)
        >>> state.values["gradient"].tolist(), state.values["update"].tolist()
        ([0.5, 4.0], [-0.25, -0.5])
    """
    if not isinstance(optimizer, optax.GradientTransformation):
        raise TypeError(
            f"optimizer must be an optax gradient transformation, got {type(optimizer).__name__}; "
            "make one, e.g. optimizers.sgd(0.1)"
        )
    require_at_least(1, steps=steps)
    kept = operator.index(steps)
    inner = optax.with_extra_args_support(optimizer)

    def init_fn(params: Any) -> RecordedState:
        shapes = jax.eval_shape(measure, params, params)
        values = jax.tree.map(lambda each: jnp.zeros((kept, *each.shape), each.dtype), shapes)
        return RecordedState(inner.init(params), jnp.zeros((), jnp.int32), values)

    def update_fn(
        updates: Any, state: RecordedState, params: Any = None, **extra: Any
    ) -> tuple[Any, RecordedState]:
        made, after = inner.update(updates, state.inner, params, **extra)
        values = jax.tree.map(
            lambda rows, row: rows.at[state.step].set(row, mode="drop"),
            state.values,
            measure(updates, made),
        )
        return made, RecordedState(after, optax.safe_increment(state.step), values)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)
