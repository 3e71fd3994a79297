"""Optimizers one after another, and around others: accumulation, sharpness-aware minimisation."""

import operator
from collections.abc import Callable
from typing import Any, SupportsIndex

import jax
import jax.numpy as jnp
import optax
from jax.typing import DTypeLike
from jaxtyping import Array

from jaxdl.checks import require_at_least
from jaxdl.factories import factory
from jaxdl.optimizers.clipping import check_limit, scaled_norm
from jaxdl.optimizers.precision import in_wide_type


@factory
def chain(*transformations: Any) -> optax.GradientTransformationExtraArgs:
    r"""One transformation after another; the updates of each are the gradients of the next.

    $$u = (f_k \circ \dots \circ f_1)(g)$$

    This is `optax.chain`, but it pickles if its parts do, and shows them.

    Arguments:
        transformations: f_1 to f_k, at least one, of `jaxdl.optimizers` or of optax.

    Raises:
        TypeError: what is no gradient transformation.
        ValueError: nothing to chain.

    Example:
        >>> from jaxdl import optimizers
        >>> optimizer = chain(optimizers.clip_by_value(1.0), optimizers.sgd(0.5))
        >>> optimizer
        chain(clip_by_value(limit=1.0), sgd(learning_rate=0.5))
        >>> optimizer.update(4.0, optimizer.init(0.0))[0].item()
        -0.5
    """
    if not transformations:
        raise ValueError("chain must have at least one transformation, got none; pass some")
    for each in transformations:
        if not isinstance(each, optax.GradientTransformation):
            raise TypeError(
                f"chain must have gradient transformations, got {type(each).__name__}; make one, "
                "e.g. optimizers.sgd(0.1)"
            )
    return optax.chain(*transformations)


@factory
def accumulate(
    optimizer: optax.GradientTransformation,
    steps: SupportsIndex | Callable[[Array], Any],
    *,
    moment_dtype: DTypeLike | None = None,
) -> optax.GradientTransformation:
    r"""One update from the mean gradient of several batches; no update in between.

    $$g = \frac{1}{k}\sum_{i=1}^{k} g_{t+i}$$

    With batches of equal size this equals one batch k times as large, to rounding. Layers that look
    at a batch as a whole (BatchNorm) differ. A schedule counts updates, not batches. This is
    `optax.MultiSteps`.

    Arguments:
        optimizer: the optimizer that makes the update; chain clipping and decay inside it.
        steps: k, at least 1; or a schedule, from the number of updates made to k.
        moment_dtype: of the mean gradient, as in `adam`.

    Raises:
        TypeError: steps that are no whole number.
        ValueError: steps below 1.

    Example:
        >>> from jaxdl import optimizers
        >>> optimizer = accumulate(optimizers.sgd(0.5), 2)
        >>> state = optimizer.init(1.0)
        >>> first, state = optimizer.update(2.0, state, 1.0)
        >>> first.item(), optimizer.update(4.0, state, 1.0)[0].item()
        (0.0, -1.5)
    """
    if not callable(steps):
        require_at_least(1, steps=steps)
        steps = operator.index(steps)
    multiple = optax.MultiSteps(optimizer, every_k_schedule=steps).gradient_transformation()
    return in_wide_type(multiple, moment_dtype)


@factory
def sam(
    optimizer: optax.GradientTransformation, *, radius: float = 0.05
) -> optax.GradientTransformationExtraArgs:
    r"""Sharpness-aware minimisation: the gradient at the worst point of a small ball.

    $$\hat g = \nabla L(\theta + r\, g / \lVert g\rVert), \qquad g = \nabla L(\theta)$$

    is the gradient that the optimizer gets. It is computed on the same batch, at the cost of a
    second gradient. This is `optax.contrib.sam`; `training.make_train_step` passes the
    `grad_fn(params, i)` that it needs. Running statistics of norms come from the first pass only.
    If g is zero, the second gradient is taken at theta itself.

    Arguments:
        optimizer: the optimizer that gets this gradient.
        radius: r, above 0, in units of the parameters' norm.

    Raises:
        ValueError: a radius that is not above 0; at an update, no `grad_fn`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxdl import optimizers
        >>> gradient = jax.grad(lambda theta: jnp.sum(theta**2))
        >>> theta, optimizer = jnp.array([3.0, 4.0]), sam(optimizers.sgd(1.0), radius=0.5)
        >>> updates, _ = optimizer.update(
        ...     gradient(theta), optimizer.init(theta), theta, grad_fn=lambda at, i: gradient(at)
        ... )
        >>> bool(jnp.allclose(updates, -2 * 1.1 * theta))
        True

    Source: Foret, Kleiner, Mobahi and Neyshabur (2021), algorithm 1.
    """
    check_limit(radius, name="radius")

    def uphill(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        # optax.contrib.normalize divides a zero gradient by its norm, which is NaN.
        _, scaled, norm = scaled_norm(updates)
        scale = jnp.where(norm == 0, 0.0, -radius / norm)
        return jax.tree.map(lambda g, s: (scale * s).astype(g.dtype), updates, scaled), state

    ascent = optax.GradientTransformation(lambda params: optax.EmptyState(), uphill)
    inner = optax.contrib.sam(optimizer, ascent, opaque_mode=True)

    def update_fn(
        updates: Any, state: Any, params: Any = None, *, grad_fn: Any = None, **extra: Any
    ) -> tuple[Any, Any]:
        del extra  # a train step passes arguments for other optimizers too
        updated: tuple[Any, Any] = inner.update(updates, state, params, grad_fn=grad_fn)
        return updated

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)
