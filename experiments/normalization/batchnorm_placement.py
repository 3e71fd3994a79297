"""Where BatchNorm stands, with which activation and which dropout: CaffeNet's order, tried again.

A small ConvNet on CIFAR-10 takes the rows of tables that were measured with CaffeNet on ImageNet:
no norm; a norm before or after ReLU, with and without its scale and bias; after seven other
activations; with dropout in the dense layers. Accuracies on two data sets cannot be compared, the
order of the rows can: a pair counts as ordered only where the seeds decide it.

Meaning: Each row is a small ConvNet with another place of the norm, activation or dropout, beside
the same row of CaffeNet on ImageNet; on the right one is drawn against the other. What is best in
one network need not be best in another: after three epochs the norm does better before ReLU than
after it, and the network does better without an activation than with ReLU, both the reverse of
CaffeNet.

Data: cifar10, 60,000 colour images of 32 x 32, shrunk to 16 x 16 (10,000 of 50,000 to train on,
10,000 to test); Krizhevsky (2009), downloaded.
Source: the lecture on BatchNorm, after Mishkin, Sergievskiy and Matas (2017); all rows are in
github.com/ducha-aiki/caffenet-benchmark, batchnorm.md, one run each.
Run: python experiments/normalization/batchnorm_placement.py
Expected: as in CaffeNet, BatchNorm before ReLU beats none, PReLU, RReLU and ELU beat ReLU and
Maxout, tanh is behind them all, dropout 0.5 costs. Against CaffeNet, the norm is better before ReLU
(48.9 %) than after it (46.2 %), by 2.7 +- 1.1 points; no activation, last there by 6 points, is the
first here (50.5 %), where a max-pooling follows every convolution, not three of five. Two things
are undecided: dropout 0.2, which costs 2 to 4 points from one set of five seeds or rounding to
another and gained 1.4 there; the lead of sigmoid over ReLU, 1 to 3 points. After 12 epochs in place
of 3 (two seeds) no activation is still ahead of ReLU, 54.6 to 50.5 %, and before of after, 52.8 to
50.5 %. The full preset, large networks trained long, is not measured yet.
Time: 3.5 min on 2 CPU cores.
"""

import functools
import itertools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import xarray

from jaxdl import activations, data, initializers, layers, losses, metrics, models, training
from jaxdl.claims import Claim, Pair, about_mean, interval, main, ordered_pairs
from jaxdl.optimizers import momentum
from jaxdl.plotting import new_figure

NEEDS = "cifar10"
BATCH_SIZE, RATE = 64, 0.05
"""The rate is that at the start; it falls to zero in a straight line."""


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
        "after_affine": ("after ReLU (scale, bias)", 49.3),
        "before_affine": ("before ReLU (scale, bias)", 47.8),
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
ORDERED = {"agrees": "as in CaffeNet", "disagrees": "the reverse", "undecided": "undecided"}


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 5
    """Runs of each row, from different keys; at least 3."""
    seed: int = 0
    """First seed; the others follow."""
    epochs: int = 3
    """Passes over the training images."""
    images: int = 10_000
    """Training images, the first of the split."""
    pooling: int = 2
    """Pixels of the 32 x 32 images that are averaged, in height and in width."""
    channels: tuple[int, ...] = (8, 16, 32)
    """Of the convolutions, 3 x 3 and pooled each."""
    hidden: tuple[int, ...] = (64, 64)
    """Units of the dense layers before the outputs; CaffeNet has two."""
    arms: tuple[str, ...] = tuple(ARMS)
    """The rows to be measured."""
    data_dir: str | None = None
    """Where prepared data are kept; by default where `jaxdl data` keeps them."""
    raw_dir: str | None = None
    """A folder with the binary files, `data_batch_1.bin` and so on, or their archive."""


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=3, epochs=2, images=3000, arms=("none", "before")),
    "full": Config(
        seeds=10, epochs=30, images=50_000, pooling=1, channels=(64, 128, 256), hidden=(512, 512)
    ),
}


def network(arm: Arm, channels: Sequence[int], hidden: Sequence[int]) -> models.ConvNet:
    """The network of a row; Maxout's layers are narrower by the root of two, of as many weights."""
    if arm.activation is largest_of_pairs:
        channels, hidden = (
            [2 * round(width / math.sqrt(2)) for width in widths] for widths in (channels, hidden)
        )
    norm = functools.partial(layers.BatchNorm, use_scale=arm.affine, use_bias=arm.affine)
    return models.ConvNet(
        channels, [*hidden, 10], activation=arm.activation,
        norm=None if arm.position is None else norm, norm_position=arm.position or "before",
        dropout_rate=arm.dropout_rate, kernel_init=initializers.he_normal(),
    )  # fmt: skip


