"""A rate for every parameter, from the history of its own gradient."""

from typing import Any

import optax

from jaxdl.checks import require_choice, require_decay, require_non_negative
from jaxdl.optimizers.descent import RatePosition, velocity
from jaxdl.optimizers.learning_rate import LearningRate, scale_by_learning_rate
from jaxdl.optimizers.transforms import (
    EpsilonPosition,
    scale_by_adadelta,
    scale_by_adagrad,
    scale_by_centered_rms,
)

POSITIONS = ("inside", "outside")


def adagrad(
    learning_rate: LearningRate,
    *,
    initial_accumulator: float = 0.0,
    epsilon: float = 1e-8,
    epsilon_position: EpsilonPosition = "inside",
) -> optax.GradientTransformation:
    r"""Divide by the root of the sum of all squared gradients.

    $$G_t = G_{t-1} + g_t^2, \qquad
      \theta_{t+1} = \theta_t - \frac{\eta}{\sqrt{G_t + \epsilon}}\, g_t$$

    with G_0 = 0. PyTorch: `epsilon=1e-10, epsilon_position="outside"` (its `lr_decay` is the
    schedule `inverse_time`). optax: `initial_accumulator=0.1, epsilon=1e-7`.

    Arguments:
        learning_rate: eta, a float, a schedule of the step, a traced array, or a plateau.
        initial_accumulator: G_0, 0 or more.
        epsilon: 0 or more; at 0 a parameter without a gradient so far is 0 / 0.
        epsilon_position: "inside" the root or "outside" it.

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
    return optax.chain(
        scale_by_adagrad(initial_accumulator, epsilon, epsilon_position),
        scale_by_learning_rate(learning_rate),
    )


def adadelta(
    learning_rate: LearningRate = 1.0,
    *,
    decay: float = 0.9,
    epsilon: float = 1e-6,
    gradient_epsilon: float | None = None,
) -> optax.GradientTransformation:
    r"""A step in the parameter's own units, so that no rate needs to be found.

    $$E[g^2]_t = \rho E[g^2]_{t-1} + (1-\rho) g_t^2, \qquad
      \Delta\theta_t = -\frac{\sqrt{E[\Delta\theta^2]_{t-1} + \epsilon}}
                            {\sqrt{E[g^2]_t + \epsilon}}\, g_t$$
    $$E[\Delta\theta^2]_t = \rho E[\Delta\theta^2]_{t-1} + (1-\rho)\Delta\theta_t^2, \qquad
      \theta_{t+1} = \theta_t + \eta\,\Delta\theta_t$$

    with both averages 0 at first, and eta 1. The same numbers as PyTorch's and optax's, which
    have the same defaults (optax: `rho=0.9, eps=1e-6`).

    The epsilon above sets the size of the first steps; the one below keeps a parameter without
    gradient from 0 / 0, and where E[g^2] is not far above it, the path depends on the scale of
    the loss. `gradient_epsilon=1e-30` takes that dependence away.

    Arguments:
        learning_rate: eta, a float, a schedule of the step, a traced array, or a plateau.
        decay: rho, in [0, 1).
        epsilon: in both roots, 0 or more.
        gradient_epsilon: in the root of E[g^2], if it is to be another.

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
    return optax.chain(
        scale_by_adadelta(decay, epsilon, gradient_epsilon),
        scale_by_learning_rate(learning_rate),
    )


def rmsprop(
    learning_rate: LearningRate,
    *,
    decay: float = 0.9,
    epsilon: float = 1e-8,
    epsilon_position: EpsilonPosition = "inside",
    centered: bool = False,
    momentum: float = 0.0,
    rate_position: RatePosition = "inside",
) -> optax.GradientTransformation:
    r"""Divide by the root of a moving average of squared gradients.

    $$E[g^2]_t = \rho E[g^2]_{t-1} + (1-\rho) g_t^2, \qquad
      \theta_{t+1} = \theta_t - \frac{\eta}{\sqrt{E[g^2]_t + \epsilon}}\, g_t$$

    with E[g^2]_0 = 0 and no bias correction. Centered, E[g^2] - E[g]^2 takes its place; with
    momentum, the quotient goes into a velocity as in `jaxdl.optimizers.momentum`. PyTorch:
    `decay=0.99, epsilon_position="outside", rate_position="outside"`. optax: the defaults.

    Arguments:
        learning_rate: eta, a float, a schedule of the step, a traced array, or a plateau.
        decay: rho, in [0, 1).
        epsilon: 0 or more; at 0 a parameter without a gradient so far is 0 / 0.
        epsilon_position: "inside" the root or "outside" it.
        centered: divide by the root of the moving variance; it is kept as such, so that rounding
            never makes it negative, as it does in PyTorch and optax.
        momentum: the decay of the velocity, in [0, 1); 0 for none.
        rate_position: with momentum, "inside" the velocity or "outside" it.

    Raises:
        ValueError: a negative number, a decay outside [0, 1), an unknown position.

    Example:
        >>> optimizer = rmsprop(0.5, decay=0.75)
        >>> round(optimizer.update({"w": 4.0}, optimizer.init({"w": 1.0}))[0]["w"].item(), 6)
        -1.0

    Source: Tieleman and Hinton (2012), lecture 6.5; centered: Graves (2013), eqs 38 to 45.
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
    trace = optax.trace(momentum) if needs_velocity(momentum) else optax.identity()
    return optax.chain(rule, velocity(learning_rate, trace, rate_position))


def needs_velocity(momentum: Any) -> bool:
    """Whether a velocity is needed: not for the plain number 0."""
    return not (isinstance(momentum, (int, float)) and momentum == 0)
