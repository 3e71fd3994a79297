"""Gradient descent: plain, with a velocity, with a look-ahead, by the gradient's sign."""

from typing import Any, Literal

import jax
import optax
from jax.typing import DTypeLike

from jaxdl.checks import require_choice, require_decay
from jaxdl.factories import factory
from jaxdl.optimizers.learning_rate import (
    LearningRate,
    current_learning_rate,
    scale_by_learning_rate,
)
from jaxdl.optimizers.precision import in_wide_type, narrowed
from jaxdl.optimizers.weight_decay import decayed_weights, is_kernel

RatePosition = Literal["inside", "outside"]


@factory
def sgd(learning_rate: LearningRate) -> optax.GradientTransformation:
    r"""Stochastic gradient descent.

    $$\theta_{t+1} = \theta_t - \eta\, g_t$$

    PyTorch: the defaults, `torch.optim.SGD(lr)`. optax: the defaults.

    Arguments:
        learning_rate: eta, a `LearningRate`.

    Raises:
        ValueError: a negative rate.

    Example:
        >>> optimizer = sgd(0.5)
        >>> updates, _ = optimizer.update({"w": 4.0}, optimizer.init({"w": 1.0}))
        >>> updates["w"].item()
        -2.0

    Source: Robbins and Monro (1951).
    """
    return optax.chain(scale_by_learning_rate(learning_rate))


