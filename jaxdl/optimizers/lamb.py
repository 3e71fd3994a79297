"""LAMB: Adam's direction, as long as the parameters of its layer."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxdl.checks import require_choice
from jaxdl.factories import factory
from jaxdl.optimizers.adam import scale_by_adam
from jaxdl.optimizers.clipping import scaled_norm
from jaxdl.optimizers.learning_rate import LearningRate, scale_by_learning_rate
from jaxdl.optimizers.moments import POSITIONS, EpsilonPosition, require_moments
from jaxdl.optimizers.precision import in_wide_type
from jaxdl.optimizers.weight_decay import decayed_weights, is_kernel


@factory
def lamb(
    learning_rate: LearningRate,
    *,
    beta1: Any = 0.9,
    beta2: Any = 0.999,
    epsilon: Any = 1e-6,
    epsilon_position: EpsilonPosition = "outside",
    weight_decay: Any = 1e-2,
    mask: Any = is_kernel,
    moment_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    r"""Layer-wise adaptive moments, for large batches: each leaf moves by eta of its own norm.

    $$u_t = \frac{\hat m_t}{\sqrt{\hat v_t} + \epsilon} + \lambda\theta_t, \qquad
      \theta_{t+1} = \theta_t - \eta\, \frac{\lVert\theta_t\rVert}{\lVert u_t\rVert}\, u_t$$

    with the moments of `adam`, and the norms of each leaf by itself: a kernel, a bias. If one of
    them is 0, their ratio is 1, so that biases leave zero. The norms neither overflow nor vanish.

    optax: `weight_decay=0.0, mask=None`.

    Arguments:
        learning_rate: eta, a `LearningRate`; the relative change of a leaf.
        beta1, beta2, epsilon: as in `adam`.
        epsilon_position: as in `adam`; by default "outside", as in the paper.
        weight_decay: lambda, 0 or more; inside the norm of the update.
        mask: which parameters decay, see `l2`: kernels only, by default.
        moment_dtype: as in `adam`.

    Raises:
        ValueError: as in `adamw`; at an update, no parameters.

    Example:
        >>> optimizer = lamb(0.1, weight_decay=0.0)
        >>> params = jnp.array([3.0, 4.0])
        >>> updates, _ = optimizer.update(jnp.array([1e-3, -7.0]), optimizer.init(params), params)
        >>> round(jnp.linalg.norm(updates).item(), 6)                       # a tenth of 5
        0.5

    Source: You et al. (2020), algorithm 2, with phi(z) = z.
    """
    require_moments(beta1, beta2, epsilon)
    require_choice("epsilon_position", epsilon_position, POSITIONS)
    rule = optax.chain(
        scale_by_adam(beta1=beta1, beta2=beta2, epsilon=epsilon, epsilon_position=epsilon_position),
        *decayed_weights(weight_decay, mask),
        scale_by_trust_ratio(),
        scale_by_learning_rate(learning_rate),
    )

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("lamb needs the parameters: update(grads, state, params)")
        moved: tuple[Any, Any] = rule.update(updates, state, params)
        return moved

    return in_wide_type(optax.GradientTransformation(rule.init, update_fn), moment_dtype)


def scale_by_trust_ratio() -> optax.GradientTransformation:
    r"""Give each leaf of the update the norm of its parameters; see `jaxdl.optimizers.lamb`.

    $$u \leftarrow \frac{\lVert\theta\rVert}{\lVert u\rVert}\, u, \qquad
      \text{unchanged if one of them is } 0$$

    `optax.scale_by_trust_ratio` sums plain squares: beyond 1e19 its norms are infinite.

    Example:
        >>> link = scale_by_trust_ratio()
        >>> link.update(jnp.array([0.0, 2.0]), link.init(0.0), jnp.array([3.0, 4.0]))[0].tolist()
        [0.0, 5.0]
    """

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        def scaled(update: Array, theta: Array) -> Array:
            unit, norm = _norm(update)
            theirs, long = _norm(theta)
            is_zero = (norm == 0) | (long == 0)
            # In this order nothing overflows or vanishes on the way.
            direction = (unit * update) * (1 / jnp.where(is_zero, 1, norm))
            return jnp.where(is_zero, update, direction * (long / theirs)).astype(update.dtype)

        return jax.tree.map(scaled, updates, params), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update_fn)


# Squares of float32 are exact enough for norms in this range, and need no pass for the largest.
_SMALLEST, _LARGEST = 2.0**-40, 2.0**60


def _norm(leaf: Array) -> tuple[Array, Array]:
    """A unit, and the norm in it; a second pass over the leaf only where its squares need one."""
    plain = jnp.sqrt(jnp.sum(jnp.square(leaf)))
    is_plain = (plain > _SMALLEST) & (plain < _LARGEST)

    def in_unit() -> tuple[Array, Array]:
        unit, _, norm = scaled_norm(leaf)
        return unit, norm

    found: tuple[Array, Array] = jax.lax.cond(
        is_plain, lambda: (jnp.ones_like(plain), plain), in_unit
    )
    return found
