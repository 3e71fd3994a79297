"""Grid, random or Bayesian: how many trials a good set of hyper-parameters costs.

Seven hyper-parameters of [64, width, 10] on 599 digits: rate, annealing, momentum, width,
activation, scale of the first weights, L2. A grid of 96 trials has three rates and two values of
most others; random search draws all of them anew each time; Bayesian search (a tree-structured
Parzen estimator) learns from the trials before, one at a time or a batch at a time; successive
halving stops most trials early. The best trial is chosen on 599 validation digits and judged on
599 test digits. A seed gives the first weights, the order and what is drawn.

Meaning: The left panel shows the test error of the best network found, by the number of trials that
were paid for, with each way to search; the right one shows every trial by its learning rate. A
random search tries a new value of each hyper-parameter in every trial, and 64 of its trials are as
good as a grid of 96; whether 8 are, as Bergstra and Bengio found, is undecided.

Data: digits, 1,797 grey digits of 8 x 8 (599 to train on, 599 to validate, 599 to test), from the
package sklearn.
Source: Bergstra and Bengio (2012); Bergstra, Bardenet, Bengio and Kegl (2011) for the estimator;
Jamieson and Talwalkar (2016) for successive halving; the lecture on optimisation.
Run: python experiments/optimization/hyperparameter_search.py
Expected: 64 random trials find a better network than the grid, by 0.9 points; 16 one as good.
8 trials, which Bergstra and Bengio found enough, end a point below it (0.9 in 16 seeds, 1.3 in 48
others): too near to the point that counts as none to be decided. Bayesian search gains 0.3 to 0.6
points of validation accuracy on 64 random trials, the same in batches of 8 as one at a time;
successive halving gains 1.3 on random search of as many epochs.
Time: 1 minute on 2 CPU cores.
"""

import functools
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray

from jaxdl import activations, data, initializers, losses, metrics, models, optimizers, training
from jaxdl.claims import Claim, about_mean, expected_best, interval, main
from jaxdl.plotting import band, new_figure
from jaxdl.training import Integers, LogUniform, Uniform

WIDEST, BATCH_SIZE = 64, 50
ACTIVATIONS = {"tanh": 0, "ReLU": 1}
SPACE = {
    "rate": LogUniform(1e-3, 10.0),
    "annealing": LogUniform(10.0, 1000.0),
    "momentum": Uniform(0.0, 0.95),
    "width": Integers(8, WIDEST, log=True),
    "activation": ACTIVATIONS,
    "scale": LogUniform(0.1, 10.0),
    "l2": LogUniform(1e-6, 1e-1),
}
"""Annealing: the step from which the rate falls as 1 / step. Scale: of LeCun's initialisation."""
GRID_LEVELS = {"rate": 3, "annealing": 1, "momentum": 2, "width": 2, "scale": 2, "l2": 2}
"""How many values the grid has of each range; and both activations: 96 trials."""
FEW, AS_GOOD = 8, 1.0
"""The trials that Bergstra and Bengio found enough; the difference, in points, that is none."""
BRACKET, FINISH, COST = 27, 3, 9
"""Successive halving: 27 trials run a ninth of the epochs, the best 9 a third, 3 all of them, each
from the start; that costs as much as 9 whole trials."""
SPLITS = ("validation", "test")
STYLES = {
    "random": ("random", "C0o-"),
    "bayesian": ("Bayesian, one at a time", "C3s-"),
    "batched": ("Bayesian, by batches", "C1^--"),
}


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 16
    """Repetitions of every search; at least 3."""
    seed: int = 0
    """The first seed; the others follow."""
    trials: int = 64
    """Of random and of Bayesian search; a multiple of 8, at least 16."""
    batch: int = 8
    """Trials that batched Bayesian search draws at once."""
    epochs: int = 27
    """Passes of a whole trial; a multiple of 9."""


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=3, trials=16, epochs=9),
    "full": Config(seeds=20, trials=256, epochs=243),
}


def make_task(width: Any, activation: Any) -> training.Task:
    """Digits, one hidden layer as wide as the widest: the units beyond `width` give 0."""

    def hidden(x: Any) -> Any:
        shape = jnp.where(activation == ACTIVATIONS["ReLU"], activations.relu(x), jnp.tanh(x))
        return shape * (jnp.arange(WIDEST) < width)

    model = models.MLP((WIDEST, 10), activation=hidden, kernel_init=initializers.lecun_normal())
    return training.Task(model, losses.cross_entropy, [metrics.accuracy])


def scaled(params: Any, scale: Any, width: Any) -> Any:
    """LeCun's first weights times `scale`, with the fan-in that the width leaves."""
    by_layer = {"dense_0": scale, "dense_1": scale * jnp.sqrt(WIDEST / width)}
    return {
        name: params[name] | {"kernel": by * params[name]["kernel"]}
        for name, by in by_layer.items()
    }


