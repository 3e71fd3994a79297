"""Adamax: Adam in the maximum norm."""

import optax

from jaxdl.optimizers.learning_rate import LearningRate, scale_by_learning_rate
from jaxdl.optimizers.moments import require_moments


def adamax(
    learning_rate: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
) -> optax.GradientTransformation:
    r"""Adam with the largest decayed gradient instead of the second moment's root.

    $$m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \qquad
      u_t = \max(\beta_2 u_{t-1}, |g_t| + \epsilon), \qquad
      \theta_{t+1} = \theta_t - \frac{\eta}{1-\beta_1^t}\,\frac{m_t}{u_t}$$

    with m_0 = u_0 = 0. The lecture and the paper have no epsilon. Without it the step is 0 / 0 for
    a parameter without a gradient so far. It stands where PyTorch and optax have it.

    Arguments:
        learning_rate: eta, a `LearningRate`.
        beta1: the weight of the old first moment, in [0, 1).
        beta2: the decay of the largest gradient, in [0, 1).
        epsilon: 0 or more.

    Raises:
        ValueError: a negative rate or epsilon, a beta outside [0, 1).

    Example:
        >>> optimizer = adamax(0.5)
        >>> round(optimizer.update({"w": 4.0}, optimizer.init({"w": 1.0}))[0]["w"].item(), 6)
        -0.5

    Source: Kingma and Ba (2015), algorithm 2.
    """
    require_moments(beta1, beta2, epsilon)
    return optax.chain(
        optax.scale_by_adamax(beta1, beta2, epsilon), scale_by_learning_rate(learning_rate)
    )
