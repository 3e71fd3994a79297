"""The mode of a model, and the arguments of its call: what a signature says."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn

from jaxdl.calling.adapted import Adapted

KEYWORDS = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
    "inference": False,
}
"""The usual names of the mode, with their value in training."""


@dataclass(frozen=True)
class Mode:
    """The keyword that tells a model whether it trains.

    Attributes:
        keyword: an argument of the model's call, or else a field of a Linen module.
        in_training: its value in training; in evaluation it has the other.
    """

    keyword: str
    in_training: bool = True


GivenMode = Mode | str | Literal[False] | None
"""A mode, or its keyword; None to recognise it by its usual names; False if there is none."""


def mode_of(model: Any, given: GivenMode = None) -> Mode | None:
    """The mode of a model; None for a model that behaves the same in training and evaluation.

    Arguments:
        model: a Linen module, or a model of `adapt`. An argument of its call comes before a field.
            Modules of NNX and Equinox are told by their own means (`train()`, `inference_mode`);
            this is the keyword that their call takes beside it, if any.
        given: the mode where the model has another name for it. A keyword with an unusual name is
            true in training; `Mode(keyword, in_training=False)` says that it is false.

    Raises:
        ValueError: the model has no such argument or field, or several of the usual ones.

    Example:
        >>> from jaxdl import models
        >>> mode_of(models.MLP([1])), mode_of(nn.Dense(1)), mode_of(nn.Dropout(0.5))
        (Mode(keyword='train', in_training=True), None, Mode(keyword='deterministic', ...))
    """
    if given is False:
        return None
    arguments, fields = list(_parameters(model)), _fields(model)
    if given is not None:
        mode = given if isinstance(given, Mode) else Mode(given, KEYWORDS.get(given, True))
        if mode.keyword not in (*arguments, *fields) and not _takes_any_keyword(model):
            raise ValueError(
                f"mode must name an argument or a field of {name_of(model)}, "
                f"{[*arguments, *fields]}, got {mode.keyword!r}; pass one of them"
            )
        return mode
    switches = [name for name in fields if isinstance(getattr(model, name, None), bool | None)]
    for names in (arguments, switches):
        found = [name for name in names if name in KEYWORDS]
        if len(found) > 1:
            raise ValueError(
                f"the mode of {name_of(model)} must be one keyword, got {found}; "
                f"say which one it is with mode={found[0]!r}"
            )
        if found:
            return Mode(found[0], KEYWORDS[found[0]])
    return None


def keywords_of(model: Any, train: bool, given: GivenMode = None) -> dict[str, Any]:
    """The keywords of a call, or the fields of a module, that say training or evaluation.

    Example:
        >>> keywords_of(nn.BatchNorm(), True)
        {'use_running_average': False}
    """
    mode = mode_of(model, given)
    return {} if mode is None else {mode.keyword: mode.in_training is train}


def in_mode(
    model: nn.Module, train: bool, given: GivenMode = None
) -> tuple[nn.Module, dict[str, Any]]:
    """The Linen module in training or evaluation: a module, and the keywords of its call.

    Example:
        >>> in_mode(nn.BatchNorm(), True)[1]
        {'use_running_average': False}
    """
    told = keywords_of(model, train, given)
    fields = told.keys() & set(_fields(model))
    # Flax takes the mode of an attention or a dropout from a field or from the call, not from both.
    is_set = any(getattr(model, name) is not None for name in fields)
    if fields and (is_set or not told.keys() <= set(_parameters(model))):
        return model.clone(**told), {}
    return model, told


def arguments_of(
    model: Any, inputs: Any, mode: GivenMode = None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments of a model's call for the inputs of a batch.

    A dictionary whose keys are arguments of the model is passed by keyword. A tuple or list is
    spread over a model that takes so many arguments, if more than one. Anything else is the one
    argument. The mode is not counted as an argument.

    Example:
        >>> arguments_of(nn.Dense(1), 2.0), arguments_of(nn.MultiHeadAttention(1), (2.0, 3.0))
        (((2.0,), {}), ((2.0, 3.0), {}))
        >>> arguments_of(nn.Dense(1), {"inputs": 2.0}), arguments_of(nn.Dense(1), {"x": 2.0})
        (((), {'inputs': 2.0}), (({'x': 2.0},), {}))
    """
    told = mode_of(model, mode)
    parameters = _parameters(model)
    if told is not None:
        parameters.pop(told.keyword, None)
    if isinstance(inputs, Mapping) and inputs and set(inputs) <= set(parameters):
        return (), dict(inputs)
    if isinstance(inputs, tuple | list):
        kinds = [each.kind for each in parameters.values()]
        positional = kinds.count(inspect.Parameter.POSITIONAL_OR_KEYWORD)
        any_number = inspect.Parameter.VAR_POSITIONAL in kinds
        if any_number or 1 < len(inputs) <= positional:
            return tuple(inputs), {}
    return (inputs,), {}


def name_of(model: Any) -> str:
    """What a message calls a model."""
    return model.name if isinstance(model, Adapted) else type(model).__name__


def _signature(model: Any) -> list[tuple[str, inspect.Parameter]]:
    """The arguments of a model's call, after the module itself or what stands for it."""
    if isinstance(model, Adapted):
        return model.arguments()
    return list(inspect.signature(type(model).__call__).parameters.items())[1:]


def _parameters(model: Any) -> dict[str, inspect.Parameter]:
    """The arguments of a model's call that have a name, and `*args`."""
    return {name: each for name, each in _signature(model) if each.kind is not each.VAR_KEYWORD}


def _fields(model: Any) -> list[str]:
    if isinstance(model, Adapted):
        return []
    return [name for name in type(model).__dataclass_fields__ if name not in ("parent", "name")]


def _takes_any_keyword(model: Any) -> bool:
    return any(each.kind is each.VAR_KEYWORD for _, each in _signature(model))
