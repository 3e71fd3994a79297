"""Adam: the moving average of the gradient over the root of the average of its square."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxdl.checks import require_choice
from jaxdl.factories import factory
from jaxdl.optimizers.learning_rate import LearningRate, scale_by_learning_rate
from jaxdl.optimizers.moments import (
    MOMENTS,
    POSITIONS,
    EpsilonPosition,
    Moment,
    bias_correction,
    first_moments,
    next_moments,
    require_moments,
    root,
    zeros,
)
from jaxdl.optimizers.precision import in_wide_type
from jaxdl.optimizers.weight_decay import decayed_weights, is_kernel


@factory
def adam(
    learning_rate: LearningRate,
    *,
    beta1: Any = 0.9,
    beta2: Any = 0.999,
    epsilon: Any = 1e-8,
    epsilon_position: EpsilonPosition = "inside",
    amsgrad: bool = False,
    maximum_of: Moment = "raw",
    moment_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    r"""Adaptive moment estimation.

    $$m_t = \beta_1 m_{t-1} + (1-\beta_1) g_t, \qquad v_t = \beta_2 v_{t-1} + (1-\beta_2) g_t^2$$
    $$\hat m_t = \frac{m_t}{1-\beta_1^t}, \quad \hat v_t = \frac{v_t}{1-\beta_2^t}, \qquad
      \theta_{t+1} = \theta_t - \frac{\eta}{\sqrt{\hat v_t + \epsilon}}\, \hat m_t$$

    with m_0 = v_0 = 0. Epsilon stands inside the root, as in the lecture. PyTorch, optax and the
    paper add it to the root: sqrt(v_hat) + epsilon. With epsilon = 1e-8 the step is at most 10^4
    eta m_hat inside, and 10^8 eta m_hat outside. The bias corrections are exact to float32's
    rounding, as in PyTorch but not in optax: see `jaxdl.optimizers.moments.bias_correction`.

    With `amsgrad`, v_hat never falls. It is the maximum of all v so far, then corrected ("raw", as
    in PyTorch), or the maximum of all corrected v ("corrected", as in optax).

    PyTorch: `epsilon_position="outside"`. optax: the same, and `maximum_of="corrected"` for its
    `amsgrad`.

    Arguments:
        learning_rate: eta, a `LearningRate`.
        beta1: the weight of the old first moment, in [0, 1).
        beta2: the weight of the old second moment, in [0, 1).
        epsilon: 0 or more. With 0 the step is 0 / 0 for a parameter without a gradient so far.
        epsilon_position: "inside" the root or "outside" it.
        amsgrad: whether to keep the largest second moment.
        maximum_of: the maximum is of the "raw" or of the "corrected" second moments.
        moment_dtype: of the moments, float32 or wider; None for float32, or the parameters' type if
            that is wider. See `jaxdl.optimizers.precision`.

    Raises:
        ValueError: a negative rate or epsilon, a beta outside [0, 1), an unknown position.

    Example:
        >>> optimizer = adam(0.5)
        >>> updates, _ = optimizer.update({"w": 4.0}, optimizer.init({"w": 1.0}))
        >>> round(updates["w"].item(), 6)
        -0.5

    Source: Kingma and Ba (2015), algorithm 1; Reddi, Kale and Kumar (2018), algorithm 2.
    """
    require_moments(beta1, beta2, epsilon)
    require_choice("epsilon_position", epsilon_position, POSITIONS)
    require_choice("maximum_of", maximum_of, MOMENTS)
    settings: Any = {
        "beta1": beta1, "beta2": beta2, "epsilon": epsilon, "epsilon_position": epsilon_position,
    }  # fmt: skip
    if amsgrad:
        rule = scale_by_amsgrad(**settings, maximum_of=maximum_of)
    else:
        rule = scale_by_adam(**settings)
    return in_wide_type(optax.chain(rule, scale_by_learning_rate(learning_rate)), moment_dtype)


@factory
def adamw(
    learning_rate: LearningRate,
    *,
    beta1: Any = 0.9,
    beta2: Any = 0.999,
    epsilon: Any = 1e-8,
    epsilon_position: EpsilonPosition = "outside",
    weight_decay: Any = 1e-2,
    mask: Any = is_kernel,
    moment_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    r"""Adam with decoupled weight decay: the decay does not pass through the second moment.

    $$\theta_{t+1} = \theta_t - \eta\Bigl(\frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon}
      + \lambda\theta_t\Bigr)$$

    PyTorch: `mask=None`. optax: `weight_decay=1e-4, mask=None`.

    Arguments:
        learning_rate: eta, a `LearningRate`.
        beta1, beta2, epsilon: as in `adam`.
        epsilon_position: as in `adam`; by default "outside", as in the paper.
        weight_decay: lambda, 0 or more.
        mask: which parameters decay, see `l2`: kernels only, by default.
        moment_dtype: as in `adam`.

    Raises:
        ValueError: as in `adam`; at init, a mask that does not fit the parameters.

    Example:
        >>> optimizer = adamw(0.5, weight_decay=0.5)
        >>> params = {"kernel": 4.0, "bias": 4.0}
        >>> gradients = {"kernel": 1.0, "bias": 1.0}
        >>> updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        >>> round(updates["kernel"].item(), 6), round(updates["bias"].item(), 6)
        (-1.5, -0.5)

    Source: Loshchilov and Hutter (2019), algorithm 2.
    """
    require_moments(beta1, beta2, epsilon)
    require_choice("epsilon_position", epsilon_position, POSITIONS)
    rule = optax.chain(
        scale_by_adam(beta1=beta1, beta2=beta2, epsilon=epsilon, epsilon_position=epsilon_position),
        *decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
    return in_wide_type(rule, moment_dtype)


def scale_by_adam(
    *,
    beta1: Any = 0.9,
    beta2: Any = 0.999,
    epsilon: Any = 1e-8,
    epsilon_position: EpsilonPosition = "inside",
) -> optax.GradientTransformation:
    r"""Adam's direction, m_hat over the root of v_hat: see `jaxdl.optimizers.adam`.

    The state is optax's `ScaleByAdamState(count, mu, nu)`. `optax.scale_by_adam` differs only in
    the rounding of the bias correction (see `bias_correction`).

    Example:
        >>> import jax.numpy as jnp
        >>> direction = scale_by_adam(epsilon=0.0)
        >>> updates, _ = direction.update(jnp.array([3.0, -5.0]), direction.init(jnp.zeros(2)))
        >>> updates.round(6).tolist()
        [1.0, -1.0]
    """

    def update_fn(
        updates: Any, state: optax.ScaleByAdamState, params: Any = None
    ) -> tuple[Any, optax.ScaleByAdamState]:
        del params
        state = next_moments(updates, state, beta1, beta2)
        mu_correction, nu_correction = (
            bias_correction(beta, state.count) for beta in (beta1, beta2)
        )

        def direction(m: Array, v: Array) -> Array:
            return (m * mu_correction / root(v * nu_correction, epsilon, epsilon_position)).astype(
                m.dtype
            )

        return jax.tree.map(direction, state.mu, state.nu), state

    return optax.GradientTransformation(first_moments, update_fn)


def scale_by_amsgrad(
    *,
    beta1: Any,
    beta2: Any,
    epsilon: Any,
    epsilon_position: EpsilonPosition,
    maximum_of: Moment,
) -> optax.GradientTransformation:
    """Adam's direction with the largest second moment so far: `jaxdl.optimizers.adam(amsgrad)`.

    The state is optax's `ScaleByAmsgradState`; `optax.scale_by_amsgrad` has only the maximum of the
    corrected moment.
    """

    def init_fn(params: Any) -> Any:
        return optax.ScaleByAmsgradState(*first_moments(params), zeros(params))

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        now = next_moments(updates, optax.ScaleByAdamState(*state[:3]), beta1, beta2)
        mu_correction, nu_correction = (bias_correction(beta, now.count) for beta in (beta1, beta2))
        before, after = (1.0, nu_correction) if maximum_of == "raw" else (nu_correction, 1.0)
        largest = jax.tree.map(
            lambda top, v: jnp.maximum(top, (v * before).astype(v.dtype)), state.nu_max, now.nu
        )

        def direction(m: Array, v: Array) -> Array:
            return (m * mu_correction / root(v * after, epsilon, epsilon_position)).astype(m.dtype)

        return jax.tree.map(direction, now.mu, largest), optax.ScaleByAmsgradState(*now, largest)

    return optax.GradientTransformation(init_fn, update_fn)
