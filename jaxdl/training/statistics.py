"""Exact running statistics of a trained model."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import unfreeze
from jaxtyping import Array

from jaxdl.calling import GivenMode, call_model, name_of
from jaxdl.calling.adapted import watch_calls
from jaxdl.calling.call import is_mapped
from jaxdl.calling.nnx_kinds import is_of_nnx
from jaxdl.checks import is_traced
from jaxdl.compiling import once_for_equal, traced_apart
from jaxdl.data.types import Arrays
from jaxdl.tracing.harvest import Found, harvest, put_aside
from jaxdl.tracing.labels import keys_of
from jaxdl.training.running_norms import (
    arguments_of_norm,
    feature_axis,
    is_batch_norm,
    put_back,
    running_mean,
    uses_running,
    which_count,
)
from jaxdl.training.task import as_measured, scale_images, to_measure

Path = tuple[str, ...]


class Moments(NamedTuple):
    """Per feature of a batch: the number of values, their mean, the sum of squared deviations."""

    number: Array
    mean: Array
    squares: Array


def recalibrate(
    model: Any,
    variables: Any,
    batches: Any,
    *,
    preprocess: Callable[[Any], Any] = scale_images,
    mode: GivenMode = None,
) -> dict[str, Any]:
    r"""Replace the running averages by the exact statistics of all batches.

    $$\mu = \frac{1}{N}\sum_b n_b\,\mu_b, \qquad
      \sigma^2 = \frac{1}{N}\sum_b \bigl(n_b\,\sigma_b^2 + n_b(\mu_b - \mu)^2\bigr)$$

    over the values that reach each norm and that its mask does not leave out, in one pass over the
    batches, combined in float64. For a norm with the unbiased variance it is multiplied by
    N / (N - 1). This is the variance of all examples in one batch. The mean of the batches'
    variances would miss the spread between batches.

    In this pass every norm normalises with its batch's own statistics, as in training. With large
    batches this changes little. Flax's and NNX's `Dropout` are off, as in evaluation. Inside `jit`
    or `vmap`, as in a sweep's member, the batches are combined in float32.

    Arguments:
        model: a model with `jaxdl.layers.BatchNorm`, `flax.linen.BatchNorm` or
            `flax.nnx.BatchNorm` in it; or a `training.Task`, which has `preprocess` and `mode` of
            its own.
        variables: {"params": ..., "batch_stats": ...}; not changed. None takes those that a module
            of NNX holds.
        batches: the training set, in any order, as an iterable of batches. A batch is
            `data.Arrays`, a mapping that holds its inputs as "inputs", or the inputs alone: several
            are a tuple, or a dictionary by the arguments of the model.
        preprocess: a pure function of a batch's inputs, as in `training.fit`.
        mode: how the model is told of training, as in `training.Task`.

    Returns:
        The variables; of an NNX module, `calling.adapt(module).module(variables)` has them.

    Raises:
        TypeError: one batch instead of several.
        ValueError: the model has no such norms, or their statistics are missing; its mode does not
            reach them; there are no batches; a task comes with what it has already.

    Example:
        >>> import functools, jax, jax.numpy as jnp
        >>> from jaxdl import layers, models
        >>> x = 5 + jax.random.normal(jax.random.key(0), (100, 3))
        >>> model = models.MLP([4, 1], norm=layers.BatchNorm)
        >>> variables = model.init(jax.random.key(1), x, train=False)
        >>> exact = recalibrate(model, variables, [x[:60], x[60:]])
        >>> hidden = x @ variables["params"]["dense_0"]["kernel"]
        >>> bool(jnp.allclose(exact["batch_stats"]["norm_0"]["mean"], hidden.mean(0), rtol=1e-5))
        True

    Source: Ioffe and Szegedy (2015), algorithm 2; Wu and Johnson (2021), section 3.
    """
    task = as_measured(model, preprocess=preprocess, mode=mode)
    task, variables = to_measure(task, variables)
    settings = (task.model, task.mode, task.preprocess, task.evaluation_seed or 0)
    moments_of, keeps_unbiased = moments_program(*settings)
    total: dict[Path, Moments] = {}
    any_batch = False
    for batch in _several(batches):
        any_batch = True
        found = jax.tree.map(_float64, moments_of(variables, inputs_of(batch)))
        total = {
            path: combined(total[path], new) if path in total else new
            for path, new in found.items()
        }
    if not any_batch:
        raise ValueError(
            "batches must hold at least one batch, got none; pass the inputs of the training set"
        )
    if not total:
        raise ValueError(
            f"batches must reach a batch norm of the model, got none through {name_of(task.model)};"
            " pass a model with norms of jaxdl.layers, Flax Linen or Flax NNX, of which the "
            "running statistics are known"
        )
    return with_moments(variables, total, keeps_unbiased)


def with_moments(
    variables: Any, total: Mapping[Path, Moments], keeps_unbiased: Mapping[Path, bool]
) -> dict[str, Any]:
    """The variables with the statistics that the moments of all batches give, by norm."""
    statistics = unfreeze(variables["batch_stats"])
    for path, (count, mean, squares) in total.items():
        node = statistics
        for name in path:
            node = node[name]
        divisor = count - 1 if keeps_unbiased[path] else count
        variance = squares / (divisor + (divisor == 0))  # one value has no spread
        for name, value in (("mean", mean), ("var", variance)):
            dtype = node[name].dtype
            if jnp.iscomplexobj(value):  # a mean, of which Flax starts with a real zero
                dtype = jnp.promote_types(dtype, jnp.complex64)
            node[name] = jnp.asarray(value, dtype)
    return {**variables, "batch_stats": statistics}


def _several(batches: Any) -> Iterable[Any]:
    if isinstance(batches, Mapping | Arrays) or hasattr(batches, "shape"):
        raise TypeError(
            f"batches must be an iterable of batches, got one of type {type(batches).__name__}; "
            "pass a list, [batch]"
        )
    several: Iterable[Any] = batches
    return several


def inputs_of(batch: Any) -> Any:
    """The inputs of a batch, as arrays; of inputs alone these.

    Example:
        >>> inputs_of({"inputs": [1.0, 2.0], "targets": [0, 1]}).shape, inputs_of([[1.0]]).shape
        ((2,), (1, 1))
    """
    if isinstance(batch, Arrays):
        batch = batch.inputs
    elif isinstance(batch, Mapping) and "inputs" in batch:
        batch = batch["inputs"]
    is_of_arrays = all(hasattr(leaf, "shape") for leaf in jax.tree.leaves(batch))
    return jax.tree.map(jnp.asarray, batch) if is_of_arrays else jnp.asarray(batch)


def _float64(leaf: Any) -> Any:
    wide = np.complex128 if jnp.iscomplexobj(leaf) else np.float64
    return leaf if is_traced(leaf) else np.asarray(leaf, wide)


@once_for_equal
def moments_program(
    model: Any, mode: GivenMode, preprocess: Callable[[Any], Any], seed: int
) -> tuple[Callable[..., dict[Path, Moments]], dict[Path, bool]]:
    """Compile (variables, inputs) -> moments by norm; also say which variances are unbiased."""
    keeps_unbiased: dict[Path, bool] = {}

    def watch(module: Any, call: Any, args: Any, kwargs: Any, trains: list[bool]) -> Any:
        if isinstance(module, nn.Dropout) or is_of_nnx(module, "Dropout"):
            return args[0]
        if is_batch_norm(module):
            named = arguments_of_norm(module, args, kwargs)
            held = running_mean(module)
            if held is None:
                raise ValueError(
                    f"recalibrate needs the running statistics of {type(module).__name__}, got "
                    "variables without 'batch_stats'; pass those that init or training returned"
                )
            trains.append(not uses_running(module, named))
            _, x, *_ = named.values()
            new = moments(x, feature_axis(module), which_count(module, x, named))
            new = _over_axis(new, module)
            unbiased = getattr(module, "unbiased_variance", False)
            for field, value in zip(Moments._fields, new, strict=True):
                # The same, but one for each model wherever a vmap runs over several.
                value = jnp.where(jnp.isnan(held), value, value)
                put_aside(f"{field}, unbiased" if unbiased else field, value, held)
            outputs = call(*args, **kwargs)
            put_back(module, held)
            return outputs
        return call(*args, **kwargs)

    def forward(variables: Any, inputs: Any) -> Any:
        trains: list[bool] = []

        def linen(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            if context.method_name != "__call__":
                return call(*args, **kwargs)
            return watch(context.module, call, args, kwargs, trains)

        def other(call: Any, args: Any, kwargs: Any, describe: Any) -> Any:
            del describe
            return watch(call.__self__, call, args, kwargs, trains)

        with traced_apart(), nn.intercept_methods(linen), watch_calls(other):
            outputs, _ = call_model(
                model,
                variables,
                preprocess(inputs),
                train=True,
                dropout_key=jax.random.key(seed),
                mode=mode,
            )
        if trains and not any(trains) and mode is not False:
            raise ValueError(
                f"training must reach the norms of {name_of(model)}, got a model in which they all "
                "use their running statistics; name its mode with mode=..., leave out "
                "freeze_statistics, or say with mode=False that both modes are meant to be the same"
            )
        return outputs

    @jax.jit
    def moments_of(variables: Any, inputs: Any) -> dict[Path, Moments]:
        _, found = harvest(forward)(variables, inputs)
        leaves = jax.tree_util.tree_leaves_with_path(variables)
        places = [keys_of(path) for path, _ in leaves]
        seen: dict[Path, Moments] = {}
        for number, mean, squares in zip(*[iter(found)] * 3, strict=True):
            own = mean.reads[0]
            if own is None or own.leaf >= len(places):
                raise ValueError(
                    "the running statistics must be read as they are stored, got a norm of "
                    f"{name_of(model)} whose statistics the model computes; take the norm out of "
                    "what changes its variables"
                )
            (_, *path, _), unbiased = places[own.leaf], "unbiased" in mean.name
            new = _over_repetitions(number, mean, squares)
            key = tuple(path)
            seen[key] = combined(seen[key], new) if key in seen else new
            keeps_unbiased[key] = unbiased
        return seen

    return moments_of, keeps_unbiased


def _over_axis(own: Moments, module: Any) -> Moments:
    """The moments that all places of a mapped axis share, where a norm averages over one."""
    name, groups = module.axis_name, module.axis_index_groups
    if name is None or not is_mapped(name):
        return own
    total = functools.partial(jax.lax.psum, axis_name=name, axis_index_groups=groups)
    number = total(own.number)
    mean = total(own.number * own.mean) / jnp.maximum(number, 1)
    apart = own.number * jnp.abs(own.mean - mean) ** 2
    return Moments(number, mean, total(own.squares + apart))


def _over_repetitions(*found: Found) -> Moments:
    """The moments of a norm in the layout of its running statistics, all times together."""
    parts = [each.by_layer() for each in found]
    axes = parts[0][1]
    layers = len(axes)
    times = parts[0][0].shape[layers]
    at = [
        Moments(*(jnp.take(value, time, axis=layers) for value, _ in parts))
        for time in range(times)
    ]
    total = functools.reduce(combined, at)
    return Moments(*(jnp.moveaxis(part, range(layers), axes) for part in total))


def moments(x: Array, axis: int, counts: Array | None = None) -> Moments:
    """The moments over all axes but the feature axis, in two passes, of the values that count."""
    x = jnp.moveaxis(x, axis, -1).astype(jnp.promote_types(x.dtype, jnp.float32))
    which = jnp.ones((), bool) if counts is None else jnp.moveaxis(counts, axis, -1)
    which = jnp.broadcast_to(which, x.shape).reshape(-1, x.shape[-1])
    x = jnp.where(which, x.reshape(which.shape), 0)
    number = which.sum(0, dtype=x.real.dtype)
    mean = x.sum(0) / jnp.maximum(number, 1)
    deviation = jnp.where(which, jnp.abs(x - mean), 0)
    return Moments(number, mean, jnp.square(deviation).sum(0))


def combined(one: Moments, other: Moments) -> Moments:
    """The moments of both batches together (Chan, Golub and LeVeque, 1979)."""
    count = one.number + other.number
    count = count + (count == 0)  # nothing counts in either
    apart = other.mean - one.mean
    return Moments(
        one.number + other.number,
        one.mean + apart * (other.number / count),
        one.squares + other.squares + abs(apart) ** 2 * (one.number * other.number / count),
    )
