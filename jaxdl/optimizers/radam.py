"""RAdam: Adam, rectified while its second moment is uncertain."""

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
    Moment,
    bias_correction,
    first_moments,
    log,
    next_moments,
    require_moments,
)
from jaxdl.optimizers.precision import in_wide_type

RECTIFIED_ABOVE = 5.0  # Liu et al. (2020) rectify above 4, PyTorch and optax above 5


@factory
def radam(
    learning_rate: LearningRate,
    *,
    beta1: Any = 0.9,
    beta2: Any = 0.999,
    epsilon: Any = 1e-8,
    epsilon_added_to: Moment = "raw",
    moment_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    r"""Rectified Adam: momentum only, until the second moment is known well enough.

    $$\rho_t = \rho_\infty - \frac{2t\beta_2^t}{1-\beta_2^t}, \quad
      \rho_\infty = \frac{2}{1-\beta_2} - 1, \qquad
      r_t = \sqrt{\frac{(\rho_t-4)(\rho_t-2)\rho_\infty}{(\rho_\infty-4)(\rho_\infty-2)\rho_t}}$$
    $$\theta_{t+1} = \theta_t - \eta\,\hat m_t\,\frac{r_t\sqrt{1-\beta_2^t}}{\sqrt{v_t}+\epsilon}
      \;\text{ where } \rho_t > 5, \qquad \theta_t - \eta\,\hat m_t \;\text{ before}$$

    The paper has no epsilon and rectifies above 4; this is PyTorch's and optax's 5.

    PyTorch: the defaults. optax: `epsilon_added_to="corrected"`, for it adds epsilon to the root of
    the corrected moment.

    Arguments:
        learning_rate: eta, a `LearningRate`.
        beta1, beta2, epsilon: as in `adam`.
        epsilon_added_to: the root of the "raw" second moment or of the "corrected" one.
        moment_dtype: as in `adam`.

    Raises:
        ValueError: a negative rate or epsilon, a beta outside [0, 1), an unknown moment.

    Example:
        >>> optimizer = radam(0.5)
        >>> round(optimizer.update({"w": 4.0}, optimizer.init({"w": 1.0}))[0]["w"].item(), 6)
        -2.0

    Source: Liu et al. (2020), algorithm 2.
    """
    require_moments(beta1, beta2, epsilon)
    require_choice("epsilon_added_to", epsilon_added_to, MOMENTS)
    rule = scale_by_radam(
        beta1=beta1, beta2=beta2, epsilon=epsilon, epsilon_added_to=epsilon_added_to
    )
    return in_wide_type(optax.chain(rule, scale_by_learning_rate(learning_rate)), moment_dtype)


def length_of_average(beta2: Any, count: Array) -> Array:
    r"""The equivalent length rho_t of the second moment's moving average, in steps.

    $$\rho_t = \rho_\infty - \frac{2t\beta_2^t}{1-\beta_2^t}, \quad
      \rho_\infty = \frac{2}{1-\beta_2} - 1$$

    For beta2 = 0.999 both terms are near 2,000 at first and their difference is near t, so float32
    would keep only three digits. With L = -log(beta2) and x = tL the difference is also
    $(\rho_\infty - 2/L) + t(1 - 2h(x))$, $h(x) = 1/(e^x - 1) - 1/x + 1/2$. Its first term is a
    small constant. This form is used for x below 1, with h as its series.

    Example:
        >>> [round(length, 3) for length in length_of_average(0.999, jnp.arange(1, 4)).tolist()]
        [1.0, 1.999, 2.999]
    """
    longest, rate = 2 / (1 - beta2) - 1, -log(beta2)
    x = jnp.maximum(count * rate, 1e-30)
    square = jnp.square(x)
    h = x * (1 / 12 - square * (1 / 720 - square * (1 / 30240 - square / 1209600)))
    early = (longest - 2 / rate) + count * (1 - 2 * h)
    return jnp.where(x < 1, early, longest - 2 * count / jnp.expm1(x))


def scale_by_radam(
    *, beta1: Any, beta2: Any, epsilon: Any, epsilon_added_to: Moment
) -> optax.GradientTransformation:
    """Adam's direction, rectified: see `jaxdl.optimizers.radam`."""
    longest = 2 / (1 - beta2) - 1

    def update_fn(
        updates: Any, state: optax.ScaleByAdamState, params: Any = None
    ) -> tuple[Any, optax.ScaleByAdamState]:
        del params
        state = next_moments(updates, state, beta1, beta2)
        mu_correction, nu_correction = (
            bias_correction(beta, state.count) for beta in (beta1, beta2)
        )
        length = length_of_average(beta2, state.count)
        rectified = length > RECTIFIED_ABOVE
        length = jnp.where(rectified, length, RECTIFIED_ABOVE + 1)
        factor = jnp.sqrt(
            (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        )

        def direction(m: Array, v: Array) -> Array:
            if epsilon_added_to == "raw":
                denominator = (jnp.sqrt(v) + epsilon) * jnp.sqrt(nu_correction)
            else:
                denominator = jnp.sqrt(v * nu_correction) + epsilon
            mean = m * mu_correction
            return jnp.where(rectified, factor * mean / denominator, mean).astype(m.dtype)

        return jax.tree.map(direction, state.mu, state.nu), state

    return optax.GradientTransformation(first_moments, update_fn)
