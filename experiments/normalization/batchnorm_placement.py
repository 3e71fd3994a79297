"""Where BatchNorm stands, with which activation and which dropout: CaffeNet's order, tried again.

A small ConvNet on CIFAR-10 takes the rows of tables that were measured with CaffeNet on ImageNet:
no norm; a norm before or after ReLU, with and without its scale and bias; after seven other
activations; with dropout in the dense layers. Accuracies on two data sets cannot be compared, the
order of the rows can: a pair counts as ordered only where the seeds decide it.

Source: the lecture on BatchNorm, after Mishkin, Sergievskiy and Matas (2017); all rows are in
github.com/ducha-aiki/caffenet-benchmark, batchnorm.md, one run each.
Run: python experiments/normalization/batchnorm_placement.py
Expected: as in CaffeNet, BatchNorm before ReLU beats none, PReLU, RReLU and ELU beat ReLU and
Maxout, tanh is behind them all, dropout 0.5 costs. Against CaffeNet, the norm is better before
ReLU (48.9 %) than after it (46.1 %), by 2.8 +- 1.5 points; no activation, last there by 6 points,
is the first here (50.5 %), where a max-pooling follows every convolution, not three of five.
Undecided: dropout 0.2, which costs 2 to 4 points from one set of five seeds or rounding to another
and gained 1.4 there; the lead of sigmoid over ReLU, 1 to 3 points. After 12 epochs in place of 3
(two seeds) no activation is still ahead of ReLU, 54.6 to 50.5 %, and before of after, 52.8 to
50.5 %. The full preset, large networks trained long, is not measured yet.
Time: 3.5 min on 2 CPU cores.
"""

import functools
import itertools
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxdl import activations, data, initializers, layers, losses, metrics, models, training
from jaxdl.claims import Claim, Pair, Results, about_mean, interval, main, ordered_pairs
from jaxdl.optimizers import momentum
from jaxdl.plotting import new_figure

NEEDS = "cifar10"
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
    "smoke": Config(seeds=3, epochs=2, images=3000, arms=("none", "before")),
    "full": Config(
        seeds=10, epochs=30, images=50_000, side=32, channels=(64, 128, 256), hidden=(512, 512)
    ),
}


def shrink(arrays: data.Arrays, side: int) -> data.Arrays:
    """Images averaged down to `side` pixels, as floats in [-1, 1]."""
    count, height, _, channels = arrays.inputs.shape
    if side < 1 or height % side:
        raise ValueError(f"side must divide the images' {height} pixels, got {side}; pass 16")
    window = height // side
    blocks = arrays.inputs.reshape(count, side, window, side, window, channels)
    means = blocks.mean(axis=(2, 4), dtype=np.float32)
    return data.Arrays(means / np.float32(127.5) - 1, arrays.targets)


def network(arm: Arm, channels: Sequence[int], hidden: Sequence[int]) -> models.ConvNet:
    """The network of a row; Maxout's layers are narrower by the root of two, of as many weights."""
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
    """By row and seed: test accuracy in percent."""
    if unknown := set(config.arms) - set(ARMS):
        raise ValueError(f"arms must be of {list(ARMS)}, got {sorted(unknown)}; drop these")
    dataset = data.load(NEEDS, data_dir=config.data_dir, raw_dir=config.raw_dir)
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
    test = []
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
            for seed in range(config.seed, config.seed + config.seeds)
        ]
        test.append([100 * result.evaluate("test")["accuracy"] for result in results])
        mean, half_width = interval(np.array(test[-1]))
        print(f"{name:14} test {mean:.2f} +- {half_width:.2f} %", flush=True)
    measured = {
        "arms": np.array(config.arms),
        "images": np.array(config.images),
        "test": np.array(test),
    }
    for table, pair in compared(measured):
        better, worse = (pair.better,), (pair.worse,)
        lead = published(table, better) - published(table, worse)
        print(
            f"{label(table, better)} over {label(table, worse)}: CaffeNet {lead:+.1f} points, "
            f"here {pair.lead:+.2f} +- {pair.half_width:.2f}: {pair.verdict}"
        )
    return measured


Names = tuple[str, ...]


def compared(results: Results) -> list[tuple[str, Pair]]:
    """All pairs of rows of one table that were measured, with their table; accuracies in percent.

    CaffeNet's better row stands first. The intervals hold together in 95 of 100 repetitions.
    """
    test = by_name(results)
    pairs = [
        (table, pair)
        for table, rows in TABLES.items()
        for pair in itertools.combinations([name for name in rows if name in test], 2)
    ]
    found = ordered_pairs(test, [pair for _, pair in pairs])
    return [(table, pair) for (table, _), pair in zip(pairs, found, strict=True)]


def label(table: str, names: Names) -> str:
    """Of some rows of a table."""
    return " and ".join(TABLES[table][name][0] for name in names)


def published(table: str, names: Names) -> float:
    """CaffeNet's accuracy, percent, mean of some rows."""
    return float(np.mean([TABLES[table][name][1] for name in names]))


