"""Weight decay in the gradient, or decoupled from it; and which parameters decay."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxdl.checks import is_traced, require_non_negative
from jaxdl.factories import factory
from jaxdl.optimizers.by_layer import LayersState
from jaxdl.optimizers.learning_rate import current_learning_rate, nodes


def is_kernel(params: Any) -> Any:
    """Which leaves are kernels, by Flax's name for them: a tree of bools.

    Biases, and the scales and shifts of norms, do not decay: smaller ones do not make the function
    simpler, and decay would pull a norm's scale to zero.

    Example:
        >>> is_kernel({"dense_0": {"kernel": 1.0, "bias": 2.0}, "norm_0": {"scale": 3.0}})
        {'dense_0': {'bias': False, 'kernel': True}, 'norm_0': {'scale': False}}
    """
    return jax.tree_util.tree_map_with_path(
        lambda path, _: bool(path) and jax.tree_util.keystr(path[-1:], simple=True) == "kernel",
        params,
    )


@factory
def l2(strength: Any, *, mask: Any = is_kernel) -> optax.GradientTransformation:
    r"""The gradient of an L2 penalty, to be chained before an optimizer.

    $$g_t \leftarrow g_t + \lambda\,\theta_t, \qquad
      \text{the gradient of } \tfrac{\lambda}{2}\lVert\theta\rVert^2$$

    An adaptive optimizer divides this term too by the root of the second moment. `decoupled_decay`
    avoids this.

    PyTorch: `mask=None`, the `weight_decay` of every optimizer but AdamW.

    Arguments:
        strength: lambda, 0 or more.
        mask: which parameters decay: a function of the parameters that returns a tree of bools (by
            default kernels only), such a tree, or None for all.

    Raises:
        ValueError: a negative strength; at init, a mask with another structure than the parameters,
            or one that selects none of them.

    Example:
        >>> from jaxdl import optimizers
        >>> optimizer = optimizers.chain(l2(0.5), optimizers.sgd(1.0))
        >>> params = {"kernel": 4.0, "bias": 4.0}
        >>> gradients = {"kernel": 1.0, "bias": 1.0}
        >>> updates, _ = optimizer.update(gradients, optimizer.init(params), params)
        >>> updates["kernel"].item(), updates["bias"].item()
        (-3.0, -1.0)

    Source: Hoerl and Kennard (1970); Krogh and Hertz (1991).
    """
    require_non_negative("strength", strength)
    return masked(optax.add_decayed_weights(strength), mask)


@factory
def decoupled_decay(
    optimizer: optax.GradientTransformation, weight_decay: Any, *, mask: Any = is_kernel
) -> optax.GradientTransformationExtraArgs:
    r"""Add decoupled weight decay to an optimizer: the weights decay in proportion to the rate.

    $$\theta_{t+1} = \theta_t + u_t - \eta_t\lambda\,\theta_t$$

    with u the optimizer's update and eta its rate. For `sgd` it is the same as `l2`, since $\eta(g
    + \lambda\theta) = \eta g + \eta\lambda\theta$. A velocity or a second moment never sees the
    decay. `decoupled_decay(adam(rate), decay)` is AdamW. Put gradient accumulation around it, not
    inside, and `by_layer` and `freeze` as well, for the decay knows nothing of groups.

    PyTorch: `mask=None`, its `decoupled_weight_decay=True`.

    Arguments:
        optimizer: any of `jaxdl.optimizers`, or another optimizer whose state shows its rate.
        weight_decay: lambda, 0 or more.
        mask: as in `l2`.

    Raises:
        ValueError: a negative decay; at init, a state without a rate, groups inside, or a bad mask
            as in `l2`.

    Example:
        >>> from jaxdl import optimizers
        >>> optimizer = decoupled_decay(optimizers.momentum(0.5), 0.5)
        >>> params = {"kernel": 4.0}
        >>> optimizer.update({"kernel": 1.0}, optimizer.init(params), params)[0]["kernel"].item()
        -1.5

    Source: Loshchilov and Hutter (2019), algorithms 1 and 2.
    """
    require_non_negative("weight_decay", weight_decay)
    inner = optax.with_extra_args_support(optimizer)

    def init_fn(params: Any) -> optax.OptState:
        check_mask(mask, params)
        state = inner.init(params)
        if any(isinstance(node, LayersState) for node in nodes(state, _groups)):
            raise ValueError(
                "decoupled_decay must stand inside by_layer and freeze, got one of them inside it, "
                'whose frozen layers would decay; pass freeze(decoupled_decay(...), "encoder")'
            )
        current_learning_rate(state)
        return state

    def update_fn(
        updates: Any, state: optax.OptState, params: Any = None, **extra: Any
    ) -> tuple[Any, optax.OptState]:
        if params is None:
            raise ValueError("decoupled_decay needs the parameters: update(grads, state, params)")
        shrink = current_learning_rate(state) * weight_decay
        updates, state = inner.update(updates, state, params, **extra)

        def decay(selected: bool, update: Any, theta: Any) -> Any:
            return (update - shrink * theta).astype(update.dtype) if selected else update

        selected = jax.tree.map(lambda _: True, params) if mask is None else mask_of(mask, params)
        return jax.tree.map(decay, selected, updates, params), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _groups(node: Any) -> LayersState | None:
    return node if isinstance(node, LayersState) else None


def decayed_weights(weight_decay: Any, mask: Any) -> list[optax.GradientTransformation]:
    """The link that adds lambda theta; no link if lambda is the number 0."""
    require_non_negative("weight_decay", weight_decay)
    if not is_traced(weight_decay) and jnp.ndim(weight_decay) == 0 and float(weight_decay) == 0:
        return []
    return [masked(optax.add_decayed_weights(weight_decay), mask)]


def masked(transformation: optax.GradientTransformation, mask: Any) -> optax.GradientTransformation:
    """`optax.masked` that refuses a bad mask at init; None selects all."""
    if mask is None:
        return transformation
    inner = optax.masked(transformation, mask)

    def init_fn(params: Any) -> optax.OptState:
        check_mask(mask, params)
        return inner.init(params)

    return optax.GradientTransformation(init_fn, inner.update)


def mask_of(mask: Any, params: Any) -> Any:
    """The tree of bools that a mask stands for."""
    return mask(params) if callable(mask) else mask


def check_mask(mask: Any, params: Any) -> None:
    """Refuse a mask with another structure than the parameters, or one that selects nothing."""
    if mask is None:
        return
    selected = mask_of(mask, params)
    expected: Any = jax.tree.structure(params)
    if expected != jax.tree.structure(selected):
        raise ValueError(
            "mask must have the structure of the parameters, "
            f"{expected}, got {jax.tree.structure(selected)}; "
            "pass one bool for each leaf, or a function of the parameters"
        )
    leaves = jax.tree.leaves(selected)
    if leaves and not any(leaves):
        names = [
            jax.tree_util.keystr(path, simple=True, separator="/")
            for path, _ in jax.tree_util.tree_leaves_with_path(params)
        ]
        raise ValueError(
            f"mask must select a parameter, and it selects none of {', '.join(names) or 'them'}; "
            "pass mask=None to decay all of them, or a mask of your own"
        )
