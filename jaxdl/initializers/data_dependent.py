"""Initialisation from data: rescale a built model until every layer's output has one variance."""

import inspect
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, PRNGKeyArray

from jaxdl.checks import require_positive
from jaxdl.initializers.structured import orthogonal

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
    **apply_settings: Any,
) -> dict[str, Any]:
    r"""Layer-sequential unit variance: rescale kernel after kernel by the variance of one batch.

    $$W_l \leftarrow W_l \sqrt{\frac{v}{\mathrm{Var}(W_l h_{l-1} + b_l)}} \quad \text{until} \quad
      \left| \frac{\mathrm{Var}(W_l h_{l-1} + b_l)}{v} - 1 \right| \le tolerance$$

    The variance is over the batch, the positions and the units of the layer's output, before the
    norm and the activation. A layer is any module with a parameter named `kernel`. If it is called
    more than once, its first call counts.

    Arguments:
        model: a Linen model.
        variables: its variables; not changed.
        inputs: a batch of the model's inputs.
        target_variance: v, positive.
        tolerance: the largest relative error that is left, positive.
        max_iterations: rescalings of one layer, at least 1; one is enough if biases are zero.
        orthogonal_key: a key to draw every kernel from `orthogonal` first, as in the paper. None
            keeps the kernels' directions.
        **apply_settings: keywords of `model.apply`. A model whose call takes `train` is run with
            train=False unless this says otherwise.

    Returns:
        The variables with rescaled kernels; everything else does not change.

    Raises:
        ValueError: settings out of range, a model without kernels or with kernels inside a lifted
            transformation such as `nn.scan`; a layer whose output is constant, not finite, or does
            not reach the target; the message names it.

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
    if "train" in inspect.signature(type(model).__call__).parameters:
        apply_settings = {"train": False} | apply_settings
    order: list[Path] = []

    @jax.jit
    def measure(params: Params, inputs: Any) -> list[Array]:
        full = {**variables, "params": unflatten_dict(params)}
        found = _output_variances(model, full, inputs, apply_settings)
        order[:] = found
        return list(found.values())

    def variances_of(params: Params) -> list[Array]:
        try:
            variances: list[Array] = measure(params, inputs)
            return variances
        except jax.errors.UnexpectedTracerError as error:
            raise ValueError(
                "lsuv reads layers outside lifted transformations only, got a kernel inside "
                "nn.scan, nn.vmap, nn.remat or nn.jit; initialise the model unrolled"
            ) from error

    params: Params = flatten_dict(dict(variables["params"]))
    variances_of(params)  # The trace fills `order`.
    if not order:
        raise ValueError(
            "lsuv needs a model that calls a layer with a parameter named kernel, "
            f"got {', '.join('/'.join(path) for path in params)}; check the model's layers"
        )
    if orthogonal_key is not None:
        init = orthogonal()
        for key, path in zip(jax.random.split(orthogonal_key, len(order)), order, strict=True):
            kernel = params[path]
            params[path] = init(key, kernel.shape, kernel.dtype)
    for layer, path in enumerate(order):
        for rescaled in range(max_iterations + 1):
            variance = float(variances_of(params)[layer])
            name = "/".join(path[:-1]) or type(model).__name__
            if not (math.isfinite(variance) and variance > 0):
                raise ValueError(
                    f"the output of layer {name} must have a finite variance above 0, "
                    f"got {variance:g}; check the inputs and the kernels up to this layer"
                )
            if abs(variance / target_variance - 1) <= tolerance:
                break
            if rescaled == max_iterations:
                raise ValueError(
                    f"the output of layer {name} must reach variance {target_variance:g} within "
                    f"{tolerance:g} in {max_iterations} rescalings, got {variance:g}; "
                    "start its bias at zero, or allow more iterations or a wider tolerance"
                )
            params[path] = params[path] * math.sqrt(target_variance / variance)
    return {**variables, "params": unflatten_dict(params)}


def _output_variances(
    model: nn.Module, variables: Mapping[str, Any], inputs: Any, apply_settings: dict[str, Any]
) -> dict[Path, Array]:
    """The variance of each layer's output, by the path of its kernel, in order of execution."""
    found: dict[Path, Array] = {}

    def read(next_method: Any, args: Any, kwargs: Any, context: Any) -> Any:
        output = next_method(*args, **kwargs)
        path = (*context.module.path, "kernel")
        holds_kernel = context.module.has_variable("params", "kernel")
        if context.method_name == "__call__" and holds_kernel and path not in found:
            values = output.astype(jnp.promote_types(output.dtype, jnp.float32))
            found[path] = jnp.var(values)
        return output

    with nn.intercept_methods(read):
        model.apply(variables, inputs, **apply_settings)
    return found
