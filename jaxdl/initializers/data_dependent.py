"""Initialisation from data: rescale a built model until every layer's output has one variance."""

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, PRNGKeyArray

from jaxdl.calling import GivenMode, arguments_of, in_mode
from jaxdl.calling.modes import KEYWORDS
from jaxdl.checks import require_positive
from jaxdl.initializers.structured import orthogonal
from jaxdl.tracing.harvest import harvest, put_aside
from jaxdl.tracing.labels import keys_of
from jaxdl.tracing.levels import Level

Path = tuple[str, ...]
Params = dict[Path, Array]


def lsuv(
    model: nn.Module,
    variables: Mapping[str, Any],
    inputs: Any,
    *,
    target_variance: float = 1.0,
    tolerance: float = 0.05,
    max_iterations: int = 10,
    orthogonal_key: PRNGKeyArray | None = None,
    mode: GivenMode = None,
    **apply_settings: Any,
) -> dict[str, Any]:
    r"""Layer-sequential unit variance: rescale kernel after kernel by the variance of one batch.

    $$W_l \leftarrow W_l \sqrt{\frac{v}{\mathrm{Var}(W_l h_{l-1} + b_l)}} \quad \text{until} \quad
      \left| \frac{\mathrm{Var}(W_l h_{l-1} + b_l)}{v} - 1 \right| \le tolerance$$

    The variance is over the batch, the positions and the units of the layer's output, before the
    norm and the activation. A layer is any module with a parameter named `kernel`, also in a block
    under `nn.remat` or `nn.jit`, and each layer of a scan. If it is called more than once, its
    first call counts; in a scan over time, all times, and layers are rescaled in turn until all
    have the variance, `max_iterations` times at most. A cell that joins its kernels, such as
    `nn.OptimizedLSTMCell`, is no such layer and keeps them.

    Arguments:
        model: a Linen model.
        variables: its variables; not changed.
        inputs: a batch of the model's inputs; several as a tuple or a dictionary.
        target_variance: v, positive.
        tolerance: the largest relative error that is left, positive.
        max_iterations: rescalings of one layer, at least 1; one is enough if biases are zero.
        orthogonal_key: a key to draw every kernel from `orthogonal` first, as in the paper. None
            keeps the kernels' directions.
        mode: how the model is told of training, as in `training.Task`.
        **apply_settings: keywords of `model.apply`. The model is run in evaluation mode unless one
            of them, such as train=True, says otherwise.

    Returns:
        The variables with rescaled kernels; everything else does not change.

    Raises:
        ValueError: settings out of range, a model without kernels or with kernels inside a branch
            or a while loop; a layer whose output is constant, not finite, or does not reach the
            target; the message names it.

    Example:
        >>> model, x = nn.Dense(64), 5.0 * jax.random.normal(jax.random.key(0), (128, 32))
        >>> variables = lsuv(model, model.init(jax.random.key(1), x), x)
        >>> round(float(model.apply(variables, x).var()), 3)
        1.0

    Source: Mishkin and Matas (2016), algorithm 1.
    """
    require_positive("target_variance", target_variance)
    require_positive("tolerance", tolerance)
    if max_iterations < 1:
        raise ValueError(f"max_iterations must be at least 1, got {max_iterations}; pass 10")
    mode = next(filter(apply_settings.__contains__, KEYWORDS), None) if mode is None else mode
    evaluated, settings = in_mode(model, False, mode)
    settings |= apply_settings

    def forward(variables: Any, inputs: Any) -> Any:
        positional, named = arguments_of(evaluated, inputs, mode)
        return evaluated.apply(variables, *positional, **named, **settings)

    boxed = variables["params"]
    params: Params = flatten_dict(dict(nn.meta.unbox(boxed)))
    order: list[_Layer] = []

    @jax.jit
    def measure(params: Params, inputs: Any) -> list[Array]:
        full = {**variables, "params": unflatten_dict(params)}
        found = _output_variances(forward, full, inputs)
        order[:] = [layer for layer, _ in found]
        return [variance for _, variance in found]

    measure(params, inputs)  # The trace fills `order`.
    if not order:
        raise ValueError(
            "lsuv needs a model that calls a layer with a parameter named kernel, "
            f"got {', '.join('/'.join(path) for path in params)}; check the model's layers"
        )
    if orthogonal_key is not None:
        init = orthogonal()
        for key, layer in zip(jax.random.split(orthogonal_key, len(order)), order, strict=True):
            kernel = layer.of(params)
            params[layer.path] = layer.put(params, init(key, kernel.shape, kernel.dtype))

    def rescale(number: int, layer: _Layer) -> None:
        for rescaled in range(max_iterations + 1):
            variance = float(measure(params, inputs)[number])
            name = layer.name or type(model).__name__
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
        ratios = [float(variance) / target_variance for variance in measure(params, inputs)]
        if all(abs(ratio - 1) <= tolerance for ratio in ratios):
            break
    else:
        worst = max(range(len(order)), key=lambda number: abs(math.log(ratios[number])))
        raise ValueError(
            f"all layers must reach variance {target_variance:g} together, got "
            f"{target_variance * ratios[worst]:g} at {order[worst].name} after {max_iterations} "
            "rounds; allow more iterations or a wider tolerance"
        )
    return {**variables, "params": nn.meta.replace_boxed(boxed, unflatten_dict(params))}


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
        """The kernel of this layer."""
        kernel = params[self.path]
        return jnp.moveaxis(kernel, self.axes, range(len(self.axes)))[self.at]

    def put(self, params: Params, kernel: Array) -> Array:
        """All kernels, with another one of this layer."""
        front = range(len(self.axes))
        moved = jnp.moveaxis(params[self.path], self.axes, front).at[self.at].set(kernel)
        return jnp.moveaxis(moved, front, self.axes)


def _output_variances(
    forward: Callable[[Any, Any], Any], variables: Mapping[str, Any], inputs: Any
) -> list[tuple[_Layer, Array]]:
    """The variance of each layer's output, in order of execution."""

    def read(next_method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        output = next_method(*args, **kwargs)
        module = context.module
        is_layer = context.method_name == "__call__" and module.has_variable("params", "kernel")
        if is_layer and isinstance(output, jax.Array):
            values = output.astype(jnp.promote_types(output.dtype, jnp.float32))
            kernel = nn.meta.unbox(module.get_variable("params", "kernel"))
            put_aside("mean", jnp.mean(values), kernel)
            put_aside("variance", jnp.var(values), kernel)
        return output

    with nn.intercept_methods(read):
        _, found = harvest(forward)(variables, inputs)
    places = [keys_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(dict(variables))]
    layers: list[tuple[Any, _Layer, Array]] = []
    seen: set[Path] = set()
    group = 0
    for number, (mean, variance) in enumerate(zip(found[::2], found[1::2], strict=True)):
        own = variance.reads[0]
        if own is None or places[own.leaf][0] != "params":
            continue  # a kernel that the model computes
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
