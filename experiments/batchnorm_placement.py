"""Where BatchNorm stands, with which activation and which dropout: CaffeNet's order, tried again.

A small ConvNet on CIFAR-10 takes the rows of tables that were measured with CaffeNet on ImageNet:
no norm; a norm before or after ReLU, with and without its scale and bias; after seven other
activations; with dropout in the dense layers. Accuracies on two data sets cannot be compared, the
order of the rows can: a pair counts as ordered only where the seeds decide it.

Source: the lecture on BatchNorm, after Mishkin, Sergievskiy and Matas (2017); all rows are in
github.com/ducha-aiki/caffenet-benchmark, batchnorm.md, one run each.
Run: python experiments/batchnorm_placement.py
"""

import functools
import itertools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import common
import jax
import numpy as np
from common import Claim, Results

from jaxdl import activations, data, initializers, layers, losses, metrics, models, training
from jaxdl.optimizers import momentum

BATCH_SIZE = 64


def largest_of_pairs(x: Any) -> Any:
    """Maxout of two pieces, which lie next to each other on the last axis."""
    return x.reshape(*x.shape[:-1], -1, 2).max(-1)


class Arm(NamedTuple):
    """What the network of a row is given."""

    activation: Callable[..., Any] = activations.relu
    position: str | None = "after"
    affine: bool = False
    dropout_rate: float = 0.0


ARMS = {
    "none": Arm(position=None),
    "before": Arm(position="before"),
    "before_affine": Arm(position="before", affine=True),
    "after": Arm(),
    "after_affine": Arm(affine=True),
    "prelu": Arm(layers.PReLU()),
    "rrelu": Arm(layers.RReLU()),
    "elu": Arm(activations.elu),
    "maxout": Arm(largest_of_pairs),
    "sigmoid": Arm(activations.sigmoid),
    "tanh": Arm(activations.tanh),
    "identity": Arm(activations.identity),
    "dropout_20": Arm(dropout_rate=0.2),
    "dropout_50": Arm(dropout_rate=0.5),
}
TABLES = {
    "Where the norm stands, with ReLU": {
        "after": ("after ReLU", 49.9),
        "after_affine": ("after, scale and bias", 49.3),
        "before_affine": ("before, scale and bias", 47.8),
        "before": ("before ReLU", 47.4),
        "none": ("no norm", 47.1),
    },
    "Norm after another activation": {
        "prelu": ("PReLU", 50.3),
        "rrelu": ("RReLU", 50.0),
        "after": ("ReLU", 49.9),
        "elu": ("ELU", 49.8),
        "maxout": ("Maxout", 48.7),
        "sigmoid": ("sigmoid", 47.5),
        "tanh": ("tanh", 44.8),
        "identity": ("no activation", 38.4),
    },
    "Dropout of the dense layers, norm after ReLU": {
        "dropout_20": ("dropout 0.2", 52.7),
        "after": ("no dropout", 51.3),
        "dropout_50": ("dropout 0.5", 49.9),
    },
}
"""CaffeNet's, best first: labels and top-1 accuracies in percent. The first two have dropout 0.5,
where the rows here have none."""
PLACES, ACTIVATIONS, DROPOUT = TABLES


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 5
    """Runs of each row, from different keys; at least 2."""
    epochs: int = 3
    """Passes over the training images."""
    images: int = 10_000
    """Training images, the first of the split."""
    side: int = 16
    """Pixels, a divisor of 32; the images are averaged down to it."""
    channels: tuple[int, ...] = (8, 16, 32)
    """Of the convolutions, 3 x 3 and pooled each."""
    hidden: tuple[int, ...] = (64, 64)
    """Units of the dense layers before the outputs; CaffeNet has two."""
    rate: float = 0.05
    """Learning rate at the start; it falls to zero in a straight line."""
    arms: tuple[str, ...] = tuple(ARMS)
    """The rows to be measured."""
    data_dir: str | None = None
    """Where prepared data are kept; by default where `jaxdl data` keeps them."""
    raw_dir: str | None = None
    """A folder with the binary files, `data_batch_1.bin` and so on, or their archive."""


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=3, epochs=2, images=3000, arms=("none", "before", "identity")),
    "full": Config(
        seeds=10, epochs=30, images=50_000, side=32, channels=(64, 128, 256), hidden=(512, 512)
    ),
}