@factory
def momentum(
    learning_rate: LearningRate,
    *,
    decay: Any = 0.9,
    rate_position: RatePosition = "inside",
    moment_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    r"""Gradient descent with a velocity.

    $$v_t = \gamma v_{t-1} + \eta\, g_t, \qquad \theta_{t+1} = \theta_t - v_t$$

    with v_0 = 0. The rate stands inside v, so a schedule acts on new gradients only. With
    `rate_position="outside"` the rate multiplies the whole velocity instead:

    $$v_t = \gamma v_{t-1} + g_t, \qquad \theta_{t+1} = \theta_t - \eta\, v_t$$

    The two agree while the rate is constant.

    PyTorch: `rate_position="outside"`, its `SGD(momentum=gamma)`. optax: the same.

    Arguments:
        learning_rate: eta, a `LearningRate`.
        decay: gamma, in [0, 1); it may be traced, to be vmapped over.
        rate_position: "inside" the velocity, or "outside" it.
        moment_dtype: of the velocity, as in `adam`.

    Raises:
        ValueError: a negative rate, a decay outside [0, 1), an unknown position.

    Example:
        >>> optimizer = momentum(0.5, decay=0.5)
        >>> state = optimizer.init({"w": 1.0})
        >>> _, state = optimizer.update({"w": 4.0}, state)
        >>> optimizer.update({"w": 4.0}, state)[0]["w"].item()
        -3.0

    Source: Polyak (1964); Rumelhart, Hinton and Williams (1986).
    """
    require_decay("decay", decay)
    return in_wide_type(velocity(learning_rate, optax.trace(decay), rate_position), moment_dtype)


@factory
def nesterov(
    learning_rate: LearningRate,
    *,
    decay: Any = 0.9,
    rate_position: RatePosition = "inside",
    moment_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    r"""Nesterov's accelerated gradient: the gradient at the point where the velocity leads.

    $$v_t = \gamma v_{t-1} + \eta\, \nabla f(\theta_{t-1} - \gamma v_{t-1}), \qquad
      \theta_t = \theta_{t-1} - v_t$$

    A training step takes its gradient at its own parameters. So these parameters are the look-ahead
    point $\phi_t = \theta_t - \gamma v_t$, for which the two equations become

    $$v_t = \gamma v_{t-1} + \eta\, \nabla f(\phi_{t-1}), \qquad
      \phi_t = \phi_{t-1} - (\gamma v_t + \eta\, \nabla f(\phi_{t-1}))$$

    `nesterov_theta` maps phi to theta.

    PyTorch: `rate_position="outside"`, its `SGD(momentum=gamma, nesterov=True)`, which holds phi
    too. optax: the same.

    Arguments and errors: as in `momentum`.

    Example:
        >>> optimizer = nesterov(0.5, decay=0.5)
        >>> optimizer.update({"w": 4.0}, optimizer.init({"w": 1.0}))[0]["w"].item()
        -3.0

    Source: Nesterov (1983); Sutskever, Martens, Dahl and Hinton (2013), eqs 3 and 4.
    """
    require_decay("decay", decay)
    return in_wide_type(
        velocity(learning_rate, optax.trace(decay, nesterov=True), rate_position), moment_dtype
    )


def nesterov_theta(params: Any, opt_state: optax.OptState, *, decay: Any = 0.9) -> Any:
    r"""The lecture's parameters from those that `nesterov` holds: $\theta = \phi + \gamma v$.

    With `rate_position="outside"` v is multiplied by the rate of the next update. This is exact
    while the rate is constant.

    Arguments:
        params: phi, the parameters in training.
        opt_state: the state of `nesterov` itself.
        decay: the gamma of `nesterov`.

    Example:
        >>> optimizer = nesterov(0.5, decay=0.5)
        >>> updates, state = optimizer.update({"w": 4.0}, optimizer.init({"w": 1.0}))
        >>> held = {"w": 1.0 + updates["w"]}
        >>> nesterov_theta(held, state, decay=0.5)["w"].item()      # 1 - 0.5 * 4
        -1.0
    """
    states: Any = opt_state
    outside = isinstance(states[0], optax.TraceState)
    held = states[0 if outside else 1].trace
    # With the rate outside, optax's trace is v; with the rate inside, it is minus v.
    scale = decay * (current_learning_rate(opt_state) if outside else -1.0)
    return jax.tree.map(lambda phi, v: phi + narrowed(scale * v, phi), params, held)


def velocity(
    learning_rate: LearningRate, accumulator: optax.GradientTransformation, rate_position: str
) -> optax.GradientTransformation:
    """A velocity, with the rate inside it or multiplied by it."""
    require_choice("rate_position", rate_position, ("inside", "outside"))
    rate = scale_by_learning_rate(learning_rate)
    return optax.chain(*((rate, accumulator) if rate_position == "inside" else (accumulator, rate)))


@factory
def lion(
    learning_rate: LearningRate,
    *,
    beta1: Any = 0.9,
    beta2: Any = 0.99,
    weight_decay: Any = 0.0,
    mask: Any = is_kernel,
    moment_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    r"""The sign of an interpolation between momentum and gradient.

    $$\theta_{t+1} = \theta_t - \eta\,\bigl(\operatorname{sign}(\beta_1 m_{t-1} + (1-\beta_1) g_t)
      + \lambda\theta_t\bigr), \qquad m_t = \beta_2 m_{t-1} + (1-\beta_2) g_t$$

    Every coordinate moves by eta, so the rate is 3 to 10 times smaller than Adam's. The same
    numbers as `optax.lion(weight_decay=..., mask=...)`, whose decay is 1e-3 by default.

    Arguments:
        learning_rate: eta, a `LearningRate`.
        beta1: the weight of the momentum in the direction, in [0, 1).
        beta2: the weight of the old momentum, in [0, 1).
        weight_decay: lambda, decoupled from the gradient.
        mask: which parameters decay, see `l2`.
        moment_dtype: as in `adam`.

    Raises:
        ValueError: a negative rate or decay, a beta outside [0, 1); at init, a mask that does
            not fit the parameters.

    Example:
        >>> optimizer = lion(0.5)
        >>> optimizer.update({"w": 4.0}, optimizer.init({"w": 1.0}))[0]["w"].item()
        -0.5

    Source: Chen et al. (2023), algorithm 2.
    """
    require_decay("beta1", beta1)
    require_decay("beta2", beta2)
    rule = optax.chain(
        optax.scale_by_lion(beta1, beta2),
        *decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
    return in_wide_type(rule, moment_dtype)
