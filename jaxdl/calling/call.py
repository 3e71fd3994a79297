"""A model is called: its mode, its arguments, its random numbers, the collections that move."""

import contextlib
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Key

from jaxdl.calling.adapted import Adapted
from jaxdl.calling.modes import GivenMode, arguments_of, in_mode, keywords_of, mode_of, name_of
from jaxdl.compiling import traced_apart


def call_model(
    model: Any,
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
        model: a Linen module, or a model of `adapt`.
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
    may_move = train if moving is None else moving
    args, kwargs = arguments_of(model, inputs, mode)
    if isinstance(model, Adapted):
        named = {**kwargs, **keywords_of(model, train, mode)}
        outputs, moved = model.apply(variables, args, named, train=train, key=dropout_key)
        return outputs, moved if may_move else {}
    model, keywords = in_mode(model, train, mode)
    with nn.intercept_methods(_over_axis):
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
    model: Any,
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
    args, kwargs = arguments_of(model, inputs, mode)
    if isinstance(model, Adapted):
        # A norm of Haiku makes its averages in training alone.
        named = {**kwargs, **keywords_of(model, True, mode)}
        found = model.init(key, args, named)
        kept_names = {*found} if collections is None else {"params", *collections}
        return {name: tree for name, tree in found.items() if name in kept_names}
    model, keywords = in_mode(model, False, mode)
    kept: dict[str, Any] = {}
    if collections is not None:
        kept["mutable"] = ["params", *collections]
    with nn.intercept_methods(_over_axis):
        return dict(model.init(key, *args, **kwargs, **keywords, **kept))


def require_mode(
    model: Any, variables: Mapping[str, Any], inputs: Any, given: GivenMode = None
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
    if given is False or isinstance(model, Adapted):
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

        jaxpr = jax.make_jaxpr(outputs)(dict(variables), inputs, key)
        return re.sub(r"0x[0-9a-f]+", "", str(jaxpr))

    mode, key = mode_of(model, given), jax.eval_shape(lambda: jax.random.key(0))
    with traced_apart(), nn.intercept_methods(watch):
        in_training = program(True)
    if modal and (mode is None or in_training == program(False)):
        takes = f"whose {mode.keyword!r} does not reach it" if mode else "that takes no mode"
        raise ValueError(
            f"training must reach the dropout or norm {modal[0]} of {name_of(model)}, got a "
            f"model {takes}; give its __call__ an argument `train` and pass it on, name yours with "
            "mode=..., or say with mode=False that both modes are meant to be the same"
        )


def _depends_on_mode(module: nn.Module) -> bool:
    rate = getattr(module, "rate" if isinstance(module, nn.Dropout) else "dropout_rate", 0.0)
    is_dropout = isinstance(module, nn.Dropout | nn.MultiHeadDotProductAttention)
    return (is_dropout and not (isinstance(rate, int | float) and rate == 0)) or (
        # A norm's own statistics; those of a module inside it are reported by that module.
        not getattr(module, "freeze_statistics", False)
        and any(not isinstance(leaf, Mapping) for leaf in _own(module, "batch_stats").values())
    )


def _own(module: nn.Module, collection: str) -> Mapping[str, Any]:
    found: Mapping[str, Any] = module.variables.get(collection, {})
    return found


_axis_name: ContextVar[str | None] = ContextVar("axis_name", default=None)


@contextlib.contextmanager
def synchronized_norms(axis_name: str | None) -> Iterator[None]:
    """Let batch norms take the statistics of the whole batch, over the mapped axis.

    Inside the context, `call_model` calls a module with `batch_stats` and the field
    `axis_name=None` as if the field were this `axis_name`. So a model can be mapped without being
    built anew. Other modules do not change. With `axis_name=None` no module changes.

    Example:
        >>> with synchronized_norms("devices"):
        ...     pass
    """
    if axis_name is None:
        yield
        return
    token = _axis_name.set(axis_name)
    try:
        with traced_apart():
            yield
    finally:
        _axis_name.reset(token)


def _over_axis(
    call: Callable[..., Any], args: Any, kwargs: Any, context: nn.module.InterceptorContext
) -> Any:
    """Norms average over the axis that is mapped: over none where nothing maps over theirs.

    `apply` calls a copy of the module, which lives only for the call.
    """
    module, ours = context.module, _axis_name.get()
    own = getattr(module, "axis_name", ours)
    if isinstance(own, str) and not is_mapped(own):
        own = None
        object.__setattr__(module, "axis_name", None)
    if own is None and ours is not None and module.variables.get("batch_stats"):
        object.__setattr__(module, "axis_name", ours)
    return call(*args, **kwargs)


def is_mapped(axis_name: str) -> bool:
    """Whether a vmap, a pmap or a shard_map around this call gives its axis this name.

    Example:
        >>> is_mapped("batch")
        False
    """
    try:
        jax.lax.axis_size(axis_name)
    except NameError:
        return False
    return True
