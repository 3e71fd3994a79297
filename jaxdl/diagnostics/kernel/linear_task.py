"""A model's linearisation around a point, as a task that trains like any other."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxdl.calling import Adapted, name_of
from jaxdl.calling.adapted import Start, Variables
from jaxdl.diagnostics.kernel.mapped_rows import has_forward
from jaxdl.training.task import PerExample, Task, as_task, to_measure

POINT = "point"
"""The collection that holds the variables around which the model is linear; it does not move."""

_INPUTS = "_inputs"


def linearized(model: Any, variables: Any, loss: PerExample | None = None, **settings: Any) -> Task:
    r"""The task whose model is linear in the parameters, and equal to the given one at a point.

    $$f^{lin}_\theta(x) = f_{\theta_0}(x) +
      \frac{\partial f(x)}{\partial \theta}\Big|_{\theta_0} (\theta - \theta_0)$$

    Its runs start at theta_0, with the model's own outputs and gradient, whatever their key. It is
    trained by `fit` and `make_run` with any optimizer; a wide network follows it closely. Under
    gradient descent on a squared error its outputs move by the tangent kernel alone, see
    `tangent_kernel`.

    The model is taken in evaluation mode at the point, so that it is one function of the
    parameters: norms of batches have their running statistics, which are held, and there is no
    dropout. The optimizer acts on theta, so a weight decay pulls towards 0 and not to theta_0. A
    step costs about two of the model's own.

    Arguments:
        model: a model of any library; or a `training.Task`, whose loss, metrics, `preprocess` and
            `augment` are kept.
        variables: theta_0 and the other collections: what `model.init` returned, or
            `state.variables`. They may be traced, so that each member of a sweep has its own.
        loss: per example, (outputs, targets) -> (batch,), if `model` is no task.
        settings: of `training.Task`, if `model` is no task.

    Returns:
        A task with the variables {"params": theta, "point": all variables at theta_0}.

    Raises:
        TypeError: no model, or a model without a loss; no variables of its library.
        ValueError: variables that do not fit.

    Example:
        >>> from jaxdl import diagnostics, losses, models
        >>> model, x = models.MLP([8, 1], activation=jnp.tanh), jnp.ones((4, 3))
        >>> variables = model.init(jax.random.key(0), x, train=False)
        >>> linear = diagnostics.linearized(model, variables, losses.mean_squared_error)
        >>> start = linear.init(jax.random.key(1), x)
        >>> outputs, _ = linear.outputs(start, x, train=True)
        >>> bool(jnp.allclose(outputs, model.apply(variables, x, train=False)))
        True

    Source: Jacot, Gabriel and Hongler (2018); Lee et al. (2019), equation 5.
    """
    task, held = to_measure(as_task(model, loss, **settings), variables)
    first: Any = held.get("params", {})
    if not jax.tree.leaves(first):
        raise ValueError(
            "variables must hold the model's parameters under 'params', got none; pass what "
            "model.init returned"
        )
    # Copies: a loop may overwrite the parameters, and never the point.
    point = jax.tree.map(jnp.array, held)
    start = Start({"params": jax.tree.map(jnp.array, first), POINT: point})
    linear = Linear(f"linearised {name_of(task.model)}", start, of=task)
    return replace(task, model=linear, mode=None, collections=None, evaluation_seed=None)


@dataclass(frozen=True)
class Linear(Adapted):
    """A task's model, linear around the point that its variables hold.

    Attributes:
        of: the task.
    """

    of: Task | None = field(default=None, repr=False)

    def arguments(self) -> list[tuple[str, inspect.Parameter]]:
        """One, which the model itself takes apart."""
        kind = inspect.Parameter.POSITIONAL_ONLY
        return [(_INPUTS, inspect.Parameter(_INPUTS, kind))]

    def apply(
        self,
        variables: Mapping[str, Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        train: bool,
        key: Key[Array, ""] | None,
    ) -> tuple[Any, Variables]:
        """The outputs at the point, and their change to first order."""
        del kwargs, train, key
        (inputs,), task, point = args, self.of, variables[POINT]
        assert task is not None

        def outputs(params: Any) -> Any:
            return task.outputs({**point, "params": params}, inputs, train=False)[0]

        change = jax.tree.map(jnp.subtract, variables["params"], point["params"])
        if has_forward(outputs, point["params"]):
            at_point, moved = jax.jvp(outputs, (point["params"],), (change,))
        else:  # J is the transpose of J^T, which `jax.custom_vjp` gives
            at_point, pull = jax.vjp(outputs, point["params"])
            (moved,) = jax.linear_transpose(lambda u: pull(u)[0], at_point)(change)
        return jax.tree.map(_sum, at_point, moved), {}

    def _module(self, variables: Mapping[str, Any]) -> Any:
        return variables["params"]

    def read(self, given: Any) -> Variables:
        """The parameters, at the point that the model came with.

        Raises:
            ValueError: it came with none.
        """
        if self.own is None:
            raise ValueError(
                f"variables of the {self.name} must have a point, got parameters alone; pass "
                "state.variables"
            )
        return {"params": given, POINT: self.own[POINT]}


def _sum(value: Any, moved: Any) -> Any:
    """Outputs that are no floats, such as labels, do not move."""
    return value + moved if jnp.issubdtype(jnp.asarray(value).dtype, jnp.inexact) else value
