"""Which optimizers heed the units of the loss and of the parameters: the lecture's table, measured.

[784, 128, 10] on Fashion-MNIST, 100 batches of 100, four seeds. The same path when the loss is 1024
times as large, and when every parameter is a number 16 times larger (phi = 16 theta). Each rule has
its own epsilon, and next to none.

Meaning: The left panel shows how an optimizer's first step scales when the loss, or every
parameter, is measured in other units; the right one how far the path goes astray in 100 steps.
Adaptive optimizers do not heed the scale of the loss once their epsilon is small, and in other
units of the parameters all eight make other steps, Adadelta too: what the lecture's table says of
Adadelta is refuted here.

Data: fashion_mnist, 70,000 grey images of clothes of 28 x 28 (51,000 to train on), Xiao, Rasul and
Vollgraf (2017), downloaded; mnist_5k where that is not at hand.
Source: the lecture on optimisation; Zeiler (2012), section 3.
Run: python experiments/optimization/optimizer_units.py
Expected: without epsilon no adaptive rule heeds the loss's scale, Adadelta no more and no less than
Adam. With their epsilons all five do, Adadelta most: its 1e-6 exceeds the squared gradients of this
network. Nor are its units consistent: the root of the epsilon under RMS of the updates has the
parameters' units, so that its step goes as 1/c, as Adam's; it is consistent if that epsilon goes as
c^2.
Time: 25 s on 2 CPU cores.
"""

import sys
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray
from jax.flatten_util import ravel_pytree

from jaxdl import data, initializers, losses, models, optimizers, training
from jaxdl.claims import Claim, about_ratios, main
from jaxdl.plotting import new_figure

BATCH_SIZE = 100
TASK = training.Task(
    models.MLP((128, 10), kernel_init=initializers.he_normal()), losses.cross_entropy
)
OPTIMIZERS = {
    "SGD": lambda *_: optimizers.sgd(0.3),
    "momentum": lambda *_: optimizers.momentum(0.03),
    "Nesterov": lambda *_: optimizers.nesterov(0.03),
    "Adagrad": lambda times, _: optimizers.adagrad(0.03, epsilon=times * 1e-8),
    "RMSprop": lambda times, _: optimizers.rmsprop(3e-3, epsilon=times * 1e-8),
    "Adam": lambda times, _: optimizers.adam(3e-3, epsilon=times * 1e-8),
    "Adamax": lambda times, _: optimizers.adamax(0.01, epsilon=times * 1e-8),
    "Adadelta": lambda times, of_updates: optimizers.adadelta(
        1.0, epsilon=of_updates, gradient_epsilon=times * 1e-6
    ),
}
"""Functions of one of EPSILONS and of Adadelta's other epsilon, under RMS of its updates.

At about the rates that optimizer_comparison chooses.
"""
PLAIN, BESIDE = ["SGD", "momentum", "Nesterov"], ["Adagrad", "RMSprop", "Adam", "Adamax"]
ADAPTIVE = [*BESIDE, "Adadelta"]
EPSILONS = {"own": 1.0, "none": 1e-28}
"""How often the rule's own; with 0, a parameter without a gradient would divide 0 by 0."""
LOSS_SCALE, PARAMETER_SCALE = 1024.0, 16.0
"""Powers of two, which float32 multiplies without rounding: what differs is the rule's doing."""
OF_UPDATES = 1e-6
UNCHANGED = (1.0, 1.0, OF_UPDATES)
CHANGES = {
    "loss": (LOSS_SCALE, 1.0, OF_UPDATES),
    "units": (1.0, PARAMETER_SCALE, OF_UPDATES),
    "units of epsilon too": (1.0, PARAMETER_SCALE, OF_UPDATES * PARAMETER_SCALE**2),
}
"""What a path is walked with: s and c of s L(phi / c), and Adadelta's epsilon of updates."""
ROUNDING = 1e-4
"""Relative: 100 steps of float32, each rounded at 1e-7 and passed on about tenfold."""
LEAST_SHOWN = 1e-8


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 4
    """Networks whose paths are walked; at least 3."""
    seed: int = 0
    """First seed, of the weights and the order; the others follow."""
    steps: int = 100
    """Of each path."""
    dataset: str | None = None
    """By default fashion_mnist where it is on this machine, else mnist_5k."""
    data_dir: str | None = None
    """Where prepared data are kept; by default where `jaxdl data` keeps them."""
    raw_dir: str | None = None
    """A folder with the four IDX files, plain or gzipped."""


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=3, steps=25, dataset="mnist_5k"),
    "full": Config(),
}


