"""Eight optimizers on Fashion-MNIST, the rate of each tuned with the same budget.

[784, 128, 10], ReLU, He's initialisation, batches of 100. Eight rates of each optimizer, half a
decade apart, are tried on a validation split, from two seeds; the best is run from eight other
seeds and tested once. From these seeds a tenth of it and the two ends of the grid are run too, and
validated: was the grid long enough, and what does a wrong rate cost? What the rules do is in
optimizer_table.

Source: the lecture on optimisation; Choi et al. (2019) for the tuning.
Run: python experiments/optimization/optimizer_comparison.py
Expected: tuned alike, the eight optimizers' mean test accuracies lie within two points of each
other (84.0 to 85.9 % after 3 epochs), about as far apart as the seeds of one. A rate ten times too
small costs 1 to 3 points, one ten times too large from 3 points to everything. Whether the first is
more than the choice of the optimizer, eight seeds may leave undecided.
Time: 6 min on 2 CPU cores, each a device of its own.
"""

import functools
import itertools
import math
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxdl import data, initializers, losses, metrics, models, optimizers, training
from jaxdl.claims import Claim, Results, about_mean, about_means, interval, main
from jaxdl.compiling import init_options
from jaxdl.plotting import new_figure

FEATURES, BATCH_SIZE = (128, 10), 100
OF_UPDATES = 1e-6
"""Adadelta's epsilon under the RMS of its updates, which sets the scale of its steps."""
TUNING_SEEDS = (1000, 1001)
"""Those of the tuning, less the first seed; the mean of their accuracies decides."""
NOTICEABLE = 0.1
"""Points of accuracy by which the chosen rate must beat the grid's ends."""
MARKERS = "osD^v<>P"


class Arm(NamedTuple):
    """An optimizer: label, factory of (rate, epsilon, of_updates), epsilon, least rate tried."""

    label: str
    make: Callable[..., optax.GradientTransformation]
    epsilon: float
    least_rate: float
    style: str


def adadelta(rate: Any, epsilon: Any, of_updates: Any = OF_UPDATES) -> Any:
    """Adadelta with an epsilon under each of its two roots."""
    return optimizers.adadelta(rate, epsilon=of_updates, gradient_epsilon=epsilon)


def with_epsilon(factory: Any) -> Any:
    """An optimizer of one epsilon."""
    return lambda rate, epsilon, *_: factory(rate, epsilon=epsilon)


def without_epsilon(factory: Any) -> Any:
    """An optimizer that has none."""
    return lambda rate, *_: factory(rate)


