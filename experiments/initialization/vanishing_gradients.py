"""How fast gradients vanish, or explode, through 10 to 100 layers: activation by initialiser.

Networks of 100 layers of 200 units; the gradient that arrives at the last layer is standard
normal, and is followed back to the first. A sigmoid's slope is at most 1/4: in a chain of single
units with unit weights, ten of them let through at most 0.25^10 = 9.5e-7. In a wide layer the
mean square of the gradient is multiplied by fan_out Var(W) E[f'(z)^2].

Meaning: Each panel follows the gradient back through 100 layers of one activation; each curve is
one initialisation. PyTorch's default loses the gradient whatever the activation, while a scale made
for the activation holds it, as He's does for ReLU; theory tells how much each layer passes on for
every pair but one, GELU with He.

Data: none (synthetic: standard normal inputs, and gradients at the last layer).
Source: the lecture on vanishing gradients; Glorot and Bengio (2010); Schoenholz et al. (2017),
equation 17, for the prediction.
Run: python experiments/initialization/vanishing_gradients.py
Expected: what theory predicts, layer by layer, for every pair but one. PyTorch's default loses
the gradient through any of them; He holds it through ReLU, and with the sigmoid it loses half a
decade a layer; Glorot's is tanh's. The exception is GELU with He: its signal shrinks
slowly and then collapses. When that begins differs from network to network, mostly later than with
infinitely many units, and until then the gradient passes.
Time: 25 s on 2 CPU cores.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdl import activations, diagnostics, initializers, training
from jaxdl.claims import Claim, about_mean, about_means, main
from jaxdl.plotting import band, new_figure

DEPTH, WIDTH, EXAMPLES = 100, 200, 50
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "sigmoid": activations.sigmoid,
    "tanh": activations.tanh,
    "ReLU": activations.relu,
    "leaky ReLU": functools.partial(activations.leaky_relu, negative_slope=0.1),
    "ELU": activations.elu,
    "SELU": activations.selu,
    "GELU": activations.gelu,
    "SiLU": activations.silu,
}
INITIALIZERS = ("torch default", "Glorot", "He", "preserving")
"""Of square layers: fan_in Var(W) of 1/3, 1, 2, and the quadrature's 1 / E[f(z)^2]."""
LINES: tuple[dict[str, Any], ...] = (
    {"style": "-", "color": "#0072b2", "lw": 2, "marker": "o", "ms": 5},
    {"style": "-", "color": "#e69f00", "lw": 3.5, "marker": "v", "ms": 9},
    {"style": "-", "color": "#56c1a0", "lw": 6, "marker": "s", "ms": 10},
    {"style": "--", "color": "#a0306f", "lw": 2, "marker": "D", "ms": 5},
)
"""Of each initialiser. Where curves coincide, the narrow ones lie on the wide ones."""
MARKER_EVERY = 20
"""Layers from marker to marker; each initialiser's stand beside the others'."""
EXCEPTION = ("GELU", "He")
"""The pair for which infinitely many units do not say what 200 do."""
FATES = {
    ("sigmoid", "Glorot"): "loses the gradient",
    ("sigmoid", "He"): "loses the gradient, less fast",
    ("tanh", "Glorot"): "lets the gradient shrink a little",
    ("ReLU", "torch default"): "loses the gradient",
    ("ReLU", "He"): "keeps the gradient",
    ("SELU", "Glorot"): "lets the gradient grow a little",
}
"""What the claims say of some pairs."""
NEAR = 5 / WIDTH
"""So far, as a share, a finite layer's second moment strays from its law on average."""
NEAR_DECADES = 0.35
"""The mean of a logarithm lies below the logarithm of the mean: by at most 5 / (2 WIDTH) a layer,
halved again by the root, which is 0.27 decades in 99 layers; and some more for a spread of 0.2."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seed: int = 0
    """The first seed; the others follow it."""
    seeds: int = 20
    """Networks of each pair; at least 3."""


PRESETS = {"default": Config(), "smoke": Config(seeds=7), "full": Config(seeds=200)}


def variances(activation: Callable[[Array], Array]) -> tuple[np.ndarray, np.ndarray]:
    """fan_in Var(W), and the variance of the biases, of each initialiser."""
    preserving = initializers.variance_preserving_gain(activation) ** 2
    return np.array([1 / 3, 1.0, 2.0, preserving]), np.array([1 / (3 * WIDTH), 0.0, 0.0, 0.0])


class Draws(NamedTuple):
    """The random numbers of a network, of its inputs and of the last layer's gradient."""

    weights: Float[Array, "layers width width"]
    """Of variance 1 / WIDTH."""
    biases: Float[Array, "layers 1 width"]
    inputs: Float[Array, "examples width"]
    gradient: Float[Array, "examples width"]
    """Of mean square 1."""


