"""Why the standard initialisation starves deep tanh layers, and what the normalised one changes.

Source: Glorot and Bengio (2010), figures 6 and 7. Five hidden tanh layers of 1000 units, softmax
outputs and zero biases, before any training. Standard weights are U(-1/sqrt(n), 1/sqrt(n)), of
variance 1/(3n): while tanh is nearly linear, each layer divides the standard deviation of the
activations, and on the way back that of the gradients, by the square root of 3. Normalised
weights, U with variance 2/(fan_in + fan_out), leave only what the curvature of tanh takes. The
paper's images are replaced by handwritten digits.
Run: python experiments/initialization/glorot_histograms.py
Expected: ratio of standard deviations from layer to layer 0.574 with the standard initialisation,
forward and backward; 0.928 (forward) and 0.931 (backward) with the normalised one, as the theory
of wide layers predicts.
Time: 30 s on 2 CPU cores.
"""

import sys
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl import activations, data, diagnostics, initializers, losses, models
from jaxdl.claims import Claim, Results, about_mean, main
from jaxdl.plotting import new_figure

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
    """All networks follow from it."""
    seeds: int = 20
    """Networks measured with each initialisation; at least 3."""
    examples: int = 300
    """Digits in the batch, as many as the paper takes from its test set."""


PRESETS = {
    "default": Config(),
    "smoke": Config(width=300, seeds=8),
    "full": Config(seeds=40),
}


def run(config: Config) -> Results:
    """Standard deviations by seed and hidden layer, measured and predicted; one histogram."""
    digits = data.load("mnist_5k").train
    batch = {
        "inputs": digits.inputs[: config.examples],
        "targets": digits.targets[: config.examples],
    }
    images = batch["inputs"] / 255
    fan_in, input_second_moment = images[0].size, float(np.mean(images**2))
    results: dict[str, Any] = {"width": np.array(config.width)}
    for name, kernel_init in INITIALIZERS.items():
        model = models.MLP(
            [config.width] * HIDDEN_LAYERS + [10],
            activation=activations.tanh,
            kernel_init=kernel_init,
        )

        def initial(key: Any, model: models.MLP = model) -> Any:
            return model.init(key, jnp.zeros((1, *images.shape[1:])), train=False)

        def measure(key: Any, model: models.MLP = model, initial: Any = initial) -> Any:
            return diagnostics.propagation(model, initial(key), batch, loss=losses.cross_entropy)

        # One network at a time: ten of five million weights and their gradients fill a small GPU.
        keys = jax.random.split(jax.random.key(config.seed), config.seeds)
        measured = jax.jit(lambda keys, measure=measure: jax.lax.map(measure, keys))(keys)
        hidden = np.array(measured.is_activation)
        signal = np.asarray(measured.stddev)[:, hidden]
        gradient = np.asarray(measured.gradient_stddev)[:, hidden]

        counted = diagnostics.histograms(
            model,
            initial(keys[0]),
            batch,
            loss=losses.cross_entropy,
            bins=np.linspace(-1, 1, 201),
            gradient_bins=np.linspace(-4, 4, 201) * gradient[0].max(),
        )
        assert counted.gradients is not None
        # The first layer's fans differ, so that its variance is not that of the others.
        fans = {"standard": (1 / 3, 1 / 3), "normalized": (2 * fan_in / (fan_in + config.width), 1)}
        first, later = fans[name]
        theory = diagnostics.mean_field(
            activations.tanh,
            weight_variance=later,
            depth=HIDDEN_LAYERS,
            input_second_moment=input_second_moment * first / later,
        )
        results |= {
            f"{name}_signal": signal,
            f"{name}_gradient": gradient,
            f"{name}_signal_theory": np.sqrt(theory.activation_variance),
            f"{name}_gradient_theory": np.sqrt(theory.activation_gradient),
            f"{name}_signal_edges": np.asarray(counted.activations.edges)[0],
            f"{name}_gradient_edges": np.asarray(counted.gradients.edges)[0],
            f"{name}_signal_density": counted.activations.density[hidden],
            f"{name}_gradient_density": counted.gradients.density[hidden],
        }
    return results


def ratio_per_layer(name: str, values: np.ndarray) -> Any:
    """The geometric mean of a layer's standard deviation over that of the layer it comes from."""
    start, end = (0, -1) if name.endswith("signal") else (-1, 0)
    return (values[..., end] / values[..., start]) ** (1 / (HIDDEN_LAYERS - 1))


def claims(results: Results) -> list[Claim]:
    """The layer-to-layer ratios: clearly below 1, and near 1."""
    made = []
    for name, kind in WORDS.items():
        for what, (words, way) in MOVES.items():
            ratios = ratio_per_layer(f"{name}_{what}", results[f"{name}_{what}"])
            theory = float(ratio_per_layer(f"{name}_{what}", results[f"{name}_{what}_theory"]))
            does = "shrinks" if name == "standard" else "nearly keeps"
            made.append(
                about_mean(
                    f"The {kind} initialisation {does} the {words} from layer to layer, {way}: "
                    f"ratio of their standard deviations (theory {theory:.3f}); mean of "
                    f"{len(ratios)} networks",
                    ratios,
                    theory - NEAR[what],
                    theory + NEAR[what],
                )
            )
    return made


def plot(results: Results) -> Any:
    """Histograms by layer, one network each; standard deviations by layer, theory a thin line."""
    figure = new_figure(12, 7.5)
    panels = figure.subplots(2, 3)
    titles = {"signal": "Activations", "gradient": "Gradients"}
    gradient_range = max(results[f"{name}_gradient_edges"][-1] for name in INITIALIZERS)
    for row, name in zip(panels, INITIALIZERS, strict=True):
        for axes, what in zip(row, titles, strict=False):
            edges = results[f"{name}_{what}_edges"]
            for layer, density in enumerate(results[f"{name}_{what}_density"]):
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
            axes.legend(fontsize=8)
        row[0].set(xlim=(-1, 1), xlabel="activation")
        row[1].set(xlim=(-gradient_range, gradient_range), xlabel="d(sum of losses)/d(activation)")

    layers = np.arange(1, HIDDEN_LAYERS + 1)
    for axes, what in zip(panels[:, 2], titles, strict=True):
        for name, style in STYLES.items():
            values = results[f"{name}_{what}"]
            axes.plot(layers, values.mean(0), style, label=LABELS[name])
            axes.fill_between(
                layers, values.min(0), values.max(0), color=style[:2], alpha=0.25, lw=0
            )
            predicted = results[f"{name}_{what}_theory"]
            # Theory has the gradient relative to the last hidden layer's.
            scale = 1.0 if what == "signal" else values[:, -1].mean()
            axes.plot(layers, scale * predicted, "k-", lw=0.8)
        axes.plot([], [], "k-", lw=0.8, label="theory, infinite width")
        axes.set(xlabel="hidden layer", xticks=layers, yscale="log")
        axes.set(ylabel="standard deviation", title=f"{titles[what]}: mean and range")
        axes.legend(fontsize=8)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
