"""The table of gains beside the gains that preserve the signal, and 50 layers of each.

Weights of variance gain^2 / fan_in, 50 layers of 500 units. A gain preserves the signal of an
activation f if z ~ N(0, 1) in one layer is N(0, 1) in the next: gain = 1 / sqrt(E[f(z)^2]), here by
quadrature. The table that PyTorch publishes has that for ReLU and leaky ReLU alone; its tanh, 5/3,
is larger, so that the signal settles where tanh's saturation makes up for it.

Source: `torch.nn.init.calculate_gain`; He et al. (2015), equation 10; Glorot and Bengio (2010).
Run: python experiments/initialization/gains.py
Expected: the quadrature gives sqrt(2) for ReLU and sqrt(2/(1 + a^2)) for leaky ReLU; 1.5925 for
tanh, so that 5/3 multiplies the variance of z by 1.095 in one layer and holds it at 1.18; the
table's sigmoid and SELU let the variance sink, the quadrature's hold 1 through every layer.
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
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdl import activations, diagnostics, initializers
from jaxdl.claims import Claim, Results, about_mean, main
from jaxdl.plotting import new_figure

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
    """All networks follow from it."""
    seeds: int = 40
    """Networks of each gain; at least 3."""


PRESETS = {"default": Config(), "smoke": Config(seeds=12), "full": Config(seeds=200)}


@jax.jit
def draws(
    key: PRNGKeyArray,
) -> tuple[Float[Array, "layers width width"], Float[Array, "examples width"]]:
    """A network's weights, of variance 1 / WIDTH, and the first z, which is standard normal."""
    weights_key, inputs_key = jax.random.split(key)
    normal = initializers.normal()
    weights = normal(weights_key, (DEPTH - 1, WIDTH, WIDTH)) / np.sqrt(WIDTH)
    return weights, normal(inputs_key, (EXAMPLES, WIDTH))


@functools.partial(jax.jit, static_argnums=0)
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


def run(config: Config) -> Results:
    """Gains (entries, kinds); mean squares of z (entries, seeds, layers, kinds) and theory's."""
    keys = jax.random.split(jax.random.key(config.seed), config.seeds)
    gains = np.array(
        [
            (entry.table, initializers.variance_preserving_gain(entry.activation))
            for entry in ENTRIES
        ]
    )
    pairs = jnp.asarray(gains, jnp.float32)
    measured = []
    for key in keys:
        network = draws(key)  # the same for all activations
        measured.append(
            [
                np.asarray(mean_squares(entry.activation, *network, pair), np.float64)
                for entry, pair in zip(ENTRIES, pairs, strict=True)
            ]
        )
    theory = [
        np.stack([predicted(entry.activation, float(gain)) for gain in pair], axis=1)
        for entry, pair in zip(ENTRIES, gains, strict=True)
    ]
    return {
        "labels": np.array([entry.label for entry in ENTRIES]),
        "gains": gains,
        "measured": np.swapaxes(np.array(measured), 0, 1),
        "theory": np.stack(theory),
    }


def predicted(activation: Callable[[Array], Array], gain: float) -> np.ndarray:
    """The variance of z by layer, the first being 1."""
    field = diagnostics.mean_field(
        activation,
        weight_variance=gain**2,
        depth=DEPTH,
        input_second_moment=1 / gain**2,
    )
    return field.preactivation_variance


def claims(results: Results) -> list[Claim]:
    """What the quadrature gives, and what the gains do."""
    gains, measured, theory = results["gains"], results["measured"], results["theory"]
    seeds = measured.shape[1]
    index = {label: i for i, label in enumerate(results["labels"].tolist())}
    tanh = index["tanh"]
    made = [
        Claim(
            "ReLU keeps the signal's size with the gain sqrt(2): the quadrature's gain less it",
            gains[index["ReLU"], 1] - np.sqrt(2),
            -1e-6,
            1e-6,
        ),
        Claim(
            "Leaky ReLU keeps it with sqrt(2/(1 + a^2)): the quadrature's gain less it",
            gains[index[f"leaky ReLU, {SLOPE}"], 1] - np.sqrt(2 / (1 + SLOPE**2)),
            -1e-6,
            1e-6,
        ),
        Claim(
            "The table's gain for tanh, 5/3, enlarges the signal: what one layer multiplies a "
            "unit variance by, from the two gains",
            (gains[tanh, 0] / gains[tanh, 1]) ** 2,
            1.05,
            np.inf,
        ),
    ]
    for label, i in index.items():
        for kind, name in enumerate(KINDS):
            at = theory[i, -1, kind]
            with_gain = f"{label} with the {name}'s gain {gains[i, kind]:.4f}"
            ratio = measured[i, :, -1, kind] / at
            if "ReLU" in label:
                # A sum of independent terms in the logarithm: a finite width makes its mean
                # -5/(2 width) a layer, or less where examples differ.
                made.append(
                    about_mean(
                        f"{with_gain}: a typical network keeps the signal through {DEPTH} layers. "
                        f"How often its variance is halved, against theory's {at:.3g}; mean of "
                        f"{seeds} seeds",
                        -np.log2(ratio),
                        -HALVINGS,
                        HALVINGS,
                    )
                )
                continue
            near = FINITE_WIDTH[label][kind]
            made.append(
                about_mean(
                    f"{with_gain}: the variance settles where theory says, at {at:.3g}. Variance "
                    f"in layer {DEPTH} over theory's; mean of {seeds} seeds",
                    ratio,
                    1 - near,
                    1 + near,
                )
            )
    return made


def plot(results: Results) -> Any:
    """The two gains of each activation; the variance of z through 50 layers of each."""
    figure = new_figure(12, 6)
    panels = figure.subplots(2, 3)
    table, *others = panels.ravel()
    rows = np.arange(len(results["labels"]))
    for kind, (name, marker) in enumerate(zip(KINDS, ("s", "o"), strict=True)):
        values = results["gains"][:, kind]
        table.plot(
            values, rows, marker, color=STYLES[kind][:2], ms=7, fillstyle=("none", "full")[kind]
        )
        table.plot(
            [], [], marker, color=STYLES[kind][:2], fillstyle=("none", "full")[kind], label=name
        )
    table.set(yticks=rows, yticklabels=results["labels"], xlabel="gain", title="Gains")
    table.invert_yaxis()
    table.set_xlim(0.6, 2.0)
    table.grid(axis="x", color="0.9")
    table.legend()
    layers = np.arange(1, DEPTH + 1)
    for axes, label, gains, measured, theory in zip(
        others, results["labels"], results["gains"], results["measured"], results["theory"],
        strict=True,
    ):  # fmt: skip
        for kind, (name, style) in enumerate(zip(KINDS, STYLES, strict=True)):
            values = measured[..., kind]
            axes.fill_between(
                layers, values.min(0), values.max(0), color=style[:2], alpha=0.25, lw=0
            )
            axes.plot(layers, np.median(values, 0), style, lw=2, label=f"{name} {gains[kind]:.4f}")
            axes.plot(layers, theory[:, kind], "k-", lw=0.8)
        axes.plot([], [], "k-", lw=0.8, label="theory, infinite width")
        spans_decades = theory.max() / theory.min() > 5
        axes.set(
            yscale="log" if spans_decades else "linear",
            xlabel="layer",
            ylabel="variance of z",
            title=str(label),
        )
        axes.legend(fontsize=9)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
