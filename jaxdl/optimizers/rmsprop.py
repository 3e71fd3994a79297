"""RMSprop: each parameter has its own rate, from an average of its squared gradients."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike

from jaxdl.checks import require_choice, require_decay, require_non_negative
from jaxdl.factories import factory
from jaxdl.optimizers.descent import RatePosition, velocity
from jaxdl.optimizers.learning_rate import LearningRate
from jaxdl.optimizers.moments import POSITIONS, EpsilonPosition, quotient, root, zeros
from jaxdl.optimizers.precision import in_wide_type


@factory
def rmsprop(
    learning_rate: LearningRate,
    *,
    decay: Any = 0.9,
    epsilon: Any = 1e-8,
    epsilon_position: EpsilonPosition = "inside",
    centered: bool = False,
    momentum: Any = 0.0,
    rate_position: RatePosition = "inside",
    moment_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    r"""Divide by the root of a moving average of squared gradients.

    $$E[g^2]_t = \rho E[g^2]_{t-1} + (1-\rho) g_t^2, \qquad
      \theta_{t+1} = \theta_t - \frac{\eta}{\sqrt{E[g^2]_t + \epsilon}}\, g_t$$

    with E[g^2]_0 = 0 and no bias correction. If `centered`, E[g^2] - E[g]^2 takes its place. With
    momentum, the quotient goes into a velocity as in `jaxdl.optimizers.momentum`.

    PyTorch: `decay=0.99, epsilon_position="outside", rate_position="outside"`. optax: the defaults.

    Arguments:
        learning_rate: eta, a `LearningRate`.
        decay: rho, in [0, 1).
        epsilon, epsilon_position: as in `adam`.
        centered: whether to divide by the root of the moving variance. The state holds the variance
            itself, so rounding never makes it negative, as it can in PyTorch and optax.
        momentum: the decay of the velocity, in [0, 1); 0 for none.
        rate_position: with momentum, "inside" the velocity or "outside" it.
        moment_dtype: as in `adam`.

    Raises:
        ValueError: a negative number, a decay outside [0, 1), an unknown position.

    Example:
        >>> optimizer = rmsprop(0.5, decay=0.75)
        >>> round(optimizer.update({"w": 4.0}, optimizer.init({"w": 1.0}))[0]["w"].item(), 6)
        -1.0

    Source: Tieleman and Hinton (2012), lecture 6.5; `centered`: Graves (2013), eqs 38 to 45.
    """
    require_decay("decay", decay)
    require_decay("momentum", momentum)
    require_non_negative("epsilon", epsilon)
    require_choice("epsilon_position", epsilon_position, POSITIONS)
    rule: Any
    if centered:
        rule = scale_by_centered_rms(decay, epsilon, epsilon_position)
    else:
        rule = optax.scale_by_rms(decay, epsilon, eps_in_sqrt=epsilon_position == "inside")
    accumulator = optax.trace(momentum) if needs_velocity(momentum) else optax.identity()
    return in_wide_type(
        optax.chain(rule, velocity(learning_rate, accumulator, rate_position)), moment_dtype
    )


def needs_velocity(momentum: Any) -> bool:
    """Whether a velocity is needed: always, except for the plain number 0."""
    return not (isinstance(momentum, (int, float)) and momentum == 0)


class CenteredState(NamedTuple):
    """The moving mean of the gradient, and its moving variance."""

    mu: optax.Updates
    variance: optax.Updates


def scale_by_centered_rms(
    decay: Any, epsilon: Any, epsilon_position: EpsilonPosition
) -> optax.GradientTransformation:
    r"""The gradient over the root of its moving variance: `jaxdl.optimizers.rmsprop(centered)`.

    $$\mathrm{Var}_t = \rho\,\mathrm{Var}_{t-1} + \frac{1-\rho}{\rho}\,(g_t - m_t)^2
      = E[g^2]_t - m_t^2$$

    The first form is never negative. PyTorch and optax compute the second. Its rounding makes the
    root NaN if gradients hardly vary.

    Source: Welford (1962), West (1979), for weights that decay.
    """

    def init_fn(params: Any) -> CenteredState:
        return CenteredState(zeros(params), zeros(params))

    def update_fn(
        updates: Any, state: CenteredState, params: Any = None
    ) -> tuple[Any, CenteredState]:
        del params
        mu = optax.tree.update_moment(updates, state.mu, decay, 1)
        # At rho = 0 the mean is the gradient, so the variance is 0 with any weight.
        weight = (1 - decay) / jnp.where(decay == 0, 1.0, decay)
        variance = jax.tree.map(
            lambda s, g, m: (decay * s + weight * jnp.square(g - m)).astype(s.dtype),
            state.variance,
            updates,
            mu,
        )
        roots = jax.tree.map(lambda s: root(s, epsilon, epsilon_position), variance)
        return quotient(updates, roots), CenteredState(mu, variance)

    return optax.GradientTransformation(init_fn, update_fn)
