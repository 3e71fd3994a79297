"""A batch norm in evaluation is an affine map, and so a part of the layer before it."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from jaxdl.diagnostics.batch_norm import is_batch_norm

LAYERS = ("dense", "conv")


def fold(model: nn.Module, variables: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    r"""The same function in evaluation, without the norms.

    $$W' = W\,\frac{\gamma}{\sqrt{\sigma^2 + \epsilon}}, \qquad
      b' = \beta + (b - \mu)\,\frac{\gamma}{\sqrt{\sigma^2 + \epsilon}}$$

    with mu and sigma^2 the running statistics, computed in float32: the outputs agree to
    rounding. What is left is a model to evaluate; training it further is another matter.

    Arguments:
        model: one of `jaxdl.models` with norm=BatchNorm (or a partial of it, or Flax's) before
            the activation: norm `norm_x` is folded into the `dense_x` or `conv_x` beside it.
        variables: {"params": ..., "batch_stats": ...}.

    Returns:
        (the model with norm=None, its variables {"params": ...}).

    Raises:
        ValueError: a model without the field `norm`, with norms of another kind or after the
            activation, where the layer before is not beside the norm; a norm without its layer.

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
    """A module's parameters without those of its norms, and so on down."""
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
