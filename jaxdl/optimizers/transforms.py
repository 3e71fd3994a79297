"""The gradient transformations whose stated numerics optax does not offer."""

import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

EpsilonPosition = Literal["inside", "outside"]


def bias_correction(decay: Any, count: Array) -> Array:
    r"""1 / (1 - decay^count): what a moving average that started at zero is multiplied by.

    Computed as -1 / expm1(count log(decay)), which is right to float32's rounding. The formula as
    it stands is not: 0.999^t is rounded at 6e-8 before 1 - 0.999^t, 1e-3 at first, is formed.
    The 3e-5 that is lost so in Adam's step leaves the float64 path of a small network by 1e-3 of
    the loss within a hundred steps, where this form stays within 1e-7.

    Example:
        >>> import jax.numpy as jnp
        >>> round(bias_correction(0.999, jnp.int32(1)).item(), 2)
        1000.0
    """
    return -1.0 / jnp.expm1(count * log(decay))


def log(decay: Any) -> Any:
    """The logarithm, in double precision where the decay is a plain number."""
    if isinstance(decay, (int, float)):
        return math.log(decay) if decay > 0 else -math.inf
    return jnp.log(decay)


def root(square: Array, epsilon: Any, position: EpsilonPosition) -> Array:
    """sqrt(square + epsilon), or sqrt(square) + epsilon."""
    return jnp.sqrt(square + epsilon) if position == "inside" else jnp.sqrt(square) + epsilon


def zeros(params: Any) -> Any:
    """A tree of zeros of its own: one buffer in two places could not be donated."""
    return jax.tree.map(jnp.zeros_like, params)


def quotient(numerator: Any, denominator: Any) -> Any:
    """Leaf by leaf, in the numerator's own type."""
    return jax.tree.map(lambda n, d: (n / d).astype(jnp.result_type(n)), numerator, denominator)


class CenteredState(NamedTuple):
    """The moving mean of the gradient, and its moving variance."""

    mu: optax.Updates
    variance: optax.Updates


def scale_by_centered_rms(
    decay: float, epsilon: float, epsilon_position: EpsilonPosition
) -> optax.GradientTransformation:
    r"""The gradient over the root of its moving variance: `jaxdl.optimizers.rmsprop(centered)`.

    $$\mathrm{Var}_t = \rho\,\mathrm{Var}_{t-1} + \frac{1-\rho}{\rho}\,(g_t - m_t)^2
      = E[g^2]_t - m_t^2$$

    The first form is never negative. PyTorch and optax compute the second, whose rounding makes
    the root NaN where gradients hardly vary.

    Source: Welford (1962), West (1979), for weights that decay.
    """

    def init_fn(params: Any) -> CenteredState:
        return CenteredState(zeros(params), zeros(params))

    def update_fn(
        updates: Any, state: CenteredState, params: Any = None
    ) -> tuple[Any, CenteredState]:
        del params
        mu = optax.tree.update_moment(updates, state.mu, decay, 1)
        # At rho = 0 the mean is the gradient and nothing is divided.
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


def scale_by_adagrad(
    initial_accumulator: float, epsilon: float, epsilon_position: EpsilonPosition
) -> optax.GradientTransformation:
    """The gradient over the root of the sum of its squares: see `jaxdl.optimizers.adagrad`.

    The state is optax's `ScaleByRssState`; `optax.scale_by_rss` has epsilon inside alone.
    """

    def init_fn(params: Any) -> Any:
        return optax.ScaleByRssState(
            jax.tree.map(lambda p: jnp.full_like(p, initial_accumulator), params)
        )

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        total = jax.tree.map(lambda s, g: s + jnp.square(g), state.sum_of_squares, updates)
        roots = jax.tree.map(lambda s: root(s, epsilon, epsilon_position), total)
        return quotient(updates, roots), optax.ScaleByRssState(total)

    return optax.GradientTransformation(init_fn, update_fn)


def scale_by_adadelta(
    decay: float, epsilon: float, gradient_epsilon: float
) -> optax.GradientTransformation:
    """The gradient in units of the parameter: see `jaxdl.optimizers.adadelta`.

    The state is optax's `ScaleByAdaDeltaState`; `optax.scale_by_adadelta` has one epsilon.
    """

    def init_fn(params: Any) -> Any:
        return optax.ScaleByAdaDeltaState(zeros(params), zeros(params))

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        of_gradient = optax.tree.update_moment(updates, state.e_g, decay, 2)
        updates = jax.tree.map(
            lambda g, of_g, of_x: (
                g * (jnp.sqrt(of_x + epsilon) / jnp.sqrt(of_g + gradient_epsilon))
            ),
            updates,
            of_gradient,
            state.e_x,
        )
        of_update = optax.tree.update_moment(updates, state.e_x, decay, 2)
        return updates, optax.ScaleByAdaDeltaState(of_gradient, of_update)

    return optax.GradientTransformation(init_fn, update_fn)
