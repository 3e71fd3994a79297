"""Which weight variance lets a signal, and its gradient, cross 50 ReLU layers.

50 hidden ReLU layers of 100 units, biases zero, weights N(0, variance); a batch of 100 examples
whose 100 inputs are standard normal; one output, target 0, squared error summed over the batch.
At initialisation, for five variances: the variance of each layer's activations going forward, and
of the gradient with respect to them going back.

All variances share each seed's draws, scaled. A ReLU network is positively homogeneous, so they
rise or fall together about their laws; what the seeds test is the law.

Meaning: Each curve is the size of the signal in a ReLU network, or of its gradient on the way back,
layer by layer, for one weight variance. Only He's variance, 2 over the width, carries both through
50 layers: any other multiplies them by the same factor in every layer, and at half of He's variance
the signal has lost 15 powers of ten at the end.

Data: none (synthetic: standard normal inputs, target 0).
Source: the lecture on weight initialisation; Prince, Understanding Deep Learning (2023), section
7.5 and figure 7.4; He et al. (2015).
Run: python experiments/initialization/init_variance.py
Expected: 0.02 = 2/100 (He) keeps both; any other multiplies both by variance/0.02 a layer, so that
over 49 layers 0.001 loses 64 decades, 0.01 loses 15, 0.1 gains 34 and 1.0 gains 83. One network
strays from its law by a share of sqrt(5 l / width) after l layers. float32 holds the activations
at 0.001 and drops their gradient to 0 by about layer 43; at 1.0 it overflows at about layer 45.
Time: 8 s on 2 CPU cores.
"""

import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxdl import activations, diagnostics, initializers, training
from jaxdl.claims import Claim, about_mean, about_means, about_quantile, about_share, main
from jaxdl.plotting import band, new_figure

DEPTH, WIDTH, EXAMPLES = 50, 100, 100
VARIANCES = np.array([0.001, 0.01, 0.02, 0.1, 1.0])
HE = 2 / WIDTH
LAYERS = np.arange(1, DEPTH + 1)
STYLES = ("C0:", "C1--", "C2-", "C4-.", "C3-")
MARKERS = "ovs^D"
WAYS = ("activation", "gradient")
HALVINGS = np.round(np.log2(np.sqrt(VARIANCES / HE)))
"""By these powers of two a variance's weights are nearest to He's."""
NEAR = 0.015
"""So far, as a share, a growth a layer may be from its law."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seed: int = 0
    """The first seed; the others follow it."""
    seeds: int = 100
    """Networks of each variance; at least 3."""


PRESETS = {"default": Config(), "smoke": Config(), "full": Config(seeds=2000)}


class Moments(NamedTuple):
    """Of the batch's entries, at every layer of every arm."""

    mean: Float[Array, "depth arms"]
    mean_square: Float[Array, "depth arms"]
    held: Float[Array, "depth arms"]
    """Share of entries that are finite and not 0."""


class Draws(NamedTuple):
    """What a network is made of, before the weights are scaled."""

    weights: Float[Array, "depth width width"]
    output_weights: Float[Array, " width"]
    inputs: Float[Array, "examples width"]


def draw(key: PRNGKeyArray, depth: int = DEPTH) -> Draws:
    """Standard normal weights and inputs."""
    weights_key, output_key, inputs_key = jax.random.split(key, 3)
    init = initializers.normal()
    return Draws(
        init(weights_key, (depth, WIDTH, WIDTH)),
        init(output_key, (WIDTH,)),
        init(inputs_key, (EXAMPLES, WIDTH)),
    )


def measure(draws: Draws, stddevs: Float[Array, " arms"]) -> tuple[Moments, Moments]:
    """Moments of the activations a_l and of dL/da_l, for weights of each standard deviation.

    The layers are scanned, forward and back: 50 of them compile as fast as one. The arms share
    their draws, so a layer is one matrix product for all of them.
    """
    scale = stddevs[:, None, None]

    def moments(values: Float[Array, "arms examples width"]) -> Moments:
        flat = values.reshape(len(stddevs), -1)
        held = ((flat != 0) & jnp.isfinite(flat)).astype(jnp.float32)
        # A scalar product is a sum that a CPU does in vectors; `mean` is not.
        each = jnp.full(flat.shape[1], 1 / flat.shape[1], jnp.float32)
        return Moments(flat @ each, jnp.einsum("ai,ai->a", flat, flat) * each[0], held @ each)

    def forward(a: Array, weights: Array) -> tuple[Array, tuple[Bool[Array, "..."], Moments]]:
        z = scale * (a @ weights)
        a = activations.relu(z)
        return a, (z > 0, moments(a))

    def backward(gradient: Array, layer: tuple[Array, Array]) -> tuple[Array, Moments]:
        weights, is_on = layer
        return scale * ((gradient * is_on) @ weights.T), moments(gradient)

    start = jnp.broadcast_to(draws.inputs, (len(stddevs), *draws.inputs.shape))
    last, (is_on, of_activations) = jax.lax.scan(forward, start, draws.weights)
    outputs = scale * (last @ draws.output_weights[:, None])
    gradient = 2 * outputs * scale * draws.output_weights  # of sum_i (y_i - 0)^2
    _, of_gradients = jax.lax.scan(backward, gradient, (draws.weights, is_on), reverse=True)
    return of_activations, of_gradients


