"""Which optimizers have a rate for each parameter: the lecture's table, measured.

[784, 128, 10] on Fashion-MNIST, 100 batches of 100, four seeds. Then -du_i/dg_i, how far parameter
i would move for a unit of its gradient: the spread over the parameters, from the 5 % quantile to
the 95 %. Each rule has its own epsilon, and next to none.

Meaning: Each line shows how far apart the learning rates are that an optimizer gives to the
parameters of one network, with its usual epsilon and with next to none. SGD, momentum and Nesterov
give all parameters one rate, Adagrad, RMSprop, Adam and Adamax give each its own; Adadelta, against
the lecture's table, hardly does until its epsilon is made small.

Data: fashion_mnist, 70,000 grey images of clothes of 28 x 28 (51,000 to train on), Xiao, Rasul and
Vollgraf (2017), downloaded; mnist_5k where that is not at hand.
Source: the lecture on optimisation.
Run: python experiments/optimization/optimizer_rates.py
Expected: SGD, momentum and Nesterov have one rate. Adagrad, RMSprop, Adam and Adamax give the
parameters rates that differ fortyfold and more, Adadelta only fourfold: its epsilon of 1e-6 exceeds
the squared gradients of this network. Without it, they differ eightyfold.
Time: 20 s on 2 CPU cores.
"""

import sys
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
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
    "SGD": lambda _: optimizers.sgd(0.3),
    "momentum": lambda _: optimizers.momentum(0.03),
    "Nesterov": lambda _: optimizers.nesterov(0.03),
    "Adagrad": lambda times: optimizers.adagrad(0.03, epsilon=times * 1e-8),
    "RMSprop": lambda times: optimizers.rmsprop(3e-3, epsilon=times * 1e-8),
    "Adam": lambda times: optimizers.adam(3e-3, epsilon=times * 1e-8),
    "Adamax": lambda times: optimizers.adamax(0.01, epsilon=times * 1e-8),
    "Adadelta": lambda times: optimizers.adadelta(1.0, gradient_epsilon=times * 1e-6),
}
"""Functions of one of EPSILONS; at about the rates that optimizer_comparison chooses."""
PLAIN, BESIDE = ["SGD", "momentum", "Nesterov"], ["Adagrad", "RMSprop", "Adam", "Adamax"]
EPSILONS = {"own": 1.0, "none": 1e-28}
"""How often the rule's own; with 0, a parameter without a gradient would divide 0 by 0."""
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
ROUNDING = 1e-4
"""Relative: how far a spread that is 1 may lie from it."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 4
    """Networks that are trained; at least 3."""
    seed: int = 0
    """First seed, of the weights and the order; the others follow."""
    steps: int = 100
    """Updates before the rates are measured."""
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
    """By optimizer, epsilon and seed: the quantiles of the parameters' rates."""
    dataset = data.load_or_small(
        "fashion_mnist", config.dataset, data_dir=config.data_dir, raw_dir=config.raw_dir
    )
    return rates(data.split(dataset, key=jax.random.key(0)).train, config)


