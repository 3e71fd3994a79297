"""Adamax: Adam in the maximum norm."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from jaxdl.factories import factory
from jaxdl.optimizers.learning_rate import LearningRate, scale_by_learning_rate
from jaxdl.optimizers.moments import bias_correction, first_moments, require_moments
from jaxdl.optimizers.precision import in_wide_type


@factory
def adamax(
    learning_rate: LearningRate,
    *,
    beta1: Any = 0.9,
    beta2: Any = 0.999,
    epsilon: Any = 1e-8,
    moment_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    r"""Adam with the largest decayed gradient instead of the second moment's root.

    $$m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \qquad
      u_t = \max(\beta_2 u_{t-1}, |g_t| + \epsilon), \qquad
      \theta_{t+1} = \theta_t - \frac{\eta}{1-\beta_1^t}\,\frac{m_t}{u_t}$$

    with m_0 = u_0 = 0. The lecture and the paper have no epsilon. Without it the step is 0 / 0 for
    a parameter without a gradient so far.

    PyTorch: the defaults. optax: the defaults.

    Arguments:
        learning_rate: eta, a `LearningRate`.
        beta1: the weight of the old first moment, in [0, 1).
        beta2: the decay of the largest gradient, in [0, 1).
        epsilon: 0 or more.
        moment_dtype: as in `adam`.

    Raises:
        ValueError: a negative rate or epsilon, a beta outside [0, 1).

    Example:
        >>> optimizer = adamax(0.5)
        >>> round(optimizer.update({"w": 4.0}, optimizer.init({"w": 1.0}))[0]["w"].item(), 6)
        -0.5

    Source: Kingma and Ba (2015), algorithm 2.
    """
    require_moments(beta1, beta2, epsilon)
    rule = scale_by_adamax(beta1=beta1, beta2=beta2, epsilon=epsilon)
    return in_wide_type(optax.chain(rule, scale_by_learning_rate(learning_rate)), moment_dtype)


def scale_by_adamax(*, beta1: Any, beta2: Any, epsilon: Any) -> optax.GradientTransformation:
    """Adamax's direction: see `jaxdl.optimizers.adamax`.

    The state is optax's `ScaleByAdamState`, with u as its nu. `optax.scale_by_adamax` differs in
    the rounding of the bias correction (see `bias_correction`).
    """

    def update_fn(
        updates: Any, state: optax.ScaleByAdamState, params: Any = None
    ) -> tuple[Any, optax.ScaleByAdamState]:
        del params
        count = optax.safe_increment(state.count)
        mu = optax.tree.update_moment(updates, state.mu, beta1, 1)
        largest = jax.tree.map(
            lambda u, g: jnp.maximum(beta2 * u, jnp.abs(g) + epsilon).astype(u.dtype),
            state.nu,
            updates,
        )
        correction = bias_correction(beta1, count)
        moved = jax.tree.map(lambda m, u: (m * correction / u).astype(m.dtype), mu, largest)
        return moved, optax.ScaleByAdamState(count, mu, largest)

    return optax.GradientTransformation(first_moments, update_fn)
