"""All zeros, too small, too large, calibrated: what the scale of the first weights decides.

[784, 128, 128, 10] on MNIST digits, zero biases, gradient descent at rate 0.1, batches of 50.
With all weights zero the units of a layer get the same gradient and stay one unit, repeated: with
ReLU nothing but the output's bias ever moves; with the sigmoid all units move, in step. Weights
that are too small wait a hundred steps for a gradient that their own product makes; too large, the
loss starts far above chance, and what it settles on is worse.

Source: the lecture on weight initialisation; Goodfellow, Bengio and Courville (2016), section 8.4.
Run: python experiments/init_scale.py
Expected: zero weights leave the units of every layer equal, to rounding; after 300 steps the
calibrated start (He) has the least loss, then the large, then the small, then the zeros.
Time: 10 s on 2 CPU cores.
"""

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import common
import jax
import jax.numpy as jnp
import numpy as np
from common import Results

from jaxdl import activations, data, initializers, losses, models, optimizers, training
from jaxdl.claims import Claim, about_mean
from jaxdl.compiling import init_options

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


def run(config: Config) -> Results:
    """By seed and step, the loss of each start; how far the units of a layer are apart."""
    digits = data.load("mnist_5k")
    keys = jax.vmap(jax.random.key)(config.seed + jnp.arange(config.seeds))
    orders = [training.epoch_order(key, 0, len(digits.train)) for key in keys]
    rows = jnp.stack([np.resize(order, (config.steps, BATCH_SIZE)) for order in orders])
    arrays = {
        "inputs": jnp.asarray(digits.train.inputs),
        "targets": jnp.asarray(digits.train.targets),
    }
    optimizer = optimizers.sgd(RATE)
    results: dict[str, Any] = {}
    for name, arm in ARMS.items():
        model = models.MLP(FEATURES, activation=arm.activation, kernel_init=arm.kernel_init)
        step = training.make_train_step(model, optimizer, losses.cross_entropy)
        epoch = training.make_train_epoch(step)

        def start(key: Any, model: Any = model) -> training.TrainState:
            sample = jnp.zeros((1, *digits.train.inputs.shape[1:]))
            return training.init_state(key, model, optimizer, sample)

        @jax.jit
        def train(starts: Any, epoch: Any = epoch) -> tuple[Any, Any]:
            def one(run: Any) -> tuple[Any, Any]:
                state, rows = run
                state, measured = epoch(state, arrays, rows)
                return state.params, measured["loss"]

            trained: tuple[Any, Any] = jax.lax.map(one, (starts, rows))
            return trained

        # Random numbers take long to compile: apart, without optimisation.
        starts = jax.jit(jax.vmap(start), compiler_options=init_options())(keys)
        params, results[f"{name}_loss"] = jax.device_get(train(starts))
        results[f"{name}_apart"] = np.stack(
            [units_apart(params[layer]["kernel"]) for layer in ("dense_0", "dense_1")]
        )
        results[f"{name}_moved"] = np.array(
            [np.abs(params[f"dense_{layer}"]["kernel"]).max((1, 2)) for layer in range(3)]
        )
    return results


def units_apart(kernels: np.ndarray) -> float:
    """The largest difference between the incoming weights of a unit and those of the first."""
    return float(np.abs(kernels - kernels[..., :1]).max())


def final(loss: np.ndarray) -> np.ndarray:
    """By seed: the mean loss of the last 50 steps."""
    return np.asarray(loss[:, -50:].mean(1))


def claims(results: Results) -> list[Claim]:
    """The symmetry, to rounding; and the order of the losses."""
    seeds, steps = results["he_loss"].shape
    made = [
        Claim(
            "All weights zero, ReLU: no weight ever moves, for each gradient has a factor 0. "
            f"Largest weight after {steps} steps",
            results["zeros_moved"].max(),
            0.0,
            0.0,
        ),
        Claim(
            "All weights zero, sigmoid: the units of a layer stay one unit, repeated, to rounding. "
            f"Largest difference between the weights of two units after {steps} steps",
            results["zeros_sigmoid_apart"].max(),
            0.0,
            ROUNDING,
        ),
        about_mean(
            f"They do move, but in step: the largest weight into a hidden unit; mean of {seeds} "
            "seeds",
            results["zeros_sigmoid_moved"][:2].max(0),
            low=1e-3,
        ),
    ]
    order = ("he", "large", "small", "zeros")
    for better, worse in itertools.pairwise(order):
        made.append(
            about_mean(
                f"The start {ARMS[better].label!r} learns more than {ARMS[worse].label!r}: how far "
                f"below its loss is over the last 50 steps, nats; mean of {seeds} seeds",
                final(results[f"{worse}_loss"]) - final(results[f"{better}_loss"]),
                low=0.0,
            )
        )
    return made


def plot(results: Results) -> Any:
    """The loss by step, and the same close up."""
    figure = common.new_figure(12, 5)
    whole, close = figure.subplots(1, 2)
    window = 20
    for name, arm in ARMS.items():
        loss = results[f"{name}_loss"]
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
    sys.exit(common.main(sys.modules[__name__]))
