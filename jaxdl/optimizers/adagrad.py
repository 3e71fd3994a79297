"""Adagrad: each parameter has its own rate, from the sum of its squared gradients."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from jaxdl.checks import require_choice, require_non_negative
from jaxdl.factories import factory
from jaxdl.optimizers.learning_rate import LearningRate, scale_by_learning_rate
from jaxdl.optimizers.moments import POSITIONS, EpsilonPosition, quotient, root
from jaxdl.optimizers.precision import in_wide_type


@factory
def adagrad(
    learning_rate: LearningRate,
    *,
    initial_accumulator: Any = 0.0,
    epsilon: Any = 1e-8,
    epsilon_position: EpsilonPosition = "inside",
    moment_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    r"""Divide by the root of the sum of all squared gradients.

    $$G_t = G_{t-1} + g_t^2, \qquad
      \theta_{t+1} = \theta_t - \frac{\eta}{\sqrt{G_t + \epsilon}}\, g_t$$

    with G_0 = 0.

    PyTorch: `epsilon=1e-10, epsilon_position="outside"`; its `lr_decay` is the schedule
    `schedules.inverse_time_decay`. optax: `initial_accumulator=0.1, epsilon=1e-7`.

    Arguments:
        learning_rate: eta, a `LearningRate`.
        initial_accumulator: G_0, 0 or more.
        epsilon, epsilon_position, moment_dtype: as in `adam`.

    Raises:
        ValueError: a negative number, an unknown position.

    Example:
        >>> optimizer = adagrad(0.5)
        >>> state = optimizer.init({"w": 1.0})
        >>> _, state = optimizer.update({"w": 3.0}, state)
        >>> round(optimizer.update({"w": 4.0}, state)[0]["w"].item(), 6)      # 4 / sqrt(9 + 16)
        -0.4

    Source: Duchi, Hazan and Singer (2011), section 1.1, the diagonal form.
    """
    require_non_negative("initial_accumulator", initial_accumulator)
    require_non_negative("epsilon", epsilon)
    require_choice("epsilon_position", epsilon_position, POSITIONS)
    rule = scale_by_adagrad(initial_accumulator, epsilon, epsilon_position)
    return in_wide_type(optax.chain(rule, scale_by_learning_rate(learning_rate)), moment_dtype)


def scale_by_adagrad(
    initial_accumulator: Any, epsilon: Any, epsilon_position: EpsilonPosition
) -> optax.GradientTransformation:
    """The gradient over the root of the sum of its squares: see `jaxdl.optimizers.adagrad`.

    The state is optax's `ScaleByRssState`; `optax.scale_by_rss` has epsilon inside the root only.
    """

    def init_fn(params: Any) -> Any:
        return optax.ScaleByRssState(
            jax.tree.map(lambda p: jnp.full_like(p, initial_accumulator), params)
        )

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        total = jax.tree.map(lambda s, g: s + jnp.square(g), state.sum_of_squares, updates)
        roots = jax.tree.map(lambda s: root(s, epsilon, epsilon_position), total)
        return quotient(updates, roots), optax.ScaleByRssState(total)

    return optax.GradientTransformation(init_fn, update_fn)