def run(config: Config) -> xarray.Dataset:
    """What `paths` measures."""
    dataset = data.load_or_small(
        "fashion_mnist", config.dataset, data_dir=config.data_dir, raw_dir=config.raw_dir
    )
    return paths(data.split(dataset, key=jax.random.key(0)).train, config)


def paths(train: data.Arrays, config: Config) -> xarray.Dataset:
    """By optimizer, epsilon and seed: what each of CHANGES does to the path.

    How often larger the first step is, and how far off the last point, over the path's length.
    """
    used = config.steps * BATCH_SIZE
    epochs = -(-used // len(train))

    def member(key: Any, order: Any, params: Any, *, optimizer: Any, epsilon: Any) -> Any:
        def walk(loss_scale: Any, parameter_scale: Any, of_updates: Any) -> Any:
            rule = rescaled(optimizer(epsilon, of_updates), loss_scale, parameter_scale)
            learn = training.make_run(TASK, rule, batch_size=BATCH_SIZE)
            first, _ = learn.epoch(learn.init(key, train, params), train, order[:BATCH_SIZE])
            last, _ = learn.epoch(first, train, order[BATCH_SIZE:])
            return moved(first), moved(last)

        def moved(state: Any) -> Any:
            return ravel_pytree(state.params)[0] - ravel_pytree(params)[0]

        first, last = jax.vmap(walk)(*jnp.array([UNCHANGED, *CHANGES.values()]).T)
        return {
            "step": lengths_over(first[0], first[1:]),
            "path": lengths_over(last[0], last[1:] - last[0]),
        }

    # A member walks four paths, which keep a core busy: one member a call.
    return training.sweep(
        member,
        {"optimizer": OPTIMIZERS, "epsilon": EPSILONS},
        seeds=range(config.seed, config.seed + config.seeds),
        by_seed={
            "order": lambda key: training.orders(key, epochs, len(train)).ravel()[:used],
            "params": training.first_weights(TASK, train),
        },
        chunk=1,
        dims={"step": ("change",), "path": ("change",)},
    ).assign_coords(change=list(CHANGES)).assign_attrs(steps=config.steps)  # fmt: skip


def rescaled(rule: Any, loss_scale: Any, parameter_scale: Any) -> optax.GradientTransformation:
    """What a rule that works on s L(phi / c) does to theta = phi / c, from the gradients of L.

    By the chain rule: the gradient by phi is s / c times that by theta. These rules heed gradients
    alone, so that they need not be shown phi.
    """
    return optax.chain(
        optax.scale(loss_scale / parameter_scale), rule, optax.scale(1 / parameter_scale)
    )


def lengths_over(plain: Any, vectors: Any) -> Any:
    """Euclidean lengths over that of the plain vector; inf where float32 overflowed."""
    found = jnp.linalg.norm(vectors, axis=-1) / jnp.linalg.norm(plain)
    return jnp.where(jnp.isnan(found), jnp.inf, found)


def all_are(text: str, values: Any, expected: float, tolerance: float) -> Claim:
    """No value is farther from the expected one; for numbers that are arithmetic, not drawn."""
    values = np.ravel(values)
    farthest = values[np.abs(values - expected).argmax()]
    return Claim(text, farthest, expected - tolerance, expected + tolerance)


def claims(results: xarray.Dataset) -> list[Claim]:
    """Who heeds the loss's scale, and whose units are consistent.

    A factor of two to some power is no rounding: what these numbers are is arithmetic, not drawn.
    """
    seeds, steps = results.sizes["seed"], results.attrs["steps"]
    own, none = results.sel(epsilon="own"), results.sel(epsilon="none")
    power = np.log(none["step"].sel(change="units")) / np.log(PARAMETER_SCALE)
    departure = f"departure after {steps} steps, relative"
    units = "with parameters in units c times smaller the first step goes as c^p; p, farthest from"
    return [
        all_are(
            "SGD, momentum and Nesterov heed the loss's scale: first step when the loss is "
            f"{LOSS_SCALE:.0f} times as large, times; farthest of {seeds} seeds",
            own["step"].sel(change="loss", optimizer=PLAIN), LOSS_SCALE, LOSS_SCALE * ROUNDING,
        ),
        Claim(
            "Without epsilon the five adaptive optimizers do not heed the loss's scale: "
            f"{departure}, the greatest of {seeds} seeds (lecture: Adadelta's path does not change "
            "at all; nor do the others')",
            none["path"].sel(change="loss", optimizer=ADAPTIVE).max(), 0, ROUNDING,
        ),
        about_ratios(
            "Adadelta with its epsilon of 1e-6 heeds the loss's scale: "
            f"{departure}, geometric mean of {seeds} seeds (lecture: not at all; refuted here)",
            own["path"].sel(change="loss", optimizer="Adadelta"), 0.1,
        ),
        all_are(
            f"In other units SGD, momentum and Nesterov make other steps: {units} -2 of {seeds} "
            "seeds",
            power.sel(optimizer=PLAIN), -2, ROUNDING,
        ),
        all_are(
            "In other units Adagrad, RMSprop, Adam and Adamax make other steps too, less so: "
            f"{units} -1 of {seeds} seeds",
            power.sel(optimizer=BESIDE), -1, ROUNDING,
        ),
        all_are(
            "In other units Adadelta makes other steps too: "
            f"{units} -1 of {seeds} seeds (lecture: consistent units, p = 0; refuted here)",
            power.sel(optimizer="Adadelta"), -1, ROUNDING,
        ),
        Claim(
            "Adadelta's units are consistent if its epsilon under RMS of the updates goes as c^2: "
            f"{departure}; the greatest of {seeds} seeds",
            none["path"].sel(change="units of epsilon too", optimizer="Adadelta").max(),
            0, ROUNDING,
        ),
    ]  # fmt: skip


def plot(results: xarray.Dataset) -> Any:
    """What each change of units does to the first step, and how far it leads away."""
    figure = new_figure(12, 5.5)
    first, path = figure.subplots(1, 2, sharey=True)
    rows = dict(zip(OPTIMIZERS, range(len(OPTIMIZERS)), strict=True))
    departure = results["path"].clip(LEAST_SHOWN, 1e3).median("seed")
    longer = xarray.DataArray(np.log(results["step"])).mean("seed")
    loss, units = f"loss x {LOSS_SCALE:.0f}", f"parameters x {PARAMETER_SCALE:.0f}"
    for place, (change, epsilon, scale, style, names, label) in enumerate(
        (
            ("loss", "own", LOSS_SCALE, "ks", OPTIMIZERS, loss),
            ("loss", "none", LOSS_SCALE, "wD", OPTIMIZERS, f"{loss}, next to no epsilon"),
            ("units", "none", PARAMETER_SCALE, "C0o", OPTIMIZERS, f"{units}, next to no epsilon"),
            ("units of epsilon too", "none", PARAMETER_SCALE, "C1^", ["Adadelta"],
             f"{units}, next to no epsilon, that of the updates x {PARAMETER_SCALE**2:.0f}"),
        )
    ):  # fmt: skip
        at = {"change": change, "epsilon": epsilon, "optimizer": list(names)}
        heights = [rows[name] + 0.16 * (place - 1.5) for name in names]
        first.plot(longer.sel(at) / np.log(scale), heights, style, ms=6, mec="k", label=label)
        path.plot(departure.sel(at), heights, style, ms=6, mec="k")
    first.set(
        yticks=[*rows.values()], yticklabels=rows, ylim=(len(rows) - 0.4, -0.6),
        xlabel="p; 0 for a step that does not heed the scale",
        title="The first step goes as scale$^p$",
    )  # fmt: skip
    path.set(
        xscale="log", xlim=(LEAST_SHOWN / 4, 4e3), title="Does the path heed the scale?",
        xlabel=f"departure after {results.attrs['steps']} steps / length of the path",
    )  # fmt: skip
    ticks = {LEAST_SHOWN: "none", 1e-6: "$10^{-6}$", 1e-3: "$10^{-3}$", 1: "1", 1e3: "$\\geq 10^3$"}
    path.set_xticks(list(ticks), ticks.values())
    for axes in (first, path):
        axes.grid(axis="x", lw=0.3)
    figure.legend(fontsize=8, loc="outside lower center", ncols=2)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
