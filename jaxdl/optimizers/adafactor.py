"""Adafactor: the second moment of a matrix from the means of its rows and columns."""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Int

from jaxdl.checks import (
    require_at_least,
    require_choice,
    require_decay,
    require_non_negative,
    require_positive,
)
from jaxdl.factories import factory
from jaxdl.optimizers.learning_rate import LearningRate, scale_by_learning_rate
from jaxdl.optimizers.precision import in_wide_type

EpsilonPlace = Literal["square", "floor"]
PLACES = ("square", "floor")

FactoredAxes = Literal["largest", "last"]
AXES = ("largest", "last")


class FactoredState(NamedTuple):
    """The updates made, and the means of squares: two of a factored leaf, one of any other."""

    step: Int[Array, ""]
    moments: Any


@factory
def adafactor(
    learning_rate: LearningRate | None = None,
    *,
    decay_exponent: Any = 0.8,
    epsilon: Any = 1e-30,
    epsilon_position: EpsilonPlace = "square",
    clip: Any = 1.0,
    parameter_scale: Any = 1e-3,
    momentum: Any = None,
    factored_axes: FactoredAxes = "largest",
    factored_from: Any = 128,
    moment_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    r"""RMSprop with a memory of m + n numbers for a matrix of m n, and steps relative to its scale.

    With $w_t = t^{-0.8}$, and R and C the means over the columns and over the rows,

    $$R_t = (1 - w_t) R_{t-1} + w_t\,\overline{G_t^2 + \epsilon}, \quad
      C_t \text{ likewise}, \qquad \hat V_t = \frac{R_t C_t^\top}{\overline{R_t}}, \qquad
      U_t = \frac{G_t}{\sqrt{\hat V_t}}$$
    $$\theta_{t+1} = \theta_t - \eta_t\,\max(10^{-3}, \operatorname{rms}\theta_t)\,
      \frac{U_t}{\max(1, \operatorname{rms} U_t / d)}, \qquad
      \eta_t = \min(10^{-2}, t^{-1/2}) \text{ by default}$$

    with t counted from 1, and rms the root mean square over a leaf. A leaf that is not factored
    has V itself in the place of the product. There is no bias correction: w_1 = 1.

    PyTorch: `epsilon=1e-8, epsilon_position="floor", factored_axes="last", factored_from=1`, for
    `eps=(1e-8, 1e-3)`; PyTorch's default is the type's own epsilon. `decoupled_decay` around it is
    PyTorch's `weight_decay`. PyTorch also caps the rate by 1/sqrt(t).

    Arguments:
        learning_rate: eta, a `LearningRate`; None for the paper's, which is relative to the size of
            the parameters.
        decay_exponent: 0.8 in w_t, above 0.
        epsilon: 0 or more.
        epsilon_position: "square": added to each squared gradient, as in the paper and optax.
            "floor": V_hat is at least epsilon^2 and the mean of R at least epsilon, as in PyTorch.
        clip: d, above 0; None for no limit.
        parameter_scale: the least scale of a leaf, 0 or more; None for steps that are not relative
            to the parameters.
        momentum: the weight of the old average of the steps, in [0, 1); None keeps none.
        factored_axes: the two axes of a leaf over which the means are taken: the "largest" two, as
            in optax, or the "last" two, as in PyTorch. They agree for a matrix.
        factored_from: the least length of both for a leaf to be factored, at least 1.
        moment_dtype: as in `adam`.

    Raises:
        TypeError: `factored_from` is no whole number.
        ValueError: a number out of range, an unknown word; at an update, no parameters.

    Example:
        >>> optimizer = adafactor(0.5, factored_from=2)
        >>> params = jnp.full((3, 2), 2.0)
        >>> state = optimizer.init(params)
        >>> [leaf.shape for leaf in jax.tree.leaves(state) if leaf.shape]
        [(3,), (2,)]
        >>> optimizer.update(jnp.full((3, 2), 7.0), state, params)[0][0].tolist()
        [-1.0, -1.0]

    Source: Shazeer and Stern (2018), algorithms 4 and 5. `momentum` is optax's.
    """
    require_positive("decay_exponent", decay_exponent)
    require_non_negative("epsilon", epsilon)
    require_choice("epsilon_position", epsilon_position, PLACES)
    require_choice("factored_axes", factored_axes, AXES)
    require_at_least(1, factored_from=factored_from)
    links = [
        scale_by_factored_rms(
            decay_exponent=decay_exponent, epsilon=epsilon, epsilon_position=epsilon_position,
            factored_axes=factored_axes, factored_from=factored_from,
        )
    ]  # fmt: skip
    if clip is not None:
        require_positive("clip", clip)
        links.append(_each(lambda u, _: u / jnp.maximum(1, rms(u) / clip)))
    if parameter_scale is not None:
        require_non_negative("parameter_scale", parameter_scale)
        links.append(_each(lambda u, theta: u * jnp.maximum(parameter_scale, rms(theta))))
    links.append(scale_by_learning_rate(_relative if learning_rate is None else learning_rate))
    if momentum is not None:
        require_decay("momentum", momentum)
        links.append(optax.ema(momentum, debias=False))
    return in_wide_type(optax.chain(*links), moment_dtype)


def scale_by_factored_rms(
    *,
    decay_exponent: Any,
    epsilon: Any,
    epsilon_position: EpsilonPlace,
    factored_axes: FactoredAxes,
    factored_from: int,
) -> optax.GradientTransformation:
    """Adafactor's direction, U: see `jaxdl.optimizers.adafactor`."""
    inside = epsilon if epsilon_position == "square" else 0.0
    below = 0.0 if epsilon_position == "square" else epsilon

    def means(square: Array) -> Any:
        """The means over each of the two axes; the square itself of what is not factored."""
        axes = factored(square.shape, factored_axes, factored_from)
        return square if axes is None else tuple(square.mean(axis) for axis in axes)

    def init_fn(params: Any) -> FactoredState:
        return FactoredState(
            jnp.zeros((), jnp.int32), jax.tree.map(lambda p: means(jnp.zeros_like(p)), params)
        )

    def update_fn(
        updates: Any, state: FactoredState, params: Any = None
    ) -> tuple[Any, FactoredState]:
        del params
        step = optax.safe_increment(state.step)

        def towards(g: Array, old: Any) -> Any:
            weight = step.astype(g.dtype) ** -decay_exponent
            new = means(g * g + inside)
            return jax.tree.map(
                lambda v, s: ((1 - weight) * v + weight * s).astype(g.dtype), old, new
            )

        def direction(g: Array, held: Any) -> Array:
            axes = factored(g.shape, factored_axes, factored_from)
            if axes is None:
                size = jnp.sqrt(held)
            else:
                # One mean over each axis: two factors, each of which has one of the axes.
                pair = zip(held, axes, strict=True)
                first, second = (jnp.expand_dims(mean, axis) for mean, axis in pair)
                whole = jnp.maximum(first.mean(axes[1], keepdims=True), below)
                # The product may underflow where its root does not.
                size = jnp.sqrt(first / whole) * jnp.sqrt(second)
            return (g / jnp.maximum(size, below)).astype(g.dtype)

        moments = jax.tree.map(towards, updates, state.moments)
        return jax.tree.map(direction, updates, moments), FactoredState(step, moments)

    return optax.GradientTransformation(init_fn, update_fn)


def factored(
    shape: tuple[int, ...], factored_axes: FactoredAxes, factored_from: int
) -> tuple[int, int] | None:
    """The two axes of a leaf over which means are taken; None if it is not factored.

    Example:
        >>> factored((3, 3, 256, 128), "largest", 128), factored((256, 10), "largest", 128)
        ((3, 2), None)
    """
    if len(shape) < 2:
        return None
    order = np.argsort(shape, kind="stable") if factored_axes == "largest" else range(len(shape))
    *_, first, second = (int(axis) for axis in order)
    return None if min(shape[first], shape[second]) < factored_from else (first, second)


def rms(leaf: Array) -> Array:
    """The root mean square of a leaf."""
    return jnp.sqrt(jnp.mean(leaf * leaf))


def _relative(step: Array) -> Array:
    """The paper's rate: at most 0.01, and after 10,000 steps the inverse root of the step."""
    return jnp.minimum(1e-2, (step + 1.0) ** -0.5)


def _each(function: Any) -> optax.GradientTransformation:
    """A link without a state, (update, parameter) -> update."""

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("adafactor needs the parameters: update(grads, state, params)")
        moved = jax.tree.map(lambda u, p: function(u, p).astype(u.dtype), updates, params)
        return moved, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update_fn)