def run(config: Config) -> xarray.Dataset:
    """By variance, seed and layer: mean square and variance in float64; what float32 holds.

    Each variance has two arms: float32 as a training run has it, and with exponents unbounded.
    """
    stddevs = np.sqrt(VARIANCES)
    arms = jnp.asarray([stddevs, stddevs * 2.0**-HALVINGS], jnp.float32)

    def member(key: Any) -> Any:
        measured = dict(zip(WAYS, measure(draw(key), arms.ravel()), strict=True))
        return jax.tree.map(lambda values: values.reshape(DEPTH, *arms.shape), measured)

    names = [f"{way}/{part}" for way in WAYS for part in Moments._fields]
    swept = training.sweep(
        member,
        seeds=range(config.seed, config.seed + config.seeds),
        dims=dict.fromkeys(names, ("layer", "exponents", "variance")),
    )
    coords = {"layer": LAYERS, "exponents": ["float32", "unbounded"], "variance": VARIANCES}
    return beyond_float32(swept.assign_coords(coords))


def beyond_float32(swept: xarray.Dataset) -> xarray.Dataset:
    """The moments as if float32 had exponents without bounds; what it holds as it is.

    In the arm "unbounded" the weights were divided by a power of two, and here the moments are
    multiplied by its powers: both are exact, for the network is homogeneous.
    """
    halvings = xarray.DataArray(HALVINGS, {"variance": VARIANCES}, "variance")
    # dL/da_l = 2 y dy/da_l passes DEPTH + 1 scaled layers to y and DEPTH + 1 - l back.
    layers_passed = {"activation": swept["layer"], "gradient": 2 * (DEPTH + 1) - swept["layer"]}
    unbounded = swept.sel(exponents="unbounded", drop=True).astype(np.float64)
    results: dict[str, xarray.DataArray] = {}
    for way, passed in layers_passed.items():
        unscale = 4.0 ** (passed * halvings)
        square = unbounded[f"{way}/mean_square"]
        held = swept[f"{way}/held"].sel(exponents="float32", drop=True)
        results |= {
            f"{way}_mean_square": square * unscale,
            f"{way}_variance": (square - unbounded[f"{way}/mean"] ** 2) * unscale,
            f"{way}_held_by_float32": held,
        }
    return xarray.Dataset(results).transpose("seed", "layer", "variance")


def growth(mean_square: xarray.DataArray) -> xarray.DataArray:
    """By seed: the mean over the layers of a mean square over that of the layer before."""
    ratio = (mean_square / mean_square.shift(layer=1)).isel(layer=slice(1, None))
    return ratio.mean("layer", skipna=False)


def claims(results: xarray.Dataset) -> list[Claim]:
    """The law, for all arms; how flat He is; where float32 ends."""
    forward, backward = (results[f"{way}_mean_square"] for way in WAYS)
    seeds = results.sizes["seed"]
    # E[|relu(W a)|^2 | a] = (variance width / 2) |a|^2 exactly, at any width and batch.
    ways = {
        "Forward, each layer multiplies the mean square of the activations": growth(forward),
        "Backward, each layer multiplies the mean square of the gradient": growth(
            backward.isel(layer=slice(None, None, -1))
        ),
    }
    made = [
        about_means(
            f"{what} by variance/{HE:g}: measured over this law, the farthest of "
            f"{len(VARIANCES)} variances; mean of {seeds} seeds",
            (rates / (rates["variance"] / HE)).transpose("seed", "variance"),
            1 - NEAR,
            1 + NEAR,
        )
        for what, rates in ways.items()
    ]
    he = forward.sel(variance=HE)
    # The log of the squared norm of one example is a sum over the layers of independent terms of
    # mean -5 / (2 width); unlike examples average the drift away. The band leaves room beyond the
    # drift, for terms of the order 1 / width^2 and for the error of this many seeds.
    drift = 5 * (DEPTH - 1) / (2 * WIDTH) / np.log(2)
    made.append(
        about_mean(
            f"He ({HE:g}) keeps the signal of a typical network through {DEPTH} layers: how often "
            f"it is halved between layer 1 and layer {DEPTH} (theory: 0 to {drift:.1f}, by finite "
            f"width); mean of {seeds} seeds",
            np.log2(he.sel(layer=1) / he.sel(layer=DEPTH)),
            0.0,
            1.45 * drift,
        )
    )
    held, held_back = (results[f"{way}_held_by_float32"] for way in WAYS)
    least, most = (held.sel(variance=VARIANCES[end]) for end in (0, -1))
    made.append(
        about_share(
            f"At variance {VARIANCES[0]:g} float32 still holds the activations: share of the seeds "
            f"whose layer {DEPTH} is not all 0; {seeds} seeds",
            (least.sel(layer=DEPTH) > 0).sum(),
            seeds,
            low=0.95,
        )
    )
    single = np.finfo(np.float32)
    below = LAYERS[theory(VARIANCES[0])["gradient"] < float(single.tiny) ** 2].max()
    above = LAYERS[theory(VARIANCES[-1])["activation"] > float(single.max) ** 2].min()
    # The largest of the entries is up to 5 standard deviations, one layer's factor; one network
    # strays from the law by up to another.
    for text, measured, law in (
        (
            f"At variance {VARIANCES[0]:g} float32 loses the gradient: the last layer where it has "
            f"underflowed to exactly 0 (law: standard deviation below {single.tiny:.1e} up to "
            f"layer {below})",
            (held_back.sel(variance=VARIANCES[0]) == 0).sum("layer"),
            below,
        ),
        (
            f"At variance {VARIANCES[-1]:g} the activations outgrow float32: the first layer that "
            f"overflows (law: standard deviation above {single.max:.1e} from layer {above})",
            (most > 0.25).cumprod("layer").sum("layer") + 1,
            above,
        ),
    ):
        median = f"{text}; median of {seeds} seeds"
        made.append(about_quantile(median, measured, 0.5, law - 2, law + 2))
    return made


