"""Adadelta: a step in the units of the parameter, from two moving averages."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from jaxdl.checks import require_decay, require_non_negative
from jaxdl.factories import factory
from jaxdl.optimizers.learning_rate import LearningRate, scale_by_learning_rate
from jaxdl.optimizers.moments import zeros
from jaxdl.optimizers.precision import in_wide_type


@factory
def adadelta(
    learning_rate: LearningRate = 1.0,
    *,
    decay: Any = 0.9,
    epsilon: Any = 1e-6,
    gradient_epsilon: Any = None,
    moment_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    r"""A step in the parameter's own units, so that the rate needs no search.

    $$E[g^2]_t = \rho E[g^2]_{t-1} + (1-\rho) g_t^2, \qquad
      \Delta\theta_t = -\frac{\sqrt{E[\Delta\theta^2]_{t-1} + \epsilon}}
                            {\sqrt{E[g^2]_t + \epsilon}}\, g_t$$
    $$E[\Delta\theta^2]_t = \rho E[\Delta\theta^2]_{t-1} + (1-\rho)\Delta\theta_t^2, \qquad
      \theta_{t+1} = \theta_t + \eta\,\Delta\theta_t$$

    with both averages 0 at first, and eta 1.

    PyTorch: the defaults. optax: the defaults.

    The epsilon in the numerator sets the size of the first steps. The one in the denominator avoids
    0 / 0 for a parameter without a gradient. If E[g^2] is not far above it, the path depends on the
    scale of the loss; `gradient_epsilon=1e-30` removes this dependence.

    Arguments:
        learning_rate: eta, a `LearningRate`.
        decay: rho, in [0, 1).
        epsilon: added in both roots, 0 or more.
        gradient_epsilon: added in the root of E[g^2], if another value is wanted there.
        moment_dtype: as in `adam`.

    Raises:
        ValueError: a negative number, a decay outside [0, 1).

    Example:
        >>> optimizer = adadelta()
        >>> step = optimizer.update({"w": 4.0}, optimizer.init({"w": 1.0}))[0]["w"]
        >>> round(step.item(), 5)                    # sqrt(1e-6) / sqrt(0.1)
        -0.00316

    Source: Zeiler (2012), algorithm 1.
    """
    require_decay("decay", decay)
    require_non_negative("epsilon", epsilon)
    if gradient_epsilon is None:
        gradient_epsilon = epsilon
    require_non_negative("gradient_epsilon", gradient_epsilon)
    rule = scale_by_adadelta(decay, epsilon, gradient_epsilon)
    return in_wide_type(optax.chain(rule, scale_by_learning_rate(learning_rate)), moment_dtype)


def scale_by_adadelta(
    decay: Any, epsilon: Any, gradient_epsilon: Any
) -> optax.GradientTransformation:
    """The gradient in units of the parameter: see `jaxdl.optimizers.adadelta`.

    The state is optax's `ScaleByAdaDeltaState`; `optax.scale_by_adadelta` has one epsilon.
    """

    def init_fn(params: Any) -> Any:
        return optax.ScaleByAdaDeltaState(zeros(params), zeros(params))

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        of_gradient = optax.tree.update_moment(updates, state.e_g, decay, 2)
        updates = jax.tree.map(
            lambda g, of_g, of_x: (
                g * (jnp.sqrt(of_x + epsilon) / jnp.sqrt(of_g + gradient_epsilon))
            ),
            updates,
            of_gradient,
            state.e_x,
        )
        of_update = optax.tree.update_moment(updates, state.e_x, decay, 2)
        return updates, optax.ScaleByAdaDeltaState(of_gradient, of_update)

    return optax.GradientTransformation(init_fn, update_fn)
