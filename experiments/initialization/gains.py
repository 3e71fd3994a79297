"""The table of gains beside the gains that preserve the signal, and 50 layers of each.

Weights of variance gain^2 / fan_in, 50 layers of 500 units. A gain preserves the signal of an
activation f if z ~ N(0, 1) in one layer is N(0, 1) in the next: gain = 1 / sqrt(E[f(z)^2]), here by
quadrature. The table that PyTorch publishes has that for ReLU and leaky ReLU alone; its tanh, 5/3,
is larger, so that the signal settles where tanh's saturation makes up for it.

Meaning: The first panel puts PyTorch's table of gains beside the gains that keep the signal's
variance at 1; the others follow this variance through 50 layers with both. For ReLU and leaky ReLU
the two gains agree and a typical network keeps its signal; with the table's gains for the sigmoid,
tanh and SELU the variance settles elsewhere, where theory says.

Data: none (synthetic: standard normal inputs).
Source: the lecture on weight initialisation; `torch.nn.init.calculate_gain`; He et al. (2015),
equation 10; Glorot and Bengio (2010).
Run: python experiments/initialization/gains.py
Expected: the quadrature gives sqrt(2) for ReLU and sqrt(2/(1 + a^2)) for leaky ReLU; 1.5925 for
tanh, so that 5/3 multiplies the variance of z by 1.095 in one layer and holds it at 1.18; the
table's sigmoid and SELU let the variance sink, the quadrature's hold 1 through every layer.
Time: 20 s on 2 CPU cores.
"""

import functools
import itertools
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
from jaxdl.claims import Claim, about_mean, main
from jaxdl.plotting import band, new_figure

DEPTH, WIDTH, EXAMPLES = 50, 500, 50
SLOPE = 0.01
FINITE_WIDTH = {"sigmoid": (0.06, 0.06), "tanh": (0.02, 0.02), "SELU": (0.1, 0.02)}
"""So far, as a share, 500 units may move the variance from that of infinitely many: with the
table's gain and with the quadrature's."""
HALVINGS = 1.0
"""So often, at most, 50 ReLU layers of 500 units halve or double the variance; 0.35 expected."""


class Entry(NamedTuple):
    """A line of the table: the published gain, and the function that it is for."""

    label: str
    table: float
    activation: Callable[[Array], Array]


ENTRIES = (
    Entry("sigmoid", initializers.gain("sigmoid"), activations.sigmoid),
    Entry("tanh", initializers.gain("tanh"), activations.tanh),
    Entry("ReLU", initializers.gain("relu"), activations.relu),
    Entry(
        f"leaky ReLU, {SLOPE}",
        initializers.gain("leaky_relu", negative_slope=SLOPE),
        functools.partial(activations.leaky_relu, negative_slope=SLOPE),
    ),
    Entry("SELU", initializers.gain("selu"), activations.selu),
)
KINDS = ("table", "quadrature")
STYLES = ("C3--", "C0-")


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seed: int = 0
    """The first seed; the others follow it."""
    seeds: int = 40
    """Networks of each gain; at least 3."""


PRESETS = {"default": Config(), "smoke": Config(seeds=12), "full": Config(seeds=200)}


def draw(
    key: PRNGKeyArray,
) -> tuple[Float[Array, "layers width width"], Float[Array, "examples width"]]:
    """A network's weights, of variance 1 / WIDTH, and the first z, which is standard normal."""
    weights_key, inputs_key = jax.random.split(key)
    normal = initializers.normal()
    weights = normal(weights_key, (DEPTH - 1, WIDTH, WIDTH)) / np.sqrt(WIDTH)
    return weights, normal(inputs_key, (EXAMPLES, WIDTH))


def mean_squares(
    activation: Callable[[Array], Array],
    weights: Float[Array, "layers width width"],
    first: Float[Array, "examples width"],
    gains: Float[Array, " kinds"],
) -> Float[Array, "layers kinds"]:
    """The mean square of z in every layer."""
    start = jnp.broadcast_to(first, (len(gains), *first.shape))

    def layer(z: Array, weights: Array) -> tuple[Array, Array]:
        following = gains[:, None, None] * (activation(z) @ weights)
        return following, jnp.mean(jnp.square(z), (1, 2))

    last, squares = jax.lax.scan(layer, start, weights)
    return jnp.concatenate([squares, jnp.mean(jnp.square(last), (1, 2))[None]])


