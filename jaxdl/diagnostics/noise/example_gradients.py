"""The gradients of single examples themselves."""

from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxdl.calling import GivenMode
from jaxdl.compiling import jit_with
from jaxdl.diagnostics.noise.small_batches import (
    Settings,
    gradients_of,
    mapped,
    multiplied,
    settings_of,
    units_of,
)
from jaxdl.diagnostics.objective import measured_batch
from jaxdl.training.task import Batch, PerExample, as_task, scale_images, to_measure


def example_gradients(
    model: Any,
    variables: Any,
    batch: Batch,
    *,
    loss: PerExample | None = None,
    batch_size: int | None = None,
    train: bool = True,
    key: Any = None,
    preprocess: Callable[[Any], Any] = scale_images,
    mode: GivenMode = None,
) -> Any:
    r"""The gradient of each example's loss.

    $$g_i = \frac{\partial}{\partial\theta} \ell(f_\theta(x_i), y_i)$$

    Each has as many numbers as the model has parameters. For their norms, and the angle to the mean
    gradient, take `gradient_noise`, which does not make them.

    Weights are not in them: the training's gradient is the weighted mean of the g_i. An example of
    weight 0 has a gradient of 0. What is said there of dropout and of norms holds here, too.

    Arguments:
        model: a model of any library, see `calling.adapt`; or a `training.Task`.
        variables: as in `gradient_noise`.
        batch: {"inputs": (batch, ...), "targets": (batch, ...)}; one example will do.
        loss: per example, (outputs, targets) -> (batch,).
        batch_size: examples that are computed at once; None for all.
        train: whether dropout is on.
        key: the key of the random numbers that the model draws, if any. Without it a module of NNX
            has one dropout mask for all.
        preprocess: a pure function of the inputs, as in `training.fit`.
        mode: how the model is told of training, as in `training.Task`.

    Returns:
        A tree like the parameters; each leaf (batch, ...).

    Raises:
        TypeError: no model or no loss.
        ValueError: no example; a model that in training takes statistics of the batch, or draws
            random numbers without a key.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxdl import diagnostics, losses
        >>> def line(params, x):
        ...     return x @ params["w"]
        >>> batch = {"inputs": jnp.eye(2), "targets": jnp.array([[1.0], [3.0]])}
        >>> found = diagnostics.example_gradients(
        ...     line, {"w": jnp.zeros((2, 1))}, batch, loss=losses.mean_squared_error)
        >>> found["w"].shape, found["w"].sum(0).ravel().tolist()
        ((2, 2, 1), [-2.0, -6.0])
    """
    task = as_task(model, loss, preprocess=preprocess, mode=mode)
    task, variables = to_measure(task, variables)
    settings = settings_of(task, train=train, small_batch=1, batch_size=batch_size)
    return jit_with(_gradients, (settings,))(variables, measured_batch(batch), key)


def _gradients(known: tuple[Settings], variables: Mapping[str, Any], batch: Any, key: Any) -> Any:
    units = units_of(known[0], variables, batch, key, least=1)
    traced = units.traced()

    def made(parts: Any) -> Any:
        return multiplied(traced, gradients_of(traced, units.leaves, parts).gradient)

    gradients = mapped(made, units)
    return jax.tree.unflatten(units.structure, gradients)
