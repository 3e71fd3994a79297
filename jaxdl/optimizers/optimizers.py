"""The optimizers, each an equation and the chain of transformations that computes it."""

from typing import Literal

import optax

from jaxdl.optimizers.checks import check_decay, check_epsilon, check_rate
from jaxdl.optimizers.transforms import scale_by_adam


def sgd(learning_rate: optax.ScalarOrSchedule) -> optax.GradientTransformation:
    r"""Stochastic gradient descent.

    $$\theta_{t+1} = \theta_t - \eta\, g_t$$

    The same numbers as `torch.optim.SGD(lr)` and `optax.sgd`.

    Arguments:
        learning_rate: eta, a float, a schedule of the step, or a traced array.

    Raises:
        ValueError: a negative rate.

    Example:
        >>> optimizer = sgd(0.5)
        >>> updates, _ = optimizer.update({"w": 4.0}, optimizer.init({"w": 1.0}))
        >>> updates["w"]
        -2.0

    Source: Robbins and Monro (1951).
    """
    check_rate(learning_rate)
    return optax.chain(optax.scale_by_learning_rate(learning_rate))


def momentum(
    learning_rate: optax.ScalarOrSchedule,
    *,
    decay: float = 0.9,
    rate_position: Literal["inside", "outside"] = "inside",
) -> optax.GradientTransformation:
    r"""Gradient descent with a velocity.

    $$v_t = \gamma v_{t-1} + \eta\, g_t, \qquad \theta_{t+1} = \theta_t - v_t$$

    with v_0 = 0. The rate stands inside v, so a schedule acts on new gradients only. PyTorch
    (`torch.optim.SGD(momentum=gamma)`) and optax multiply the whole velocity by it instead:

    $$v_t = \gamma v_{t-1} + g_t, \qquad \theta_{t+1} = \theta_t - \eta\, v_t$$

    The two are the same while the rate is constant.

    Arguments:
        learning_rate: eta, a float, a schedule of the step, or a traced array.
        decay: gamma, in [0, 1).
        rate_position: "inside" the velocity, or "outside" for PyTorch's and optax's numerics.

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
    check_rate(learning_rate)
    check_decay("decay", decay)
    rate = optax.scale_by_learning_rate(learning_rate)
    velocity = optax.trace(decay)
    if rate_position == "inside":
        return optax.chain(rate, velocity)
    if rate_position == "outside":
        return optax.chain(velocity, rate)
    raise ValueError(
        "rate_position must be 'inside' (the lecture's velocity) or 'outside' (PyTorch's), "
        f"got {rate_position!r}"
    )


def adam(
    learning_rate: optax.ScalarOrSchedule,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    epsilon_position: Literal["inside", "outside"] = "inside",
) -> optax.GradientTransformation:
    r"""Adaptive moment estimation.

    $$m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2$$
    $$\hat m_t = \frac{m_t}{1-\beta_1^t}, \quad \hat v_t = \frac{v_t}{1-\beta_2^t}, \qquad
      \theta_{t+1} = \theta_t - \frac{\eta}{\sqrt{\hat v_t + \epsilon}}\, \hat m_t$$

    with m_0 = v_0 = 0. Epsilon stands inside the root, as in the lecture; PyTorch, optax and the
    paper add it to the root, sqrt(v_hat) + epsilon, which is `epsilon_position="outside"`. At
    1e-8 the first bounds the step at 10^4 eta m_hat, the second at 10^8 eta m_hat.
    The bias corrections are exact to float32's rounding, as PyTorch's are and optax's are not:
    see `jaxdl.optimizers.transforms.bias_correction`.

    Arguments:
        learning_rate: eta, a float, a schedule of the step, or a traced array.
        beta1: the weight of the old first moment, in [0, 1).
        beta2: the weight of the old second moment, in [0, 1).
        epsilon: 0 or more.
        epsilon_position: "inside" the root or "outside" it.

    Raises:
        ValueError: a negative rate or epsilon, a beta outside [0, 1), an unknown position.

    Example:
        >>> optimizer = adam(0.5)
        >>> updates, _ = optimizer.update({"w": 4.0}, optimizer.init({"w": 1.0}))
        >>> round(updates["w"].item(), 6)
        -0.5

    Source: Kingma and Ba (2015), algorithm 1.
    """
    check_rate(learning_rate)
    check_decay("beta1", beta1)
    check_decay("beta2", beta2)
    check_epsilon(epsilon)
    if epsilon_position not in ("inside", "outside"):
        raise ValueError(
            "epsilon_position must be 'inside' the root (the lecture) or 'outside' (PyTorch), "
            f"got {epsilon_position!r}"
        )
    return optax.chain(
        scale_by_adam(beta1=beta1, beta2=beta2, epsilon=epsilon, epsilon_position=epsilon_position),
        optax.scale_by_learning_rate(learning_rate),
    )
