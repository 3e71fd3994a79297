"""Any model as this library calls it."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn

from jaxdl.calling.adapted import Adapted
from jaxdl.calling.equinox_modules import adapt_equinox, is_equinox
from jaxdl.calling.nnx_kinds import is_of_nnx
from jaxdl.calling.plain_functions import FunctionModel, PairModel, function_start


def adapt(
    model: Any, init: Callable[..., Any] | None = None, *, mapped: bool = True
) -> nn.Module | Adapted:
    r"""A model of any library as `propagation`, `fit`, `make_run` and the others call it.

    They call this function themselves; call it to say with `init` where runs start, or to get a
    trained model back, `adapt(model).module(state.variables)`.

    | model | parameters | told of training by | random numbers |
    | --- | --- | --- | --- |
    | Linen module | drawn by its `init` | keyword or field | `rngs` |
    | NNX module | `nnx.Param` | `train()`, `eval()`, keyword | all its streams |
    | Equinox module, (module, state) | floats | `inference_mode`, keyword | argument `key` |
    | `init` and `apply`, as of Haiku | `init(rng, inputs)` | keyword | `rng` |
    | function (params, inputs) | any pytree | keyword | argument `key` or `rng` |

    The variables of an NNX or Equinox module are nested dictionaries with the names that it has: so
    checkpoints, tables and rows name them as its own library does. An Equinox module is called for
    one example and mapped over the batch, as its library means it, unless `mapped=False`. The
    `apply` of a Linen module is that module.

    The parameters of a function may be given as they are; a dictionary whose only name is "params"
    is taken for variables of this library. So a Linen module is passed itself, and not a function
    that applies it.

    Arguments:
        model: the model.
        init: `init(key)` draws the parameters of a function (or `init(key, inputs)`), or makes an
            NNX or Equinox module of this structure. Without it every run of such a module starts
            from the values it has now, whatever the key.
        mapped: whether an Equinox module takes one example; False if it takes a batch.

    Returns:
        A Linen module as it is; of others an `Adapted`.

    Raises:
        TypeError: it is none of these, e.g. a class that was not called, or a module of PyTorch.
        ValueError: `init` or `mapped=False` with a model that cannot use it.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxdl import diagnostics
        >>> def network(params, x):
        ...     for layer in params[:-1]:
        ...         x = jnp.tanh(x @ layer["w"] + layer["b"])
        ...     return x @ params[-1]["w"] + params[-1]["b"]
        >>> params = [{"w": jnp.eye(3), "b": jnp.zeros(3)} for _ in range(2)]
        >>> found = diagnostics.summary(network, jnp.ones((4, 3)), variables=params)
        >>> found.names, found.parameters
        (('0', '0/activation', '1'), (12, 0, 12))
    """
    _refuse_others(model)
    owner = getattr(model, "__self__", None)
    if isinstance(owner, nn.Module) and getattr(model, "__name__", None) == "apply":
        model = owner
    is_pair = all(callable(getattr(model, name, None)) for name in ("init", "apply"))
    if init is not None and (isinstance(model, Adapted) or is_pair):
        raise ValueError(
            f"init must come with a model that has none, got it with {type(model).__name__}; "
            "leave it out"
        )
    if not mapped and not is_equinox(model):
        raise ValueError(
            f"mapped must be left out but for a module of Equinox, got mapped=False with {model!r}"
        )
    if isinstance(model, nn.Module | Adapted):
        return model
    if not isinstance(model, type):
        if is_of_nnx(model, "Module"):
            from jaxdl.calling.nnx_modules import adapt_nnx

            return adapt_nnx(model, init)
        if is_equinox(model):
            return adapt_equinox(model, init, mapped=mapped)
        if is_pair:
            name = getattr(model.apply, "__name__", type(model).__name__)
            return PairModel(name, make=model.init, function=model.apply)
        if is_equinox(inner := getattr(model, "__wrapped__", None)):
            raise TypeError(
                f"an Equinox module must be passed itself, got {type(inner).__name__} in another "
                "function, such as jax.vmap of it; it is mapped over the batch here"
            )
        if callable(model):
            name = getattr(model, "__name__", type(model).__name__)
            return FunctionModel(name, function_start(init), function=model)
    raise TypeError(
        "model must be a module of Flax Linen, Flax NNX or Equinox, a pair of init and apply, or a "
        f"function (params, inputs), got {model!r}; build it, e.g. models.MLP([128, 10])"
    )


def _refuse_others(model: Any) -> None:
    kinds = model.__mro__ if isinstance(model, type) else type(model).__mro__
    for package, name in (("torch", "PyTorch"), ("keras", "Keras")):
        if any(kind.__module__.partition(".")[0] == package for kind in kinds):
            fix = " and take its weights with interop.from_state_dict" * (package == "torch")
            raise TypeError(
                "model must be a module of Flax or Equinox, or a function, got a module of "
                f"{name}, {kinds[0].__name__}; write it in Flax{fix}"
            )