def shrink(arrays: data.Arrays, side: int) -> data.Arrays:
    """Images averaged down to `side` pixels, as floats in [-1, 1]."""
    count, height, _, channels = arrays.inputs.shape
    window = height // side
    blocks = arrays.inputs.reshape(count, side, window, side, window, channels)
    means = blocks.mean(axis=(2, 4), dtype=np.float32)
    return data.Arrays(means / np.float32(127.5) - 1, arrays.targets)


def network(arm: Arm, channels: Sequence[int], hidden: Sequence[int]) -> models.ConvNet:
    """The network of a row; with Maxout of as many weights, as CaffeNet's: each layer's outputs
    fewer by the root of two."""
    if arm.activation is largest_of_pairs:
        channels, hidden = (
            [2 * round(width / math.sqrt(2)) for width in widths] for widths in (channels, hidden)
        )
    norm = functools.partial(layers.BatchNorm, use_scale=arm.affine, use_bias=arm.affine)
    return models.ConvNet(
        channels,
        [*hidden, 10],
        activation=arm.activation,
        norm=None if arm.position is None else norm,
        norm_position=arm.position or "before",
        dropout_rate=arm.dropout_rate,
        kernel_init=initializers.he_normal(),
    )


def run(config: Config) -> Results:
    """By row and seed: test accuracy in percent, and the training loss of the last epoch."""
    dataset = data.load("cifar10", data_dir=config.data_dir, raw_dir=config.raw_dir)
    assert isinstance(dataset.train, data.Arrays)
    assert dataset.test is not None
    first = data.Arrays(
        dataset.train.inputs[: config.images], dataset.train.targets[: config.images]
    )
    dataset = replace(
        dataset, train=shrink(first, config.side), test=shrink(dataset.test, config.side)
    )
    steps = config.epochs * (config.images // BATCH_SIZE)
    optimizer = momentum(lambda step: config.rate * (1 - step / steps), decay=0.9)
    test, loss = [], []
    for name in config.arms:
        # One model a row, so that its seeds share what is compiled.
        model = network(ARMS[name], config.channels, config.hidden)
        results = [
            training.fit(
                model,
                dataset,
                optimizer,
                loss=losses.cross_entropy,
                metrics=[metrics.accuracy],
                epochs=config.epochs,
                batch_size=BATCH_SIZE,
                drop_last=True,
                key=jax.random.key(seed),
            )
            for seed in range(config.seeds)
        ]
        test.append([100 * result.evaluate("test")["accuracy"] for result in results])
        loss.append([result.history.train["loss"][-1] for result in results])
        mean, half_width = common.interval(np.array(test[-1]))
        print(f"{name:14} test {mean:.2f} +- {half_width:.2f} %", flush=True)
    measured = {"arms": np.array(config.arms), "test": np.array(test), "loss": np.array(loss)}
    for pair in pairs(measured).values():
        print(f"{pair.text}, here {pair.mean:+.2f} +- {pair.half_width:.2f}: {pair.verdict}")
    return measured


class Pair(NamedTuple):
    """Two rows of a table: CaffeNet's better one first; their difference here, in points."""

    text: str
    mean: float
    half_width: float

    @property
    def verdict(self) -> str:
        """Whether the order here is CaffeNet's, as far as the seeds decide it."""
        if abs(self.mean) <= self.half_width:
            return "undecided"
        return "agrees" if self.mean > 0 else "disagrees"


def pairs(results: Results) -> dict[tuple[str, str, str], Pair]:
    """All pairs by (table, better, worse); their intervals hold together in 95 of 100 runs.

    By Student's t with the standard deviation pooled over the rows, Bonferroni over the pairs.
    """
    from scipy.stats import t

    test = dict(zip(results["arms"].tolist(), results["test"], strict=True))
    found = [
        (table, better, worse)
        for table, rows in TABLES.items()
        for better, worse in itertools.combinations([name for name in rows if name in test], 2)
    ]
    rows, seeds = results["test"].shape
    quantile = t.ppf(1 - 0.025 / len(found), rows * (seeds - 1))
    deviation = np.sqrt(results["test"].var(axis=1, ddof=1).mean())
    half_width = float(quantile * deviation * np.sqrt(2 / seeds))

    def pair(table: str, better: str, worse: str) -> Pair:
        (one, ahead), (other, behind) = TABLES[table][better], TABLES[table][worse]
        text = f"{one} over {other}: CaffeNet {ahead - behind:+.1f} points"
        return Pair(text, float(test[better].mean() - test[worse].mean()), half_width)

    return {key: pair(*key) for key in found}


def claims(results: Results) -> list[Claim]:
    """What the seeds decide of the pairs named in `FOUND`."""
    seeds = results["test"].shape[1]
    measured = pairs(results)
    made = []
    for key, agrees in FOUND.items():
        if key in measured:
            pair = measured[key]
            here = "the same order" if agrees else "REFUTED at this size, the reverse order"
            made.append(
                Claim(
                    f"{pair.text}; here {here}, points: lower end of the interval over {seeds} "
                    "seeds",
                    (pair.mean if agrees else -pair.mean) - pair.half_width,
                    0.0,
                    np.inf,
                )
            )
    return made


FOUND = {
    (PLACES, "before", "none"): True,
    (PLACES, "after", "none"): True,
    (ACTIVATIONS, "after", "identity"): False,
}
"""Pairs that the seeds decide, and whether the order is CaffeNet's."""


def plot(results: Results) -> Any:
    """The rows beside CaffeNet's, and the verdict on every pair of activations."""
    figure = common.new_figure(12, 7.5)
    left, right = figure.subfigures(1, 2, width_ratios=[1.2, 1])
    test = dict(zip(results["arms"].tolist(), results["test"], strict=True))
    tables = {
        table: [name for name in rows if name in test]
        for table, rows in TABLES.items()
        if any(name in test for name in rows)
    }
    heights = [len(names) + 1 for names in tables.values()]
    panels = left.subplots(len(tables), 2, sharex="col", height_ratios=heights, squeeze=False)
    for (here, there), (table, rows) in zip(panels, tables.items(), strict=True):
        values = np.stack([test[name] for name in rows])
        labels, published = zip(*(TABLES[table][name] for name in rows), strict=True)
        places = np.arange(len(rows))
        mean, half_width = common.interval(values, axis=1)
        here.plot(values, places[:, None], ".", color="0.65", ms=5)
        here.errorbar(mean, places, xerr=half_width, fmt="ko", ms=5, capsize=3)
        there.plot(published, places, "ks", ms=5)
        here.set_yticks(places, labels, fontsize=9)
        here.set_title(table, fontsize=10, loc="left")
        there.set_yticks(places, [])
        for axes in (here, there):
            axes.set_ylim(len(rows) - 0.4, -0.6)
            axes.grid(axis="x", lw=0.3)
    seeds = results["test"].shape[1]
    panels[-1, 0].set_xlabel(f"test accuracy here (%),\nmean of {seeds} seeds, 95 % interval")
    panels[-1, 1].set(xlim=(37, 54), xlabel="CaffeNet's top-1 (%),\none run, ImageNet")
    left.suptitle("Rows in CaffeNet's order, best first", fontsize=11)

    axes = right.subplots()
    order = tables[ACTIVATIONS]
    names = [TABLES[ACTIVATIONS][name][0] for name in order]
    styles = {"agrees": ("0.85", "k"), "undecided": ("1", "0.45"), "disagrees": ("0.25", "w")}
    verdicts = []
    for (table, better, worse), pair in pairs(results).items():
        if table == ACTIVATIONS:
            column, row = order.index(better), order.index(worse)
            face, ink = styles[pair.verdict]
            verdicts.append(pair.verdict)
            sides = [column - 0.48, column + 0.48]
            axes.fill_between(sides, row - 0.48, row + 0.48, color=face, lw=0)
            axes.text(
                column, row, f"{pair.mean:+.1f}", ha="center", va="center", color=ink, fontsize=9
            )
    axes.set_xticks(range(len(order) - 1), names[:-1], rotation=30, ha="right", fontsize=9)
    axes.set_yticks(range(1, len(order)), names[1:], fontsize=9)
    axes.set(
        xlim=(-0.6, len(order) - 1.4),
        ylim=(len(order) - 0.4, 0.4),
        xlabel="the activation that is better in CaffeNet ...",
        ylabel="... than this",
        title=f"Column minus row here, points; decided beyond {pair.half_width:.1f}",
    )
    axes.title.set_fontsize(10)
    axes.spines[:].set_visible(False)
    for verdict, (face, _) in styles.items():
        label = f"{verdict}: {verdicts.count(verdict)}"
        axes.fill_between([], [], color=face, edgecolor="0.5", label=label)
    axes.legend(loc="upper right", fontsize=9, title="with CaffeNet's order")
    return figure


if __name__ == "__main__":
    sys.exit(common.main(sys.modules[__name__]))