def by_seed(results: Results, names: Names) -> np.ndarray:
    """Test accuracy, percent, mean of some rows."""
    test = by_name(results)
    return np.asarray(np.mean([test[name] for name in names], axis=0))


def by_name(results: Results) -> dict[str, np.ndarray]:
    """Test accuracies by row."""
    return dict(zip(results["arms"].tolist(), results["test"], strict=True))


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


def claims(results: Results) -> list[Claim]:
    """Where the order is CaffeNet's, where it is the reverse, and how the activations correlate.

    With more images than the default's, CaffeNet's order is the claim everywhere.
    """
    from scipy.stats import kendalltau

    test, small = by_name(results), results["images"] <= Config.images
    mean_of = f"mean of {results['test'].shape[1]} seeds"
    made = []
    for (table, better, worse), agrees in FOUND.items():
        if {*better, *worse} <= set(test):
            sides = {names: label(table, names) for names in (better, worse)}
            reverse = bool(small and not agrees)
            ahead, behind = (worse, better) if reverse else (better, worse)
            lead = published(table, better) - published(table, worse)
            verb = "are" if len(ahead) > 1 else "is"
            made.append(
                about_mean(
                    f"{sides[ahead][0].upper()}{sides[ahead][1:]} {verb} ahead of "
                    f"{sides[behind]}, {'the reverse of' if reverse else 'as in'} CaffeNet (where "
                    f"the lead of {sides[better]} is {lead:.1f}): points of test accuracy, "
                    f"{mean_of}",
                    by_seed(results, ahead) - by_seed(results, behind),
                    0.0,
                )
            )
    if small and set(TABLES[ACTIVATIONS]) <= set(test):
        rows = np.stack([test[name] for name in TABLES[ACTIVATIONS]], axis=1)
        order = [value for _, value in TABLES[ACTIVATIONS].values()]
        made.append(
            about_mean(
                "A small network does not tell the order of the eight activations in CaffeNet: "
                "Kendall's rank correlation of the two orders (3 % of all orders lie above 0.5), "
                f"{mean_of}",
                [kendalltau(row, order).statistic for row in rows],
                high=0.5,
            )
        )
    return made


def plot(results: Results) -> Any:
    """The rows beside CaffeNet's, and the verdict on every pair of activations."""
    figure = new_figure(12, 7.5)
    left, right = figure.subfigures(1, 2, width_ratios=[1.2, 1])
    test = by_name(results)
    tables = {
        table: [name for name in rows if name in test]
        for table, rows in TABLES.items()
        if any(name in test for name in rows)
    }
    heights = [len(names) + 1 for names in tables.values()]
    panels = left.subplots(len(tables), 2, sharex="col", height_ratios=heights, squeeze=False)
    for (here, there), (table, rows) in zip(panels, tables.items(), strict=True):
        values = np.stack([test[name] for name in rows])
        labels, theirs = zip(*(TABLES[table][name] for name in rows), strict=True)
        places = np.arange(len(rows))
        mean, half_width = interval(values, axis=1)
        here.plot(values, places[:, None], ".", color="0.65", ms=5)
        here.errorbar(mean, places, xerr=half_width, fmt="ko", ms=5, capsize=3)
        there.plot(theirs, places, "ks", ms=5)
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

    if len(tables.get(ACTIVATIONS, ())) > 1:
        draw_verdicts(right, results, tables[ACTIVATIONS])
    return figure


def draw_verdicts(figure: Any, results: Results, order: Sequence[str]) -> None:
    """Of every two activations: the difference, and whether its sign is CaffeNet's."""
    axes = figure.subplots()
    names = [TABLES[ACTIVATIONS][name][0] for name in order]
    styles = {"agrees": ("0.85", "k"), "undecided": ("1", "0.45"), "disagrees": ("0.25", "w")}
    verdicts = []
    for table, pair in compared(results):
        if table == ACTIVATIONS:
            column, row = order.index(pair.better), order.index(pair.worse)
            face, ink = styles[pair.verdict]
            verdicts.append(pair.verdict)
            beyond = pair.half_width  # the same for all: every row has as many seeds
            sides = [column - 0.48, column + 0.48]
            axes.fill_between(sides, row - 0.48, row + 0.48, color=face, lw=0)
            axes.text(
                column, row, f"{pair.lead:+.1f}", ha="center", va="center", color=ink, fontsize=9
            )
    axes.set_xticks(range(len(order) - 1), names[:-1], rotation=30, ha="right", fontsize=9)
    axes.set_yticks(range(1, len(order)), names[1:], fontsize=9)
    axes.set(
        xlim=(-0.6, len(order) - 1.4),
        ylim=(len(order) - 0.4, 0.4),
        xlabel="the activation that is better in CaffeNet ...",
        ylabel="... than this",
        title=f"Column minus row here, points; decided beyond {beyond:.1f}",
    )
    axes.title.set_fontsize(10)
    axes.spines[:].set_visible(False)
    for verdict, (face, _) in styles.items():
        counted = f"{verdict}: {verdicts.count(verdict)}"
        axes.fill_between([], [], color=face, edgecolor="0.5", label=counted)
    axes.legend(loc="upper right", fontsize=9, title="with CaffeNet's order")


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