def make_member(parts: Mapping[str, data.Arrays]) -> Any:
    """A trial as a pure function of its hyper-parameters and epochs."""

    def member(
        key: Any, orders: Any, params: Any, *, epochs: int, rate: Any, annealing: Any,
        momentum: Any, width: Any, activation: Any, scale: Any, l2: Any,
    ) -> dict[str, Any]:  # fmt: skip
        def annealed(step: Any) -> Any:
            return rate * annealing / jnp.maximum(step, annealing)

        rule = optax.chain(optimizers.l2(l2), optimizers.momentum(annealed, decay=momentum))
        learn = training.make_run(make_task(width, activation), rule, batch_size=BATCH_SIZE)
        start = learn.init(key, parts["train"], scaled(params, scale, width))
        state, _ = learn(key, {"train": parts["train"]}, orders[:epochs], start)
        return {name: 100 * learn.evaluate(state, parts[name])["accuracy"] for name in SPLITS}

    return member


def levels(name: str) -> Any:
    """The grid's values: a range is cut into equal parts, and each gives its middle."""
    drawn: Any = SPACE[name]
    if name not in GRID_LEVELS:
        return list(drawn.values())
    middles = (np.arange(GRID_LEVELS[name]) + 0.5) / GRID_LEVELS[name]
    if isinstance(drawn, Uniform):
        return drawn.low + middles * (drawn.high - drawn.low)
    values = drawn.low * (drawn.high / drawn.low) ** middles
    return values.round() if isinstance(drawn, Integers) else values


