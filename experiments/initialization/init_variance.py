"""Which weight variance lets a signal, and its gradient, cross 50 ReLU layers.

50 hidden ReLU layers of 100 units, biases zero, weights N(0, variance); a batch of 100 examples
whose 100 inputs are standard normal; one output, target 0, squared error summed over the batch.
At initialisation, for five variances: the variance of each layer's activations going forward, and
of the gradient with respect to them going back.

All variances share each seed's draws, scaled. A ReLU network is positively homogeneous, so they
rise or fall together about their laws; what the seeds test is the law.

Source: Prince, Understanding Deep Learning (2023), section 7.5 and figure 7.4; He et al. (2015).
Run: python experiments/initialization/init_variance.py
Expected: 0.02 = 2/100 (He) keeps both; any other multiplies both by variance/0.02 a layer, so that
over 49 layers 0.001 loses 64 decades, 0.01 loses 15, 0.1 gains 34 and 1.0 gains 83. One network
strays from its law by a share of sqrt(5 l / width) after l layers. float32 holds the activations
at 0.001 and drops their gradient to 0 by about layer 43; at 1.0 it overflows at about layer 45.
Time: 6 s on 2 CPU cores, each a device of its own.
"""

import functools
import math
import os
import sys
import time
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from jaxdl import activations, diagnostics, initializers
from jaxdl.claims import Claim, Results, about_mean, about_means, about_quantile, about_share, main
from jaxdl.plotting import new_figure