ARMS = {
    "sgd": Arm("SGD", without_epsilon(optimizers.sgd), 0.0, 1e-2, "k-"),
    "momentum": Arm("momentum", without_epsilon(optimizers.momentum), 0.0, 1e-3, "k--"),
    "nesterov": Arm("Nesterov", without_epsilon(optimizers.nesterov), 0.0, 1e-3, "C7:"),
    "adagrad": Arm("Adagrad", with_epsilon(optimizers.adagrad), 1e-8, 1e-3, "C0-"),
    "adadelta": Arm("Adadelta", adadelta, 1e-6, 1e-1, "C1-"),
    "rmsprop": Arm("RMSprop", with_epsilon(optimizers.rmsprop), 1e-8, 1e-4, "C2--"),
    "adam": Arm("Adam", with_epsilon(optimizers.adam), 1e-8, 1e-4, "C3-."),
    "adamax": Arm("Adamax", with_epsilon(optimizers.adamax), 1e-8, 1e-4, "C4:"),
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


def shared_out(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function(common, run)` for each of `runs`, shared out over the devices, compiled once."""

    @jax.jit
    def mapped(common: Any, runs: Any) -> Any:
        count = len(jax.tree.leaves(runs)[0])
        devices = jax.devices()[: math.gcd(count, jax.device_count())]
        of_runs = jax.sharding.PartitionSpec("runs")
        return jax.shard_map(
            lambda common, runs: jax.lax.map(functools.partial(function, common), runs),
            mesh=jax.sharding.Mesh(np.array(devices), ("runs",)),
            in_specs=(jax.sharding.PartitionSpec(), of_runs),
            out_specs=of_runs,
            check_vma=False,
        )(common, runs)

    return mapped


def state_at(start: Any, optimizer: Any) -> training.TrainState:
    """The state before the first step of an optimizer, from (parameters, the run's key)."""
    params, key = start
    step = jnp.zeros((), jnp.int32)
    return training.TrainState(
        step=step, params=params, batch_stats={}, opt_state=optimizer.init(params), key=key
    )


def trainer(arm: Arm) -> Callable[..., Any]:
    """(arrays, (rates, starts, orders)) -> the last parameters and the losses, by run."""

    def train(arrays: Any, run: Any) -> Any:
        rate, start, order = run
        optimizer = arm.make(rate, arm.epsilon)
        state = state_at(start, optimizer)
        step = training.make_train_step(models.MLP(FEATURES), optimizer, losses.cross_entropy)
        state, measured = training.make_train_epoch(step)(state, arrays, order)
        return state.params, measured["loss"]

    return shared_out(train)


def run(config: Config) -> Results:
    """By optimizer and rate or seed: accuracies in percent; by seed and step, the losses."""
    dataset = load(config.dataset, config.data_dir, config.raw_dir)
    assert dataset.validation is not None
    assert dataset.test is not None
    arrays, validation, test = (
        {"inputs": jnp.asarray(part.inputs), "targets": jnp.asarray(part.targets)}
        for part in (dataset.train, dataset.validation, dataset.test)
    )
    seeds = config.seed + np.r_[TUNING_SEEDS, np.arange(config.seeds)]
    keys = jax.vmap(jax.random.key)(seeds)
    orders = np.stack([batches(key, config.epochs, len(dataset.train)) for key in keys])
    model = models.MLP(FEATURES, kernel_init=initializers.he_normal())
    sample = jnp.zeros((1, *dataset.train.inputs.shape[1:]))

    def first(key: Any) -> Any:
        state = training.init_state(key, model, optimizers.sgd(0.1), sample)
        return state.params, state.key

    starts = jax.jit(jax.vmap(first), compiler_options=init_options())(keys)
    eval_step = training.make_eval_step(model, losses.cross_entropy, [metrics.accuracy])
    evaluate = jax.jit(jax.vmap(eval_step, (0, None)))

    def percent(params: Any, part: Any) -> Any:
        sums = evaluate({"params": params}, part)
        return 100 * np.asarray(sums["accuracy"]) / len(part["targets"])

    found: dict[str, list[Any]] = {}

    def keep(**values: Any) -> None:
        for key, value in values.items():
            found.setdefault(key, []).append(np.asarray(value))

    for arm in ARMS.values():
        train = trainer(arm)
        rates = arm.least_rate * 10.0 ** (np.arange(config.rates) / 2)

        def at(rates: Any, seeds: Any, train: Any = train) -> Any:
            # In parts of as many runs as the tuning has rates: one program does for all of them.
            rates, seeds = np.broadcast_arrays(rates, seeds)
            parts = [
                train(arrays, runs(rates[part], starts, orders, seeds[part]))
                for part in np.split(
                    np.arange(len(rates)), np.arange(config.rates, len(rates), config.rates)
                )
            ]
            return jax.tree.map(lambda *leaves: np.concatenate(leaves), *parts)

        tuned = range(len(TUNING_SEEDS))
        accuracy = np.mean([percent(at(rates, seed)[0], validation) for seed in tuned], axis=0)
        best, each = rates[accuracy.argmax()], len(tuned) + np.arange(config.seeds)
        # Beside the chosen rate, a tenth of it and the ends of the grid.
        beside = np.repeat([best, best / 10, *rates[[0, -1]]], config.seeds)
        params, loss = at(beside, np.tile(each, 4))
        by_rate = percent(params, validation).reshape(4, config.seeds)
        chosen = jax.tree.map(lambda leaf: leaf[: config.seeds], params)
        keep(
            rates=rates,
            validation=accuracy,
            best_rate=best,
            chosen_validation=by_rate[0],
            tenth_validation=by_rate[1],
            ends_validation=by_rate[2:],
            test=percent(chosen, test),
            loss=loss[: config.seeds],
        )
        mean, half_width = interval(found["test"][-1])
        print(f"{arm.label:9} rate {best:.2g}: test {mean:.2f} +- {half_width:.2f} %", flush=True)
    return {
        "names": np.array(list(ARMS)),
        "dataset": np.array(dataset.name),
        "epochs": np.array(config.epochs),
        **{key: np.stack(values) for key, values in found.items()},
    }


def load(name: str | None, data_dir: str | None, raw_dir: str | None) -> data.Dataset:
    """The named set; without a name fashion_mnist where it is on this machine, else mnist_5k."""
    dataset = data.load_or_small("fashion_mnist", name, data_dir=data_dir, raw_dir=raw_dir)
    dataset = data.split(dataset, key=jax.random.key(0))
    print(dataset)
    return dataset


def batches(key: Any, epochs: int, examples: int) -> np.ndarray:
    """The examples of every step of a run, (steps, batch); an epoch's incomplete batch is left."""
    full = examples // BATCH_SIZE * BATCH_SIZE
    orders = [training.epoch_order(key, epoch, examples)[:full] for epoch in range(epochs)]
    return np.concatenate(orders).reshape(-1, BATCH_SIZE)


def runs(rates: np.ndarray, starts: Any, orders: np.ndarray, seeds: np.ndarray) -> Any:
    """The rate, the start and the order of each run."""
    start = jax.tree.map(lambda leaf: leaf[seeds], starts)
    return jnp.asarray(rates, jnp.float32), start, jnp.asarray(orders[seeds])


def claims(results: Results) -> list[Claim]:
    """The tuning was fair; what it gains, beside the choice of the optimizer."""
    chosen, test = results["chosen_validation"], results["test"]
    rows, seeds = test.shape
    # By seed, for each optimizer and end.
    lead = (chosen[:, None] - results["ends_validation"]).reshape(2 * rows, seeds).T
    cost = (chosen - results["tenth_validation"]).mean(0)
    means = test.mean(1)
    pairs = np.array(list(itertools.permutations(range(rows), 2))).T
    return [
        about_means(
            "Every grid of rates is long enough: the rate chosen beats both of its ends, points of "
            f"validation accuracy, the least lead of {lead.shape[1]}, mean of {seeds} seeds",
            lead,
            NOTICEABLE,
        ),
        about_mean(
            "A rate that is not tuned costs: one ten times too small, points of validation "
            f"accuracy, mean of the {rows} optimizers and {seeds} seeds",
            cost,
            0.0,
        ),
        about_means(
            f"It costs more than the choice of the optimizer, once tuned ({means.min():.2f} to "
            f"{means.max():.2f} %): these points less the difference of any two test accuracies, "
            f"the least of {pairs.shape[1]}, mean of {seeds} seeds",
            (cost - (test[pairs[0]] - test[pairs[1]])).T,
            0.0,
        ),
    ]


def plot(results: Results) -> Any:
    """The tuning, the training, the test."""
    figure = new_figure(12, 4.8)
    tuning, curves, test = figure.subplots(1, 3)
    arms = [ARMS[name] for name in results["names"].tolist()]
    labels = [arm.label for arm in arms]
    rows = np.arange(len(arms))
    seeds = results["test"].shape[1]

    window = 50 if results["loss"].shape[-1] >= 500 else 10
    for row, arm in enumerate(arms):
        rates = results["rates"][row] / results["best_rate"][row]
        tuning.plot(
            rates, results["validation"][row], arm.style, marker=MARKERS[row], ms=4, lw=1.3,
            label=f"{arm.label}, {results['best_rate'][row]:.2g}",
        )  # fmt: skip
        loss = results["loss"][row].mean(0)
        smooth = np.convolve(loss, np.ones(window) / window, mode="valid")
        every = max(len(smooth) // 8, 1)
        curves.plot(
            np.arange(len(smooth)) + window, smooth, arm.style, marker=MARKERS[row], ms=4, lw=1.3,
            markevery=(row * every // 8, every),
        )  # fmt: skip
    tuning.set(
        xscale="log",
        xlabel="rate / chosen rate",
        ylabel="validation accuracy (%)",
        title="Tuning; the chosen rate in the legend",
        xlim=(1e-8, 1e3),
    )
    tuning.legend(fontsize=7.5, loc="center left")
    tuning.grid(lw=0.3)
    smallest = results["loss"][..., -window:].mean()
    curves.set(
        ylim=(0, 3 * smallest),
        xlabel="step",
        ylabel=f"training loss (nats), mean of {window} steps",
        title=f"At the chosen rate, mean of {seeds} seeds",
    )
    curves.grid(lw=0.3)

    mean, half_width = interval(results["test"], axis=1)
    test.plot(results["test"], rows[:, None], ".", color="0.65", ms=5)
    test.errorbar(mean, rows, xerr=half_width, fmt="ko", ms=5, capsize=3)
    test.set(
        yticks=rows,
        yticklabels=labels,
        xlabel="test accuracy (%)",
        title=f"After {results['epochs']} epochs: mean, 95 % interval",
    )
    test.grid(axis="x", lw=0.3)
    test.invert_yaxis()
    return figure


def use_every_core() -> None:
    """Make each core of a CPU a device of its own; to be called before anything is computed."""
    jax.config.update("jax_num_cpu_devices", os.cpu_count() or 1)


if __name__ == "__main__":
    use_every_core()
    sys.exit(main(sys.modules[__name__]))