def run(config: Config) -> xarray.Dataset:
    """By search, seed and trial: accuracies and the rate; prints the times of Bayesian search."""
    if config.trials < 2 * FEW or config.trials % FEW or config.epochs % COST:
        raise ValueError(
            f"trials must be a multiple of {FEW} from {2 * FEW} on and epochs one of {COST}, got "
            f"{config.trials} and {config.epochs}; pass e.g. --trials 64 --epochs 27"
        )
    digits = data.split(data.load("digits"), key=jax.random.key(0), fractions=(1 / 3,) * 3)
    parts = {name: vars(digits)[name] for name in ("train", *SPLITS)}
    member, examples = make_member(parts), len(parts["train"])
    by_seed = {
        "orders": lambda key: training.orders(key, config.epochs, examples),
        "params": training.first_weights(make_task(WIDEST, 0), parts["train"]),
    }
    seeds = range(config.seed, config.seed + config.seeds)
    whole, over = functools.partial(member, epochs=config.epochs), {n: levels(n) for n in SPACE}
    grid = training.sweep(whole, over, seeds=seeds, by_seed=by_seed)
    grid = grid.stack(trial=list(SPACE)).reset_index("trial")
    found = {"grid": grid[[*SPLITS, "rate"]].reset_coords("rate")}
    rungs = [config.epochs // 9, config.epochs // 3, config.epochs]
    common = {"trials": config.trials, "batch": config.batch, "rungs": rungs[-1:]}
    kinds: dict[str, Any] = {
        "random": {"sampler": "random"},
        "bayesian": {"batch": 1},
        "batched": {},
        "halving": {"sampler": "random", "trials": BRACKET, "batch": BRACKET, "rungs": rungs},
    }
    seconds = dict.fromkeys(kinds, 0.0)
    for kind, given in kinds.items():
        runs = []
        for seed in seeds:
            # Halving draws other random numbers than random search.
            own = common | given | {"seed": seed + 2**31 * (kind == "halving"), "seeds": [seed]}
            started = time.perf_counter()
            made, _ = training.search(member, SPACE, maximize="validation", by_seed=by_seed, **own)
            if seed > seeds[0]:  # the first one compiles
                seconds[kind] += time.perf_counter() - started
            made = made.isel(trial=made["epochs"].values == config.epochs)
            made = made.reset_coords("rate")[[*SPLITS, "rate"]]
            runs.append(made.reset_coords(drop=True).drop_vars("trial"))
        found[kind] = xarray.concat(runs, "seed", data_vars="all")
    ratio = seconds["bayesian"] / seconds["batched"]
    print(f"Bayesian search one trial at a time took {ratio:.1f} times as long as in batches.")
    own_names = [
        of.rename({name: f"{kind}_{name}" for name in of} | {"trial": f"trial_{kind}"})
        for kind, of in found.items()
    ]
    return xarray.merge(own_names).transpose("seed", ...)


def chosen(results: xarray.Dataset, kind: str, trials: int) -> tuple[np.ndarray, np.ndarray]:
    """By seed and experiment of so many trials: accuracies of the one of best validation."""
    both = np.stack([results[f"{kind}_{name}"].values for name in SPLITS])
    experiments = both.shape[2] // trials
    by_split = both[..., : experiments * trials].reshape(*both.shape[:2], experiments, trials)
    best = by_split[0].argmax(-1)[..., None]
    first, second = (np.take_along_axis(each, best, -1)[..., 0] for each in by_split)
    return first, second


def of_first(results: xarray.Dataset, kind: str, trials: int, split: str = "test") -> np.ndarray:
    """By seed: an accuracy of the best of the first so many trials."""
    return chosen(results, kind, trials)[SPLITS.index(split)][:, 0]


def claims(results: xarray.Dataset) -> list[Claim]:
    """What random, Bayesian and early-stopped search gain on the grid and on each other."""
    grid_trials, trials = results.sizes["trial_grid"], results.sizes["trial_random"]
    over = f"mean of {results.sizes['seed']} seeds"
    grid = of_first(results, "grid", grid_trials)
    random, bayesian, batched = (of_first(results, kind, trials, "validation") for kind in STYLES)
    return [
        about_mean(
            f"{FEW} random trials are as good as a grid of about 100 (Bergstra and Bengio): test "
            f"accuracy of the best of {FEW} less that of the grid's {grid_trials}, points, {over}",
            chosen(results, "random", FEW)[1].mean(1) - grid,
            low=-AS_GOOD,
        ),
        about_mean(
            f"{trials} random trials are as good as the grid: test accuracy of the best of "
            f"{trials} less that of the grid's {grid_trials}, points, {over}",
            of_first(results, "random", trials) - grid,
            low=-AS_GOOD,
        ),
        about_mean(
            "Bayesian search learns from its trials: validation accuracy of the best of "
            f"{trials}, less that of random search, points, {over}",
            bayesian - random,
            low=0.0,
        ),
        about_mean(
            "Bayesian search learns as well from batches of trials: the best of batched search "
            f"less the best of one trial at a time, points, {over}",
            batched - bayesian,
            -AS_GOOD,
            AS_GOOD,
        ),
        about_mean(
            f"Stopping most trials early pays: best of successive halving, in the epochs of {COST} "
            f"whole trials, less the best of {COST} random trials, validation, points, {over}",
            of_first(results, "halving", FINISH, "validation")
            - chosen(results, "random", COST)[0].mean(1),
            low=0.0,
        ),
    ]


def plot(results: xarray.Dataset) -> Any:
    """Test error by the trials that it cost; and why a grid wastes its own."""
    figure = new_figure(12, 5)
    curves, why = figure.subplots(1, 2, width_ratios=[1.2, 1])
    trials = results.sizes["trial_random"]
    counts = [2**n for n in range(trials.bit_length())]
    for kind, (label, style) in STYLES.items():
        if kind == "random":
            found = {n: chosen(results, kind, n)[1].mean(1) for n in counts}
        else:  # its first trials are random
            found = {n: of_first(results, kind, n) for n in counts if n > FEW}
        error = 100 - np.transpose([*found.values()])
        band(curves, [*found], error, style, label=label, ms=5, alpha=0.15)
    validation, test = (results[f"random_{name}"].values.ravel() for name in SPLITS)
    expected = 100 - expected_best(validation, counts, test)
    curves.plot(counts, expected, "k:", lw=2, label="random, by order statistics")
    for kind, cost, tried, style, label in (
        ("grid", results.sizes["trial_grid"], results.sizes["trial_grid"], "kD", "grid"),
        ("halving", COST, FINISH, "C2*", f"successive halving of {BRACKET}"),
    ):
        mean, half_width = interval(100 - of_first(results, kind, tried))
        curves.errorbar(cost, mean, half_width, fmt=style, ms=9, capsize=3, label=label)
        if kind == "grid":
            curves.axhline(mean, color="k", lw=0.7)
            counts.append(cost)
    curves.set(
        xscale="log", yscale="log", xlabel="cost, in trials of all epochs",
        ylabel="test error of the trial chosen (%)",
        title=f"What trials buy: mean and 95 % interval of {results.sizes['seed']} seeds",
    )  # fmt: skip
    curves.set_xticks(counts, [str(count) for count in counts])
    for kind, style, label in (
        ("random", "C0.", f"random: {trials} rates a seed"),
        ("grid", "kx", f"grid: {GRID_LEVELS['rate']} rates"),
    ):
        error = 100 - results[f"{kind}_test"].values
        rate = np.broadcast_to(results[f"{kind}_rate"].values, error.shape)
        why.plot(rate.ravel(), error.ravel(), style, ms=4, alpha=0.4, label=label)
    why.set(
        xscale="log", yscale="log", xlabel="learning rate", ylabel="test error (%)",
        title=f"Every trial: the grid tries {GRID_LEVELS['rate']} rates",
    )  # fmt: skip
    for axes, ticks, place in (
        (curves, (3, 5, 10, 20, 50), "upper right"),
        (why, (3, 5, 10, 20, 50, 100), "lower left"),
    ):
        axes.set_yticks(ticks, [str(tick) for tick in ticks])
        axes.minorticks_off()
        axes.grid(lw=0.3)
        axes.legend(fontsize=9, loc=place)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
