"""Signal and gradient of deep networks at initialisation, for all weight scales at once.

z_l = s a_{l-1} W_l, y_l = norm(z_l), a_l = f(y_l), with W of variance 1 / width, so that s^2 is
sigma_w^2 = fan_in Var(W). A gradient of mean square 1 arrives at the last a_l. Everything is
float32, as in training: what underflows is lost.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdl import initializers
from jaxdl.diagnostics.signal.activation_slopes import NEAR_ZERO
from jaxdl.diagnostics.sizes import mean_and_deviation
from jaxdl.layers import BatchNorm

Activation = Callable[[Array], Array]

NORMS: dict[str, Callable[[], nn.Module] | None] = {
    "none": None,
    "BatchNorm": BatchNorm,
    "LayerNorm": lambda: nn.LayerNorm(use_fast_variance=False),
    "RMSNorm": nn.RMSNorm,
}
SATURATION = 0.01
"""The slope below which an activation is saturated, as in `diagnostics.propagation`."""


class Draws(NamedTuple):
    """The random numbers of a network, of its inputs and of the last layer's gradient."""

    weights: Float[Array, "depth width width"]
    """Of variance 1 / width."""
    inputs: Float[Array, "examples width"]
    gradient: Float[Array, "examples width"]
    """Of mean square 1."""


class Measured(NamedTuple):
    """By scale and layer; gradients are those of the depths one after another."""

    z: Array
    """Standard deviations of z_l."""
    a: Array
    """Of a_l."""
    dead: Array
    """Share of the units of a_l that are constant over the batch."""
    saturated: Array
    """Share of the entries of a_l with a slope of almost 0."""
    dz: Array
    """Standard deviations of dL/dz_l."""
    da: Array


def draw(key: PRNGKeyArray, depth: int, width: int, examples: int) -> Draws:
    """What all activations, norms and scales share."""
    weights_key, inputs_key, gradient_key = jax.random.split(key, 3)
    normal = initializers.normal()
    gradient = normal(gradient_key, (examples, width))
    return Draws(
        normal(weights_key, (depth, width, width)) / math.sqrt(width),
        normal(inputs_key, (examples, width)),
        gradient / jnp.sqrt(jnp.mean(jnp.square(gradient))),
    )


def normalizer(norm: str) -> Callable[[Array], Array]:
    """The norm as it starts: in training mode, scale 1, shift 0, its default epsilon."""
    made = NORMS[norm]
    if made is None:
        return lambda z: z
    module = made()
    keywords = {"train": True} if isinstance(module, BatchNorm) else {}

    def normalize(z: Array) -> Array:
        variables = module.init(jax.random.key(0), z, **keywords)
        return module.apply(variables, z, **keywords, mutable=["batch_stats"])[0]

    return normalize


def follow(
    activation: Activation, norm: str, draws: Draws, scale: Array, depths: tuple[int, ...]
) -> tuple[dict[str, Array], list[dict[str, Array]]]:
    """Values of each layer, and for each depth the gradients of each layer.

    Returns:
        z, y and a, each (layers, examples, width); for each depth dz and da, of as many layers.
    """
    normalize = normalizer(norm)

    def after(z: Array) -> Array:
        return activation(normalize(z))

    def forward(a: Array, weights: Array) -> tuple[Array, tuple[Array, ...]]:
        z = scale * (a @ weights)
        y = normalize(z)
        a = activation(y)
        return a, (z, y, a)

    def backward(da: Array, layer: tuple[Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        weights, z = layer
        (dz,) = jax.vjp(after, z)[1](da)
        return scale * (dz @ weights.T), (dz, da)

    _, (z, y, a) = jax.lax.scan(forward, draws.inputs, draws.weights)
    gradients = []
    for depth in depths:
        layers = (draws.weights[:depth], z[:depth])
        _, (dz, da) = jax.lax.scan(backward, draws.gradient, layers, reverse=True)
        gradients.append({"dz": dz, "da": da})
    return {"z": z, "y": y, "a": a}, gradients


def measure(
    activation: Activation, norm: str, draws: Draws, scale: Array, depths: tuple[int, ...]
) -> Measured:
    """What the page's curves and sentences need, of one network at one scale."""
    values, gradients = follow(activation, norm, draws, scale, depths)

    def deviations(layers: Array) -> Array:
        return jax.lax.map(lambda layer: mean_and_deviation(layer)[1], layers)

    a = values["a"]
    return Measured(
        z=deviations(values["z"]),
        a=deviations(a),
        dead=jnp.mean(jnp.all(a == a[:, :1], axis=1), axis=-1),
        saturated=jax.vmap(lambda y, a: saturated(activation, y, a))(values["y"], a),
        dz=jnp.concatenate([deviations(each["dz"]) for each in gradients]),
        da=jnp.concatenate([deviations(each["da"]) for each in gradients]),
    )


def saturated(activation: Activation, y: Array, a: Array) -> Array:
    """The share of entries that `diagnostics.propagation` calls saturated."""

    def slope(x: Any) -> Array:
        return jnp.abs(jax.jvp(activation, (x,), (jnp.ones_like(x),))[1])

    slopes = slope(y)
    steepest = jnp.maximum(slopes.max(), slope(jnp.array([-NEAR_ZERO, NEAR_ZERO])).max())
    return jnp.mean((slopes < jnp.minimum(SATURATION, steepest / 10)) & (a != 0))


def chosen_values(
    activation: Activation,
    norm: str,
    draws: Draws,
    scale: Array,
    depths: tuple[int, ...],
    shown: tuple[int, ...],
) -> tuple[Array, Array, list[dict[str, Array]]]:
    """The values z and a at the shown layers, and the gradients there by depth."""
    values, gradients = follow(activation, norm, draws, scale, depths)
    layers = jnp.array(shown) - 1
    of_depths = []
    for depth, of in zip(depths, gradients, strict=True):
        within = jnp.array([layer for layer in shown if layer <= depth]) - 1
        of_depths.append({name: each[within] for name, each in of.items()})
    return values["z"][layers], values["a"][layers], of_depths
