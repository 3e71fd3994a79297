"""Why Glorot averages: what fan_in and fan_out do where layers have unequal widths.

ReLU networks of five layers at initialisation: each layer half as wide as the one before, or twice
as wide, or a bottleneck. Weights N(0, 2/n), where n is the layer's inputs (fan_in), its outputs
(fan_out), or the mean of both (fan_avg). The gradient that arrives at the last layer is standard
normal. A layer multiplies the signal's mean square by fan_in Var(W)/2 going forward and the
gradient's by fan_out Var(W)/2 going back; both are 1 only if the widths are equal.

Meaning: The rows follow the signal, its gradient and the first update through networks whose layers
narrow, widen, or have a bottleneck, with weights scaled by fan_in, by fan_out and by their average.
Where widths are unequal no scale keeps both the signal and the gradient: fan_in keeps the one and
fan_out the other, while the average, which is Glorot's choice, shares the loss between them.

Data: none (synthetic: standard normal inputs, and gradients at the last layer).
Source: the lecture on weight initialisation; Glorot and Bengio (2010), equations 10 to 12 and 16;
He et al. (2015), equations 10 and 14.
Run: python experiments/initialization/unequal_widths.py
Expected: where each layer is half as wide, fan_in keeps the signal and halves the gradient's mean
square a layer; fan_out keeps the gradient and doubles the signal's; the average makes them 4/3 and
2/3. In a bottleneck the first update is, relative to the weights, twice as large in the narrowing
layers as in the widening ones under fan_in, half as large under fan_out, equal under fan_avg.
Time: 20 s on 2 CPU cores.
"""

import itertools
import sys
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Array

from jaxdl import activations, initializers, training
from jaxdl.claims import Claim, about_mean, about_means, about_ratios, main
from jaxdl.plotting import band, new_figure

