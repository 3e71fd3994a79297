"""Draw the parameters of a built model again, by the kind of layer or by their names."""

import functools
import zlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
from flax.core import meta
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array

from jaxdl.calling import GivenMode, call_model, name_of, prepared
from jaxdl.checks import require_key
from jaxdl.compiling import traced_apart
from jaxdl.initializers.fans import bind_fan_in, compute_fans

Path = tuple[str, ...]


class _Layer(NamedTuple):
    """A module that holds parameters: its class, and their shapes as it sees them."""

    kind: type[nn.Module]
    shapes: Mapping[str, tuple[int, ...]]


def apply(
    model: Any,
    variables: Any,
    rule: Any,
    key: Any,
    inputs: Any,
    *,
    mode: GivenMode = None,
) -> dict[str, Any]:
    """Draw parameters again by a rule, as PyTorch's `model.apply(weights_init)` does.

    Every parameter has a key of its own, made of `key` and its name: what the rule says of one does
    not change the draw of another. In a block that `nn.scan` or `nn.vmap` repeats, each copy of a
    kernel is drawn alone, so that its fans are those of one layer.

    Arguments:
        model: a Linen module, of any library, or a `training.Task` of one.
        variables: its variables; not changed.
        rule: a mapping from classes of modules to an initializer for their `kernel`, or to a
            mapping from names of parameters to initializers; the first class that fits counts. Or a
            function (name, parameter) -> initializer, or None to leave it, with names such as
            "dense_0/kernel" and a parameter of one layer's shape and dtype. An initializer may be a
            function of the layer's fan_in, such as `torch_bias`.
        key: from `jax.random.key`.
        inputs: a batch of the model's inputs, or its `jax.ShapeDtypeStruct`s: the model is traced
            to find its layers, and nothing is computed.
        mode: how the model is told of training, as in `training.Task`.

    Returns:
        The variables; what the rule does not name is as before, to the bit.

    Raises:
        TypeError: no Linen module, e.g. one of NNX or Equinox; the rule is neither; no key.
        ValueError: a task and a mode; the rule fits no parameter, or an initializer gives another
            shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxdl import initializers, models
        >>> model, x = models.MLP([4, 2]), jnp.ones((1, 3))
        >>> variables = model.init(jax.random.key(0), x, train=False)
        >>> redrawn = apply(model, variables, {nn.Dense: {
        ...     "kernel": initializers.he_normal(), "bias": initializers.constant(0.01)}},
        ...     jax.random.key(1), x)
        >>> redrawn["params"]["dense_1"]["bias"].tolist()
        [0.009999999776482582, 0.009999999776482582]
    """
    model, mode, preprocess, _ = prepared(model, mode)
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"model must be a Flax Linen module, got {name_of(model)} of another library; make it "
            "anew, with the initializers that its own layers take"
        )
    require_key(key)
    if not (callable(rule) or isinstance(rule, Mapping)):
        raise TypeError(
            "rule must be a mapping from modules' classes to initializers, or a function "
            f"(name, parameter) -> initializer, got {type(rule).__name__}; "
            "e.g. {nn.Dense: he_normal()}"
        )
    layers = _layers(model, variables, jax.eval_shape(preprocess, inputs), mode)
    params = flatten_dict(meta.unbox(dict(variables["params"])))
    drawn = {}
    for path, old in params.items():
        layer = layers.get(path[:-1])
        if layer is None or path[-1] not in layer.shapes:
            continue  # a parameter that the model does not use
        shape = layer.shapes[path[-1]]
        init = _chosen(rule, path, layer, jax.ShapeDtypeStruct(shape, old.dtype))
        if init is None:
            continue
        kernel = layer.shapes.get("kernel", ())
        if len(kernel) > 1:
            init = bind_fan_in(init, compute_fans(kernel).fan_in)
        own = jax.random.fold_in(key, zlib.crc32("/".join(path).encode()))
        drawn[path] = _stacked(init, own, path, shape, old)
    if not drawn:
        kinds = sorted({layer.kind.__name__ for layer in layers.values() if layer.shapes})
        raise ValueError(
            f"rule must fit at least one parameter of {type(model).__name__}, got none of its "
            f"{len(params)}, which are held by {', '.join(kinds)}; name one of these classes"
        )
    return {**variables, "params": _put_back(variables["params"], drawn)}


def _layers(
    model: nn.Module, variables: Mapping[str, Any], inputs: Any, mode: GivenMode
) -> dict[Path, _Layer]:
    """Every module with parameters, by its path."""
    layers: dict[Path, _Layer] = {}

    def see(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        module = context.module
        result = call(*args, **kwargs)  # a parameter may be read only here
        own = meta.unbox(dict(module.variables.get("params", {})))
        shapes = {name: leaf.shape for name, leaf in own.items() if hasattr(leaf, "shape")}
        layers.setdefault(module.path, _Layer(type(module), shapes))
        return result

    with traced_apart(), nn.intercept_methods(see):
        jax.eval_shape(
            functools.partial(call_model, model, train=False, mode=mode),
            dict(variables),
            inputs,
            dropout_key=jax.random.key(0),
        )
    return layers


def _chosen(rule: Any, path: Path, layer: _Layer, parameter: jax.ShapeDtypeStruct) -> Any:
    if not isinstance(rule, Mapping):
        return rule("/".join(path), parameter)
    for kind, inits in rule.items():
        if issubclass(layer.kind, kind):
            by_name = inits if isinstance(inits, Mapping) else {"kernel": inits}
            return by_name.get(path[-1])
    return None


def _stacked(init: Any, key: Any, path: Path, shape: tuple[int, ...], old: Array) -> Array:
    """One draw, or one for each copy where a lifted transformation has stacked them."""
    axes = [axis for axis in range(old.ndim) if old.shape[:axis] + old.shape[axis + 1 :] == shape]
    new: Array
    if old.shape == shape:
        new = init(key, shape, old.dtype)
    elif axes:
        keys = jax.random.split(key, old.shape[axes[0]])
        new = jax.vmap(lambda one: init(one, shape, old.dtype), out_axes=axes[0])(keys)
    else:
        leading = old.shape[: old.ndim - len(shape)]
        keys = jax.random.split(key, leading)
        for _ in leading:
            init = jax.vmap(init, in_axes=(0, None, None))
        new = init(keys, shape, old.dtype)
    if new.shape != old.shape or new.dtype != old.dtype:
        raise ValueError(
            f"an initializer must give the parameter's own shape and dtype, got {new.dtype}"
            f"{new.shape} for {'/'.join(path)}, which is {old.dtype}{old.shape}; "
            "pass an initializer (key, shape, dtype) -> array"
        )
    return new


def _put_back(params: Any, drawn: Mapping[Path, Array]) -> Any:
    """The parameters with the drawn ones in their places, in the boxes of those before."""
    flat = flatten_dict(dict(params))
    for path, new in drawn.items():
        old = flat[path]
        flat[path] = old.replace_boxed(new) if isinstance(old, meta.AxisMetadata) else new
    return unflatten_dict(flat)
