"""Full batch, mini-batch, single example: steps, examples and seconds to the same loss.

[784, 128, 10], ReLU, plain gradient descent on 3,500 digits, from the same parameters for every
batch size, until the training loss is 0.3 nats. Each batch size has the rate of three, a factor of
two apart, that takes it there in the fewest steps for two other seeds: with one rate for all, one
would compare rates. A run stops when it is there. A step's seconds are measured apart, compiled and
warmed up, without the evaluation; they are printed and drawn, and nothing is claimed of them.

Source: the lecture on optimisation; McCandlish, Kaplan and Amodei (2018), equation 2.11: a batch B
needs S = S_min (1 + B_c / B) steps, where B_c is the critical batch.
Run: python experiments/optimization/batch_size.py
Expected: about 2,200 steps of one example, 170 of 16, 70 of 64, 40 of all. Up to the critical
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

from jaxdl import data, losses, models, optimizers, training
from jaxdl.claims import Claim, Results, about_ratios, main
from jaxdl.compiling import init_options
from jaxdl.plotting import new_figure
from jaxdl.training.steps import take

SINGLE, MINI, LARGER = 1, 16, 64
"""Batch sizes that the claims speak of, beside the full batch."""
LAW_TOLERANCE = 1.25
"""A factor: steps at rates a factor of two apart, of which one is chosen, differ by so much."""
MODEL, TARGET = models.MLP([128, 10]), 0.3
TRIED = np.array([0.5, 1.0, 2.0])
"""Rates, as multiples of `usual_rate`."""
STEPS_BETWEEN = {1: 64, 4: 16, 16: 4, 64: 2}
"""Steps from one look at the training loss to the next, by batch size; else 1."""
MOST_EXAMPLES, MOST_STEPS = 8_000, 120
"""A run is given up when it has had so many examples and so many steps."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 8
    """Runs of each batch size; at least 3."""
    seed: int = 0
    """First seed: the rates are tuned from it, the runs follow from the next."""
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


