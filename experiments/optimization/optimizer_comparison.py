"""Eight optimizers on Fashion-MNIST, the rate of each tuned with the same budget.

[784, 128, 10], ReLU, He's initialisation, batches of 100. Eight rates of each optimizer, half a
decade apart, are tried on a validation split, from two seeds; the best is run from eight other
seeds and tested once. From these seeds a tenth of it and the two ends of the grid are run too, and
validated: was the grid long enough, and what does a wrong rate cost? What the rules do is in
optimizer_rates, optimizer_units and optimizer_saddles.

Meaning: The panels show the validation accuracy of eight optimizers by learning rate, how they
train at their best rates, and what they reach on the test images. Once tuned with the same budget
they end within two points of each other, about as far apart as the seeds of one; a wrong rate costs
accuracy too, but whether it costs more than the choice of the optimizer is undecided.

Data: fashion_mnist, 70,000 grey images of clothes of 28 x 28 (51,000 to train on, 9,000 to
validate, 10,000 to test), Xiao, Rasul and Vollgraf (2017), downloaded; mnist_5k where that is not
at hand.
Source: the lecture on optimisation; Choi et al. (2019) for the tuning.
Run: python experiments/optimization/optimizer_comparison.py
Expected: tuned alike, the eight optimizers' mean test accuracies lie within two points of each
other (84.0 to 85.8 % after 3 epochs), about as far apart as the seeds of one. A rate ten times too
small costs up to 3 points (momentum nothing: its chosen rate is at the edge of divergence), 1.4 in
the mean, one ten times too large from 3 points to everything. Whether the first is more than the
choice of the optimizer, eight seeds may leave undecided.
Time: 6 min on 2 CPU cores.
"""

import itertools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import xarray

from jaxdl import data, initializers, losses, metrics, models, optimizers, training
from jaxdl.claims import Claim, about_mean, about_means, interval, main
from jaxdl.plotting import band, new_figure

BATCH_SIZE = 100
MODEL = models.MLP((128, 10), kernel_init=initializers.he_normal())
TASK = training.Task(MODEL, losses.cross_entropy, [metrics.accuracy])
TUNING_SEEDS = (1000, 1001)
"""Those of the tuning, less the first seed; the mean of their accuracies decides."""
A_TENTH = 2
"""How many half decades a tenth of a rate is below it in the grid."""
NOTICEABLE = 0.1
"""Points of accuracy by which the chosen rate must beat the grid's ends."""
WINDOW = 10
"""Steps whose mean loss is kept."""
CHUNK = 8
"""Members in a call; as many in the tuning as in the runs, which then share a compiled program."""


class Arm(NamedTuple):
    """An optimizer: label, function of the rate, least rate tried, line, marker."""

    label: str
    make: Callable[[Any], optax.GradientTransformation]
    least_rate: float
    line: str
    marker: str


