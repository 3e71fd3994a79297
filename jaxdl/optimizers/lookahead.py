"""Lookahead: slow weights that follow an optimizer's fast ones."""

import operator
from typing import Any, NamedTuple, SupportsIndex

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Int

from jaxdl.checks import is_traced, require_at_least, require_non_negative, require_optimizer
from jaxdl.factories import factory
from jaxdl.optimizers.precision import in_wide_type


class LookaheadState(NamedTuple):
    """The updates made, the optimizer's own state, and the slow weights, which are evaluated."""

    step: Int[Array, ""]
    inner: Any
    slow: Any

    @property
    def evaluated_field(self) -> str:
        """The name of the field that is evaluated."""
        return "slow"


@factory
def lookahead(
    optimizer: Any,
    *,
    period: SupportsIndex = 5,
    step_size: Any = 0.5,
    reset: bool = False,
    moment_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""k steps forward, then one step of the slow weights, from which the fast ones go on.

    $$\theta_{t+1} = \theta_t + u_t, \qquad \text{and after each } k\text{-th step} \qquad
      \phi \leftarrow \phi + \alpha(\theta - \phi), \quad \theta \leftarrow \phi$$

    with u the update of `optimizer`, and phi = theta_0 at first. The parameters of a run are the
    fast weights theta. What is evaluated are the slow weights phi: see `evaluated_parameters`, and
    `schedule_free` for the statistics of norms.

    PyTorch has none; optax: `lookahead(optimizer, 5, 0.5)`, whose parameters are a pair of both.

    Arguments:
        optimizer: it steps the fast weights. Its moments live on over a slow step.
        period: k, at least 1.
        step_size: alpha, from 0 to 1; or a schedule of it, a function of the step from 0.
        reset: whether the optimizer begins anew after a slow step, its schedule too.
        moment_dtype: of the slow weights, as in `adam`.

    Raises:
        TypeError: no optimizer, or a period that is no whole number.
        ValueError: a period below 1, a step size out of range; at an update, no parameters.

    Example:
        >>> from jaxdl import optimizers
        >>> optimizer = lookahead(optimizers.sgd(1.0), period=2)
        >>> params, state = jnp.zeros(()), optimizer.init(jnp.zeros(()))
        >>> for _ in range(3):                       # 1, 2 and back to 1, 2
        ...     updates, state = optimizer.update(-jnp.ones(()), state, params)
        ...     params = params + updates
        >>> params.item(), optimizers.evaluated_parameters(state, params).item()
        (2.0, 1.0)

    Source: Zhang, Lucas, Hinton and Ba (2019), algorithm 1.
    """
    require_optimizer("lookahead", optimizer)
    require_at_least(1, period=period)
    scheduled = callable(step_size)
    if not scheduled:
        require_non_negative("step_size", step_size)
    if not scheduled and not is_traced(step_size) and np.any(np.asarray(step_size) > 1):
        raise ValueError(
            f"step_size must be at most 1, got {step_size}; with 1 the slow weights are the fast"
        )
    apart = operator.index(period)
    inner = optax.with_extra_args_support(optimizer)

    def init_fn(params: Any) -> LookaheadState:
        slow = jax.tree.map(jnp.copy, params)  # a buffer used twice could not be donated
        return LookaheadState(jnp.zeros((), jnp.int32), inner.init(params), slow)

    def update_fn(
        updates: Any, state: LookaheadState, params: Any = None, **extra: Any
    ) -> tuple[Any, LookaheadState]:
        if params is None:
            raise ValueError("lookahead needs the parameters: update(grads, state, params)")
        updates, own = inner.update(updates, state.inner, params, **extra)
        step = optax.safe_increment(state.step)
        is_slow = step % apart == 0
        alpha = step_size(state.step) if scheduled else step_size

        def slower(phi: Array, theta: Array, u: Array) -> Array:
            return jnp.where(is_slow, phi + alpha * (theta + u - phi), phi).astype(phi.dtype)

        slow = jax.tree.map(slower, state.slow, params, updates)
        updates = jax.tree.map(
            lambda u, phi, theta: jnp.where(is_slow, phi - theta, u).astype(u.dtype),
            updates, slow, params,
        )  # fmt: skip
        if reset:
            first = inner.init(optax.apply_updates(params, updates))
            own = jax.tree.map(lambda a, b: jnp.where(is_slow, a, b), first, own)
        return updates, LookaheadState(step, own, slow)

    rule = optax.GradientTransformationExtraArgs(init_fn, update_fn)
    wide: optax.GradientTransformationExtraArgs = in_wide_type(rule, moment_dtype)
    return wide
