"""An optimizer's updates, each parameter's multiplied by its own factor."""

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
        if apart := sorted(factors.keys() ^ set(names_of(params))):
            raise ValueError(
                "a parametrisation's optimizer must train its own model, got other parameters: "
                f"{listed(apart)}; make the parametrisation of the model that is trained"
            )
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
