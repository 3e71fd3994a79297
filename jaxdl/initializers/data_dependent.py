"""Initialisation from data: rescale a built model until every layer's output has one variance."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import meta
from flax.errors import InvalidRngError
from jax.extend.core import ClosedJaxpr
from jaxtyping import Array

from jaxdl.calling import GivenMode, call_model, draws_unasked, name_of, prepared, to_share
from jaxdl.calling.adapted import watch_calls
from jaxdl.checks import require_at_least, require_key, require_positive
from jaxdl.compiling import traced_apart
from jaxdl.initializers.structured import orthogonal
from jaxdl.jaxprs import cut
from jaxdl.tracing.harvest import harvest, put_aside
from jaxdl.tracing.labels import keys_of
from jaxdl.tracing.levels import Level
from jaxdl.tracing.opened import written_out

Path = tuple[str, ...]
Params = dict[Path, Array]

KERNEL, WEIGHT = "kernel", "weight"


def lsuv(
    model: Any,
    variables: Any,
    inputs: Any,
    *,
    target_variance: Any = 1.0,
    tolerance: Any = 0.05,
    max_iterations: Any = 10,
    orthogonal_key: Any = None,
    train: bool = False,
    key: Any = None,
    mode: GivenMode = None,
) -> dict[str, Any]:
    r"""Layer-sequential unit variance: rescale kernel after kernel by the variance of one batch.

    $$W_l \leftarrow W_l \sqrt{\frac{v}{\mathrm{Var}(W_l h_{l-1} + b_l)}} \quad \text{until} \quad
      \left| \frac{\mathrm{Var}(W_l h_{l-1} + b_l)}{v} - 1 \right| \le tolerance$$

    The variance is over the batch, the positions and the units of the layer's output, before the
    norm and the activation. A layer is any module with a parameter named `kernel`, also in a block
    under `nn.remat` or `nn.jit`, and each layer of a scan; in Equinox, a linear layer or a
    convolution with its `weight`. If it is called more than once, its first call counts; in a scan
    over time, all times, and layers are rescaled in turn until all have the variance,
    `max_iterations` times at most. A cell that joins its kernels, such as `nn.OptimizedLSTMCell`,
    is no such layer and keeps them.

    Arguments:
        model: a module of Flax Linen, NNX or Equinox, see `calling.adapt`; or a `training.Task`,
            which has `preprocess` and `mode` of its own.
        variables: its variables; not changed. None takes those that a module of NNX or Equinox
            holds.
        inputs: a batch of the model's inputs; several are a tuple, or a dictionary by the model's
            arguments.
        target_variance: v, positive.
        tolerance: the largest relative error that is left, positive.
        max_iterations: rescalings of one layer, at least 1; one is enough if biases are zero.
        orthogonal_key: a key to draw every kernel from `orthogonal` first, as in the paper. None
            keeps the kernels' directions.
        train: whether dropout and the batch's own statistics are on.
        key: the key of the random numbers, if the variances depend on any. Every rescaling sees the
            same ones. A Task's `evaluation_seed` is taken in evaluation.
        mode: how the model is told of training, as in `training.Task`.

    Returns:
        The variables with rescaled kernels; everything else does not change. Of a module of NNX or
        Equinox, `calling.adapt(module).module(variables)` has them.

    Raises:
        TypeError: no model, variables without parameters, a key that is none.
        ValueError: settings out of range, a task and a mode, a missing key, a model without kernels
            or with kernels inside a branch or a while loop; a layer whose output is constant, not
            finite, or does not reach the target; the message names it.

    Example:
        >>> model, x = nn.Dense(64), 5.0 * jax.random.normal(jax.random.key(0), (128, 32))
        >>> variables = lsuv(model, model.init(jax.random.key(1), x), x)
        >>> round(float(model.apply(variables, x).var()), 3)
        1.0

    Source: Mishkin and Matas (2016), algorithm 1.
    """
    require_positive("target_variance", target_variance)
    require_positive("tolerance", tolerance)
    require_at_least(1, max_iterations=max_iterations)
    for given in (key, orthogonal_key):
        if given is not None:
            require_key(given)
    model, mode, preprocess, seed = prepared(model, mode)
    model, variables = to_share(model, variables)
    if "params" not in variables:
        raise TypeError(
            "variables must be what model.init returned, a dictionary with 'params', got "
            f"{sorted(variables)}; pass model.init(key, inputs)"
        )
    inputs = preprocess(jax.tree.map(jnp.asarray, inputs))
    if key is None and seed is not None and not train:
        key = jax.random.key(seed)
    paths_and_leaves, structure = jax.tree_util.tree_flatten_with_path(variables["params"])
    params: Params = {keys_of(path): jnp.asarray(leaf) for path, leaf in paths_and_leaves}
    order: list[_Layer] = []

    def run(full: Any, inputs: Any, key: Any) -> Any:
        return call_model(model, full, inputs, train=train, dropout_key=key, mode=mode)[0]

    @jax.jit
    def measure(params: Params, inputs: Any, key: Any) -> list[Array]:
        leaves = [params[keys_of(path)] for path, _ in paths_and_leaves]
        full = {**variables, "params": jax.tree.unflatten(structure, leaves)}
        found = _output_variances(run, full, inputs, key)
        order[:] = [layer for layer, _ in found]
        return [variance for _, variance in found]

    try:
        # NNX draws from some key if none is given.
        drawn = jax.random.key(0) if key is None and draws_unasked(model) else key
        program = jax.make_jaxpr(measure)(params, inputs, drawn)  # The trace fills `order`.
    except InvalidRngError as error:
        if key is not None:
            raise
        raise _needs_key(model) from error
    if key is None and drawn is not None and _reads_last(program):
        raise _needs_key(model)
    if not order:
        raise ValueError(
            "lsuv needs a model of Flax Linen, NNX or Equinox that calls a layer with a parameter "
            f"named kernel, got {', '.join(map('/'.join, params))} of {name_of(model)}; check the "
            "model's layers"
        )
    if orthogonal_key is not None:
        init = orthogonal()
        for own, layer in zip(jax.random.split(orthogonal_key, len(order)), order, strict=True):
            kernel = layer.of(params)
            params[layer.path] = layer.put(params, init(own, kernel.shape, kernel.dtype))

    def rescale(number: int, layer: _Layer) -> None:
        for rescaled in range(max_iterations + 1):
            variance = float(measure(params, inputs, drawn)[number])
            name = layer.name or name_of(model)
            if not (math.isfinite(variance) and variance > 0):
                fix = "check the inputs and the kernels up to this layer"
                if variance == 0 and not jnp.any(layer.of(params)):
                    fix = "its kernel is 0: pass orthogonal_key=jax.random.key(0) to draw all anew"
                raise ValueError(
                    f"the output of layer {name} must have a finite variance above 0, "
                    f"got {variance:g}; {fix}"
                )
            if abs(variance / target_variance - 1) <= tolerance:
                break
            if rescaled == max_iterations:
                raise ValueError(
                    f"the output of layer {name} must reach variance {target_variance:g} within "
                    f"{tolerance:g} in {max_iterations} rescalings, got {variance:g}; "
                    "start its bias at zero, or allow more iterations or a wider tolerance"
                )
            scaled = layer.of(params) * math.sqrt(target_variance / variance)
            params[layer.path] = layer.put(params, scaled)

    for _ in range(max_iterations):
        for number, layer in enumerate(order):
            rescale(number, layer)
        # In a recurrence a layer's inputs come from those after it, too: then all go again.
        ratios = [float(each) / target_variance for each in measure(params, inputs, drawn)]
        if all(abs(ratio - 1) <= tolerance for ratio in ratios):
            break
    else:
        worst = max(range(len(order)), key=lambda number: abs(math.log(ratios[number])))
        raise ValueError(
            f"all layers must reach variance {target_variance:g} together, got "
            f"{target_variance * ratios[worst]:g} at {order[worst].name} after {max_iterations} "
            "rounds; allow more iterations or a wider tolerance"
        )
    scaled_leaves = [params[keys_of(path)] for path, _ in paths_and_leaves]
    return {**variables, "params": jax.tree.unflatten(structure, scaled_leaves)}


def _needs_key(model: Any) -> ValueError:
    return ValueError(
        f"key must be given for {name_of(model)}, which draws random numbers, got None; "
        "pass key=jax.random.key(0)"
    )


def _reads_last(program: ClosedJaxpr) -> bool:
    """Whether a program's results depend on its last argument."""
    opened = written_out(program, everything=True)[0].jaxpr
    (whole,) = cut(opened, [], opened.outvars)
    return opened.invars[-1] in whole.reads


