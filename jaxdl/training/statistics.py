"""Two changes to a trained model: exact running statistics, and norms folded into layers."""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxdl.calling import call_model
from jaxdl.checks import is_traced
from jaxdl.compiling import once_for_equal
from jaxdl.layers import BatchNorm
from jaxdl.layers.inputs import as_mask
from jaxdl.tracing.harvest import Found, harvest, put_aside
from jaxdl.tracing.labels import keys_of
from jaxdl.training.task import scale_images

Path = tuple[str, ...]

LAYERS = ("dense", "conv")


class Moments(NamedTuple):
    """Per feature of a batch: the number of values, their mean, the sum of squared deviations."""

    number: Array
    mean: Array
    squares: Array


def recalibrate(
    model: nn.Module,
    variables: Mapping[str, Any],
    batches: Iterable[Any],
    *,
    preprocess: Callable[[Array], Array] = scale_images,
) -> dict[str, Any]:
    r"""Replace the running averages by the exact statistics of all batches.

    $$\mu = \frac{1}{N}\sum_b n_b\,\mu_b, \qquad
      \sigma^2 = \frac{1}{N}\sum_b \bigl(n_b\,\sigma_b^2 + n_b(\mu_b - \mu)^2\bigr)$$

    over the values that reach each norm and that its mask does not leave out, in one pass over the
    batches, combined in float64. For a norm with the unbiased variance it is multiplied by
    N / (N - 1). This is the variance of all examples in one batch. The mean of the batches'
    variances would miss the spread between batches.

    In this pass every norm normalises with its batch's own statistics, as in training. With large
    batches this changes little. Dropout is off, as in evaluation. Inside `jit` or `vmap`, as in a
    sweep's member, the batches are combined in float32.

    Arguments:
        model: a Linen module with `jaxdl.layers.BatchNorm` or `flax.linen.BatchNorm` in it.
        variables: {"params": ..., "batch_stats": ...}; not changed.
        batches: inputs, or mappings that hold them as "inputs"; the training set, in any order.
        preprocess: a pure function of a batch's inputs, as in `training.fit`.

    Raises:
        ValueError: the model has no batch norms, or there are no batches.

    Example:
        >>> import functools, jax, jax.numpy as jnp
        >>> from jaxdl import models
        >>> x = 5 + jax.random.normal(jax.random.key(0), (100, 3))
        >>> model = models.MLP([4, 1], norm=BatchNorm)
        >>> variables = model.init(jax.random.key(1), x, train=False)
        >>> exact = recalibrate(model, variables, [x[:60], x[60:]])
        >>> hidden = x @ variables["params"]["dense_0"]["kernel"]
        >>> bool(jnp.allclose(exact["batch_stats"]["norm_0"]["mean"], hidden.mean(0), rtol=1e-5))
        True

    Source: Ioffe and Szegedy (2015), algorithm 2; Wu and Johnson (2021), section 3.
    """
    moments_of, keeps_unbiased = _program(model, preprocess)
    total: dict[Path, Moments] = {}
    for batch in batches:
        inputs = batch["inputs"] if isinstance(batch, Mapping) else batch
        several = isinstance(inputs, Mapping | tuple)  # arguments of the model
        inputs = jax.tree.map(jnp.asarray, inputs) if several else jnp.asarray(inputs)
        found = jax.tree.map(_float64, moments_of(variables, inputs))
        total = {
            path: combined(total[path], new) if path in total else new
            for path, new in found.items()
        }
    if not total:
        raise ValueError(
            f"batches must reach a batch norm of the model, got none through "
            f"{type(model).__name__}; pass a model with norm=BatchNorm and at least one batch"
        )
    statistics = jax.tree.map(lambda leaf: leaf, dict(variables["batch_stats"]))
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


def _float64(leaf: Any) -> Any:
    wide = np.complex128 if jnp.iscomplexobj(leaf) else np.float64
    return leaf if is_traced(leaf) else np.asarray(leaf, wide)


