"""How many units a network can lose: with BatchNorm, and where it has learned labels by heart.

[64, 128, 128, 10] on 8 x 8 digits, with true labels, and with half or all of them drawn anew.
Trained until it knows every label, each network then loses hidden units of both layers in random
order: their outputs are set to zero, or to their mean over the training set. Or all get Gaussian
noise, in units of their own standard deviation. The area under the curve of training accuracy says
how little the network relies on single directions, its units.

Meaning: The curves show how the training accuracy falls as more units are set to zero, set to their
mean, or covered with noise, for networks that learned true labels and for networks that learned
wrong ones by heart. Memorising makes a network rely more on single units, and BatchNorm makes it
rely less on them in most measures; for units set to zero and true labels, and for the size of the
batch, eight seeds leave it undecided.

Data: digits, 1,797 grey digits of 8 x 8 (1,078 to train on, 539 to test), from the package sklearn.
Source: the lecture on BatchNorm; Morcos, Barrett, Rabinowitz and Botvinick (2018), who find that
networks rely on them more where they memorise, and less with BatchNorm; Luo, Wang, Shao and Peng
(2019), for whom BatchNorm is a regulariser, as strong as its batch is small.
Run: python experiments/normalization/single_directions.py
Expected: a network that memorises has a smaller area: by 25 to 33 points where units go to zero, 19
to 26 where they go to their mean, 36 to 41 under noise. With true labels BatchNorm gains 17 points
at the mean and 3.5 under noise; with random ones, 8 to 10 each way. At zero and with true labels
eight seeds see no gain: it bears the loss of the first half of the units better, of the second
worse. BatchNorm's train-test gap is 1.2 points, the plain network's 2.2. Whether statistics over 10
examples make it smaller than those over 50, they cannot tell.
Time: 45 s on 2 CPU cores.
"""

import functools
import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Array, Float, PRNGKeyArray

from jaxdl import data, initializers, layers, losses, metrics, models, optimizers, training
from jaxdl.claims import Claim, about_means, interval, main
from jaxdl.plotting import band, new_figure

CLASSES, BATCH_SIZE, RATE, SMALL = 10, 50, 0.05, 10
SPLITS, EXAMPLES = (0.6, 0.1, 0.3), 1078
"""Of the 1,797 digits: to train (1,078), unused, to test."""


class Arm(NamedTuple):
    """A network: its label, its norm, its colour and marker."""

    label: str
    norm: Any
    style: tuple[str, str]