def draw(key: PRNGKeyArray) -> Draws:
    """What all activations and all initialisers share."""
    weights_key, biases_key, inputs_key, gradient_key = jax.random.split(key, 4)
    normal = initializers.normal()
    gradient = normal(gradient_key, (EXAMPLES, WIDTH))
    return Draws(
        normal(weights_key, (DEPTH, WIDTH, WIDTH)) / np.sqrt(WIDTH),
        normal(biases_key, (DEPTH, 1, WIDTH)),
        normal(inputs_key, (EXAMPLES, WIDTH)),
        gradient / jnp.sqrt(jnp.mean(jnp.square(gradient))),
    )


def growth(
    activation: Callable[[Array], Array],
    draws: Draws,
    weight_stddevs: Float[Array, " arms"],
    bias_stddevs: Float[Array, " arms"],
) -> Float[Array, "layers arms"]:
    """The mean square of dL/da_l over that of dL/da_{l+1}, for l = 1 to DEPTH - 1.

    The gradient is brought back to mean square 1 after each layer, so none underflows.
    """
    slope = jax.vmap(jax.vmap(jax.vmap(jax.grad(activation))))
    weight_scale, bias_scale = weight_stddevs[:, None, None], bias_stddevs[:, None, None]
    shape = (len(weight_stddevs), EXAMPLES, WIDTH)

    def forward(a: Array, layer: tuple[Array, Array]) -> tuple[Array, Array]:
        weights, bias = layer
        z = weight_scale * (a @ weights) + bias_scale * bias
        return activation(z), slope(z)

    def backward(gradient: Array, layer: tuple[Array, Array]) -> tuple[Array, Array]:
        weights, slopes = layer
        before = weight_scale * ((gradient * slopes) @ weights.T)
        mean_square = jnp.mean(jnp.square(before), (1, 2))
        return before / jnp.sqrt(mean_square)[:, None, None], mean_square

    inputs, gradient = (jnp.broadcast_to(each, shape) for each in (draws.inputs, draws.gradient))
    _, slopes = jax.lax.scan(forward, inputs, (draws.weights, draws.biases))
    _, ratios = jax.lax.scan(backward, gradient, (draws.weights[1:], slopes[1:]), reverse=True)
    return jnp.asarray(ratios)


def run(config: Config) -> xarray.Dataset:
    """By activation, initialiser, seed and layer: growth of the gradient's mean square."""
    of_arms = [variances(activation) for activation in ACTIVATIONS.values()]
    stddevs = jnp.asarray(np.sqrt(of_arms), jnp.float32)

    def member(key: Any) -> dict[str, Any]:
        draws = draw(key)
        measured = [
            growth(activation, draws, *each)
            for activation, each in zip(ACTIVATIONS.values(), stddevs, strict=True)
        ]
        return {"growth": jnp.stack(measured)}

    axes = ("activation", "layer", "initializer")
    swept = training.sweep(
        member, seeds=range(config.seed, config.seed + config.seeds), dims={"growth": axes}
    )
    predicted = [
        [
            diagnostics.mean_field(
                activation, weight_variance=float(w), bias_variance=float(b), depth=DEPTH
            ).gradient_factor[1:]
            for w, b in zip(*of_arm, strict=True)
        ]
        for activation, of_arm in zip(ACTIVATIONS.values(), of_arms, strict=True)
    ]
    inputs = jnp.linspace(-5.0, 5.0, 10_001)
    return swept.assign(
        theory=(("activation", "initializer", "layer"), np.array(predicted)),
        sigmoid_chain=("input", np.asarray(jax.vmap(jax.grad(chain_of_sigmoids))(inputs))),
    ).assign_coords(
        activation=[*ACTIVATIONS], initializer=[*INITIALIZERS], layer=np.arange(1, DEPTH)
    )


def chain_of_sigmoids(x: Array) -> Array:
    """Ten sigmoid units with unit weights, one after another."""
    for _ in range(10):
        x = activations.sigmoid(x)
    return x