class _Layer(NamedTuple):
    """A kernel, or one of those that a scan or a vmap has stacked.

    Attributes:
        path: the kernel's place in the parameters.
        axes: the kernel's axes of layers.
        at: the layer's place along them.
    """

    path: Path
    axes: tuple[int, ...]
    at: tuple[int, ...]

    @property
    def name(self) -> str:
        """The module's path, with the layer's number."""
        numbers = "".join(f"[{number}]" for number in self.at)
        return "/".join(self.path[:-1]) + numbers

    def of(self, params: Params) -> Array:
        """The kernel of this layer, with its inputs and outputs on the last two axes."""
        kernel = params[self.path]
        own = jnp.moveaxis(kernel, self.axes, range(len(self.axes)))[self.at]
        return jnp.moveaxis(own, (1, 0), (-2, -1)) if self._has_outputs_first else own

    def put(self, params: Params, kernel: Array) -> Array:
        """All kernels, with another one of this layer."""
        if self._has_outputs_first:
            kernel = jnp.moveaxis(kernel, (-2, -1), (1, 0))
        front = range(len(self.axes))
        moved = jnp.moveaxis(params[self.path], self.axes, front).at[self.at].set(kernel)
        return jnp.moveaxis(moved, front, self.axes)

    @property
    def _has_outputs_first(self) -> bool:
        """Whether it is a weight of Equinox, (out, in, *window)."""
        return self.path[-1] == WEIGHT