def rates(train: data.Arrays, config: Config) -> xarray.Dataset:
    """What `run` returns, for these examples."""
    inputs, targets = jnp.asarray(train.inputs), jnp.asarray(train.targets)
    used = config.steps * BATCH_SIZE
    epochs = -(-used // len(train))

    def member(key: Any, order: Any, params: Any, *, optimizer: Any, epsilon: Any) -> Any:
        rule, some = optimizer(epsilon), order[: 10 * BATCH_SIZE]
        learn = training.make_run(TASK, rule, batch_size=BATCH_SIZE)
        state, _ = learn.epoch(learn.init(key, train, params), train, order)

        def loss(params: Any) -> Any:
            logits, _ = TASK.outputs({"params": params}, TASK.preprocess(inputs[some]), train=True)
            return TASK.loss(logits, targets[some]).mean()

        return {"rates": effective_rates(rule, state.opt_state, jax.grad(loss)(state.params))}

    return training.sweep(
        member,
        {"optimizer": OPTIMIZERS, "epsilon": EPSILONS},
        seeds=range(config.seed, config.seed + config.seeds),
        by_seed={
            "order": lambda key: training.orders(key, epochs, len(train)).ravel()[:used],
            "params": training.first_weights(TASK, train),
        },
        dims={"rates": ("share",)},
    ).assign_coords(share=list(SHARES))


def effective_rates(rule: Any, opt_state: Any, gradients: Any) -> Any:
    """Quantiles of -du_i/dg_i: how far a parameter moves for a unit of its own gradient, now.

    A rule works on each parameter alone, so that one tangent of ones gives every derivative.
    Parameters without a gradient, those of pixels that are dark in the whole batch, do not count.
    """
    ones = jax.tree.map(jnp.ones_like, gradients)
    _, response = jax.jvp(lambda g: rule.update(g, opt_state)[0], (gradients,), (ones,))
    response, gradients = ravel_pytree(response)[0], ravel_pytree(gradients)[0]
    return jnp.nanquantile(jnp.where(gradients == 0, jnp.nan, jnp.abs(response)), jnp.array(SHARES))


def claims(results: xarray.Dataset) -> list[Claim]:
    """Who gives each parameter a rate."""
    by_share = results["rates"].transpose("seed", ...)
    spread = by_share.isel(share=-1) / by_share.isel(share=0)
    own, none = spread.sel(epsilon="own"), spread.sel(epsilon="none")
    text = f"-du/dg, the parameters' {SHARES[-1]:.0%} quantile over the {SHARES[0]:.0%}"
    mean_of = f"geometric mean of {spread.sizes['seed']} seeds"
    return [
        Claim(
            f"SGD, momentum and Nesterov have one rate for all parameters: {text}; farthest from 1",
            max(spread.sel(optimizer=PLAIN).values.flat, key=lambda ratio: abs(ratio - 1)),
            1 - ROUNDING, 1 + ROUNDING,
        ),
        about_ratios(
            f"Adagrad, RMSprop, Adam and Adamax give each parameter a rate of its own: {text}; the "
            f"least, {mean_of}",
            own.sel(optimizer=BESIDE), 10,
        ),
        about_ratios(
            "Adadelta hardly gives each parameter a rate of its own, for its epsilon of 1e-6 "
            f"exceeds the squared gradients: {text} (lecture: adaptive; refuted here), {mean_of}",
            own.sel(optimizer="Adadelta"), 1, 10,
        ),
        about_ratios(
            f"Without that epsilon Adadelta gives each parameter a rate of its own: {text}, "
            f"{mean_of}",
            none.sel(optimizer="Adadelta"), 10,
        ),
    ]  # fmt: skip


def plot(results: xarray.Dataset) -> Any:
    """The quantiles over the median; geometric means of the seeds."""
    figure = new_figure(8, 4.8)
    axes, rows = figure.subplots(), np.arange(len(OPTIMIZERS))
    logs = xarray.DataArray(np.log(results["rates"])).mean("seed").transpose("share", ...)
    for epsilon, shift, colour, label in (
        ("own", -0.17, "k", "with its epsilon"),
        ("none", 0.17, "0.6", "next to no epsilon"),
    ):
        ends = np.exp((logs - logs.sel(share=0.5)).sel(epsilon=epsilon).values)
        axes.hlines(rows + shift, ends[0], ends[-1], colour, lw=1.5, label=label)
        axes.hlines(rows + shift, ends[1], ends[-2], colour, lw=5)
    axes.plot(np.ones(len(rows)), rows, "k|", ms=18)
    axes.set(
        xscale="log", yticks=rows, yticklabels=OPTIMIZERS,
        xlabel="-du/dg of a parameter / their median",
        title="A rate for each parameter? 90 % of them (line), half of them (bar)",
    )  # fmt: skip
    axes.legend(fontsize=8, loc="upper right")
    axes.invert_yaxis()
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
