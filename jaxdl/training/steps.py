"""The train step and the evaluation step: pure functions, each written once."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Int, Key

from jaxdl.calling import Adapted, synchronized_norms
from jaxdl.factories import factory
from jaxdl.training.fields import check_held
from jaxdl.training.state import TrainState
from jaxdl.training.task import (
    Augment,
    Batch,
    PerExample,
    as_batch,
    as_task,
    mean_over_batch,
    per_example,
    require_of_examples,
    scale_images,
    sum_over_batch,
)

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]
EvalStep = Callable[[Mapping[str, Any], Batch], dict[str, Any]]


@factory
def make_train_step(
    model: Any,
    optimizer: optax.GradientTransformation,
    loss: PerExample | Any | None = None,
    metrics: Iterable[PerExample] | Mapping[str, PerExample] | Any = (),
    *,
    preprocess: Callable[[Any], Any] = scale_images,
    augment: Augment | None = None,
    axis_name: str | None = None,
) -> TrainStep:
    r"""One update of the parameters, as a pure function (state, batch) -> (state, metrics).

    $$\theta \leftarrow \theta + u\Bigl(\nabla_\theta
      \frac{\sum_i w_i\, \ell(f_\theta(x_i), y_i)}{\sum_i w_i}\Bigr)$$

    with u the optimizer's update. The metrics are means over the batch, named after their
    functions; "loss" is among them. All come from the outputs before the update.

    Arguments:
        model: a `Task`, which has the loss and the settings below; or a model of
            any library, see `calling.adapt`.
        optimizer: any optax gradient transformation. Line searches and SAM may ask for the batch's
            loss and gradient (`value`, `grad`), and for the functions that compute them
            (`value_fn(params)`, `grad_fn(params, i)`).
        loss, metrics, preprocess, augment: as in `Task`.
        axis_name: the name of a mapped axis whose places share the batch. Gradients, metrics and
            norm statistics are averaged over it; each place draws its own dropout and augmentation.

    Raises:
        ValueError: as in `Task`. At the first call: the result of a loss or metric is not of shape
            (batch,); a collection changes its structure.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxdl import losses, models, optimizers, training
        >>> model, optimizer = models.MLP([1]), optimizers.sgd(0.1)
        >>> batch = {"inputs": jnp.ones((4, 2)), "targets": jnp.ones((4, 1))}
        >>> state = training.init_state(jax.random.key(0), model, optimizer, batch["inputs"])
        >>> step = make_train_step(model, optimizer, losses.mean_squared_error)
        >>> state, measured = jax.jit(step)(state, batch)
        >>> int(state.step), list(measured)
        (1, ['loss'])
    """
    task = require_of_examples(
        as_task(model, loss, metrics=metrics, preprocess=preprocess, augment=augment)
    )
    update = optax.with_extra_args_support(optimizer).update

    def mean(tree: Any) -> Any:
        return tree if axis_name is None else lax.pmean(tree, axis_name)

    def own(key: Key[Array, ""]) -> Key[Array, ""]:
        if axis_name is None:
            return key
        return jax.random.fold_in(key, lax.axis_index(axis_name))

    def value(name: str, function: PerExample, outputs: Any, batch: Mapping[str, Any]) -> Array:
        return mean_over_batch(*per_example(name, function, outputs, batch), axis_name)

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        given = as_batch(batch)
        check_held(given, "a batch")
        inputs = task.preprocess(given["inputs"])
        if task.augment is not None:
            inputs = task.augment(own(state.augment_key()), inputs)

        def objective(params: Any) -> tuple[Array, tuple[Any, Any]]:
            variables = {**state.variables, "params": params}
            with synchronized_norms(axis_name):
                outputs, moved = task.outputs(
                    variables, inputs, train=True, key=own(state.dropout_key())
                )
            if axis_name is not None and isinstance(task.model, Adapted) and moved:
                raise ValueError(
                    f"{', '.join(moved)} of a model that is not Flax Linen's must see the whole "
                    "batch, got parallel='pmap', where a device sees its own share; pass "
                    "parallel='auto'"
                )
            return value("loss", task.loss, outputs, given), (outputs, moved)

        (mean_loss, (outputs, moved)), gradients = jax.value_and_grad(objective, has_aux=True)(
            state.params
        )
        mean_loss, gradients, moved = mean((mean_loss, uphill(gradients), moved))
        extra = extra_arguments(
            update,
            value=mean_loss,
            gradient=gradients,
            value_of=lambda params: mean(objective(params)[0]),
            gradient_of=lambda params: mean(uphill(jax.grad(objective, has_aux=True)(params)[0])),
        )
        changes, opt_state = update(gradients, state.opt_state, state.params, **extra)
        measured = {
            name: mean_loss if name == "loss" else mean(value(name, function, outputs, given))
            for name, function in task.measured.items()
        }
        state = replace(
            state.with_collections(moved),
            step=state.step + 1,
            params=optax.apply_updates(state.params, changes),
            opt_state=opt_state,
        )
        return state, measured

    return train_step


def uphill(gradients: Any) -> Any:
    """The direction of ascent: for a complex parameter the conjugate of what `jax.grad` gives."""
    return jax.tree.map(lambda g: g.conj() if jnp.iscomplexobj(g) else g, gradients)


@factory
def make_eval_step(
    model: Any,
    loss: PerExample | Any | None = None,
    metrics: Iterable[PerExample] | Mapping[str, PerExample] | Any = (),
    *,
    preprocess: Callable[[Any], Any] = scale_images,
) -> EvalStep:
    """Sums over a batch of the per-example loss and metrics: (variables, batch) -> sums.

    Sums of batches of any size add up to the sum over the set, so a mean taken at the end is exact.
    A weighted sum is a `Weighted`, with the sum of its weights. The model runs in evaluation mode;
    its variables do not change.

    Arguments and errors: as in `make_train_step`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxdl import losses, models
        >>> model = models.MLP([1], kernel_init=jax.nn.initializers.ones)
        >>> batch = {"inputs": jnp.ones((4, 2)), "targets": jnp.zeros((4, 1))}
        >>> variables = model.init(jax.random.key(0), batch["inputs"], train=False)
        >>> make_eval_step(model, losses.mean_squared_error)(variables, batch)["loss"].item()
        16.0
    """
    task = require_of_examples(as_task(model, loss, metrics=metrics, preprocess=preprocess))

    def eval_step(variables: Mapping[str, Any], batch: Batch) -> dict[str, Any]:
        given = as_batch(batch)
        check_held(given, "a batch")
        outputs, _ = task.outputs(variables, task.preprocess(given["inputs"]), train=False)
        return {
            name: sum_over_batch(*per_example(name, function, outputs, given))
            for name, function in task.measured.items()
        }

    return eval_step


@factory
def make_train_epoch(
    train_step: TrainStep, *, unroll: int = 1
) -> Callable[[TrainState, Batch, Int[Array, "steps batch"]], tuple[TrainState, dict[str, Array]]]:
    """Many train steps in one scan: (state, arrays, order) -> (state, metrics of shape (steps,)).

    Arguments:
        train_step: a step from `make_train_step`.
        unroll: steps in one iteration of the compiled loop. It changes the results by rounding
            only.

    The returned function gathers the examples `order[i]` of `arrays` for step i, so the whole set
    stays on the device as it is stored.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxdl import losses, models, optimizers, training
        >>> model, optimizer = models.MLP([1]), optimizers.sgd(0.1)
        >>> arrays = {"inputs": jnp.ones((6, 2)), "targets": jnp.ones((6, 1))}
        >>> state = training.init_state(jax.random.key(0), model, optimizer, arrays["inputs"])
        >>> epoch = make_train_epoch(make_train_step(model, optimizer, losses.mean_squared_error))
        >>> state, measured = jax.jit(epoch)(state, arrays, jnp.arange(6).reshape(3, 2))
        >>> measured["loss"].shape
        (3,)
    """

    def train_epoch(
        state: TrainState, arrays: Batch, order: Int[Array, "steps batch"]
    ) -> tuple[TrainState, dict[str, Array]]:
        return lax.scan(
            lambda state, indices: train_step(state, take(arrays, indices)),
            state,
            order,
            unroll=unroll,
        )

    return train_epoch


def extra_arguments(
    update: Callable[..., Any],
    *,
    value: Any,
    gradient: Any,
    value_of: Callable[[Any], Any],
    gradient_of: Callable[[Any], Any],
) -> dict[str, Any]:
    """The further arguments that `update` accepts, under optax's names.

    Line searches and SAM name some of them. An update with `**kwargs` gets all four.

    Example:
        >>> def update(gradient, state, params, *, value): ...
        >>> extra_arguments(update, value=1.0, gradient=2.0, value_of=abs, gradient_of=abs)
        {'value': 1.0}
    """
    offered = {
        "value": value,
        "grad": gradient,
        # optax's line searches want a value_fn that takes every further argument.
        "value_fn": lambda params, grad_fn=None: value_of(params),
        "grad_fn": lambda params, _: gradient_of(params),
    }
    parameters = inspect.signature(update).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return offered
    return {name: given for name, given in offered.items() if name in parameters}


def take(arrays: Batch, indices: Int[Array, " batch"]) -> Batch:
    """The examples `indices`, which must lie within the arrays."""
    examples: Batch = jax.tree.map(
        lambda array: array.at[indices].get(mode="promise_in_bounds"), arrays
    )
    return examples