def _kernel_of(module: Any) -> Any:
    """A layer's kernel; None of other modules."""
    if isinstance(module, nn.Module):
        if not module.has_variable("params", KERNEL):
            return None
        return meta.unbox(module.get_variable("params", KERNEL))
    held: Any = getattr(module, KERNEL, None)
    if held is None and (hasattr(module, "in_features") or hasattr(module, "in_channels")):
        held = getattr(module, WEIGHT, None)  # an embedding or a norm of Equinox has one, too
    held = held.get_value() if hasattr(held, "get_value") else held
    return held if isinstance(held, jax.Array) else None


def _output_variances(
    run: Callable[..., Any], variables: Mapping[str, Any], inputs: Any, key: Any
) -> list[tuple[_Layer, Array]]:
    """The variance of each layer's output, in order of execution."""

    def read(call: Any, args: Any, kwargs: Any, module: Any) -> Any:
        output = call(*args, **kwargs)
        kernel = _kernel_of(module)
        # A cell that joins its kernels gives several values, and has none of its own.
        if kernel is not None and isinstance(output, jax.Array):
            values = output.astype(jnp.promote_types(output.dtype, jnp.float32))
            put_aside("mean", jnp.mean(values), kernel)
            put_aside("variance", jnp.var(values), kernel)
        return output

    def linen(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        if context.method_name != "__call__":
            return call(*args, **kwargs)
        return read(call, args, kwargs, context.module)

    def other(call: Any, args: Any, kwargs: Any, describe: Any) -> Any:
        del describe
        return read(call, args, kwargs, call.__self__)

    def forward(variables: Any, inputs: Any, key: Any) -> Any:
        with traced_apart(), nn.intercept_methods(linen), watch_calls(other):
            return run(variables, inputs, key)

    _, found = harvest(forward)(variables, inputs, key)
    places = [keys_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(dict(variables))]
    layers: list[tuple[Any, _Layer, Array]] = []
    seen: set[Path] = set()
    group = 0
    for number, (mean, variance) in enumerate(zip(found[::2], found[1::2], strict=True)):
        own = variance.reads[0]
        if own is None or own.leaf >= len(places) or places[own.leaf][0] != "params":
            continue  # a kernel that the model computes, or gets as an input
        path = places[own.leaf][1:]
        if path in seen:
            continue
        seen.add(path)
        (of_means, axes), (of_variances, _) = mean.by_layer(), variance.by_layer()
        deep = sum(isinstance(source, Level) for source in own.axes)
        # Over all times and examples that are mapped.
        total = of_variances.mean(-1) + jnp.var(of_means, -1)
        group += number == 0 or variance.scans != found[2 * number - 1].scans
        for index in np.ndindex(total.shape):
            place = (group, index[:deep], number, index)
            layers.append((place, _Layer(path, axes, index), total[index]))
    # The layers of a scan run one after the other, each of them whole; members of a vmap together.
    return [(layer, value) for _, layer, value in sorted(layers, key=lambda each: each[0])]
