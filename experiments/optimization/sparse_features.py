"""Which optimizers learn the weights of rare features, and how Adagrad's rate dies.

Least squares on 64 features that are +-1 with a probability from 1/2 down to 1/1000, else 0; true
weights +-1; noise of deviation 0.5; one pass over fresh examples in batches of 10. Each optimizer
has, of a grid, the rate with the least expected loss. Then the squared errors of the weights of
the rarest and of the most common quarter, and the effective rate, that is what an optimizer
multiplies the gradient of a weight by.

Meaning: The curves show the errors of the weights of rare and of common features by step, and the
effective rate that each optimizer gives them. Adagrad learns the rare features best, for it keeps
their rate large; that its rate of common weights dies as one over the root of the number of steps
is refuted here, since in 1000 steps it falls more slowly.

Data: none (synthetic: 10,000 examples of 64 features, most of them zero, and a noisy linear
target).
Source: Duchi, Hazan and Singer (2011), section 1.3; the lecture on optimisation.
Run: python experiments/optimization/sparse_features.py
Expected: after 1000 steps Adagrad's error of the rare weights is a fifth of SGD's, Adam's a third,
RMSprop's less too. RMSprop's and Adam's effective rates do not fall. Adagrad's falls for good; that
of rare weights stays far larger. Refuted: the lecture says that Adagrad's rate dies, and while
noise goes on, so that the sum of squares grows by as much in every step, it should die as
steps^-1/2. From step 500 to 1000 the rate of common weights falls as steps^-0.28 only. The likely
reason: the first gradients were much larger than the noise, and the sum still holds their squares.
Time: 15 s on 2 CPU cores.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray

from jaxdl import initializers, losses, optimizers, training
from jaxdl.claims import Claim, about_mean, about_ratios, main, slopes
from jaxdl.plotting import band, new_figure

FEATURES, QUARTER, BATCH_SIZE, NOISE = 64, 16, 10, 0.5
FREQUENCY = np.geomspace(0.5, 1e-3, FEATURES)
WINDOW = 50
"""Steps over which an effective rate is taken."""
MODEL = nn.Dense(1, use_bias=False, kernel_init=initializers.zeros())
TASK = training.Task(MODEL, losses.mean_squared_error)


class Arm(NamedTuple):
    """An optimizer as a function of its rate, and its line."""

    make: Callable[[Any], optax.GradientTransformation]
    style: str


ARMS = {
    "SGD": Arm(optimizers.sgd, "k-"),
    "Adagrad": Arm(optimizers.adagrad, "C0-"),
    "RMSprop": Arm(optimizers.rmsprop, "C2-"),
    "Adam": Arm(optimizers.adam, "C3-"),
}
QUARTERS = {"common": slice(QUARTER), "rare": slice(-QUARTER, None)}


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 8
    """Draws of the examples, each seen by every optimizer at every rate; at least 3."""
    seed: int = 0
    """The first seed; the others follow it."""
    steps: int = 1000
    """The budget: batches of 10."""
    rates_per_decade: int = 4
    """Of the grid from 0.001 to 1."""

    def __post_init__(self) -> None:
        if self.steps < 100:
            raise ValueError(
                f"steps must be at least 100, of which slopes are taken, got {self.steps}; "
                "pass more"
            )


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=3, steps=300, rates_per_decade=2),
    "full": Config(seeds=40, steps=10_000, rates_per_decade=8),
}


def examples(key: Any, count: int) -> dict[str, Any]:
    """Features (count, 64) of -1, 0 and 1; targets, with true weights of 1 and -1 in turn."""
    present, signs, noise = jax.random.split(key, 3)
    shape = (count, FEATURES)
    found = jax.random.bernoulli(present, jnp.asarray(FREQUENCY, jnp.float32), shape)
    inputs = found * jax.random.rademacher(signs, shape, jnp.float32)
    targets = inputs @ true_weights() + NOISE * jax.random.normal(noise, (count,))
    return {"inputs": inputs, "targets": targets[:, None]}


def true_weights() -> np.ndarray:
    """1 and -1 in turn."""
    return np.resize(np.array([1.0, -1.0], np.float32), FEATURES)


def run(config: Config) -> xarray.Dataset:
    """By optimizer, rate, seed and step: the weights' errors, and how far gradients move them.

    `error` is the mean squared error of the weights of a quarter, `loss` the expected loss beyond
    that of the noise, `gradient` and `moved` the sums of absolute gradients and updates.
    """

    def member(key: Any, train: Any, *, optimizer: Arm, rate: Any) -> dict[str, Any]:
        rule = optimizers.recorded(
            optimizer.make(rate), lambda gradient, update: (gradient, update), steps=config.steps
        )
        learn = training.make_run(TASK, rule, batch_size=BATCH_SIZE)
        order = jnp.arange(config.steps * BATCH_SIZE)
        state, _ = learn.epoch(learn.init(key, train), train, order)
        gradient, update = (tree["kernel"][..., 0] for tree in state.opt_state.values)
        square = (jnp.cumsum(update, 0) - true_weights()) ** 2
        return {
            "error": by_quarter(square),
            "loss": square @ jnp.asarray(FREQUENCY, jnp.float32),
            "gradient": by_quarter(jnp.abs(gradient)),
            "moved": by_quarter(jnp.abs(update)),
        }

    quarter = ("step", "quarter")
    return training.sweep(
        member,
        {
            "optimizer": ARMS,
            "rate": np.geomspace(1e-3, 1.0, 3 * config.rates_per_decade + 1),
        },
        seeds=range(config.seed, config.seed + config.seeds),
        by_seed={
            "train": jax.jit(lambda key: examples(key, config.steps * BATCH_SIZE)),
        },
        dims={"error": quarter, "loss": ("step",), "gradient": quarter, "moved": quarter},
    ).assign_coords(quarter=[*QUARTERS])


def by_quarter(values: Any) -> Any:
    """The means over the most common and the rarest features, (..., 2)."""
    return jnp.stack([values[..., part].mean(-1) for part in QUARTERS.values()], -1)


def at_best(results: xarray.Dataset, optimizer: str) -> xarray.Dataset:
    """At the rate with the least expected loss at the end, mean over seeds."""
    own = results.sel(optimizer=optimizer)
    ends = own["loss"].isel(step=-1).mean("seed", skipna=False).fillna(np.inf)
    return own.isel(rate=int(ends.argmin("rate")))


def effective_rate(chosen: xarray.Dataset, window: int) -> xarray.DataArray:
    """Movement over gradient, each summed over a window of steps: what gradients are multiplied by.

    With momentum a gradient moves a weight later too; the window is longer than that.
    """
    sums = chosen[["moved", "gradient"]].coarsen(step=window, boundary="trim").sum()
    return xarray.DataArray(sums["moved"] / sums["gradient"])


def sgd_errors(rate: float, steps: int) -> np.ndarray:
    """(steps, 64): the expected squared errors of SGD's weights, exactly, in float64.

    A batch of B moves e_j by 2 rate / B times the sum of x_j (x . e - noise). Features are
    independent and of mean 0, so that of the square's expectation only even powers are left.
    """
    square, errors, p = np.ones(FEATURES), [], FREQUENCY
    for _ in range(steps):
        others = p @ square - p * square + NOISE**2
        drift = 1 - 4 * rate * p + 4 * rate**2 * p * (p + (1 - p) / BATCH_SIZE)
        square = drift * square + 4 * rate**2 * p * others / BATCH_SIZE
        errors.append(square)
    return np.array(errors)


def claims(results: xarray.Dataset) -> list[Claim]:
    """The rare features' errors, the theory of SGD, and what becomes of the rates."""
    steps, seeds = results.sizes["step"], results.sizes["seed"]
    best = {name: at_best(results, name) for name in ARMS}
    ends = {name: chosen["error"].isel(step=-1) for name, chosen in best.items()}
    exact = sgd_errors(float(best["SGD"]["rate"]), steps)[-1]
    made = [
        about_ratios(
            f"{name} learns rare features better than SGD: squared error of the rarest quarter's "
            f"weights after {steps} steps over SGD's, best rates, geometric mean of {seeds} seeds",
            (ends[name] / ends["SGD"]).sel(quarter="rare"), high=1.0,
        )
        for name in list(ARMS)[1:]
    ]  # fmt: skip
    made.append(
        about_ratios(
            "SGD learns a feature at the speed of its frequency: the rarest quarter's error over "
            f"the exact expectation, geometric mean of {seeds} seeds",
            ends["SGD"].sel(quarter="rare") / exact[QUARTERS["rare"]].mean(), 0.9, 1.1,
        )
    )  # fmt: skip
    for name, text, low, high in (
        ("Adagrad", "dies as steps^-1/2 while noise goes on", -0.6, -0.4),
        ("Adam", "does not die", -0.1, np.inf),
        ("RMSprop", "does not die", -0.1, np.inf),
    ):
        made.append(
            about_mean(
                f"{name}'s effective rate of common weights {text}: exponent over the second half, "
                f"mean of {seeds} seeds",
                exponents(best[name]), low, high,
            )
        )  # fmt: skip
    return made


