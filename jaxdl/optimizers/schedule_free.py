"""Schedule-Free: an average of the run in the place of a falling rate."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdl.checks import require_decay, require_non_negative, require_optimizer
from jaxdl.factories import factory
from jaxdl.optimizers.learning_rate import current_learning_rate
from jaxdl.optimizers.precision import in_wide_type


class ScheduleFreeState(NamedTuple):
    """The optimizer's own state, and the sequences z and x; the parameters themselves are y.

    Attributes:
        inner: the state of the optimizer that steps z.
        largest_rate: the largest rate so far.
        weight: the sum of the weights so far.
        z: what the optimizer steps.
        average: x, the weighted average of all z, which is evaluated.
    """

    inner: Any
    largest_rate: Float[Array, ""]
    weight: Float[Array, ""]
    z: Any
    average: Any

    @property
    def evaluated_field(self) -> str:
        """The name of the field that is evaluated."""
        return "average"


@factory
def schedule_free(
    optimizer: Any,
    *,
    beta: Any = 0.9,
    weight_power: Any = 2.0,
    moment_dtype: DTypeLike | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Step z, average x, and take gradients in between, at y: the rate need not fall.

    $$y_t = (1 - \beta) z_t + \beta x_t, \qquad z_{t+1} = z_t + u(\nabla L(y_t), y_t)$$
    $$x_{t+1} = (1 - c_t)\,x_t + c_t\,z_{t+1}, \qquad
      c_t = \frac{w_t}{w_0 + \dots + w_t}, \quad w_t = \bigl(\max_{i \le t}\eta_i\bigr)^2$$

    with u the update of `optimizer`, eta its rate, and x_0 = z_0 = theta_0. The parameters of a run
    are y. What is evaluated is x: `fit`, `make_run`, `predict` and checkpoints ask for it with
    `evaluated_parameters`. The running statistics of norms are those of y; `recalibrate=True` of
    `fit` and `make_run` takes those of x.

    The optimizer needs no momentum of its own, for beta is that: `schedule_free(sgd(1.0))`,
    `schedule_free(adamw(2.5e-3, beta1=0.0))`. Its decay falls on y. Its rate may have a warm-up,
    and needs no other schedule. Put clipping inside it, or before it in a chain; what follows it in
    a chain has no lasting effect, because y is set anew from x and z in each step.

    PyTorch has none; optax: `contrib.schedule_free(optimizer, rate)`, which keeps no x: it solves
    for it, in the parameters' type, so that beta must be above 0. Its weight is that of the
    schedule's next step.

    Arguments:
        optimizer: it steps z; its state must show one rate, as those of `jaxdl.optimizers` do. For
            several, put `schedule_free` into each group of `by_layer`.
        beta: the place of y between z and x, in [0, 1). With 0 it is Polyak's average of a run.
        weight_power: 2 in w_t, 0 or more. With 0 all z weigh alike, those of a warm-up too.
        moment_dtype: of z and x, as in `adam`.

    Raises:
        TypeError: no optimizer.
        ValueError: a number out of range; at init, an optimizer without one rate; at an update, no
            parameters.

    Example:
        >>> from jaxdl import optimizers
        >>> optimizer = schedule_free(optimizers.sgd(1.0), beta=0.5)
        >>> params, state = jnp.zeros(()), optimizer.init(jnp.zeros(()))
        >>> for _ in range(2):                       # z: 1, 2;  x: 1, 1.5
        ...     updates, state = optimizer.update(-jnp.ones(()), state, params)
        ...     params = params + updates
        >>> params.item(), optimizers.evaluated_parameters(state, params).item()
        (1.75, 1.5)

    Source: Defazio et al. (2024), "The road less scheduled", algorithm 1, with the largest rate in
    the place of the rate, as its authors' program has it.
    """
    require_optimizer("schedule_free", optimizer)
    require_decay("beta", beta)
    require_non_negative("weight_power", weight_power)
    inner = optax.with_extra_args_support(optimizer)

    def init_fn(params: Any) -> ScheduleFreeState:
        state = inner.init(params)
        zero = jnp.zeros_like(_rate_of(state))
        # Copies, because a buffer used twice could not be donated.
        z, x = (jax.tree.map(jnp.copy, params) for _ in range(2))
        return ScheduleFreeState(state, zero, jnp.copy(zero), z, x)

    def update_fn(
        updates: Any, state: ScheduleFreeState, params: Any = None, **extra: Any
    ) -> tuple[Any, ScheduleFreeState]:
        if params is None:
            raise ValueError("schedule_free needs the parameters: update(grads, state, params)")
        largest = jnp.maximum(state.largest_rate, _rate_of(state.inner))
        weight = largest**weight_power
        total = state.weight + weight
        # Before a warm-up from 0 has begun, x stays where z stays.
        share = jnp.where(total == 0, 1.0, weight / jnp.where(total == 0, 1.0, total))
        steps, own = inner.update(updates, state.inner, params, **extra)
        z = jax.tree.map(lambda z, u: (z + u).astype(z.dtype), state.z, steps)

        def averaged(x: Array, z: Array) -> Any:
            return (x + share * (z - x)).astype(x.dtype)

        def towards(z: Array, x: Array, y: Array) -> Any:
            return (z + beta * (x - z) - y).astype(y.dtype)

        x = jax.tree.map(averaged, state.average, z)
        return jax.tree.map(towards, z, x, params), ScheduleFreeState(own, largest, total, z, x)

    rule = optax.GradientTransformationExtraArgs(init_fn, update_fn)
    wide: optax.GradientTransformationExtraArgs = in_wide_type(rule, moment_dtype)
    return wide


def _rate_of(state: Any) -> Float[Array, ""]:
    try:
        return current_learning_rate(state)
    except ValueError as error:
        raise ValueError(
            f"the optimizer in schedule_free must show one learning rate: {error}. Build it with "
            "jaxdl.optimizers; with several rates put schedule_free into each group of by_layer"
        ) from None