ARMS = {
    "plain": Arm("plain", None, ("C0", "o")),
    "batch": Arm(f"BatchNorm over {BATCH_SIZE}", layers.BatchNorm, ("C3", "s")),
    # Steps of as many examples as the others, statistics over a few of them.
    "small": Arm(
        f"BatchNorm over {SMALL}",
        functools.partial(layers.BatchNorm, virtual_batch_size=SMALL),
        ("C1", "^"),
    ),
}
COMPARED = ["plain", "batch"]
ANEW = {0.0: ("true labels", "-"), 0.5: ("half drawn anew", "--"), 1.0: ("all drawn anew", ":")}
"""Shares of the labels that are drawn anew from all ten classes; a tenth of these stay right."""
WAYS = {
    "zero": "units set to zero",
    "mean": "units set to their mean",
    "noise": "noise on all units",
}
REMOVED, NOISES = np.linspace(0, 1, 17), np.linspace(0, 3, 9, dtype=np.float32)
"""Shares of the units; standard deviations of the noise over a unit's own."""
KNOWN = 99.0
"""Accuracy, %, from which a network knows its labels."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    width: int = 128
    """Units of each hidden layer; at least 8."""
    epochs: int = 100
    """Passes over the digits, enough to learn random labels."""
    examples: int = EXAMPLES
    """Digits to train on, from 50 to 1,078."""
    orders: int = 6
    """Random orders, and draws of the noise, for each network."""
    seeds: int = 8
    """Networks of each kind, each with its own weights, order and labels; at least 3."""
    seed: int = 0
    """The first seed; the others follow it."""

    def __post_init__(self) -> None:
        enough = self.width >= 8 and self.epochs >= 1 and self.orders >= 1 and self.seeds >= 3
        if not enough or not BATCH_SIZE <= self.examples <= EXAMPLES:
            raise ValueError(
                "there must be at least 8 units a layer (a curve has 17 points), 1 epoch, 1 order, "
                f"3 seeds, and {BATCH_SIZE} to {EXAMPLES} examples, got {self}; change what is not"
            )


PRESETS = {
    "default": Config(),
    "smoke": Config(examples=300, orders=2, seeds=3),
    "full": Config(width=512, epochs=300, orders=10, seeds=20),
}


def perturbed(
    model: models.MLP, variables: Any, inputs: Any, change: Callable[[int, Array], Array]
) -> Float[Array, "examples classes"]:
    """The logits if hidden layer l gives change(l, outputs) in place of its outputs."""

    def interceptor(call: Any, arguments: Any, keywords: Any, context: Any) -> Any:
        kind, _, reader = (context.module.name or "").rpartition("_")
        if kind == "dense" and reader != "0":
            arguments = (change(int(reader) - 1, *arguments),)
        return call(*arguments, **keywords)

    with nn.intercept_methods(interceptor):
        return jnp.asarray(model.apply(variables, inputs, train=False))


def robustness(
    model: models.MLP, variables: Any, examples: Any, key: PRNGKeyArray, orders: int
) -> dict[str, Array]:
    """Training accuracy, %, by way and by share of units removed, or by noise."""
    kept: list[Array] = []

    def keep(_: int, h: Array) -> Array:
        kept.append(h)
        return h

    perturbed(model, variables, examples.inputs, keep)
    outputs = jnp.stack(kept)
    mean, deviation = outputs.mean(1), outputs.std(1, keepdims=True)
    counts = np.round(REMOVED * mean.size)[:, None, None]

    def accuracy(stay: Any, plus: Any) -> Array:
        """A layer of the outputs h gives stay * h + plus."""
        logits = perturbed(
            model, variables, examples.inputs, lambda layer, h: stay[layer] * h + plus[layer]
        )
        share: Array = metrics.accuracy(logits, examples.targets).mean()
        return 100 * share

    def of_order(key: PRNGKeyArray) -> dict[str, Array]:
        stays = 1.0 * (jax.random.permutation(key, mean.size).reshape(mean.shape) >= counts)
        noise = deviation * jax.random.normal(key, outputs.shape)
        each = functools.partial(jax.lax.map, xs=stays)
        return {
            "zero": each(lambda stay: accuracy(stay, 0 * mean)),
            "mean": each(lambda stay: accuracy(stay, (1 - stay) * mean)),
            "noise": jax.lax.map(lambda times: accuracy(1 + 0 * mean, times * noise), NOISES),
        }

    found = jax.lax.map(of_order, jax.random.split(key, orders))
    return {way: curves.mean(0) for way, curves in found.items()}


def run(config: Config) -> xarray.Dataset:
    """By norm, labels and seed: `robustness`; accuracies after training, %."""
    digits = data.split(data.load("digits"), key=jax.random.key(0), fractions=SPLITS)
    inputs = jnp.asarray(digits.train.inputs[: config.examples])
    true = jnp.asarray(digits.train.targets[: config.examples])
    steps = config.epochs * (len(true) // BATCH_SIZE)
    optimizer = optimizers.momentum(optimizers.schedules.cosine_decay(RATE, steps=steps))

    def task_of(arm: str) -> training.Task:
        features = (config.width, config.width, CLASSES)
        he = initializers.he_normal()
        model = models.MLP(features, norm=ARMS[arm].norm, kernel_init=he)
        return training.Task(model, losses.cross_entropy, [metrics.accuracy])

    def labels(key: Any) -> Any:
        """Of the labels that are drawn anew, nine in ten are wrong."""
        new = jax.random.fold_in(key, 1)
        shares = (anew * (1 - 1 / CLASSES) for anew in ANEW)
        return jnp.stack([data.mislabel(new, true, share, classes=CLASSES) for share in shares])

    def member(key: Any, orders: Any, params: Any, labels: Any, *, norm: str, anew: Any) -> Any:
        train, task = data.Arrays(inputs, labels[anew]), task_of(norm)
        learn = training.make_run(task, optimizer, batch_size=BATCH_SIZE, drop_last=True)
        state, _ = learn(key, {"train": train}, orders, learn.init(key, train, params[norm]))
        order_key = jax.random.fold_in(key, 2)
        return {
            "train": 100 * learn.evaluate(state, train)["accuracy"],
            "test": 100 * learn.evaluate(state, digits.test)["accuracy"],
            **robustness(task.model, state.variables, train, order_key, config.orders),
        }

    draws = {arm: training.first_weights(task_of(arm), data.Arrays(inputs, true)) for arm in ARMS}
    return training.sweep(
        member,
        {"norm": [*ARMS], "anew": range(len(ANEW))},
        seeds=range(config.seed, config.seed + config.seeds),
        by_seed={
            "orders": lambda key: training.orders(key, config.epochs, len(true)),
            "params": lambda key: {arm: draw(key) for arm, draw in draws.items()},
            "labels": labels,
        },
        dims={"zero": ("removed",), "mean": ("removed",), "noise": ("level",)},
    ).assign_coords(anew=[*ANEW], removed=REMOVED, level=NOISES)


def areas(results: xarray.Dataset) -> xarray.DataArray:
    """By way, norm, labels and seed: the mean height of the curve, %, by the trapezoid rule."""
    found = []
    for way in WAYS:
        along = results[way].dims[-1]
        reach = float(results[along][-1] - results[along][0])
        found.append(results[way].integrate(along) / reach)
    return xarray.concat(found, xarray.Variable("way", [*WAYS]))


def gaps(results: xarray.Dataset) -> xarray.DataArray:
    """By norm and seed: training less test accuracy with true labels, points."""
    true = results.sel(anew=0.0)
    return true["train"] - true["test"]


def claims(results: xarray.Dataset) -> list[Claim]:
    """Memorising networks and BatchNorm's, way by way; the train-test gap."""
    area, gap, seeds = areas(results), gaps(results), results.sizes["seed"]
    memorised = area.sel(anew=0.0) - area.sel(anew=1.0)
    gained = area.sel(norm="batch") - area.sel(norm="plain")
    above_zero = {
        f"With {does}, a network that memorises relies more on single units (Morcos et al.): area "
        "with "
        "true labels less that with all drawn anew, points, the lesser with BatchNorm and without":
        memorised.sel(way=way, norm=COMPARED)
        for way, does in WAYS.items()
    } | {
        f"With {does}, a network with BatchNorm relies less on single units (Morcos et al.): true "
        "labels, area with BatchNorm less that without, points": gained.sel(way=way, anew=0.0)
        for way, does in WAYS.items()
    } | {
        "BatchNorm makes networks rely less on single units where both memorise: area with "
        "BatchNorm less that without, all labels drawn "
        f"anew, points, the least of {len(WAYS)} ways": gained.sel(anew=1.0),
        "BatchNorm regularises (Luo et al.): train-test gap of accuracy without less that with it, "
        "points": gap.sel(norm="plain") - gap.sel(norm="batch"),
        "The fewer examples BatchNorm normalises over, the more it regularises (Luo et al.): gap "
        "at "
        f"{BATCH_SIZE} less that at {SMALL}, points":
        gap.sel(norm="batch") - gap.sel(norm="small"),
    }  # fmt: skip

    def about(text: str, values: xarray.DataArray, low: float) -> Claim:
        by_seed = values.transpose("seed", ...).values.reshape(seeds, -1)
        return about_means(f"{text}; mean of {seeds} seeds", by_seed, low)

    known = "All networks know their training labels, so that their curves start alike: accuracy, %"
    premise = about(f"{known}, the least of 6 kinds", results["train"].sel(norm=COMPARED), KNOWN)
    return [premise] + [about(text, values, 0.0) for text, values in above_zero.items()]


