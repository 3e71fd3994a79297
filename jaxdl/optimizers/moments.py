"""Adam and its relatives: a moving average of the gradient over the root of that of its square."""

from typing import Any

import optax

from jaxdl.checks import require_choice, require_decay, require_non_negative
from jaxdl.optimizers.learning_rate import LearningRate, scale_by_learning_rate
from jaxdl.optimizers.moment_transforms import (
    Moment,
    scale_by_adam,
    scale_by_amsgrad,
    scale_by_nadam,
    scale_by_radam,
)
from jaxdl.optimizers.transforms import EpsilonPosition
from jaxdl.optimizers.weight_decay import decayed_weights, is_kernel

POSITIONS = ("inside", "outside")
MOMENTS = ("raw", "corrected")


def adam(
    learning_rate: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    epsilon_position: EpsilonPosition = "inside",
    amsgrad: bool = False,
    maximum_of: Moment = "raw",
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

    With `amsgrad`, v_hat never falls: it is the maximum of all v so far, then corrected ("raw",
    PyTorch), or the maximum of all corrected ones ("corrected", optax).

    Arguments:
        learning_rate: eta, a float, a schedule of the step, a traced array, or a plateau.
        beta1: the weight of the old first moment, in [0, 1).
        beta2: the weight of the old second moment, in [0, 1).
        epsilon: 0 or more; at 0 a parameter without a gradient so far is 0 / 0.
        epsilon_position: "inside" the root or "outside" it.
        amsgrad: keep the largest second moment.
        maximum_of: of the "raw" second moments or of the "corrected" ones.

    Raises:
        ValueError: a negative rate or epsilon, a beta outside [0, 1), an unknown position.

    Example:
        >>> optimizer = adam(0.5)
        >>> updates, _ = optimizer.update({"w": 4.0}, optimizer.init({"w": 1.0}))
        >>> round(updates["w"].item(), 6)
        -0.5

    Source: Kingma and Ba (2015), algorithm 1; Reddi, Kale and Kumar (2018), algorithm 2.
    """
    check_moments(beta1, beta2, epsilon)
    require_choice("epsilon_position", epsilon_position, POSITIONS)
    require_choice("maximum_of", maximum_of, MOMENTS)
    settings: Any = {
        "beta1": beta1, "beta2": beta2, "epsilon": epsilon, "epsilon_position": epsilon_position,
    }  # fmt: skip
    if amsgrad:
        rule = scale_by_amsgrad(**settings, maximum_of=maximum_of)
    else:
        rule = scale_by_adam(**settings)
    return optax.chain(rule, scale_by_learning_rate(learning_rate))


def adamw(
    learning_rate: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    epsilon_position: EpsilonPosition = "outside",
    weight_decay: float = 1e-2,
    mask: Any = is_kernel,
) -> optax.GradientTransformation:
    r"""Adam with the weights decaying beside it, not through its second moment.

    $$\theta_{t+1} = \theta_t - \eta\Bigl(\frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon}
      + \lambda\theta_t\Bigr)$$

    PyTorch: `mask=None`. optax: `weight_decay=1e-4, mask=None`.

    Arguments:
        learning_rate: eta, a float, a schedule of the step, a traced array, or a plateau.
        beta1, beta2, epsilon: as in `adam`.
        epsilon_position: as in `adam`; here "outside", as in the paper, unless said otherwise.
        weight_decay: lambda, 0 or more.
        mask: which parameters decay, see `l2`: kernels only, by default.

    Raises:
        ValueError: as `adam`; at init, a mask that does not fit the parameters.

    Example:
        >>> optimizer = adamw(0.5, weight_decay=0.5)
        >>> params = {"kernel": 4.0, "bias": 4.0}
        >>> gradients = {"kernel": 1.0, "bias": 1.0}
        >>> updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        >>> round(updates["kernel"].item(), 6), round(updates["bias"].item(), 6)
        (-1.5, -0.5)

    Source: Loshchilov and Hutter (2019), algorithm 2.
    """
    check_moments(beta1, beta2, epsilon)
    require_choice("epsilon_position", epsilon_position, POSITIONS)
    return optax.chain(
        scale_by_adam(beta1=beta1, beta2=beta2, epsilon=epsilon, epsilon_position=epsilon_position),
        *decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )


def adamax(
    learning_rate: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
) -> optax.GradientTransformation:
    r"""Adam with the largest decayed gradient in the place of the second moment's root.

    $$m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \qquad
      u_t = \max(\beta_2 u_{t-1}, |g_t| + \epsilon), \qquad
      \theta_{t+1} = \theta_t - \frac{\eta}{1-\beta_1^t}\,\frac{m_t}{u_t}$$

    with m_0 = u_0 = 0. The lecture and the paper have no epsilon: without it a parameter that
    has had no gradient is 0 / 0. Here it stands where PyTorch and optax have it.

    Arguments:
        learning_rate: eta, a float, a schedule of the step, a traced array, or a plateau.
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
    check_moments(beta1, beta2, epsilon)
    return optax.chain(
        optax.scale_by_adamax(beta1, beta2, epsilon), scale_by_learning_rate(learning_rate)
    )