def run(config: Config) -> xarray.Dataset:
    """By activation and kind of gain: the gain; by seed and layer the mean square of z."""
    gains = np.array(
        [
            (entry.table, initializers.variance_preserving_gain(entry.activation))
            for entry in ENTRIES
        ]
    )
    pairs = jnp.asarray(gains, jnp.float32)

    def member(key: Any) -> dict[str, Any]:
        network = draw(key)  # the same for all activations
        measured = [
            mean_squares(entry.activation, *network, pair)
            for entry, pair in zip(ENTRIES, pairs, strict=True)
        ]
        return {"measured": jnp.stack(measured)}

    theory = [
        [predicted(entry.activation, float(gain)) for gain in pair]
        for entry, pair in zip(ENTRIES, gains, strict=True)
    ]
    swept = training.sweep(
        member,
        seeds=range(config.seed, config.seed + config.seeds),
        dims={"measured": ("activation", "layer", "kind")},
    )
    return swept.assign(
        gain=(("activation", "kind"), gains),
        theory=(("activation", "kind", "layer"), np.array(theory)),
    ).assign_coords(
        activation=[entry.label for entry in ENTRIES],
        kind=[*KINDS],
        layer=np.arange(1, DEPTH + 1),
    )


def predicted(activation: Callable[[Array], Array], gain: float) -> np.ndarray:
    """The variance of z by layer, the first being 1."""
    field = diagnostics.mean_field(
        activation,
        weight_variance=gain**2,
        depth=DEPTH,
        input_second_moment=1 / gain**2,
    )
    return field.preactivation_variance


def claims(results: xarray.Dataset) -> list[Claim]:
    """What the quadrature gives, and what the gains do."""
    gain, seeds = results["gain"], results.sizes["seed"]
    quadrature = gain.sel(kind="quadrature")
    made = [
        Claim(
            "ReLU keeps the signal's size with the gain sqrt(2): the quadrature's gain less it",
            quadrature.sel(activation="ReLU") - np.sqrt(2),
            -1e-6,
            1e-6,
        ),
        Claim(
            "Leaky ReLU keeps the signal's size with the gain sqrt(2/(1 + a^2)): the "
            "quadrature's gain less it",
            quadrature.sel(activation=f"leaky ReLU, {SLOPE}") - np.sqrt(2 / (1 + SLOPE**2)),
            -1e-6,
            1e-6,
        ),
        Claim(
            "The table's gain for tanh, 5/3, enlarges the signal: what one layer multiplies a "
            "unit variance by, from the two gains",
            (gain.sel(kind="table") / quadrature).sel(activation="tanh") ** 2,
            1.05,
            np.inf,
        ),
    ]
    last = results.sel(layer=DEPTH)
    for label, kind in itertools.product(results["activation"].values, KINDS):
        of = last.sel(activation=label, kind=kind)
        at, ratio = float(of["theory"]), of["measured"] / of["theory"]
        name = label.replace(", ", " of slope ")
        with_gain = f"the {kind}'s gain of {float(of['gain']):.4f} for {name}"
        if "ReLU" in label:
            # A sum of independent terms in the logarithm: a finite width makes its mean
            # -5/(2 width) a layer, or less where examples differ.
            made.append(
                about_mean(
                    f"With {with_gain} a typical network keeps the signal through {DEPTH} layers: "
                    f"how often its variance is halved, against theory's {at:.3g}; mean of "
                    f"{seeds} seeds",
                    -np.log2(ratio),
                    -HALVINGS,
                    HALVINGS,
                )
            )
            continue
        near = FINITE_WIDTH[label][KINDS.index(kind)]
        made.append(
            about_mean(
                f"With {with_gain} the variance settles where theory says, at {at:.3g}: variance "
                f"in layer {DEPTH} over theory's; mean of {seeds} seeds",
                ratio,
                1 - near,
                1 + near,
            )
        )
    return made


def plot(results: xarray.Dataset) -> Any:
    """The two gains of each activation; the variance of z through 50 layers of each."""
    figure = new_figure(12, 6)
    table, *others = figure.subplots(2, 3).ravel()
    labels, layers = results["activation"].values, results["layer"].values
    rows = np.arange(len(labels))
    for kind, marker, style, fill in zip(KINDS, "so", STYLES, ("none", "full"), strict=True):
        gains = results["gain"].sel(kind=kind)
        table.plot(gains, rows, marker, color=style[:2], ms=7, fillstyle=fill, label=kind)
    table.set(yticks=rows, yticklabels=labels, xlabel="gain", title="Gains")
    table.invert_yaxis()
    table.set_xlim(0.6, 2.0)
    table.grid(axis="x", color="0.9")
    table.legend()
    for axes, label in zip(others, labels, strict=True):
        for kind, style in zip(KINDS, STYLES, strict=True):
            of = results.sel(activation=label, kind=kind)
            values = of["measured"].transpose("seed", "layer")
            name = f"{kind} {float(of['gain']):.4f}"
            band(axes, layers, values, style, spread="range", alpha=0.25, lw=2, label=name)
            axes.plot(layers, of["theory"], "k-", lw=0.8)
        theory = results["theory"].sel(activation=label)
        axes.plot([], [], "k-", lw=0.8, label="theory, infinite width")
        spans_decades = theory.max() / theory.min() > 5
        axes.set(
            yscale="log" if spans_decades else "linear",
            xlabel="layer",
            ylabel="variance of z: mean, range",
            title=str(label),
        )
        axes.legend(fontsize=9)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