def exponents(chosen: xarray.Dataset) -> np.ndarray:
    """By seed: s in effective rate ~ steps^s of the common weights, over the second half."""
    rates = effective_rate(chosen, WINDOW).sel(quarter="common").transpose("seed", "step")
    middle = np.arange(rates.sizes["step"]) + 0.5
    half = len(middle) // 2
    return slopes(np.log(middle[half:]), np.log(rates.values[:, half:]))


def plot(results: xarray.Dataset) -> Any:
    """Errors of rare and of common weights by step; the effective rates."""
    figure = new_figure(12.5, 6)
    rare, common, rates = figure.subplots(1, 3)
    steps = np.arange(results.sizes["step"]) + 1
    for name, arm in ARMS.items():
        chosen = at_best(results, name)
        label = f"{name}, rate {float(chosen['rate']):.2g}"
        for axes, quarter in ((rare, "rare"), (common, "common")):
            band(
                axes, steps, chosen["error"].sel(quarter=quarter).transpose("seed", "step"),
                arm.style, spread="range", alpha=0.12, label=label,
            )  # fmt: skip
        moved = effective_rate(chosen, WINDOW).mean("seed")
        middle = WINDOW * (np.arange(moved.sizes["step"]) + 0.5)
        rates.plot(middle, moved.sel(quarter="common"), arm.style, lw=1.5)
        rates.plot(middle, moved.sel(quarter="rare"), arm.style[:-1] + "--", lw=1.5)
        if name == "SGD":
            exact = sgd_errors(float(chosen["rate"]), len(steps))
            for axes, part in ((rare, QUARTERS["rare"]), (common, QUARTERS["common"])):
                axes.plot(steps, exact[:, part].mean(1), "C1:", lw=2.5, label="SGD, exact")
        if name == "Adagrad":
            guide = moved.sel(quarter="common").values[-1] * np.sqrt(middle[-1] / middle)
            rates.plot(middle, guide, "C1:", lw=2.5, label="steps$^{-1/2}$")
    for axes, title in ((rare, "rarest"), (common, "most common")):
        axes.set(
            xlabel="step", ylabel="squared error of a weight", yscale="log",
            title=f"The {title} quarter",
        )  # fmt: skip
    rates.set(
        xscale="log", yscale="log", xlabel="step", ylabel="effective rate: movement / gradient",
        title="Effective rates",
    )  # fmt: skip
    rates.minorticks_off()
    rates.plot([], [], "k-", lw=1.5, label="the most common quarter")
    rates.plot([], [], "k--", lw=1.5, label="the rarest quarter")
    figure.legend(
        *rare.get_legend_handles_labels(),
        title=f"mean and range of {results.sizes['seed']} seeds",
        loc="outside lower left",
        ncols=3,
        frameon=False,
    )
    figure.legend(
        *rates.get_legend_handles_labels(),
        title="effective rates, in the same colours",
        loc="outside lower right",
        frameon=False,
    )
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
