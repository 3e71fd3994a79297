"""Too small, right, too large; the range test that finds the right one; what schedules are for.

[784, 128, 10], ReLU, momentum 0.9, batches of 20. A grid of constant rates, each trained for ten
epochs; a learning-rate range test (one run of 100 steps whose rate grows) from the same seeds; and
constant, step, cosine, one-cycle and plateau schedules at a tenth, once and three times the rate
that the test suggests. Every seed and rate of an arm is in one compiled call.

Source: Smith (2017), Cyclical learning rates; Smith and Topin (2019); the lecture on optimisation.
Run: python experiments/optimization/learning_rates.py                  (digits of mnist_5k)
     python experiments/optimization/learning_rates.py --preset full    (needs Fashion-MNIST)
Expected: a thirtieth of the suggestion is still learning when the budget ends, thirty times it
never does; the suggestion lies within a step of the grid, 3.2, of its best. At three times the
suggestion every schedule beats the constant rate, most of them halving its validation loss; at a
tenth of it those that fall by the clock end with a training loss 15 to 35 % above the constant
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
from optimizer_comparison import state_at

from jaxdl import data, losses, models, optimizers, training
from jaxdl.claims import Claim, Results, about_ratios, interval, main
from jaxdl.compiling import init_options
from jaxdl.diagnostics.landscape.rate_range import rate_range
from jaxdl.optimizers import schedules
from jaxdl.optimizers.plateau import plateau, report_metric
from jaxdl.plotting import new_figure

MODEL, BATCH_SIZE = models.MLP([128, 10]), 20
GRID = np.geomspace(1e-4, 10, 11)
PEAKS = np.array([0.1, 1.0, 3.0])
"""Of the schedules, as multiples of the suggestion."""
COLD, HOT = 0, -1
ARMS = {"too small": (1 / 30, "C0--"), "suggested": (1.0, "C2-"), "too large": (30.0, "C3-.")}
NEAR = GRID[1] / GRID[0]
"""How far the suggestion may be from the grid's best rate: a step of the grid."""
CHANCE = np.log(10)
"""The loss of guessing all classes alike, in nats."""
OVERFLOWED = 1e6
"""The loss, in nats, that stands for one beyond float32."""


class Schedule(NamedTuple):
    """From the peak and the number of steps to what an optimizer takes as its rate; its line."""

    make: Callable[[Any, int], Any]
    style: str
    marker: str