Mode = Literal["fan_in", "fan_out", "fan_avg"]
MODES: tuple[Mode, ...] = ("fan_in", "fan_out", "fan_avg")
STYLES = ("C0-", "C3--", "C2-.")
SHAPES = {
    "narrowing": (512, 256, 128, 64, 32, 16),
    "widening": (16, 32, 64, 128, 256, 512),
    "bottleneck": (256, 128, 64, 64, 128, 256),
}
"""Widths: the inputs', then each layer's."""
DEPTH = 5
QUANTITIES = {
    "signal": "mean square of the activations",
    "gradient": "mean square of dL/dz",
    "update": "first update over weights, r.m.s.",
}
NEAR = 0.05
"""So far, as a share, a mean over the seeds may be from its law, which is exact for the mean."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seed: int = 0
    """The first seed; the others follow it."""
    seeds: int = 200
    """Networks of each shape; at least 3."""
    examples: int = 50
    """Inputs, standard normal."""


PRESETS = {"default": Config(), "smoke": Config(seeds=100), "full": Config(seeds=2000)}


def measure(kernels: list[Array], inputs: Array, gradient: Array) -> dict[str, Array]:
    """By layer: mean squares of relu(z), of dL/dz, and of dL/dW over that of W.

    A step of gradient descent is the rate times dL/dW.
    """

    def last(kernels: list[Array], shifts: list[Array]) -> tuple[Array, list[Array]]:
        a, squares = inputs, []
        for kernel, shift in zip(kernels, shifts, strict=True):
            z = a @ kernel + shift
            a = activations.relu(z)
            squares.append(jnp.mean(jnp.square(a)))
        return z, squares

    shifts = [jnp.zeros((len(inputs), kernel.shape[1])) for kernel in kernels]
    _, back, signal = jax.vjp(last, kernels, shifts, has_aux=True)
    of_kernels, of_z = back(gradient)
    return {
        "signal": jnp.stack(signal),
        "gradient": jnp.stack([jnp.mean(jnp.square(each)) for each in of_z]),
        "update": jnp.stack(
            [
                jnp.mean(jnp.square(each)) / jnp.mean(jnp.square(kernel))
                for each, kernel in zip(of_kernels, kernels, strict=True)
            ]
        ),
    }


def run(config: Config) -> xarray.Dataset:
    """By shape, mode, seed and layer: the three mean squares, and their laws."""

    def member(key: Any) -> Any:
        rows = []
        for shape_key, widths in zip(
            jax.random.split(key, len(SHAPES)), SHAPES.values(), strict=True
        ):
            inputs_key, gradient_key, *layer_keys = jax.random.split(shape_key, DEPTH + 2)
            inputs = normal(inputs_key, (config.examples, widths[0]))
            gradient = normal(gradient_key, (config.examples, widths[-1]))
            draws = [
                normal(layer_key, shape)
                for layer_key, shape in zip(layer_keys, itertools.pairwise(widths), strict=True)
            ]
            of_modes = []
            for mode in MODES:
                deviations = np.sqrt(weight_variance(widths, mode))
                kernels = [float(each) * of for each, of in zip(deviations, draws, strict=True)]
                of_modes.append(measure(kernels, inputs, gradient))
            rows.append(jax.tree.map(lambda *each: jnp.stack(each), *of_modes))
        return jax.tree.map(lambda *each: jnp.stack(each), *rows)

    normal = initializers.normal()
    axes = ("shape", "mode", "layer")
    swept = training.sweep(
        member,
        seeds=range(config.seed, config.seed + config.seeds),
        dims=dict.fromkeys(QUANTITIES, axes),
    )
    laws = [[law(widths, mode) for mode in MODES] for widths in SHAPES.values()]
    return swept.assign(
        {
            f"{what}_law": (axes, np.array([[of_mode[what] for of_mode in row] for row in laws]))
            for what in QUANTITIES
        }
    ).assign_coords(shape=[*SHAPES], mode=[*MODES], layer=np.arange(1, DEPTH + 1))


def weight_variance(widths: tuple[int, ...], mode: Mode) -> np.ndarray:
    """By layer: 2/n, of `initializers.variance_scaling(2.0, mode, "normal")`."""
    inputs, outputs = np.array(widths[:-1], float), np.array(widths[1:], float)
    fans = {"fan_in": inputs, "fan_out": outputs, "fan_avg": (inputs + outputs) / 2}
    return np.asarray(2 / fans[mode])


def law(widths: tuple[int, ...], mode: Mode) -> dict[str, np.ndarray]:
    """Closed forms by layer: of the signal (inputs 1), of the gradient (last layer 1), of updates.

    The mean square of dL/dW is that of dL/dz times that of what W multiplies; updates are relative
    to the last layer's.
    """
    variance = weight_variance(widths, mode)
    forward, backward = np.array(widths[:-1]) * variance / 2, np.array(widths[1:]) * variance / 2
    signal = np.cumprod(forward)
    gradient = np.append(np.cumprod(backward[:0:-1])[::-1], 1.0)
    before = np.append(1.0, signal[:-1])
    update = gradient * before / variance
    return {"signal": signal, "gradient": gradient, "update": update / update[-1]}


def growth(square: xarray.DataArray, way: int) -> xarray.DataArray:
    """By layer: a mean square over that of the layer before (way 1), or after (way -1)."""
    ratio = square / square.shift(layer=way)
    return ratio.isel(layer=slice(1, None) if way == 1 else slice(None, -1))


def claims(results: xarray.Dataset) -> list[Claim]:
    """Closed forms for all shapes; who keeps what; the first updates in a bottleneck."""
    of_seeds = f"mean of {results.sizes['seed']} seeds"
    ways = {"signal": (1, "forward"), "gradient": (-1, "backward")}
    measured = {what: growth(results[what], way) for what, (way, _) in ways.items()}
    laws = {what: growth(results[f"{what}_law"], way) for what, (way, _) in ways.items()}
    made = []
    for what, (_, direction) in ways.items():
        ratio = (measured[what] / laws[what]).mean("layer", skipna=False)
        fan = "fan_in" if what == "signal" else "fan_out"
        made.append(
            about_means(
                f"Going {direction}, a layer multiplies the {what}'s mean square by {fan} "
                "Var(W)/2, whatever the widths: measured over this law, the farthest from 1 of "
                f"{len(SHAPES) * len(MODES)} pairs of shape and mode; {of_seeds}",
                ratio.stack(pair=("shape", "mode")).transpose("seed", "pair"),
                1 - NEAR,
                1 + NEAR,
            )
        )
    does = {
        ("fan_in", "signal"): "keeps the signal",
        ("fan_in", "gradient"): "loses the gradient by the ratio of widths",
        ("fan_out", "signal"): "lets the signal grow by the ratio of widths",
        ("fan_out", "gradient"): "keeps the gradient",
        ("fan_avg", "signal"): "lets the signal grow by a part of that ratio",
        ("fan_avg", "gradient"): "loses the gradient by the other part",
    }
    for (mode, what), effect in does.items():
        where = {"shape": "narrowing", "mode": mode}
        expected = float(laws[what].sel(where).mean())
        made.append(
            about_mean(
                f"Where each layer is half as wide, {mode} {effect}: growth of its mean square a "
                f"layer (law {expected:.3g}); {of_seeds}",
                measured[what].sel(where).mean("layer", skipna=False),
                expected * (1 - NEAR),
                expected * (1 + NEAR),
            )
        )
    for mode, effect in (
        ("fan_in", "favour the layers that narrow"),
        ("fan_out", "favour the layers that widen"),
        ("fan_avg", "are alike in both"),
    ):
        where = {"shape": "bottleneck", "mode": mode}
        first, last = (np.sqrt(results["update"].sel(where).isel(layer=end)) for end in (0, -1))
        of_law = results["update_law"].sel(where)
        expected = float(np.sqrt(of_law[0] / of_law[-1]))
        made.append(
            about_ratios(
                f"In a bottleneck the first updates under {mode} {effect}: update over weights, in "
                f"the first layer over the last (law {expected:.3g}); geometric {of_seeds}",
                first / last,
                expected * (1 - NEAR),
                expected * (1 + NEAR),
            )
        )
    return made


def plot(results: xarray.Dataset) -> Any:
    """A row for each shape: signal, gradient and first update by layer, laws as thin lines."""
    figure = new_figure(12, 9)
    panels = figure.subplots(len(SHAPES), len(QUANTITIES), sharey="col")
    layers = results["layer"].values
    for row, (shape, widths) in zip(panels, SHAPES.items(), strict=True):
        for axes, (what, label) in zip(row, QUANTITIES.items(), strict=True):
            for mode, style in zip(MODES, STYLES, strict=True):
                of = results.sel(shape=shape, mode=mode)
                values = of[what].transpose("seed", "layer").values
                expected = of[f"{what}_law"].values
                if what == "update":
                    values = np.sqrt(values / values[:, -1].mean())
                    expected = np.sqrt(expected)
                band(axes, layers, values, style, spread="interval", alpha=0.3, lw=2.5, label=mode)
                axes.plot(layers, expected, "k-", lw=0.8)
            axes.axhline(1.0, color="0.8", lw=0.6, zorder=0)
            axes.set(yscale="log", title=f"{shape}: {label}" if what == "signal" else label)
            axes.set_xticks(
                layers, [f"{n} to {m}" for n, m in itertools.pairwise(widths)], fontsize=8
            )
    panels[0, 0].plot([], [], "k-", lw=0.8, label="closed form")
    for axes, label in zip(panels[:, 0], SHAPES, strict=True):
        axes.set_ylabel(f"{label} layers")
    panels[0, -1].set_yticks([0.5, 1, 2], ["0.5", "1", "2"])
    panels[0, -1].yaxis.set_minor_formatter("")
    for axes in panels[-1]:
        axes.set_xlabel("layer: its inputs to its outputs")
    figure.legend(
        *panels[0, 0].get_legend_handles_labels(),
        title=f"mean and its 95 % interval over {results.sizes['seed']} seeds; inputs = 1 (left), "
        "last layer = 1 (middle, right)",
        loc="outside lower center",
        ncols=4,
        frameon=False,
    )
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
