"""NAdam: Adam with Nesterov's look-ahead."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxdl.checks import require_choice, require_non_negative
from jaxdl.factories import factory
from jaxdl.optimizers.learning_rate import LearningRate, scale_by_learning_rate
from jaxdl.optimizers.moments import (
    POSITIONS,
    EpsilonPosition,
    bias_correction,
    first_moments,
    log,
    next_moments,
    require_moments,
    root,
)
from jaxdl.optimizers.precision import in_wide_type


@factory
def nadam(
    learning_rate: LearningRate,
    *,
    beta1: Any = 0.9,
    beta2: Any = 0.999,
    epsilon: Any = 1e-8,
    epsilon_position: EpsilonPosition = "outside",
    momentum_decay: Any = 4e-3,
    moment_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    r"""Adam with Nesterov's look-ahead.

    $$\theta_{t+1} = \theta_t - \frac{\eta}{\sqrt{\hat v_t} + \epsilon}
      \Bigl(\frac{\mu_{t+1} m_t}{1 - \prod_{i\le t+1}\mu_i}
          + \frac{(1-\mu_t)\, g_t}{1 - \prod_{i\le t}\mu_i}\Bigr), \qquad
      \mu_t = \beta_1\bigl(1 - \tfrac12\, 0.96^{t\psi}\bigr)$$

    PyTorch: the defaults. optax: `momentum_decay=None`, which is mu_t = beta1. A decay of 0
    differs: it is mu_t = beta1 / 2.

    Arguments:
        learning_rate: eta, a `LearningRate`.
        beta1, beta2, epsilon: as in `adam`.
        epsilon_position: as in `adam`; by default "outside".
        momentum_decay: psi, 0 or more, or None.
        moment_dtype: as in `adam`.

    Raises:
        ValueError: as in `adam`; a negative momentum_decay.

    Example:
        >>> optimizer = nadam(0.5, momentum_decay=None)
        >>> step = optimizer.update({"w": 4.0}, optimizer.init({"w": 1.0}))[0]["w"]
        >>> round(step.item(), 4)                    # 0.5 * (0.9 * 0.1 / 0.19 + 1)
        -0.7368

    Source: Dozat (2016), algorithm 2.
    """
    require_moments(beta1, beta2, epsilon)
    require_choice("epsilon_position", epsilon_position, POSITIONS)
    if momentum_decay is not None:
        require_non_negative("momentum_decay", momentum_decay)
    rule = scale_by_nadam(
        beta1=beta1,
        beta2=beta2,
        epsilon=epsilon,
        epsilon_position=epsilon_position,
        momentum_decay=momentum_decay,
    )
    return in_wide_type(optax.chain(rule, scale_by_learning_rate(learning_rate)), moment_dtype)


class NadamState(NamedTuple):
    """Adam's state, and the logarithm of the product of the momentum weights so far."""

    step: Int[Array, ""]
    mu: optax.Updates
    nu: optax.Updates
    log_weights: Float[Array, ""]


def scale_by_nadam(
    *,
    beta1: Any,
    beta2: Any,
    epsilon: Any,
    epsilon_position: EpsilonPosition,
    momentum_decay: Any,
) -> optax.GradientTransformation:
    """Adam's direction with a look-ahead: see `jaxdl.optimizers.nadam`.

    The products of weights are kept as logarithms: for weights near 1 the rounding of 1 - product
    would be most of it.
    """

    def log_weight(count: Array) -> Any:
        if momentum_decay is None:
            return log(beta1)
        return log(beta1) + jnp.log1p(-0.5 * jnp.exp(count * (momentum_decay * math.log(0.96))))

    def init_fn(params: Any) -> NadamState:
        start = first_moments(params)
        return NadamState(start.count, start.mu, start.nu, jnp.zeros(()))

    def update_fn(updates: Any, state: NadamState, params: Any = None) -> tuple[Any, NadamState]:
        del params
        before = optax.ScaleByAdamState(state.step, state.mu, state.nu)
        now = next_moments(updates, before, beta1, beta2)
        this, following = log_weight(now.count), log_weight(now.count + 1)
        product = state.log_weights + this
        gradient_factor = jnp.expm1(this) / jnp.expm1(product)
        mu_factor = -jnp.exp(following) / jnp.expm1(product + following)
        nu_correction = bias_correction(beta2, now.count)

        def direction(g: Any, m: Array, v: Array) -> Array:
            ahead = mu_factor * m + gradient_factor * g
            update: Array = (ahead / root(v * nu_correction, epsilon, epsilon_position)).astype(
                m.dtype
            )
            return update

        return jax.tree.map(direction, updates, now.mu, now.nu), NadamState(
            now.count, now.mu, now.nu, product
        )

    return optax.GradientTransformation(init_fn, update_fn)