ARMS = {
    "sgd": Arm("SGD", optimizers.sgd, 1e-2, "k-", "o"),
    "momentum": Arm("momentum", optimizers.momentum, 1e-3, "k--", "s"),
    "nesterov": Arm("Nesterov", optimizers.nesterov, 1e-3, "C7:", "D"),
    "adagrad": Arm("Adagrad", optimizers.adagrad, 1e-3, "C0-", "^"),
    "adadelta": Arm("Adadelta", optimizers.adadelta, 1e-1, "C1-", "v"),
    "rmsprop": Arm("RMSprop", optimizers.rmsprop, 1e-4, "C2--", "<"),
    "adam": Arm("Adam", optimizers.adam, 1e-4, "C3-.", ">"),
    "adamax": Arm("Adamax", optimizers.adamax, 1e-4, "C4:", "P"),
}
"""Eight half decades from the least rate reach past the largest that works, for each of them."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 8
    """Runs of each optimizer at its chosen rate; at least 3."""
    seed: int = 0
    """First seed; the others follow."""
    rates: int = 8
    """Rates tried for each optimizer, half a decade apart."""
    epochs: int = 3
    """Passes over the training split, in tuning and afterwards."""
    dataset: str | None = None
    """By default fashion_mnist where it is on this machine, else mnist_5k."""
    data_dir: str | None = None
    """Where prepared data are kept; by default where `jaxdl data` keeps them."""
    raw_dir: str | None = None
    """A folder with the four IDX files, plain or gzipped."""


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=4, epochs=2, dataset="mnist_5k"),
    "full": Config(seeds=20, rates=10, epochs=20),
}


def run(config: Config) -> xarray.Dataset:
    """By optimizer: the tuning's accuracies by place; the runs' by rate and seed, and their losses.

    Accuracies are in percent. The rates are the chosen one, a tenth of it, and the grid's ends.
    """
    dataset = data.load_or_small(
        "fashion_mnist", config.dataset, data_dir=config.data_dir, raw_dir=config.raw_dir
    )
    splits = data.split(dataset, key=jax.random.key(0))
    examples = len(splits.train)
    by_seed = {
        "orders": lambda key: training.orders(key, config.epochs, examples),
        "params": training.first_weights(TASK, splits.train),
    }
    tuned = [tune(arm, splits, by_seed, config) for arm in ARMS.values()]
    results = xarray.concat(tuned, xarray.DataArray(list(ARMS), dims="optimizer", name="optimizer"))
    return results.assign_attrs(dataset=splits.name, epochs=config.epochs)


def tune(arm: Arm, splits: data.Dataset, by_seed: dict[str, Any], config: Config) -> xarray.Dataset:
    """Choose the rate of an optimizer; run it, and the rates beside it, from other seeds."""
    train, validation, test = splits.train, splits.validation, splits.test
    assert validation is not None
    assert test is not None

    def member(key: Any, orders: Any, params: Any, *, place: Any) -> dict[str, Any]:
        rate = arm.least_rate * 10.0 ** (place / 2)
        learn = training.make_run(TASK, arm.make(rate), batch_size=BATCH_SIZE)
        start = learn.init(key, train, params)
        state, measured = learn(key, {"train": train}, orders, start)
        loss = measured["train"]["loss"].ravel()
        return {
            "validation": 100 * learn.evaluate(state, validation)["accuracy"],
            "test": 100 * learn.evaluate(state, test)["accuracy"],
            "loss": loss[: len(loss) // WINDOW * WINDOW].reshape(-1, WINDOW).mean(1),
        }

    def sweep(places: Any, seeds: Any) -> xarray.Dataset:
        return training.sweep(
            member,
            {"place": places},
            seeds=[config.seed + seed for seed in seeds],
            by_seed=by_seed,
            dims={"loss": ("step",)},
            chunk=CHUNK,
        )

    tuning = sweep(range(config.rates), TUNING_SEEDS)["validation"].mean("seed")
    best = int(tuning.argmax("place"))
    places = {"chosen": best, "tenth": best - A_TENTH, "least": 0, "greatest": config.rates - 1}
    runs = sweep(sorted({*places.values()}), range(config.seeds)).sel(place=[*places.values()])
    runs = runs.rename(place="rate").assign_coords(
        rate=list(places), step=WINDOW * (1 + np.arange(runs.sizes["step"]))
    )
    return runs.assign(tuning=tuning, best=best)


def claims(results: xarray.Dataset) -> list[Claim]:
    """The tuning was fair; what it gains, beside the choice of the optimizer."""
    test, loses = results["test"].sel(rate="chosen", drop=True), costs(results)
    ends = loses.sel(rate=["least", "greatest"]).stack(end=("optimizer", "rate"))
    tenth = loses.sel(rate="tenth").mean("optimizer")
    means, mean_of = test.mean("seed"), f"mean of {results.sizes['seed']} seeds"
    one, other = np.array(list(itertools.permutations(range(len(means)), 2))).T
    apart = test.isel(optimizer=one).values - test.isel(optimizer=other).values
    return [
        about_means(
            "Every grid of rates is long enough: the rate chosen beats both of its ends, points of "
            f"validation accuracy, the least lead of {ends.sizes['end']}, {mean_of}",
            ends.transpose("seed", "end"),
            NOTICEABLE,
        ),
        about_mean(
            "A rate that is not tuned costs accuracy: one ten times too small, points of "
            f"validation accuracy, mean of the {len(means)} optimizers, {mean_of}",
            tenth,
            0.0,
        ),
        about_means(
            "A rate ten times too small costs more than the choice of the optimizer, once tuned "
            f"({means.min():.2f} to {means.max():.2f} %): these points less the difference of any "
            f"two test accuracies, the least of {len(apart)}, {mean_of}",
            (tenth.values - apart).T,
            0.0,
        ),
    ]


def costs(results: xarray.Dataset) -> xarray.DataArray:
    """By optimizer, rate and seed: how far below the chosen rate's its validation accuracy is."""
    validation = results["validation"]
    return validation.sel(rate="chosen", drop=True) - validation


def plot(results: xarray.Dataset) -> Any:
    """The tuning, the training, the test."""
    figure = new_figure(12, 6)
    tuning, curves, test = figure.subplots(1, 3)
    window = max(1, results.sizes["step"] // 30)
    chosen = results.sel(rate="chosen")
    smooth = chosen["loss"].rolling(step=window).mean().isel(step=slice(window - 1, None))
    for row, (name, arm) in enumerate(ARMS.items()):
        best = int(results["best"].sel(optimizer=name))
        tuning.plot(
            10.0 ** ((results["place"] - best) / 2), results["tuning"].sel(optimizer=name),
            arm.line, marker=arm.marker, ms=4, lw=1.3,
            label=f"{arm.label}, {arm.least_rate * 10 ** (best / 2):.2g}",
        )  # fmt: skip
        loss, every = smooth.sel(optimizer=name), max(smooth.sizes["step"] // 8, 1)
        band(
            curves, loss["step"], loss, arm.line, alpha=0.1, marker=arm.marker, ms=4, lw=1.3,
            markevery=(row * every // 8, every),
        )  # fmt: skip
    seeds, epochs = results.sizes["seed"], results.attrs["epochs"]
    tuning.set(
        xscale="log",
        xlabel="rate / chosen rate",
        ylabel="validation accuracy (%)",
        title=f"Tuning on {results.attrs['dataset']}",
    )
    figure.legend(
        *tuning.get_legend_handles_labels(),
        loc="outside lower center",
        title="optimizer, and its chosen rate",
        ncols=4,
        frameon=False,
    )
    tuning.grid(lw=0.3)
    curves.set(
        ylim=(0.7 * smooth.min(), 3 * smooth.isel(step=-1).mean()),
        xlabel="step",
        ylabel=f"training loss (nats), mean of {window * WINDOW} steps",
        title="Chosen rates: mean, 95 % interval",
    )
    curves.grid(lw=0.3)

    rows, accuracy = np.arange(len(ARMS)), chosen["test"].transpose("optimizer", "seed")
    mean, half_width = interval(accuracy, axis=1)
    test.plot(accuracy, rows[:, None], ".", color="0.65", ms=5)
    test.errorbar(mean, rows, xerr=half_width, fmt="ko", ms=5, capsize=3)
    test.set(
        yticks=rows,
        yticklabels=[arm.label for arm in ARMS.values()],
        xlabel="test accuracy (%)",
        title=f"After {epochs} epochs: the same, {seeds} seeds",
    )
    test.grid(axis="x", lw=0.3)
    test.invert_yaxis()
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