DEPTH, WIDTH, EXAMPLES = 50, 100, 100
VARIANCES = np.array([0.001, 0.01, 0.02, 0.1, 1.0])
HE = 2 / WIDTH
LAYERS = np.arange(1, DEPTH + 1)
STYLES = ("C0:", "C1--", "C2-", "C4-.", "C3-")
MARKERS = "ovs^D"
NEAR = 0.015
"""So far, as a share, a growth a layer may be from its law."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seed: int = 0
    """All networks follow from it."""
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


@jax.jit
def measure_seeds(keys: PRNGKeyArray, stddevs: Float[Array, " arms"]) -> tuple[Moments, Moments]:
    """`measure` for each key, with a leading axis of seeds, shared out over the devices.

    A device takes one seed after another: the layers of one fit a core's cache.
    """
    devices = jax.devices()[: math.gcd(len(keys), jax.device_count())]
    seeds = jax.sharding.PartitionSpec("seeds")
    share_out = functools.partial(
        jax.shard_map,
        mesh=jax.sharding.Mesh(np.array(devices), ("seeds",)),
        in_specs=seeds,
        out_specs=seeds,
    )
    measured: tuple[Moments, Moments] = share_out(
        lambda keys: jax.lax.map(lambda key: measure(draw(key), stddevs), keys)
    )(keys)
    return measured


def use_every_core() -> None:
    """Make each core of a CPU a device of its own; to be called before anything is computed."""
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)


def run(config: Config) -> Results:
    """By seed, layer and variance: mean square and variance in float64; what float32 holds.

    Each variance has two arms. One is float32 as a training run has it. In the other the weights
    are divided by a power of two, and the moments multiplied by its powers afterwards: both are
    exact, and for a homogeneous network the result is float32 with exponents without bounds.
    """
    stddevs = np.sqrt(VARIANCES)
    halvings = np.round(np.log2(np.sqrt(VARIANCES / HE)))
    arms = jnp.asarray(np.concatenate([stddevs, stddevs * 2.0**-halvings]), jnp.float32)
    started = time.perf_counter()
    measured = jax.block_until_ready(
        measure_seeds(jax.random.split(jax.random.key(config.seed), config.seeds), arms)
    )
    seconds = time.perf_counter() - started
    print(f"{len(VARIANCES)} variances x {config.seeds} seeds in one call: {seconds:.1f} s")
    # dL/da_l = 2 y dy/da_l passes DEPTH + 1 scaled layers to y and DEPTH + 1 - l back.
    layers_passed = {"activation": LAYERS, "gradient": 2 * (DEPTH + 1) - LAYERS}
    results: dict[str, Any] = {"variances": VARIANCES, "seconds": np.array(seconds)}
    for (name, passed), moments in zip(layers_passed.items(), measured, strict=True):
        mean, mean_square, held = (np.asarray(part, np.float64) for part in moments)
        unscale = 4.0 ** np.outer(passed, halvings)
        unbounded = slice(len(VARIANCES), None)
        square = mean_square[..., unbounded]
        results |= {
            f"{name}_mean_square": square * unscale,
            f"{name}_variance": (square - mean[..., unbounded] ** 2) * unscale,
            f"{name}_held_by_float32": held[..., : len(VARIANCES)],
        }
    return results


def growth(mean_square: np.ndarray) -> np.ndarray:
    """By seed: the mean over the layers of a mean square over that of the layer before."""
    return np.asarray(np.mean(mean_square[:, 1:] / mean_square[:, :-1], axis=1))


def claims(results: Results) -> list[Claim]:
    """The law, for all arms; how flat He is; where float32 ends."""
    forward = results["activation_mean_square"]
    seeds = len(forward)
    # E[|relu(W a)|^2 | a] = (variance width / 2) |a|^2 exactly, at any width and batch.
    ways = {
        "Forward, each layer multiplies the mean square of the activations": growth(forward),
        "Backward, it multiplies that of the gradient": growth(
            results["gradient_mean_square"][:, ::-1]
        ),
    }
    made = [
        about_means(
            f"{what} by variance/{HE:g}: measured over this law, the farthest of "
            f"{len(VARIANCES)} variances; mean of {seeds} seeds",
            rates / (VARIANCES / HE),
            1 - NEAR,
            1 + NEAR,
        )
        for what, rates in ways.items()
    ]
    he = forward[..., VARIANCES == HE][..., 0]
    # The log of the squared norm of one example is a sum over the layers of independent terms of
    # mean -5 / (2 width); unlike examples average the drift away. The band leaves room beyond the
    # drift, for terms of the order 1 / width^2 and for the error of this many seeds.
    drift = 5 * (DEPTH - 1) / (2 * WIDTH) / np.log(2)
    made.append(
        about_mean(
            f"He ({HE:g}) keeps the signal of a typical network through {DEPTH} layers: how often "
            f"it is halved between layer 1 and layer {DEPTH} (theory: 0 to {drift:.1f}, by finite "
            f"width); mean of {seeds} seeds",
            np.log2(he[:, 0] / he[:, -1]),
            0.0,
            1.45 * drift,
        )
    )
    held = results["activation_held_by_float32"]
    made.append(
        about_share(
            f"At variance {VARIANCES[0]:g} float32 still holds the activations: share of the seeds "
            f"whose layer {DEPTH} is not all 0; {seeds} seeds",
            np.sum(held[:, -1, 0] > 0),
            seeds,
            low=0.95,
        )
    )
    single = np.finfo(np.float32)
    law = theory(VARIANCES[0])["gradient"]
    ends = LAYERS[law < float(single.tiny) ** 2].max()
    gone = np.sum(results["gradient_held_by_float32"][..., 0] == 0, axis=1)
    # The largest of the entries is up to 5 standard deviations, one layer's factor; one network
    # strays from the law by up to another.
    made.append(
        about_quantile(
            f"At variance {VARIANCES[0]:g} float32 loses the gradient: the last layer where it has "
            f"underflowed to exactly 0 (law: standard deviation below {single.tiny:.1e} up to "
            f"layer {ends}); median of {seeds} seeds",
            gone,
            0.5,
            ends - 2,
            ends + 2,
        )
    )
    law = theory(VARIANCES[-1])["activation"]
    ends = LAYERS[law > float(single.max) ** 2].min()
    intact = np.sum(np.cumprod(held[..., -1] > 0.25, axis=1), axis=1)
    made.append(
        about_quantile(
            f"At variance {VARIANCES[-1]:g} the activations outgrow float32: the first layer that "
            f"overflows (law: standard deviation above {single.max:.1e} from layer {ends}); median "
            f"of {seeds} seeds",
            intact + 1,
            0.5,
            ends - 2,
            ends + 2,
        )
    )
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


def plot(results: Results) -> Any:
    """Variances by layer for the five arms, theory as thin lines; below, He's spread alone."""
    figure = new_figure(12, 7.5)
    top, bottom = figure.subplots(2, 2, sharex=True, height_ratios=[2.2, 1])
    single = np.finfo(np.float32)
    seeds = len(results["activation_variance"])
    for axes, close, name, title in zip(
        top,
        bottom,
        ("activation", "gradient"),
        ("Forward: activations", "Backward: gradient"),
        strict=True,
    ):
        values = results[f"{name}_variance"]
        low, middle, high = np.quantile(values, (0.1, 0.5, 0.9), axis=0)
        for arm, variance in enumerate(VARIANCES):
            style, law = STYLES[arm], theory(variance)[name]
            label = f"{variance:g}" + (" (He)" if variance == HE else "")
            axes.fill_between(LAYERS, low[:, arm], high[:, arm], color=style[:2], alpha=0.3, lw=0)
            axes.plot(
                LAYERS, middle[:, arm], style, marker=MARKERS[arm], ms=4, markevery=7, label=label
            )
            axes.plot(LAYERS, law, "k-", lw=0.7, label="theory" if arm == 4 else None)
            if variance == HE:
                close.fill_between(
                    LAYERS, low[:, arm], high[:, arm], color=style[:2], alpha=0.3, lw=0
                )
                close.plot(LAYERS, values[:5, :, arm].T, "-", color="0.45", lw=0.6)
                close.plot(LAYERS, middle[:, arm], style, lw=2)
                close.plot(LAYERS, law, "k-", lw=0.7)
        axes.set(yscale="log", title=f"{title}, by weight variance")
        bottom_of, top_of = axes.get_ylim()
        for edge, outside in ((single.tiny, bottom_of), (single.max, top_of)):
            square = float(edge) ** 2
            if bottom_of < square < top_of:
                axes.axhspan(min(square, outside), max(square, outside), color="0.9", zorder=0)
        axes.text(
            0.5, 0.97, "grey: outside float32", transform=axes.transAxes, ha="center", va="top"
        )
        axes.set_ylim(bottom_of, top_of)
        close.set(
            yscale="log",
            xlabel="hidden layer",
            title=f"He alone: median, 10 to 90 % of {seeds} seeds, five seeds",
        )
    top[0].set_ylabel("variance of the activations")
    top[1].set_ylabel("variance of dL/da")
    bottom[0].set_ylabel("variance")
    bottom[1].set_ylabel("variance")
    figure.legend(
        *top[0].get_legend_handles_labels(), loc="outside lower center", ncols=6, frameon=False
    )
    return figure


if __name__ == "__main__":
    use_every_core()
    sys.exit(main(sys.modules[__name__]))