def theory(variance: float) -> dict[str, np.ndarray]:
    """The infinitely wide network: variances by layer, of the activations and of dL/da."""
    field = diagnostics.mean_field(
        activations.relu, weight_variance=WIDTH * variance, depth=DEPTH, input_second_moment=1.0
    )
    # dL/da = 2 y w at the last layer, where y = w . a.
    output_square = WIDTH * variance * field.activation_second_moment[-1]
    return {
        "activation": field.activation_variance,
        "gradient": 4 * output_square * variance * field.activation_gradient,
    }


def plot(results: xarray.Dataset) -> Any:
    """Variances by layer for the five arms, theory as thin lines; below, He's spread alone."""
    figure = new_figure(11, 8)
    top, bottom = figure.subplots(2, 2, sharex=True, height_ratios=[2.2, 1])
    seeds = results.sizes["seed"]
    titles = ("Forward: activations", "Backward: gradient")
    for axes, close, way, title in zip(top, bottom, WAYS, titles, strict=True):
        for variance, style, marker in zip(VARIANCES, STYLES, MARKERS, strict=True):
            values = results[f"{way}_variance"].sel(variance=variance)
            law = theory(variance)[way]
            label = f"{variance:g}" + (" (He)" if variance == HE else "")
            drawn: dict[str, Any] = {"style": style, "spread": (0.1, 0.9), "alpha": 0.3}
            band(axes, LAYERS, values, marker=marker, ms=4, markevery=7, label=label, **drawn)
            axes.plot(LAYERS, law, "k-", lw=0.7)
            if variance == HE:
                one_seed, *_ = close.plot(LAYERS, values[:5].T, "-", color="0.45", lw=0.6)
                median = band(close, LAYERS, values, lw=2, **drawn)
                (thin,) = close.plot(LAYERS, law, "k-", lw=0.7)
        axes.set(yscale="log", title=title)
        mark_float32(axes)
        close.set(
            yscale="log", xlabel="hidden layer", title=f"He alone ({HE:g})", ylabel="variance"
        )
    top[0].set_ylabel("variance of the activations")
    top[1].set_ylabel("variance of dL/da")
    bottom[0].text(
        0.02, 0.05,
        "Theory is the mean over networks.\nA product of many random factors is\n"
        "about log-normal: its mean lies above\nits median.",
        transform=bottom[0].transAxes, fontsize=9,
    )  # fmt: skip
    figure.legend(
        *top[0].get_legend_handles_labels(), title="weight variance",
        loc="outside lower left", ncols=len(VARIANCES), frameon=False, columnspacing=1.2,
    )  # fmt: skip
    spread = f"median and 10 to 90 % of {seeds} seeds"
    figure.legend(
        [thin, median, one_seed], ["theory", spread, "five seeds"], title="theory, and He alone",
        loc="outside lower right", ncols=3, frameon=False, columnspacing=1.2,
    )  # fmt: skip
    return figure


def mark_float32(axes: Any) -> None:
    """Ticks at round powers of ten; grey where a standard deviation is outside float32."""
    single = np.finfo(np.float32)
    low, high = axes.get_ylim()
    decades = np.log10([low, high])
    step = 20 * np.ceil(np.ptp(decades) / 200)
    axes.set_yticks(10 ** (step * np.arange(np.ceil(decades[0] / step), decades[1] / step)))
    axes.set_yticks([], minor=True)
    for edge, outside in ((single.tiny, low), (single.max, high)):
        square = float(edge) ** 2
        if low < square < high:
            axes.axhspan(min(square, outside), max(square, outside), color="0.9", zorder=0)
    axes.text(
        0.5, 0.97, "grey: standard deviation outside float32",
        transform=axes.transAxes, ha="center", va="top", fontsize=9,
    )  # fmt: skip
    axes.set_ylim(low, high)


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