def nadam(
    learning_rate: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    epsilon_position: EpsilonPosition = "outside",
    momentum_decay: float | None = 4e-3,
) -> optax.GradientTransformation:
    r"""Adam with Nesterov's look-ahead.

    $$\theta_{t+1} = \theta_t - \frac{\eta}{\sqrt{\hat v_t} + \epsilon}
      \Bigl(\frac{\mu_{t+1} m_t}{1 - \prod_{i\le t+1}\mu_i}
          + \frac{(1-\mu_t)\, g_t}{1 - \prod_{i\le t}\mu_i}\Bigr), \qquad
      \mu_t = \beta_1\bigl(1 - \tfrac12\, 0.96^{t\psi}\bigr)$$

    PyTorch: the defaults. `momentum_decay=None` is mu_t = beta1, optax's numerics; 0 is not the
    same: it is mu_t = beta1 / 2.

    Arguments:
        learning_rate: eta, a float, a schedule of the step, a traced array, or a plateau.
        beta1, beta2, epsilon: as in `adam`.
        epsilon_position: as in `adam`; here "outside", unless said otherwise.
        momentum_decay: psi, 0 or more, or None.

    Raises:
        ValueError: as `adam`.

    Example:
        >>> optimizer = nadam(0.5, momentum_decay=None)
        >>> step = optimizer.update({"w": 4.0}, optimizer.init({"w": 1.0}))[0]["w"]
        >>> round(step.item(), 4)                    # 0.5 * (0.9 * 0.1 / 0.19 + 1)
        -0.7368

    Source: Dozat (2016), algorithm 2.
    """
    check_moments(beta1, beta2, epsilon)
    require_choice("epsilon_position", epsilon_position, POSITIONS)
    if momentum_decay is not None:
        require_non_negative("momentum_decay", momentum_decay)
    return optax.chain(
        scale_by_nadam(
            beta1=beta1,
            beta2=beta2,
            epsilon=epsilon,
            epsilon_position=epsilon_position,
            momentum_decay=momentum_decay,
        ),
        scale_by_learning_rate(learning_rate),
    )


def radam(
    learning_rate: LearningRate,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    epsilon_added_to: Moment = "raw",
) -> optax.GradientTransformation:
    r"""Adam, rectified: momentum alone until the second moment is known well enough.

    $$\rho_t = \rho_\infty - \frac{2t\beta_2^t}{1-\beta_2^t}, \quad
      \rho_\infty = \frac{2}{1-\beta_2} - 1, \qquad
      r_t = \sqrt{\frac{(\rho_t-4)(\rho_t-2)\rho_\infty}{(\rho_\infty-4)(\rho_\infty-2)\rho_t}}$$
    $$\theta_{t+1} = \theta_t - \eta\,\hat m_t\,\frac{r_t\sqrt{1-\beta_2^t}}{\sqrt{v_t}+\epsilon}
      \;\text{ where } \rho_t > 5, \qquad \theta_t - \eta\,\hat m_t \;\text{ before}$$

    PyTorch: the defaults. optax adds epsilon to the root of the corrected moment,
    `epsilon_added_to="corrected"`. The paper has none, and rectifies above 4; PyTorch's and
    optax's 5 is taken.

    Arguments:
        learning_rate: eta, a float, a schedule of the step, a traced array, or a plateau.
        beta1, beta2, epsilon: as in `adam`.
        epsilon_added_to: the root of the "raw" second moment or of the "corrected" one.

    Raises:
        ValueError: a negative rate or epsilon, a beta outside [0, 1), an unknown moment.

    Example:
        >>> optimizer = radam(0.5)
        >>> round(optimizer.update({"w": 4.0}, optimizer.init({"w": 1.0}))[0]["w"].item(), 6)
        -2.0

    Source: Liu et al. (2020), algorithm 2.
    """
    check_moments(beta1, beta2, epsilon)
    require_choice("epsilon_added_to", epsilon_added_to, MOMENTS)
    return optax.chain(
        scale_by_radam(
            beta1=beta1, beta2=beta2, epsilon=epsilon, epsilon_added_to=epsilon_added_to
        ),
        scale_by_learning_rate(learning_rate),
    )


def check_moments(beta1: Any, beta2: Any, epsilon: Any) -> None:
    """The settings that all of them share."""
    require_decay("beta1", beta1)
    require_decay("beta2", beta2)
    require_non_negative("epsilon", epsilon)
