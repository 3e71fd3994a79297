"""How a model is called: the mode, the arguments, the random numbers, the collections that move."""

import contextlib
import inspect
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import flax.linen as nn
import jax
from jaxtyping import Array, Key

KEYWORDS = {
    "train": True,
    "training": True,
    "is_training": True,
    "deterministic": False,
    "use_running_average": False,
}
"""The usual names of the mode, with their value in training."""


@dataclass(frozen=True)
class Mode:
    """The keyword that tells a model whether it trains.

    Attributes:
        keyword: an argument of the model's `__call__`, or else a field of the module.
        in_training: its value in training; in evaluation it has the other.
    """

    keyword: str
    in_training: bool = True


GivenMode = Mode | str | Literal[False] | None
"""A mode, or its keyword; None to recognise it by its usual names; False if there is none."""


def mode_of(model: nn.Module, given: GivenMode = None) -> Mode | None:
    """The mode of a model; None for a model that behaves the same in training and evaluation.

    Arguments:
        model: a Linen module. An argument of its `__call__` comes before a field.
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
                f"mode must name an argument or a field of {type(model).__name__}, "
                f"{[*arguments, *fields]}, got {mode.keyword!r}; pass one of them"
            )
        return mode
    switches = [name for name in fields if isinstance(getattr(model, name, None), bool | None)]
    for names in (arguments, switches):
        found = [name for name in names if name in KEYWORDS]
        if len(found) > 1:
            raise ValueError(
                f"the mode of {type(model).__name__} must be one keyword, got {found}; "
                f"say which one it is with mode={found[0]!r}"
            )
        if found:
            return Mode(found[0], KEYWORDS[found[0]])
    return None


def in_mode(
    model: nn.Module, train: bool, given: GivenMode = None
) -> tuple[nn.Module, dict[str, Any]]:
    """The model in training or evaluation: a module, and the keywords of its call.

    Example:
        >>> in_mode(nn.BatchNorm(), True)[1]
        {'use_running_average': False}
    """
    mode = mode_of(model, given)
    if mode is None:
        return model, {}
    value = mode.in_training is train
    if mode.keyword in _parameters(model) or mode.keyword not in _fields(model):
        return model, {mode.keyword: value}
    fields: dict[str, Any] = {mode.keyword: value}
    return model.clone(**fields), {}


def arguments_of(
    model: nn.Module, inputs: Any, mode: GivenMode = None
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


def call_model(
    model: nn.Module,
    variables: Mapping[str, Any],
    inputs: Any,
    *,
    train: bool,
    dropout_key: Key[Array, ""] | None = None,
    moving: bool | None = None,
    mode: GivenMode = None,
) -> tuple[Any, Mapping[str, Any]]:
    """The outputs of a model, and the collections that may move, as they are after the call.

    Arguments:
        model: a Linen module.
        variables: {"params": ..., "batch_stats": ..., ...}; not changed.
        inputs: any pytree with a leading batch axis; see `arguments_of`.
        train: whether dropout and the batch's own statistics are on.
        dropout_key: the key of all random numbers. The stream "dropout" is drawn from it; all other
            names share a second stream, of which each draw is new. A model that draws none needs no
            key.
        moving: whether the collections beside the parameters may change; by default in training
            only.
        mode: how the model is told of training, see `mode_of`.

    Raises:
        flax.errors.ModifyScopeVariableError: a model changes a collection where it may not: its
            norms use the batch's own statistics in evaluation.
        flax.errors.InvalidRngError: a model draws random numbers without a key.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = nn.Dense(2, kernel_init=nn.initializers.ones)
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> outputs, updates = call_model(model, variables, jnp.ones((1, 3)), train=False)
        >>> outputs.tolist(), updates
        ([[3.0, 3.0]], {})
    """
    model, keywords = in_mode(model, train, mode)
    args, kwargs = arguments_of(model, inputs, mode)
    may_move = train if moving is None else moving
    outputs, updates = model.apply(
        variables,
        *args,
        **kwargs,
        **keywords,
        mutable=sorted({"batch_stats", *variables} - {"params"}) if may_move else [],
        rngs=None if dropout_key is None else random_streams(dropout_key),
    )
    return outputs, updates


def random_streams(key: Key[Array, ""]) -> dict[str, Key[Array, ""]]:
    """What `apply` takes as `rngs`: "dropout", and Flax's default stream for every other name.

    Example:
        >>> list(random_streams(jax.random.key(0)))
        ['dropout', 'params']
    """
    return {"dropout": key, "params": jax.random.fold_in(key, zlib.crc32(b"params"))}


def initial_variables(
    model: nn.Module,
    key: Key[Array, ""],
    inputs: Any,
    *,
    mode: GivenMode = None,
    collections: Iterable[str] | None = None,
) -> dict[str, Any]:
    """The variables of a model before it is trained: its parameters and other collections.

    Arguments:
        collections: the names of those beside the parameters; by default all that `init` makes.
    """
    model, keywords = in_mode(model, False, mode)
    args, kwargs = arguments_of(model, inputs, mode)
    kept: dict[str, Any] = {}
    if collections is not None:
        kept["mutable"] = ["params", *collections]
    return dict(model.init(key, *args, **kwargs, **keywords, **kept))


def require_mode(
    model: nn.Module, variables: Mapping[str, Any], inputs: Any, given: GivenMode = None
) -> None:
    """Refuse a model that has dropout or norms which its mode does not reach.

    Such a model would do the same in training and evaluation. It is traced in both modes; arrays
    and their shapes and dtypes will do.

    Raises:
        ValueError: the model has a dropout or running statistics, and both programs are the same.

    Example:
        >>> class Net(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         return nn.Dropout(0.5, deterministic=True)(nn.Dense(1)(x))
        >>> x = jax.numpy.ones((1, 2))
        >>> require_mode(Net(), Net().init(jax.random.key(0), x), x)
        Traceback (most recent call last):
        ...
        ValueError: training must reach the dropout or norm Dropout_0 of Net, got a model ...
    """
    if given is False:
        return
    modal: list[str] = []

    def watch(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        if context.method_name == "__call__" and _depends_on_mode(module):
            modal.append("/".join(module.path) or type(module).__name__)
        return call(*args, **kwargs)

    def program(train: bool) -> str:
        def outputs(variables: Any, inputs: Any, key: Any) -> Any:
            return call_model(
                model, variables, inputs, train=train, dropout_key=key, moving=True, mode=given
            )

        jaxpr = jax.make_jaxpr(outputs)(dict(variables), inputs, jax.random.key(0))
        return re.sub(r"0x[0-9a-f]+", "", str(jaxpr))

    mode = mode_of(model, given)
    with nn.intercept_methods(watch):
        in_training = program(True)
    if modal and (mode is None or in_training == program(False)):
        takes = f"whose {mode.keyword!r} does not reach it" if mode else "that takes no mode"
        raise ValueError(
            f"training must reach the dropout or norm {modal[0]} of {type(model).__name__}, got a "
            f"model {takes}; give its __call__ an argument `train` and pass it on, name yours with "
            "mode=..., or say with mode=False that both modes are meant to be the same"
        )


def _depends_on_mode(module: nn.Module) -> bool:
    rate = getattr(module, "rate" if isinstance(module, nn.Dropout) else "dropout_rate", 0.0)
    is_dropout = isinstance(module, nn.Dropout | nn.MultiHeadDotProductAttention)
    return (is_dropout and not (isinstance(rate, int | float) and rate == 0)) or (
        # A norm's own statistics; those of a module inside it are reported by that module.
        any(not isinstance(leaf, Mapping) for leaf in _own(module, "batch_stats").values())
    )


def _own(module: nn.Module, collection: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = module.variables.get(collection, {})
    return found


def _parameters(model: nn.Module) -> dict[str, inspect.Parameter]:
    """The arguments of a model's `__call__` that have a name, and `*args`."""
    given = list(inspect.signature(type(model).__call__).parameters.items())[1:]
    return {name: each for name, each in given if each.kind is not each.VAR_KEYWORD}


def _fields(model: nn.Module) -> list[str]:
    return [name for name in type(model).__dataclass_fields__ if name not in ("parent", "name")]


def _takes_any_keyword(model: nn.Module) -> bool:
    parameters = inspect.signature(type(model).__call__).parameters.values()
    return any(each.kind is each.VAR_KEYWORD for each in parameters)


@contextlib.contextmanager
def synchronized_norms(axis_name: str | None) -> Iterator[None]:
    """Let batch norms take the statistics of the whole batch, over the mapped axis.

    Inside the context, a module with `batch_stats` and the field `axis_name=None` is called as if
    the field were this `axis_name`. So a model can be mapped without being built anew. Other
    modules do not change. With `axis_name=None` no module changes.

    Example:
        >>> with synchronized_norms("devices"):
        ...     pass
    """
    if axis_name is None:
        yield
        return

    def over_axis(
        call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
    ) -> Any:
        module = context.module
        if getattr(module, "axis_name", axis_name) is None and module.variables.get("batch_stats"):
            # `apply` calls a copy of the module, which lives only for the call.
            object.__setattr__(module, "axis_name", axis_name)
        return call(*args, **kwargs)

    with nn.intercept_methods(over_axis):
        yield
