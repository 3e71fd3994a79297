"""The train step and the evaluation step: pure functions, each written once."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Int, Key

from jaxdl.calling import call_model, synchronized_norms
from jaxdl.training.state import TrainState

Batch = Mapping[str, Any]
"""`{"inputs": (batch, ...), "targets": (batch, ...)}`."""

PerExample = Callable[[Any, Any], Array]
"""A loss or a metric: (outputs, targets) -> (batch,)."""

TrainStep = Callable[[TrainState, Batch], tuple[TrainState, dict[str, Array]]]
EvalStep = Callable[[Mapping[str, Any], Batch], dict[str, Array]]

Augment = Callable[[Any, Any], Array]
"""(key, inputs) -> inputs of the same shape, as the functions of `data.augmentation`."""


def scale_images(inputs: Array) -> Array:
    """Cast uint8 images to float32 in [0, 1] as x / 255; leave other inputs alone.

    The compiler multiplies by the rounded reciprocal of 255. The result differs from PyTorch's
    `ToTensor` by at most one unit in the last place, a relative 1.2e-7.

    Example:
        >>> import jax.numpy as jnp
        >>> scale_images(jnp.array([0, 51, 255], jnp.uint8)).tolist()
        [0.0, 0.2..., 1.0]
    """
    return inputs.astype(jnp.float32) / 255 if inputs.dtype == jnp.uint8 else inputs


def make_train_step(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    loss: PerExample,
    metrics: Iterable[PerExample] | Mapping[str, PerExample] = (),
    *,
    preprocess: Callable[[Array], Array] = scale_images,
    augment: Augment | None = None,
    axis_name: str | None = None,
) -> TrainStep:
    r"""One update of the parameters, as a pure function (state, batch) -> (state, metrics).

    $$\theta \leftarrow \theta + u\Bigl(\nabla_\theta \frac{1}{B}\sum_{i=1}^{B}
      \ell(f_\theta(x_i), y_i)\Bigr)$$

    with u the optimizer's update. The metrics are means over the batch, named after their
    functions; "loss" is among them. All come from the outputs before the update.

    Arguments:
        model: a Linen module, called with `train=True` and an rng named "dropout".
        optimizer: any optax gradient transformation. Line searches and SAM may ask for the batch's
            loss and gradient (`value`, `grad`), and for the functions that compute them
            (`value_fn(params)`, `grad_fn(params, i)`).
        loss: per example, (outputs, targets) -> (batch,).
        metrics: functions of the same kind, or a mapping from names to them.
        preprocess: a pure function of the batch's inputs, applied on the device.
        augment: (key, inputs) -> inputs, applied after `preprocess` with a new key at each step.
        axis_name: the name of a mapped axis whose places share the batch. Gradients, metrics and
            norm statistics are averaged over it; each place draws its own dropout and augmentation.

    Raises:
        ValueError: two metrics have one name. At the first call: the result of a loss or metric is
            not of shape (batch,).

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
    named = name_metrics(metrics)
    update = optax.with_extra_args_support(optimizer).update

    def mean(tree: Any) -> Any:
        return tree if axis_name is None else lax.pmean(tree, axis_name)

    def own(key: Key[Array, ""]) -> Key[Array, ""]:
        if axis_name is None:
            return key
        return jax.random.fold_in(key, lax.axis_index(axis_name))

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, dict[str, Array]]:
        inputs = preprocess(batch["inputs"])
        if augment is not None:
            inputs = augment(own(state.augment_key()), inputs)

        def objective(params: Any) -> tuple[Array, tuple[Any, Any]]:
            with synchronized_norms(axis_name):
                outputs, updates = call_model(
                    model,
                    {**state.variables, "params": params},
                    inputs,
                    train=True,
                    dropout_key=own(state.dropout_key()),
                )
            return per_example("loss", loss, outputs, batch).mean(), (outputs, updates)

        (mean_loss, (outputs, updates)), gradients = jax.value_and_grad(objective, has_aux=True)(
            state.params
        )
        mean_loss, gradients, updates = mean((mean_loss, gradients, updates))
        extra = extra_arguments(
            update,
            value=mean_loss,
            gradient=gradients,
            value_of=lambda params: mean(objective(params)[0]),
            gradient_of=lambda params: mean(jax.grad(objective, has_aux=True)(params)[0]),
        )
        changes, opt_state = update(gradients, state.opt_state, state.params, **extra)
        measured = {
            name: per_example(name, metric, outputs, batch).mean() for name, metric in named.items()
        }
        state = replace(
            state,
            step=state.step + 1,
            params=optax.apply_updates(state.params, changes),
            batch_stats=updates.get("batch_stats", state.batch_stats),
            opt_state=opt_state,
        )
        return state, {"loss": mean_loss, **mean(measured)}

    return train_step


def make_eval_step(
    model: nn.Module,
    loss: PerExample,
    metrics: Iterable[PerExample] | Mapping[str, PerExample] = (),
    *,
    preprocess: Callable[[Array], Array] = scale_images,
) -> EvalStep:
    """Sums over a batch of the per-example loss and metrics: (variables, batch) -> sums.

    Sums of batches of any size add up to the sum over the set, so a mean taken at the end is exact.
    The model runs with `train=False`; its variables do not change.

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
    named = {"loss": loss, **name_metrics(metrics)}

    def eval_step(variables: Mapping[str, Any], batch: Batch) -> dict[str, Array]:
        outputs, _ = call_model(model, variables, preprocess(batch["inputs"]), train=False)
        return {
            name: per_example(name, metric, outputs, batch).sum() for name, metric in named.items()
        }

    return eval_step


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


def take(arrays: Batch, indices: Int[Array, " batch"]) -> dict[str, Array]:
    """The examples `indices`, which must lie within the arrays."""
    return {name: array.at[indices].get(mode="promise_in_bounds") for name, array in arrays.items()}


def name_metrics(
    metrics: Iterable[PerExample] | Mapping[str, PerExample],
) -> dict[str, PerExample]:
    """Metrics by name; a `functools.partial` is named after the function that it calls."""
    if isinstance(metrics, Mapping):
        named = dict(metrics)
    else:
        pairs = [(getattr(metric, "func", metric).__name__, metric) for metric in metrics]
        named = dict(pairs)
        if len(named) < len(pairs):
            raise ValueError(
                f"metrics must have different names, got {[name for name, _ in pairs]}; "
                "pass a mapping from names to functions"
            )
    if "loss" in named:
        raise ValueError(
            'a metric must not be named "loss", which is the loss\'s own; '
            "pass a mapping from other names to functions"
        )
    return named


def per_example(name: str, function: PerExample, outputs: Any, batch: Batch) -> Array:
    """The values of a loss or metric, refused unless there is one for each example."""
    values = function(outputs, batch["targets"])
    expected = batch["inputs"].shape[:1]
    if values.shape != expected:
        raise ValueError(
            f"{name} must give one value per example, of shape {expected}, got {values.shape}; "
            "average over the output axes only, the step takes the mean over the batch"
        )
    return values
