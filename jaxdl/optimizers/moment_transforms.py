"""Adam's direction and its relatives: two moments, with the bias correction exact."""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from jaxdl.optimizers.transforms import EpsilonPosition, bias_correction, log, root, zeros

Moment = Literal["raw", "corrected"]
"""The second moment as it is accumulated, or divided by 1 - beta2^t."""


def scale_by_adam(
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
    epsilon_position: EpsilonPosition = "inside",
) -> optax.GradientTransformation:
    r"""Adam's direction, m_hat over the root of v_hat: see `jaxdl.optimizers.adam`.

    The state is optax's `ScaleByAdamState(count, mu, nu)`. `optax.scale_by_adam` differs in the
    rounding of the bias correction alone (see `bias_correction`).

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
        of_mu, of_nu = (bias_correction(beta, state.count) for beta in (beta1, beta2))

        def direction(m: Array, v: Array) -> Array:
            return (m * of_mu / root(v * of_nu, epsilon, epsilon_position)).astype(m.dtype)

        return jax.tree.map(direction, state.mu, state.nu), state

    return optax.GradientTransformation(first_moments, update_fn)


def first_moments(params: Any) -> optax.ScaleByAdamState:
    """No step made, both moments zero."""
    return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), zeros(params), zeros(params))


def next_moments(
    updates: Any, state: optax.ScaleByAdamState, beta1: Any, beta2: Any
) -> optax.ScaleByAdamState:
    """The moving averages of the gradient and of its square, a step on."""
    return optax.ScaleByAdamState(
        optax.safe_increment(state.count),
        optax.tree.update_moment(updates, state.mu, beta1, 1),
        optax.tree.update_moment(updates, state.nu, beta2, 2),
    )


def scale_by_amsgrad(
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
    epsilon_position: EpsilonPosition,
    maximum_of: Moment,
) -> optax.GradientTransformation:
    """Adam's direction with the largest second moment so far: `jaxdl.optimizers.adam(amsgrad)`.

    The state is optax's `ScaleByAmsgradState`; `optax.scale_by_amsgrad` has the maximum of the
    corrected moment alone.
    """

    def init_fn(params: Any) -> Any:
        return optax.ScaleByAmsgradState(*first_moments(params), zeros(params))

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        now = next_moments(updates, optax.ScaleByAdamState(*state[:3]), beta1, beta2)
        of_mu, of_nu = (bias_correction(beta, now.count) for beta in (beta1, beta2))
        before, after = (1.0, of_nu) if maximum_of == "raw" else (of_nu, 1.0)
        largest = jax.tree.map(
            lambda top, v: jnp.maximum(top, (v * before).astype(v.dtype)), state.nu_max, now.nu
        )

        def direction(m: Array, v: Array) -> Array:
            return (m * of_mu / root(v * after, epsilon, epsilon_position)).astype(m.dtype)

        return jax.tree.map(direction, now.mu, largest), optax.ScaleByAmsgradState(*now, largest)

    return optax.GradientTransformation(init_fn, update_fn)


class NadamState(NamedTuple):
    """Adam's state, and the product of the momentum weights so far."""

    step: Int[Array, ""]
    mu: optax.Updates
    nu: optax.Updates
    weights: Float[Array, ""]


def scale_by_nadam(
    *,
    beta1: float,
    beta2: float,
    epsilon: float,
    epsilon_position: EpsilonPosition,
    momentum_decay: float | None,
) -> optax.GradientTransformation:
    """Adam's direction with a look-ahead: see `jaxdl.optimizers.nadam`."""

    def weight(count: Array) -> Any:
        if momentum_decay is None:
            return beta1
        return beta1 * (1 - 0.5 * jnp.exp(count * (momentum_decay * math.log(0.96))))

    def init_fn(params: Any) -> NadamState:
        start = first_moments(params)
        return NadamState(start.count, start.mu, start.nu, jnp.ones(()))

    def update_fn(updates: Any, state: NadamState, params: Any = None) -> tuple[Any, NadamState]:
        del params
        before = optax.ScaleByAdamState(state.step, state.mu, state.nu)
        now = next_moments(updates, before, beta1, beta2)
        this, following = weight(now.count), weight(now.count + 1)
        weights = state.weights * this
        of_gradient = (1 - this) / (1 - weights)
        of_mu = following / (1 - weights * following)
        of_nu = bias_correction(beta2, now.count)

        def direction(g: Any, m: Array, v: Array) -> Array:
            ahead = of_mu * m + of_gradient * g
            update: Array = (ahead / root(v * of_nu, epsilon, epsilon_position)).astype(m.dtype)
            return update

        return jax.tree.map(direction, updates, now.mu, now.nu), NadamState(
            now.count, now.mu, now.nu, weights
        )

    return optax.GradientTransformation(init_fn, update_fn)


RECTIFIED_ABOVE = 5.0  # Liu et al. (2020) rectify above 4, PyTorch and optax above 5


def length_of_average(beta2: Any, count: Array) -> Array:
    r"""The equivalent length rho_t of the second moment's moving average, in steps.

    $$\rho_t = \rho_\infty - \frac{2t\beta_2^t}{1-\beta_2^t}, \quad
      \rho_\infty = \frac{2}{1-\beta_2} - 1$$

    Both terms are near 2,000 at first for beta2 = 0.999 and their difference near t, so float32
    would keep three digits of it. With L = -log(beta2) and x = tL the same is
    $(\rho_\infty - 2/L) + t(1 - 2h(x))$, $h(x) = 1/(e^x - 1) - 1/x + 1/2$, whose first term is a
    small constant. It is taken where x is below 1, with h as its series.

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
    *, beta1: float, beta2: float, epsilon: float, epsilon_added_to: Moment
) -> optax.GradientTransformation:
    """Adam's direction, rectified: see `jaxdl.optimizers.radam`."""
    longest = 2 / (1 - beta2) - 1

    def update_fn(
        updates: Any, state: optax.ScaleByAdamState, params: Any = None
    ) -> tuple[Any, optax.ScaleByAdamState]:
        del params
        state = next_moments(updates, state, beta1, beta2)
        of_mu, of_nu = (bias_correction(beta, state.count) for beta in (beta1, beta2))
        length = length_of_average(beta2, state.count)
        rectified = length > RECTIFIED_ABOVE
        length = jnp.where(rectified, length, RECTIFIED_ABOVE + 1)
        factor = jnp.sqrt(
            (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        )

        def direction(m: Array, v: Array) -> Array:
            if epsilon_added_to == "raw":
                denominator = (jnp.sqrt(v) + epsilon) * jnp.sqrt(of_nu)
            else:
                denominator = jnp.sqrt(v * of_nu) + epsilon
            mean = m * of_mu
            return jnp.where(rectified, factor * mean / denominator, mean).astype(m.dtype)

        return jax.tree.map(direction, state.mu, state.nu), state

    return optax.GradientTransformation(first_moments, update_fn)