def decades(growth_of_square: xarray.DataArray) -> xarray.DataArray:
    """log10 of the root mean square of dL/da_l over that of the last layer, by layer."""
    logs = xarray.DataArray(np.log10(growth_of_square.astype(np.float64))) / 2
    whole, back = (each("layer", skipna=False) for each in (logs.sum, logs.cumsum))
    return whole - back + logs


def claims(results: xarray.Dataset) -> list[Claim]:
    """The sigmoid's bound; theory, pair by pair; who vanishes and who does not."""
    mean_of = f"mean of {results.sizes['seed']} seeds"
    # By seed and pair: the mean over the layers of measured over predicted growth, which is 1 in
    # the limit of width.
    ratio = (results["growth"] / results["theory"]).mean("layer", skipna=False)
    pairs = ratio.stack(pair=("activation", "initializer")).drop_sel(pair=EXCEPTION)
    total, predicted = (decades(results[name]).isel(layer=0) for name in ("growth", "theory"))
    activation, initializer = EXCEPTION
    exception = (total - predicted).sel(activation=activation, initializer=initializer)
    made = [
        Claim(
            "A chain of ten sigmoids with unit weights passes on next to nothing: its largest "
            "slope (bound: 0.25^10)",
            results["sigmoid_chain"].max(),
            0.0,
            0.25**10,
        ),
        about_means(
            "Theory tells how much of the gradient each layer passes on: growth of its mean square "
            f"a layer, measured over predicted, the farthest from 1 of {pairs.sizes['pair']} "
            f"pairs; {mean_of}",
            pairs.transpose("seed", "pair"),
            1 - NEAR,
            1 + NEAR,
        ),
        about_mean(
            f"Theory fails for {' with '.join(EXCEPTION)}, whose signal collapses later than "
            f"theory says: powers of ten more that the gradient keeps from layer {DEPTH} back to "
            f"layer 1; {mean_of}",
            exception,
            low=NEAR_DECADES,
        ),
    ]
    for (activation, initializer), does in FATES.items():
        where = {"activation": activation, "initializer": initializer}
        expected = float(predicted.sel(where))
        weights = initializer.replace("torch", "PyTorch's")
        made.append(
            about_mean(
                f"With {weights} weights a {activation} network {does}: powers of ten that it "
                f"gains from layer {DEPTH} back to layer 1 (theory {expected:.2f}); {mean_of}",
                total.sel(where),
                expected - NEAR_DECADES,
                expected + NEAR_DECADES,
            )
        )
    return made


def plot(results: xarray.Dataset) -> Any:
    """A panel an activation: the gradient from the last layer back, theory as thin lines."""
    figure = new_figure(12, 8)
    panels = figure.subplots(2, 4, sharex=True, sharey=True)
    back = DEPTH - np.arange(1, DEPTH)
    for axes, name in zip(panels.ravel(), ACTIVATIONS, strict=True):
        of = results.sel(activation=name)
        curves, predicted = decades(of["growth"]), decades(of["theory"])
        for place, (initializer, line) in enumerate(zip(INITIALIZERS, LINES, strict=True)):
            values = curves.sel(initializer=initializer).transpose("seed", "layer")
            first = MARKER_EVERY // 2 + place * MARKER_EVERY // len(LINES)
            band(
                axes, back, values, spread="range", alpha=0.25, label=initializer, mec="w",
                mew=0.6, markevery=(first, MARKER_EVERY), zorder=2 + 1 / line["lw"], **line,
            )  # fmt: skip
        for theory in predicted.transpose("initializer", "layer").values:
            axes.plot(back, theory, "k:", lw=1, zorder=3)
        axes.plot([], [], "k:", lw=1, label="theory")
        axes.set(title=name, ylim=(-40, 9), xticks=range(0, DEPTH + 1, 20))
        axes.grid(color="0.92")
    for axes in panels[1]:
        axes.set_xlabel("layers passed on the way back")
    for axes in panels[:, 0]:
        axes.set_ylabel("log10 of gradient r.m.s., last layer = 0")
    figure.legend(
        *panels[0, 0].get_legend_handles_labels(),
        title=f"mean and range of {results.sizes['seed']} seeds",
        loc="outside lower center",
        ncols=5,
        handlelength=4,
        frameon=False,
    )
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