SCHEDULES = {
    "constant": Schedule(lambda rate, steps: rate, "k-", "o"),
    "step": Schedule(
        lambda rate, steps: schedules.multistep_decay(
            rate, boundaries=[steps // 2, 3 * steps // 4], factor=0.1
        ),
        "C0--",
        "v",
    ),
    "cosine": Schedule(lambda rate, steps: schedules.cosine_decay(rate, steps=steps), "C2-.", "s"),
    "one-cycle": Schedule(lambda rate, steps: schedules.one_cycle(rate, steps=steps), "C3:", "^"),
    "plateau": Schedule(lambda rate, steps: plateau(rate, factor=0.3, patience=0), "C1--", "D"),
}


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 6
    """Runs of each rate and schedule; at least 3."""
    seed: int = 0
    """First seed, from which all runs follow."""
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


def run(config: Config) -> Results:
    """By seed: losses by rate and epoch; the range test; losses by schedule, peak and epoch."""
    dataset = data.split(data.load(config.dataset, data_dir=config.data_dir), key=jax.random.key(0))
    part = dataset.train
    part = data.Arrays(part.inputs[: config.examples], part.targets[: config.examples])
    dataset = replace(dataset, train=part)
    train = Trainer(dataset, config)
    # From the keys of the runs below, and so from their parameters.
    tests = [
        rate_range(
            MODEL, dataset, optimizers.momentum, loss=losses.cross_entropy,
            batch_size=BATCH_SIZE, key=key, low=1e-5,
        )
        for key in train.keys
    ]  # fmt: skip
    suggested = np.array([test.suggested for test in tests])
    center = np.exp(np.log(suggested).mean())
    results: dict[str, Any] = {
        "dataset": np.array(config.dataset),
        "suggested": suggested,
        "ramp_rates": tests[0].curve.rates,
        "ramp_change": np.stack([test.curve.change for test in tests]),
        "grid": GRID,
        "arm_rates": center * np.array([factor for factor, _ in ARMS.values()]),
        "peaks": center * PEAKS,
    }
    constant = SCHEDULES["constant"].make
    rates = [GRID, results["arm_rates"], results["peaks"]]
    ends = np.cumsum([len(each) for each in rates[:-1]])
    for what, values in train(constant, np.concatenate(rates)).items():
        for name, part in zip(("grid", "arm", "constant"), np.split(values, ends, 1), strict=True):
            results[f"{name}_{what}"] = part
    for name, schedule in list(SCHEDULES.items())[1:]:
        measured = train(schedule.make, results["peaks"])
        results |= {f"{name}_{what}": values for what, values in measured.items()}
    return results


class Trainer:
    """The data on the device; called with a schedule and rates, trains at all of them."""

    def __init__(self, dataset: data.Dataset, config: Config):
        assert dataset.validation is not None
        self.train, self.validation = (
            {
                "inputs": training.scale_images(jnp.asarray(split.inputs)),
                "targets": jnp.asarray(split.targets),
            }
            for split in (dataset.train, dataset.validation)
        )
        examples = len(dataset.train)
        self.steps, self.epochs = examples // BATCH_SIZE, config.epochs
        self.keys = jax.random.split(jax.random.key(config.seed + 1), config.seeds)
        self.starts = first_weights(self.keys, self.train["inputs"][:1])
        orders = [
            [training.epoch_order(key, epoch, examples) for epoch in range(config.epochs)]
            for key in self.keys
        ]
        full = self.steps * BATCH_SIZE
        self.rows = jnp.asarray(np.array(orders)[..., :full]).reshape(
            config.seeds, config.epochs, self.steps, BATCH_SIZE
        )

    def __call__(self, schedule: Callable[[Any, int], Any], rates: Any) -> dict[str, np.ndarray]:
        """(seeds, rates, epochs): training and validation loss, and the rate it begins with."""
        evaluate = training.make_eval_step(MODEL, losses.cross_entropy)

        def one(start: Any, rows: Any, rate: Any, arrays: Any, validation: Any) -> Any:
            optimizer = optimizers.momentum(schedule(rate, self.steps * self.epochs))
            step = training.make_train_step(MODEL, optimizer, losses.cross_entropy)
            steps = training.make_train_epoch(step)

            def epoch(state: training.TrainState, rows: Any) -> Any:
                begins = optimizers.current_learning_rate(state.opt_state)
                state, measured = steps(state, arrays, rows)
                loss = evaluate(state.variables, validation)["loss"] / len(validation["targets"])
                if schedule is SCHEDULES["plateau"].make:
                    state = replace(state, opt_state=report_metric(state.opt_state, loss))
                return state, {
                    "train": measured["loss"].mean(),
                    "validation": loss,
                    "rate": begins,
                }

            return jax.lax.scan(epoch, state_at(start, optimizer), rows)[1]

        @jax.jit
        def all_of_them(starts: Any, rows: Any, rates: Any, *splits: Any) -> Any:
            def seed(of_seed: tuple[Any, Any]) -> Any:
                return jax.lax.map(lambda rate: one(*of_seed, rate, *splits), rates)

            return jax.lax.map(seed, (starts, rows))

        rates = jnp.asarray(rates, jnp.float32)
        measured = all_of_them(self.starts, self.rows, rates, self.train, self.validation)
        return {name: np.asarray(values, np.float64) for name, values in measured.items()}


def first_weights(keys: Any, sample: Any) -> Any:
    """(Parameters, the run's key), one a seed; all rates and schedules begin with the same."""

    def first(key: Any) -> Any:
        state = training.init_state(key, MODEL, optimizers.sgd(0.1), sample)
        return state.params, state.key

    # Apart from the training, and without optimisation: random numbers take long to compile.
    return jax.jit(jax.vmap(first), compiler_options=init_options())(keys)


def best_rates(results: Results) -> np.ndarray:
    """By seed: the rate of the grid whose training loss ends least."""
    ends = results["grid_train"][..., -1]
    return np.asarray(results["grid"][np.where(np.isfinite(ends), ends, np.inf).argmin(1)])


def ratio_to_constant(results: Results, schedule: str, split: str, peak: int) -> np.ndarray:
    """By seed: a schedule's last loss over that of the constant rate."""
    ends, constant = (results[f"{name}_{split}"][:, peak, -1] for name in (schedule, "constant"))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(ends / constant)


def claims(results: Results) -> list[Claim]:
    """The three rates, the range test, and where schedules pay."""
    seeds, _, epochs = results["arm_train"].shape
    arms = dict(zip(ARMS, results["arm_train"][..., -1].T, strict=True))
    mean_of = f"geometric mean of {seeds} seeds"
    away = np.exp(np.abs(np.log(results["suggested"] / best_rates(results))))
    made = [
        about_ratios(
            f"With a rate too small, a thirtieth of the suggestion, learning is not done after "
            f"{epochs} epochs: training loss over that at the suggestion, {mean_of}",
            arms["too small"] / arms["suggested"],
            1.0,
        ),
        about_ratios(
            "With a rate too large, thirty times the suggestion, nothing is learnt: training loss, "
            f"nats, against ln 10 of guessing, {mean_of}",
            np.nan_to_num(arms["too large"], nan=OVERFLOWED, posinf=OVERFLOWED).clip(
                max=OVERFLOWED
            ),
            CHANCE,
        ),
        about_ratios(
            f"The range test finds the rate that a grid finds in {epochs} epochs, within a step of "
            f"the grid: the factor between the suggestion and the grid's best, {mean_of}",
            away,
            high=NEAR,
        ),
    ]
    made += [
        about_ratios(
            f"At a large rate a schedule pays: {name} from three times the suggestion, validation "
            f"loss over the constant rate's, {mean_of}",
            ratio_to_constant(results, name, "validation", HOT),
            high=1.0,
        )
        for name in list(SCHEDULES)[1:]
    ]
    return made + [
        about_ratios(
            f"At a small rate a schedule costs: {name} from a tenth of the suggestion, training "
            f"loss over the constant rate's, {mean_of}",
            ratio_to_constant(results, name, "train", COLD),
            1.0,
        )
        for name in ("step", "cosine", "one-cycle")
    ]


def plot(results: Results) -> Any:
    """Three rates; the range test; the grid; the schedules, what they do, and what they reach."""
    figure = new_figure(12, 7.5)
    (arms, ramp, grid), (shapes, hot, reached) = figure.subplots(2, 3)
    seeds, _, count = results["arm_train"].shape
    epochs = np.arange(1, count + 1)
    center = np.exp(np.log(results["suggested"]).mean())

    for (name, (_, style)), rate, loss in zip(
        ARMS.items(), results["arm_rates"], results["arm_train"].swapaxes(0, 1), strict=True
    ):
        arms.fill_between(epochs, loss.min(0), loss.max(0), color=style[:2], alpha=0.25, lw=0)
        arms.plot(epochs, loss.mean(0), style, lw=2, label=f"{name}: {rate:.2g}")
    arms.axhline(CHANCE, color="0.4", lw=0.8)
    arms.text(epochs[-1], CHANCE * 0.93, "chance", ha="right", va="top", color="0.3")
    arms.set(
        yscale="log", xlabel="epoch", ylabel="training loss (nats)",
        title=f"A constant rate; mean, range of {seeds} seeds",
        ylim=(None, 40),
    )  # fmt: skip
    arms.legend(loc="upper center", ncols=1, fontsize=9, frameon=False)

    for index, change in enumerate(results["ramp_change"]):
        ramp.plot(
            results["ramp_rates"], change, "-", color="0.5", lw=0.9,
            label="one ramp" if index == 0 else None,
        )  # fmt: skip
    for index, rate in enumerate(results["suggested"]):
        ramp.axvline(
            rate, color="C2", ls="--", lw=1, label="its suggestion" if index == 0 else None
        )
    ramp.set(
        xscale="log", xlabel="learning rate", ylabel="loss - loss at the start (nats)",
        title="The range test: 100 steps, smoothed",
    )  # fmt: skip
    ramp.legend(loc="lower left", frameon=False)

    for split, style, marker in (("train", "C0-", "o"), ("validation", "C1--", "s")):
        ends = results[f"grid_{split}"][..., -1]
        grid.fill_between(
            results["grid"], ends.min(0), ends.max(0), color=style[:2], alpha=0.25, lw=0
        )
        label = "training" if split == "train" else split
        grid.plot(results["grid"], ends.mean(0), style, marker=marker, ms=5, label=label)
    grid.axvline(center, color="C2", ls="--", lw=1.2, label="range test")
    grid.set(
        xscale="log", yscale="log", xlabel="learning rate",
        ylabel=f"loss after {count} epochs (nats)", title="The grid: constant rates",
    )  # fmt: skip
    grid.legend(loc="upper left", frameon=False)

    for name, schedule in SCHEDULES.items():
        color = schedule.style[: 1 + (schedule.style[0] == "C")]
        rates = results[f"{name}_rate"][0, HOT]
        shapes.plot(epochs - 1, rates, schedule.style, marker=schedule.marker, ms=5, label=name)
        loss = results[f"{name}_validation"][:, HOT]
        hot.plot(epochs, loss.mean(0), schedule.style, marker=schedule.marker, ms=5, lw=1.6)
        ratios = np.stack(
            [ratio_to_constant(results, name, "validation", peak) for peak in range(len(PEAKS))], 1
        )
        if name != "constant":
            logs = interval(np.log(ratios))
            shift = 1.07 ** (list(SCHEDULES).index(name) - 2.5)
            low, mean, high = np.exp([logs.low, logs.mean, logs.high])
            reached.errorbar(
                PEAKS * shift, mean, [mean - low, high - mean],
                fmt=schedule.marker, color=color, ms=6, capsize=3,
            )  # fmt: skip
    shapes.set(
        xlabel="epochs passed", ylabel="learning rate", title="Schedules (plateau: one seed)"
    )
    hot.set(
        ylim=(0, None), xlabel="epoch", ylabel="validation loss (nats)",
        title=f"Peak at three times the suggestion: {results['peaks'][HOT]:.2g}",
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