def plot(results: xarray.Dataset) -> Any:
    """The curves by way; their areas by labels; the train-test gap by norm."""
    figure = new_figure(15, 8)
    grid = figure.subplot_mosaic([[*WAYS, "gap"], [f"{way} area" for way in WAYS] + ["gap"]])
    for way, title in WAYS.items():
        curves, along = grid[way], str(results[way].dims[-1])
        for (anew, (labels, line)), name in itertools.product(ANEW.items(), COMPARED):
            heights = results[way].sel(norm=name, anew=anew).transpose("seed", along)
            style, label = ARMS[name].style[0] + line, f"{ARMS[name].label}, {labels}"
            band(curves, results[along], heights, style, spread="range", lw=2, label=label)
        curves.axhline(100 / CLASSES, color="k", lw=0.7)
        curves.text(0, 100 / CLASSES - 1, "chance", va="top")
        xlabel = {"removed": "share of the units", "level": "noise over a unit's own deviation"}
        curves.set(title=title.capitalize(), xlabel=xlabel[along], ylim=(0, 102))
        below, area = grid[f"{way} area"], areas(results).sel(way=way)
        for name, arm in ARMS.items():
            color, marker = arm.style
            mean, half = interval(area.sel(norm=name).transpose("seed", "anew"))
            below.errorbar([*ANEW], mean, half, c=color, marker=marker, capsize=4, label=arm.label)
        below.set(xlabel="share of labels drawn anew", xticks=[*ANEW], ylim=(0, 102))
        below.grid(lw=0.3)
    grid["zero"].set_ylabel(f"training accuracy, %\nmean, range of {results.sizes['seed']} seeds")
    grid["zero area"].set_ylabel("area under the curve, %\nmean, 95 % interval")
    grid["zero area"].legend(loc="upper right")
    for place, (name, (_, _, (color, marker))) in enumerate(ARMS.items()):
        runs = gaps(results).sel(norm=name)
        grid["gap"].plot(place + 0.15 + 0 * runs, runs, marker, c=color, mfc="w", ms=5)
        grid["gap"].errorbar(place, *interval(runs), c=color, marker=marker, ms=8, capsize=5)
    grid["gap"].set_xticks(range(3), [arm.label.replace(" ", "\n", 1) for arm in ARMS.values()])
    grid["gap"].set(
        xlim=(-0.5, 2.5), ylim=(0, None), ylabel="training less test accuracy, points",
        title="Train-test gap, true labels\n(seeds; mean, 95 % interval)",
    )  # fmt: skip
    figure.legend(*grid["zero"].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
