"""Which optimizers leave a flat saddle: the lecture's table, measured.

The steps to leave (x^2 - h y^2)/2, |y| > 1, from (1, 0.1), as the way out gets flatter: curvatures
h of 1, 0.1 and 0.01. Each rule has its own epsilon, and next to none. Nothing is drawn.

Meaning: The curves show how many steps each optimizer needs to leave a saddle as its way out gets
flatter, with its usual epsilon on the left and with next to none on the right. Ten times flatter,
the saddle holds SGD, momentum and Nesterov nearly ten times as long, while the adaptive optimizers
do not notice; only Adadelta does, through its epsilon.

Data: none (synthetic: a saddle of two parameters; nothing is drawn at random).
Source: the lecture on optimisation.
Run: python experiments/optimization/optimizer_saddles.py
Expected: ten times flatter, the saddle holds SGD, momentum and Nesterov nearly ten times as long.
The steps of the adaptive optimizers do not depend on the gradient's scale: they do not notice.
Adadelta does where the squared gradients are as small as its epsilon of 1e-6; without it, it does
not. At h = 0.01 all five leave before the first of the other three.
Time: 5 s on 2 CPU cores.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray

from jaxdl import optimizers, training
from jaxdl.claims import Claim, main
from jaxdl.plotting import new_figure

FLATNESS = np.array([1.0, 0.1, 0.01])
RATE, ADADELTA_RATE = 0.01, 1.0
EPSILONS = {"own": 1.0, "none": 1e-28}
"""How often the rule's own; "none" is next to none."""


class Arm(NamedTuple):
    """An optimizer: function of one of EPSILONS, and its line."""

    make: Callable[[Any], optax.GradientTransformation]
    style: str


ARMS = {
    "SGD": Arm(lambda _: optimizers.sgd(RATE), "k-o"),
    "momentum": Arm(lambda _: optimizers.momentum(RATE), "k--s"),
    "Nesterov": Arm(lambda _: optimizers.nesterov(RATE), "C7:D"),
    "Adagrad": Arm(lambda times: optimizers.adagrad(RATE, epsilon=times * 1e-8), "C0-^"),
    "RMSprop": Arm(lambda times: optimizers.rmsprop(RATE, epsilon=times * 1e-8), "C2--<"),
    "Adam": Arm(lambda times: optimizers.adam(RATE, epsilon=times * 1e-8), "C3-.>"),
    "Adamax": Arm(lambda times: optimizers.adamax(RATE, epsilon=times * 1e-8), "C4:P"),
    "Adadelta": Arm(
        lambda times: optimizers.adadelta(ADADELTA_RATE, gradient_epsilon=times * 1e-6), "C1-v"
    ),
}
PLAIN = ["SGD", "momentum", "Nesterov"]
ADAPTIVE = ["Adagrad", "RMSprop", "Adam", "Adamax", "Adadelta"]


@dataclass(frozen=True)
class Config:
    """The knobs."""

    start: float = 0.1
    """The first y."""
    steps: int = 100_000
    """After so many a path is given up."""


PRESETS = {"default": Config(), "smoke": Config(), "full": Config()}


def run(config: Config) -> xarray.Dataset:
    """By optimizer, epsilon and curvature h: the steps until |y| > 1."""
    start = jnp.array([1.0, config.start])

    def member(_: Any, *, optimizer: Arm, epsilon: Any, flatness: Any) -> dict[str, Any]:
        rule = optimizer.make(epsilon)

        def step(walk: Any) -> Any:
            count, at, state = walk
            gradient = at * jnp.stack([jnp.ones(()), -flatness])
            updates, state = rule.update(gradient, state, at)
            return count + 1, optax.apply_updates(at, updates), state

        def stays(walk: Any) -> Any:
            return (jnp.abs(walk[1][1]) < 1) & (walk[0] < config.steps)

        return {"steps": jax.lax.while_loop(stays, step, (0, start, rule.init(start)))[0]}

    over = {"optimizer": ARMS, "epsilon": EPSILONS, "flatness": FLATNESS}
    return training.sweep(member, over, seeds=1).squeeze("seed", drop=True)


def claims(results: xarray.Dataset) -> list[Claim]:
    """Who leaves a flat saddle; nothing is drawn."""
    steps = results["steps"]
    growth = xarray.DataArray(np.log10(steps.isel(flatness=-1) / steps.isel(flatness=-2)))
    flattest = steps.isel(flatness=-1).sel(epsilon="own")
    return [
        Claim(
            "A saddle that is ten times flatter holds SGD, momentum and Nesterov about ten times "
            "as long: steps to leave it go as h^-p; p, farthest from 1",
            max(growth.sel(epsilon="own", optimizer=PLAIN).values, key=lambda p: abs(p - 1)),
            0.9, 1.1,
        ),
        Claim(
            "A flatter saddle does not hold the five adaptive optimizers longer, without "
            "epsilon: p, the greatest",
            abs(growth.sel(epsilon="none", optimizer=ADAPTIVE)).max(), 0, 0.01,
        ),
        Claim(
            "A flatter saddle does hold Adadelta longer, with its epsilon of 1e-6: p (lecture: "
            f"it eases out; no longer at h = {FLATNESS[-1]:g})",
            growth.sel(epsilon="own", optimizer="Adadelta"), 0.2, np.inf,
        ),
        Claim(
            f"The adaptive optimizers still leave a flat saddle first: h = {FLATNESS[-1]:g}, "
            "steps of the slowest of them over those of the fastest other",
            flattest.sel(optimizer=ADAPTIVE).max() / flattest.sel(optimizer=PLAIN).min(), 0, 1,
        ),
    ]  # fmt: skip


def plot(results: xarray.Dataset) -> Any:
    """Steps by curvature, with and without the epsilons."""
    figure = new_figure(11, 4.8)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, epsilon, title in zip(
        panels, EPSILONS, ("each with its epsilon", "next to no epsilon"), strict=True
    ):
        for name, arm in ARMS.items():
            steps = results["steps"].sel(optimizer=name, epsilon=epsilon)
            axes.plot(FLATNESS, steps, arm.style, ms=5, label=name)
        axes.set(xscale="log", yscale="log", xlabel="curvature h", title=title)
        axes.invert_xaxis()
        axes.grid(lw=0.3)
    panels[0].set(ylabel=f"steps to leave (rate {RATE:g}, Adadelta {ADADELTA_RATE:g})")
    panels[0].legend(fontsize=8, loc="upper left")
    figure.suptitle("Leaving the saddle $(x^2 - h y^2)/2$")
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
