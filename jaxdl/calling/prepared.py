"""A model or a task, as functions below the floor of tasks take it."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn

from jaxdl.calling.adapt import adapt
from jaxdl.calling.adapted import Adapted
from jaxdl.calling.modes import GivenMode, mode_of


class Prepared(NamedTuple):
    """What a call of a model needs.

    Attributes:
        model: as of `adapt`.
        mode: how it is told of training.
        preprocess: what is done to inputs before the call.
        evaluation_seed: the seed of the random numbers that it draws in evaluation; None: none.
    """

    model: nn.Module | Adapted
    mode: GivenMode
    preprocess: Callable[[Any], Any]
    evaluation_seed: int | None


def prepared(model: Any, mode: GivenMode = None) -> Prepared:
    """A model with its mode, or what a `training.Task` says of its model.

    A task is known by what is read of it, for a lower floor may not import its class.

    Raises:
        TypeError: neither a model nor a task.
        ValueError: a task and a mode, which it has already; the model has no such mode.

    Example:
        >>> from jaxdl import losses, models, training
        >>> prepared(training.Task(models.MLP([1]), losses.huber, mode="train")).mode
        'train'
        >>> prepared(nn.Dense(1)).mode is None
        True
    """
    is_model = isinstance(model, nn.Module | Adapted)
    if not is_model and all(hasattr(model, name) for name in Prepared._fields):
        if mode is not None:
            raise ValueError(
                "a Task has its own ['mode'], got them again; set them with "
                "dataclasses.replace(task, ...)"
            )
        return Prepared(*(getattr(model, name) for name in Prepared._fields))
    model = adapt(model)
    mode_of(model, mode)
    return Prepared(model, mode, lambda inputs: inputs, None)


def to_share(
    model: nn.Module | Adapted, variables: Any
) -> tuple[nn.Module | Adapted, dict[str, Any]]:
    """The model starting nowhere, so that equal ones share programs, and its variables.

    Raises:
        TypeError: the variables of a Linen module are no dictionary.
        ValueError: a function without parameters.
    """
    if isinstance(model, Adapted):
        return model.without_start(), model.variables(variables)
    if not isinstance(variables, Mapping):
        raise TypeError(
            "variables must be what model.init returned, a dictionary with 'params', got "
            f"{variables!r}; pass model.init(key, inputs)"
        )
    return model, dict(variables)
