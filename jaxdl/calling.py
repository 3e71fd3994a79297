"""How a model is called: the mode, the random numbers, the collections that change."""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import flax.linen as nn
from jaxtyping import Array, Key


def train_argument(model: nn.Module, train: bool) -> dict[str, Any]:
    """The keyword `train` for a model that takes it, else nothing."""
    named = "train" in inspect.signature(type(model).__call__).parameters
    return {"train": train} if named else {}


def call_model(
    model: nn.Module,
    variables: Mapping[str, Any],
    inputs: Any,
    *,
    train: bool,
    dropout_key: Key[Array, ""] | None = None,
    moving: bool | None = None,
) -> tuple[Any, Mapping[str, Any]]:
    """The outputs of a model, and its `batch_stats` after the call, if they moved.

    Arguments:
        model: a Linen module.
        variables: {"params": ..., "batch_stats": ...}; not changed.
        inputs: (batch, ...).
        train: whether dropout and the batch's own statistics are on.
        dropout_key: the key of the dropout masks; a model without dropout needs none.
        moving: whether the model may change `batch_stats`; by default in training only.

    Raises:
        flax.errors.ModifyScopeVariableError: a model changes `batch_stats` where it may not: its
            norms use the batch's own statistics in evaluation.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = nn.Dense(2, kernel_init=nn.initializers.ones)
        >>> variables = model.init(jax.random.key(0), jnp.ones((1, 3)))
        >>> outputs, updates = call_model(model, variables, jnp.ones((1, 3)), train=False)
        >>> outputs.tolist(), updates
        ([[3.0, 3.0]], {})
    """
    outputs, updates = model.apply(
        variables,
        inputs,
        **train_argument(model, train),
        mutable=["batch_stats"] if (train if moving is None else moving) else [],
        rngs=None if dropout_key is None else {"dropout": dropout_key},
    )
    return outputs, updates


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
