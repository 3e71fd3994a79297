"""An optimizer's updates, each parameter's multiplied by its own factor, and its decay not."""

from collections.abc import Mapping
from typing import Any

import jax
import optax

from jaxdl.factories import factory
from jaxdl.training.widths.width_roles import listed, names_of


@factory
def scale_by_name(factors: Mapping[str, float]) -> optax.GradientTransformation:
    r"""Multiply the update of each parameter by a factor of its own.

    $$u_k \leftarrow f_k\, u_k$$

    Arguments:
        factors: by the parameter's path, joined by "/"; one for each.

    Raises:
        ValueError: at init, parameters of other names.

    Example:
        >>> link = scale_by_name({"dense/bias": 1.0, "dense/kernel": 0.25})
        >>> params = {"dense": {"bias": 4.0, "kernel": 4.0}}
        >>> link.update(params, link.init(params))[0]
        {'dense': {'bias': 4.0, 'kernel': 1.0}}
    """
    values = tuple(factors.values())

    def init_fn(params: Any) -> optax.EmptyState:
        _check_names(factors, params)
        return optax.EmptyState()

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        structure: Any = jax.tree.structure(updates)
        scaled = [
            update if factor == 1 else (factor * update)
            for update, factor in zip(jax.tree.leaves(updates), values, strict=True)
        ]
        return structure.unflatten(scaled), state

    return optax.GradientTransformation(init_fn, update_fn)


@factory
def undo_in_decay(
    optimizer: optax.GradientTransformation, factors: Mapping[str, float]
) -> optax.GradientTransformationExtraArgs:
    r"""Show an optimizer each parameter divided by its factor, which its update is multiplied by.

    $$f\,\eta\,\Bigl(d + \lambda \frac{\theta}{f}\Bigr) = f\,\eta\, d + \eta\lambda\,\theta$$

    So a decoupled decay stays as it is, with the optimizer's own mask and rates. It is right where
    the parameters have no other use in the update than the decay.

    Arguments:
        optimizer: with a decoupled decay, before `scale_by_name`.
        factors: as in `scale_by_name`.

    Raises:
        ValueError: at init, parameters of other names.

    Example:
        >>> inner = undo_in_decay(optax.add_decayed_weights(0.5), {"kernel": 0.25})
        >>> params = {"kernel": 4.0}
        >>> inner.update({"kernel": 0.0}, inner.init(params), params)[0]
        {'kernel': 8.0}
    """
    inner = optax.with_extra_args_support(optimizer)
    values = tuple(factors.values())

    def init_fn(params: Any) -> Any:
        _check_names(factors, params)
        return inner.init(params)

    def update_fn(
        updates: Any, state: Any, params: Any = None, **extra: Any
    ) -> tuple[Any, optax.OptState]:
        if params is not None:
            structure: Any = jax.tree.structure(params)
            leaves = zip(jax.tree.leaves(params), values, strict=True)
            params = structure.unflatten(
                [leaf if factor == 1 else leaf / factor for leaf, factor in leaves]
            )
        moved: tuple[Any, optax.OptState] = inner.update(updates, state, params, **extra)
        return moved

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _check_names(factors: Mapping[str, float], params: Any) -> None:
    if apart := sorted(factors.keys() ^ set(names_of(params))):
        raise ValueError(
            "a parametrisation's optimizer must train its own model, got other parameters: "
            f"{listed(apart)}; make the parametrisation of the model that is trained"
        )