@once_for_equal
def _program(
    model: nn.Module, preprocess: Callable[[Array], Array]
) -> tuple[Callable[..., dict[Path, Moments]], dict[Path, bool]]:
    """Compile (variables, inputs) -> moments by norm; also say which variances are unbiased."""
    keeps_unbiased: dict[Path, bool] = {}

    def watch(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        module = context.module
        if context.method_name == "__call__" and isinstance(module, nn.Dropout):
            return args[0]
        if context.method_name == "__call__" and is_batch_norm(module):
            new = moments(args[0], feature_axis(module), _counts(module, args[0], kwargs))
            new = _over_axis(new, module)
            running = module.variables["batch_stats"]["mean"]
            unbiased = getattr(module, "unbiased_variance", False)
            for field, value in zip(Moments._fields, new, strict=True):
                name = f"{field}, unbiased" if unbiased else field
                # The same, but one for each model wherever a vmap runs over several.
                value = jnp.where(jnp.isnan(running), value, value)
                put_aside(name, value, running)
        return call(*args, **kwargs)

    def forward(variables: Any, inputs: Any) -> Any:
        with nn.intercept_methods(watch):
            return call_model(
                model,
                variables,
                preprocess(inputs),
                train=True,
                dropout_key=jax.random.key(0),
            )[0]

    @jax.jit
    def moments_of(variables: Any, inputs: Any) -> dict[Path, Moments]:
        _, found = harvest(forward)(variables, inputs)
        leaves = jax.tree_util.tree_leaves_with_path(variables)
        places = [keys_of(path) for path, _ in leaves]
        seen: dict[Path, Moments] = {}
        for number, mean, squares in zip(*[iter(found)] * 3, strict=True):
            own = mean.reads[0]
            assert own is not None
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
    if name is None:
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


def _counts(module: Any, x: Array, called_with: Mapping[str, Any]) -> Array | None:
    """Which values count: a mask has the leading axes of the inputs here, and the last in Flax."""
    mask = called_with.get("mask")
    if mask is None:
        return None
    return (
        as_mask(mask, x.shape) if isinstance(module, BatchNorm) else jnp.broadcast_to(mask, x.shape)
    )


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


def is_batch_norm(module: Any) -> bool:
    """Whether a module keeps running statistics that this file understands."""
    if isinstance(module, BatchNorm):
        return module.track_running_stats
    return isinstance(module, nn.BatchNorm)


def feature_axis(module: Any) -> int:
    """The axis that is not reduced."""
    return module.feature_axis if isinstance(module, BatchNorm) else module.axis


def fold(model: nn.Module, variables: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    r"""Fold each norm into the layer before it: the same function in evaluation, without norms.

    $$W' = W\,\frac{\gamma}{\sqrt{\sigma^2 + \epsilon}}, \qquad
      b' = \beta + (b - \mu)\,\frac{\gamma}{\sqrt{\sigma^2 + \epsilon}}$$

    with mu and sigma^2 the running statistics. The outputs agree to float32 rounding. Use the
    result for evaluation only: without its norms the model trains differently.

    Arguments:
        model: one of `jaxdl.models` with norm=BatchNorm (or a partial of it, or Flax's) before the
            activation. The norm `norm_x` is folded into `dense_x` or `conv_x` beside it.
        variables: {"params": ..., "batch_stats": ...}.

    Returns:
        (the model with norm=None, its variables {"params": ...}).

    Raises:
        ValueError: the model has no field `norm`, its norms are of another kind or follow the
            activation, or a norm has no layer beside it.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from jaxdl import layers, models
        >>> x, model = jnp.ones((1, 3)), models.MLP([4, 1], norm=layers.BatchNorm)
        >>> variables = model.init(jax.random.key(0), x, train=False)
        >>> folded, without = fold(model, variables)
        >>> list(without), sorted(without["params"]["dense_0"])
        (['params'], ['bias', 'kernel'])
        >>> a, b = (m.apply(v, x, train=False) for m, v in ((model, variables), (folded, without)))
        >>> bool(jnp.allclose(a, b, rtol=1e-6))
        True

    Source: Jacob et al. (2018), eq. 14.
    """
    factory = getattr(model, "norm", None)
    norm: Any = factory() if callable(factory) else None
    if not is_batch_norm(norm) or getattr(model, "norm_position", "before") != "before":
        raise ValueError(
            "fold takes a model of jaxdl.models with norm=BatchNorm before the activation, got "
            f"{type(model).__name__} with norm={factory!r} "
            f"{getattr(model, 'norm_position', 'nowhere')!r}; there is no linear layer to fold "
            "another norm into"
        )
    params = _folded(variables["params"], variables["batch_stats"], norm.epsilon, ())
    return model.clone(norm=None), {"params": params}


def _folded(params: Any, stats: Any, epsilon: float, path: tuple[str, ...]) -> dict[str, Any]:
    """The parameters of a module and its submodules, with the norms folded in."""
    norms = {name for name, node in stats.items() if "var" in node}
    kept = {name: node for name, node in params.items() if name not in norms}
    for name in norms:
        suffix = name.removeprefix("norm")
        layers = [layer + suffix for layer in LAYERS if layer + suffix in params]
        if not name.startswith("norm") or len(layers) != 1:
            raise ValueError(
                f"norm {'/'.join((*path, name))} must stand beside one layer named "
                f"dense{suffix} or conv{suffix}, got {sorted(params)}; name the modules so"
            )
        layer, own = kept[layers[0]], params.get(name, {})
        factor = 1 / jnp.sqrt(stats[name]["var"] + epsilon) * own.get("scale", 1.0)
        bias = own.get("bias", 0.0) + (layer.get("bias", 0.0) - stats[name]["mean"]) * factor
        kernel = layer["kernel"]
        kept[layers[0]] = {
            "kernel": (kernel * factor).astype(kernel.dtype),
            "bias": jnp.broadcast_to(bias, kernel.shape[-1:]).astype(kernel.dtype),
        }
    for name, node in stats.items():
        if name not in norms:
            kept[name] = _folded(params[name], node, epsilon, (*path, name))
    return kept