def run(config: Config) -> xarray.Dataset:
    """By row and seed: test accuracy in percent."""
    if unknown := set(config.arms) - set(ARMS):
        raise ValueError(f"arms must be of {list(ARMS)}, got {sorted(unknown)}; drop these")
    dataset = data.load(NEEDS, data_dir=config.data_dir, raw_dir=config.raw_dir)
    assert dataset.test is not None

    def prepared(part: data.Arrays, count: int | None) -> data.Arrays:
        pixels = data.shrink_images(part.inputs[:count], config.pooling)
        return data.Arrays(jnp.asarray(pixels / np.float32(127.5) - 1), part.targets[:count])

    train, test = prepared(dataset.train, config.images), prepared(dataset.test, None)
    steps = config.epochs * (len(train) // BATCH_SIZE)
    optimizer = momentum(lambda step: RATE * (1 - step / steps), decay=0.9)
    percent = {"accuracy": lambda logits, labels: 100 * metrics.accuracy(logits, labels)}
    networks = {arm: network(ARMS[arm], config.channels, config.hidden) for arm in config.arms}
    tasks = {a: training.Task(net, losses.cross_entropy, percent) for a, net in networks.items()}
    draws = {name: training.first_weights(task, train) for name, task in tasks.items()}

    def member(key: Any, orders: Any, params: Any, *, arm: Any) -> Any:
        learn = training.make_run(tasks[arm], optimizer, batch_size=BATCH_SIZE, drop_last=True)
        start = learn.init(key, train, params[arm])
        state, _ = learn(key, {"train": train}, orders, start)
        return {"test": learn.evaluate(state, test)["accuracy"]}

    return training.sweep(
        member,
        {"arm": config.arms},
        seeds=range(config.seed, config.seed + config.seeds),
        by_seed={
            "orders": lambda key: training.orders(key, config.epochs, len(train)),
            "params": lambda key: {name: draw(key) for name, draw in draws.items()},
        },
    ).assign_attrs(images=config.images)


def decided(results: xarray.Dataset, table: str) -> list[Pair]:
    """All pairs of a table's measured rows, CaffeNet's better row first; accuracies in percent.

    The intervals of the pairs hold together in 95 of 100 repetitions.
    """
    rows = [name for name in TABLES[table] if name in results["arm"].values]
    test = {name: results["test"].sel(arm=name) for name in rows}
    return ordered_pairs(test, itertools.combinations(rows, 2))


def label(table: str, names: Sequence[str]) -> str:
    """Of some rows of a table, as a sentence has them."""
    said = [TABLES[table][name][0] for name in names]
    said = [f"the norm {one}" if one.startswith(("before", "after")) else one for one in said]
    return " and ".join(filter(None, (", ".join(said[:-1]), said[-1])))


def by_seed(results: xarray.Dataset, names: Sequence[str]) -> xarray.DataArray:
    """Test accuracy, percent, mean of some rows."""
    return results["test"].sel(arm=list(names)).mean("arm", skipna=False)


FOUND = {
    (PLACES, ("before",), ("none",)): True,
    (PLACES, ("after", "after_affine"), ("before", "before_affine")): False,
    (ACTIVATIONS, ("prelu", "rrelu", "elu"), ("after", "maxout")): True,
    (ACTIVATIONS, ("after", "maxout", "sigmoid"), ("tanh",)): True,
    (ACTIVATIONS, ("after",), ("identity",)): False,
    (ACTIVATIONS, ("tanh",), ("identity",)): False,
    (DROPOUT, ("after",), ("dropout_50",)): True,
}
"""What the default size decided in every set of runs made of it, CaffeNet's better rows first, and
whether the order there is the same."""


def claims(results: xarray.Dataset) -> list[Claim]:
    """Where the order is CaffeNet's, where it is the reverse, and how the activations correlate.

    With more images than the default's, CaffeNet's order is the claim everywhere.
    """
    from scipy.stats import kendalltau

    arms, small = set(results["arm"].values), results.attrs["images"] <= Config.images
    points = f"points of test accuracy, mean of {results.sizes['seed']} seeds"
    made = []
    for (table, better, worse), agrees in FOUND.items():
        if {*better, *worse} <= arms:
            reverse = small and not agrees
            ahead, behind = (worse, better) if reverse else (better, worse)
            theirs = [
                np.mean([TABLES[table][name][1] for name in side]) for side in (ahead, behind)
            ]
            order = "the reverse of" if reverse else "as in"
            text = (
                f"Networks with {label(table, ahead)} are ahead of those with "
                f"{label(table, behind)}, {order} CaffeNet: {points} (CaffeNet: "
                f"{theirs[0] - theirs[1]:+.1f})"
            )
            made.append(about_mean(text, by_seed(results, ahead) - by_seed(results, behind), 0.0))
    rows = TABLES[ACTIVATIONS]
    if small and set(rows) <= arms:
        ranks = [value for _, value in rows.values()]
        test = results["test"].sel(arm=list(rows)).transpose("seed", "arm").values
        text = (
            "A small network does not tell the order of the eight activations in CaffeNet: "
            "Kendall's rank correlation of the two orders (3 % of all orders lie above 0.5), mean "
            f"of {len(test)} seeds"
        )
        made.append(about_mean(text, [kendalltau(row, ranks).statistic for row in test], high=0.5))
    return made


def plot(results: xarray.Dataset) -> Any:
    """The rows beside CaffeNet's, and the verdict on every pair of activations."""
    figure = new_figure(12, 7.5)
    left, right = figure.subfigures(1, 2, width_ratios=[1.2, 1])
    arms = results["arm"].values
    found = {table: [name for name in rows if name in arms] for table, rows in TABLES.items()}
    tables = {table: rows for table, rows in found.items() if rows}
    heights = [len(rows) + 1 for rows in tables.values()]
    panels = left.subplots(len(tables), 2, sharex="col", height_ratios=heights, squeeze=False)
    for (here, there), (table, rows) in zip(panels, tables.items(), strict=True):
        values = results["test"].sel(arm=rows).transpose("seed", "arm")
        places = np.arange(len(rows))
        labels, theirs = zip(*(TABLES[table][name] for name in rows), strict=True)
        mean, half_width = interval(values)
        here.plot(values.T, places[:, None], ".", color="0.65", ms=5)
        here.errorbar(mean, places, xerr=half_width, fmt="ko", ms=5, capsize=3)
        there.plot(theirs, places, "ks", ms=5)
        here.set_yticks(places, labels, fontsize=9)
        here.set_title(table, fontsize=10, loc="left")
        there.set_yticks(places, [])
        for axes in (here, there):
            axes.set_ylim(len(rows) - 0.4, -0.6)
            axes.grid(axis="x", lw=0.3)
    text = f"mean of {results.sizes['seed']} seeds, 95 % interval"
    panels[-1, 0].set_xlabel(f"test accuracy here (%),\n{text}")
    panels[-1, 1].set(xlim=(37, 54), xlabel="CaffeNet's top-1 (%),\none run, ImageNet")
    left.suptitle("Rows in CaffeNet's order, best first", fontsize=11)

    rows = found[ACTIVATIONS]
    if len(rows) > 1:
        axes = right.subplots()
        mean, half_width = interval(results["test"].sel(arm=rows).transpose("seed", "arm"))
        labels, theirs = zip(*(TABLES[ACTIVATIONS][name] for name in rows), strict=True)
        axes.errorbar(theirs, mean, half_width, fmt="ko", ms=5, capsize=3)
        for text, x, y in zip(labels, theirs, mean, strict=True):
            # To the left where the next point on the right would be in the way.
            is_crowded = any(x < other < x + 2 for other in theirs)
            away, side = (-5, "right") if is_crowded else (5, "left")
            axes.annotate(text, (x, y), (away, 5), textcoords="offset points", fontsize=9, ha=side)
        verdicts = [pair.verdict for pair in decided(results, ACTIVATIONS)]
        counts = ", ".join(f"{verdicts.count(each)} {words}" for each, words in ORDERED.items())
        title = f"{ACTIVATIONS}\n{len(verdicts)} pairs: {counts}"
        axes.set(xlabel="CaffeNet's top-1 (%)", ylabel="test accuracy here (%)")
        axes.set_title(title, fontsize=10)
        axes.margins(x=0.15)
        axes.grid(lw=0.3)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