class Arm:
    """One batch size: its compiled runs to the target, and its compiled steps."""

    def __init__(self, arrays: dict[str, jax.Array], batch_size: int):
        examples = len(arrays["targets"])
        self.arrays, self.batch_size, self.examples = arrays, batch_size, examples
        self.between = STEPS_BETWEEN.get(batch_size, 1)
        self.most = max(MOST_EXAMPLES // batch_size, MOST_STEPS) // self.between * self.between
        evaluate = training.make_eval_step(MODEL, losses.cross_entropy)

        # Random numbers are compiled apart, without optimisation: in the loops' program, a few
        # numbers of each run would take most of its compilation.
        @functools.partial(jax.jit, compiler_options=init_options())
        def start(key: Any, rate: Any) -> training.TrainState:
            optimizer = optimizers.sgd(rate)
            return training.init_state(key, MODEL, optimizer, arrays["inputs"][:1])

        def steps(state: Any, arrays: Any, rows: Any, rate: Any) -> Any:
            step = training.make_train_step(MODEL, optimizers.sgd(rate), losses.cross_entropy)

            def one(state: Any, row: Any) -> Any:
                # All of the examples are no batch that is to be picked out.
                batch = arrays if batch_size == examples else take(arrays, row)
                return step(state, batch)[0], None

            return jax.lax.scan(one, state, rows)[0]

        # One run a call, so that the tuning and the runs share a program.
        @jax.jit
        def to_target(state: Any, rows: Any, rate: Any, arrays: Any) -> Any:
            def is_on_its_way(carry: Any) -> Any:
                turn, _, loss = carry
                return (turn < len(rows)) & (loss > TARGET)

            def turn(carry: Any) -> Any:
                count, state, _ = carry
                state = steps(state, arrays, rows[count], rate)
                return count + 1, state, evaluate(state.variables, arrays)["loss"] / examples

            first = (0, state, jnp.inf)
            turns, _, loss = jax.lax.while_loop(is_on_its_way, turn, first)
            return jnp.where(loss <= TARGET, turns * self.between, jnp.inf)

        self._to_target, self._start, self._steps = to_target, start, jax.jit(steps)

    def steps_to_target(self, keys: Any, rates: np.ndarray) -> np.ndarray:
        """(seeds, rates): the steps until the training loss is at the target, or inf."""
        taken = []
        for key in keys:
            order = self.rows(key, self.most)
            rows = jnp.asarray(order.reshape(-1, self.between, order.shape[-1]))
            for rate in rates.astype(np.float32):
                taken.append(self._to_target(self._start(key, rate), rows, rate, self.arrays))
        return np.asarray(taken, np.float64).reshape(len(keys), -1)

    def rows(self, key: Any, count: int) -> np.ndarray:
        """The examples of so many steps, epoch after epoch."""
        if self.batch_size == self.examples:
            return np.zeros((count, 1), np.int32)
        per_epoch = self.examples // self.batch_size
        orders = [
            training.epoch_order(key, epoch, self.examples)[: per_epoch * self.batch_size]
            for epoch in range(-(-count // per_epoch))
        ]
        return np.concatenate(orders).reshape(-1, self.batch_size)[:count]

    def stopwatch(self, rate: float, count: int) -> Callable[[], float]:
        """A function that makes `count` steps and returns the seconds of one; warmed up."""
        key = jax.random.key(0)
        arguments = self._start(key, rate), self.arrays, jnp.asarray(self.rows(key, count)), rate

        def seconds() -> float:
            started = time.perf_counter()
            jax.block_until_ready(self._steps(*arguments))
            return (time.perf_counter() - started) / count

        seconds()
        return seconds


def run(config: Config) -> Results:
    """By batch size: the rate chosen, seconds of a step; by seed, the steps to the target."""
    digits = data.split(data.load("mnist_5k"), key=jax.random.key(0)).train
    arrays = {
        "inputs": training.scale_images(jnp.asarray(digits.inputs[: config.examples])),
        "targets": jnp.asarray(digits.targets[: config.examples]),
    }
    sizes, examples = np.array(config.batch_sizes), len(arrays["targets"])
    if (
        sizes[-1] != examples
        or np.any(np.diff(sizes) <= 0)
        or not {SINGLE, MINI, LARGER} <= set(config.batch_sizes)
    ):
        raise ValueError(
            f"batch_sizes must increase to all {examples} examples, with {SINGLE}, {MINI} and "
            f"{LARGER} among them, got {config.batch_sizes}"
        )
    tuning = jax.random.split(jax.random.key(config.seed), config.tuning_seeds)
    keys = jax.random.split(jax.random.key(config.seed + 1), config.seeds)
    rates, steps, watches = [], [], []
    for size in config.batch_sizes:
        arm = Arm(arrays, size)
        tried = usual_rate(size) * TRIED
        rate = tried[np.median(arm.steps_to_target(tuning, tried), axis=0).argmin()]
        rates.append(rate)
        steps.append(arm.steps_to_target(keys, rate[None])[:, 0])
        watches.append(arm.stopwatch(rate, int(np.clip(7000 // size, 10, 2000))))
        print(f"batch {size}: rate {rate:.3g}, {np.median(steps[-1]):.0f} steps", flush=True)
    # In turns, so that what else the machine does falls on all alike.
    seconds = np.median([[watch() for watch in watches] for _ in range(config.timings)], axis=0)
    for size, each, count in zip(sizes, seconds, np.stack(steps, axis=1).T, strict=True):
        taken = each * np.median(count)
        print(f"batch {size}: {1e6 * each:.0f} us a step, {taken:.2f} s to the target")
    return {
        "sizes": sizes,
        "rates": np.array(rates),
        "steps": np.stack(steps, axis=1),
        "seconds_of_a_step": seconds,
        "backend": np.array(jax.default_backend()),
    }


def law(sizes: np.ndarray, steps: np.ndarray) -> tuple[float, float]:
    """S_min and B_c of S = S_min (1 + B_c / B), by least squares of the logarithms.

    NaN where a run did not reach the target: a claim about it does not hold then.
    """
    from scipy.optimize import least_squares

    if not np.isfinite(steps).all():
        return np.nan, np.nan

    def errors(logs: np.ndarray) -> np.ndarray:
        least, critical = np.exp(logs)
        return np.asarray(np.log(least * (1 + critical / sizes)) - np.log(steps))

    least, critical = np.exp(least_squares(errors, np.log([steps.min(), 50.0])).x)
    return float(least), float(critical)


def claims(results: Results) -> list[Claim]:
    """Steps and examples; what a larger batch saves, and what it wastes."""
    sizes, steps = results["sizes"], results["steps"]
    full, mean_of = int(sizes[-1]), f"geometric mean of {len(steps)} seeds"

    def ratio(values: np.ndarray, above: int, below: int) -> np.ndarray:
        """By seed."""
        with np.errstate(invalid="ignore"):
            return np.asarray((values[:, sizes == above] / values[:, sizes == below])[:, 0])

    laws = np.array([law(sizes, of_seed) for of_seed in steps])
    off = steps / (laws[:, :1] * (1 + laws[:, 1:] / sizes))
    return [
        about_ratios(
            f"Up to the critical batch a larger batch saves steps: those of 1 example over those "
            f"of {MINI} ({MINI} if perfect; more than half of that), {mean_of}",
            ratio(steps, SINGLE, MINI),
            MINI / 2,
        ),
        about_ratios(
            f"Beyond it a larger batch hardly saves steps: those of {LARGER} over those of all "
            f"{full} ({full / LARGER:.0f} if perfect; less than a tenth of that), {mean_of}",
            ratio(steps, LARGER, full),
            1.0,
            full / LARGER / 10,
        ),
        about_ratios(
            "The critical batch, where saving ends, is neither a few examples nor all of them: "
            f"B_c of steps = S_min (1 + B_c / B), examples, {mean_of}",
            laws[:, 1],
            MINI,
            256,
        ),
        about_ratios(
            "One law of two numbers describes every batch size: steps over S_min (1 + B_c / B), "
            f"the batch size farthest from 1, {mean_of}",
            off,
            1 / LAW_TOLERANCE,
            LAW_TOLERANCE,
        ),
        about_ratios(
            f"The full batch wastes examples: those it sees over those that single ones see, "
            f"{mean_of}",
            ratio(steps * sizes, full, SINGLE),
            10.0,
        ),
    ]


def plot(results: Results) -> Any:
    """Steps with the law, examples, and seconds, by batch size."""
    figure = new_figure(12, 4.8)
    sizes, steps = results["sizes"], results["steps"]
    least, critical = law(sizes, np.exp(np.log(steps).mean(0)))
    line = np.geomspace(sizes[0], sizes[-1], 100)
    expected = least * (1 + critical / line)
    seconds = steps * results["seconds_of_a_step"]
    panels = (
        ("steps", steps, expected, "Steps"),
        ("examples", steps * sizes, expected * line, "Examples"),
        ("seconds", seconds, None, f"Seconds ({results['backend']}, evaluation left out)"),
    )
    for axes, (what, values, curve, title) in zip(figure.subplots(1, 3), panels, strict=True):
        if curve is not None:
            axes.plot(line, curve, "k-", lw=1, label="$S_{min}(1 + B_c/B)$")
            axes.axvline(critical, color="0.4", ls=":", label=f"$B_c$ = {critical:.0f}")
        if what == "steps":
            axes.plot(line, steps[:, 0].mean() / line, "C3--", lw=1.2, label="perfect scaling")
        axes.plot(
            np.tile(sizes, len(steps)), values.ravel(), "o", color="0.6", ms=4, label="one seed"
        )
        axes.plot(sizes, np.exp(np.log(values).mean(0)), "C0s", ms=6, label="geometric mean")
        axes.set(
            xscale="log", yscale="log", xlabel="batch size (examples)", ylabel=what,
            title=f"{title} to a loss of {TARGET} nats" if what == "steps" else title,
        )  # fmt: skip
        # Whole decades: their ticks alone are labelled.
        low, high = np.nanmin(values), np.nanmax(values)
        axes.set_ylim(10 ** np.floor(np.log10(low)), 10 ** np.ceil(np.log10(high)))
        if what == "steps":
            figure.legend(
                *axes.get_legend_handles_labels(), loc="outside lower center", ncols=5,
                frameon=False,
            )  # fmt: skip
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
