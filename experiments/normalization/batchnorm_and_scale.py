"""With BatchNorm the scale of the first weights hardly matters: it only sets a learning rate.

[64, 64, 64, 10] on 8 x 8 digits, He's weights times a, a over six decades; SGD at three rates eta,
batches of 50. A plain network learns within a decade of a = 1 only. BatchNorm's outputs do not
depend on a: BN(aWx) = BN(Wx). The gradient is 1/a of that at scale 1, and moves a times W, not W.
So hidden weights of scale a learn as hidden weights of scale 1 do at the rate eta / a^2. A step
turns a unit's weights w by about eta / |w|^2. Large weights hardly turn; small ones leap once, are
large then, and hardly turn either. The output layer still learns to read the hidden units. Behind
it is no norm: where it is scaled too, large logits end the training.

Meaning: Each curve is the test accuracy over six decades of the scale of the first weights, with
BatchNorm and without, at three learning rates; the last panel shows how fast the hidden units can
still turn. BatchNorm takes the scale of the hidden weights out of what they compute, so that it
acts as a learning rate only; without it a network learns near He's scale and nowhere else.

Data: digits, 1,797 grey digits of 8 x 8 (60 % to train on, 10 % to validate, 30 % to test), from
the package sklearn.
Source: the lecture on BatchNorm; Ioffe and Szegedy (2015), section 3.3; van Laarhoven (2017);
Arora, Li and Lyu (2019).
Run: python experiments/normalization/batchnorm_and_scale.py
Expected: at the best of the rates, BatchNorm's network has 98 % of the test digits right at a = 1,
and 92 % or more at every a. The plain one falls to chance at 1/100 and 100. With the output layer
scaled, BatchNorm's falls to chance at 1000. Epsilon is 0 here, which makes the law exact.
Time: 35 s on 2 CPU cores.
"""

import functools
import itertools
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray

from jaxdl import data, initializers, layers, losses, metrics, models, optimizers, training
from jaxdl.claims import Claim, about_mean, about_means, main, slopes
from jaxdl.plotting import band, new_figure

FEATURES, HIDDEN, BATCH_SIZE = (64, 64, 10), ("dense_0", "dense_1"), 50
SPLITS = (0.6, 0.1, 0.3)
"""Of the 1,797 digits: to train, to choose the rate, to test."""
HE_SQUARE = 2.0
"""He's weights into a unit have this sum of squares, on average."""
CHANCE = 10.0
"""The accuracy of a guess among ten classes, %."""
HARDLY, MATTERS = 10.0, 50.0
"""A scale that costs fewer points of accuracy hardly matters; one that costs more does."""
NEAR, NEAR_POWER = 1.0, 0.2
"""Points of accuracy, of which one is 5 of the 540 digits, and powers of a: runs that follow the
law differ by rounding, and small weights still move a little after their leap."""


class Arm(NamedTuple):
    """A network: its label and line, and what a, the scale, multiplies."""

    label: str
    style: str
    batch_norm: bool
    exponents: tuple[int, int, int]
    """Of a in the hidden weights, in the output's weights, and in the hidden weights' rate."""


ARMS = {
    "plain": Arm("plain, all weights x a", "C0-o", False, (1, 1, 0)),
    "hidden": Arm("BatchNorm, hidden weights x a", "C3-s", True, (1, 0, 0)),
    "all": Arm("BatchNorm, all weights x a", "C1--^", True, (1, 1, 0)),
    "law": Arm(r"law: BatchNorm, scale 1, hidden rate $\eta/a^2$", "kx", True, (0, 0, -2)),
}


@dataclass(frozen=True)
class Config:
    """The knobs."""

    scales: tuple[float, ...] = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3)
    """Of the first weights, as multiples of He's; at least 4, ascending, 1 among them."""
    rates: tuple[float, ...] = (0.01, 0.1, 1.0)
    """Learning rates, ascending."""
    epochs: int = 20
    """Passes over 1,078 digits."""
    epsilon: float = 0.0
    """Of BatchNorm. The usual 1e-5 is not small beside the variance that weights of 1e-3 leave: it
    makes their leap smaller."""
    seeds: int = 10
    """Runs of each network, each with its own weights and order; at least 3."""
    seed: int = 0
    """The first seed; the others follow it."""

    def __post_init__(self) -> None:
        if 1.0 not in self.scales or len(self.scales) < 4 or [*self.scales] != sorted(self.scales):
            raise ValueError(
                f"scales must be at least 4, ascending, 1.0 among them, got {self.scales}; "
                "the others are compared with it"
            )


PRESETS = {
    "default": Config(),
    "smoke": Config(scales=(1e-3, 1e-2, 1.0, 1e2, 1e3), rates=(0.1,), epochs=12, seeds=3),
    "full": Config(
        scales=tuple(10.0**k for k in np.arange(-4, 4.1, 0.5)),
        rates=(0.01, 0.03, 0.1, 0.3, 1.0),
        epochs=60,
        seeds=30,
    ),
}


def task_of(batch_norm: bool, epsilon: float) -> training.Task:
    """The network with or without BatchNorm."""
    norm = functools.partial(layers.BatchNorm, epsilon=epsilon) if batch_norm else None
    model = models.MLP(FEATURES, norm=norm, kernel_init=initializers.he_normal())
    return training.Task(model, losses.cross_entropy, [metrics.accuracy])


def times(tree: Any, hidden: Any, output: Any = 1.0) -> Any:
    """The parameters (or their updates) with these factors on the kernels."""
    factors = dict.fromkeys(HIDDEN, hidden) | {"dense_2": output}
    return {
        name: {**layer, "kernel": layer["kernel"] * factors[name]} if name in factors else layer
        for name, layer in tree.items()
    }


def run(config: Config) -> xarray.Dataset:
    """By network, scale, rate and seed: accuracies, %; hidden layers' effective rate at the end."""
    digits = data.split(data.load("digits"), key=jax.random.key(0), fractions=SPLITS)
    splits = {name: vars(digits)[name] for name in ("train", "validation", "test")}
    exponents = np.array([arm.exponents for arm in ARMS.values()], np.float32)

    def networks(batch_norm: bool) -> xarray.Dataset:
        task = task_of(batch_norm, config.epsilon)

        def member(key: Any, orders: Any, params: Any, *, arm: Any, scale: Any, rate: Any) -> Any:
            hidden, output, slower = scale ** jnp.asarray(exponents)[arm]
            optimizer = optax.chain(
                optimizers.sgd(rate), optax.stateless(lambda updates, _: times(updates, slower))
            )
            learn = training.make_run(task, optimizer, batch_size=BATCH_SIZE)
            start = learn.init(key, digits.train, times(params, hidden, output))
            state, measured = learn(key, splits, orders, start)
            found = {name: 100 * measured[name]["accuracy"][-1] for name in ("validation", "test")}
            return found | {"effective": rate * slower / square(state.params)}

        arms = {
            name: k for k, name in enumerate(ARMS) if ARMS[name].batch_norm == batch_norm
        }  # numbers: they share a program
        return training.sweep(
            member,
            {"arm": arms, "scale": config.scales, "rate": config.rates},
            seeds=range(config.seed, config.seed + config.seeds),
            by_seed={
                "orders": lambda key: training.orders(key, config.epochs, len(digits.train)),
                "params": training.first_weights(task, digits.train),
            },
        )

    return xarray.concat([networks(False), networks(True)], "arm")


def square(params: Any) -> Any:
    """The sum of squares of the weights into a hidden unit: the geometric mean over all units."""
    squares = jnp.stack([jnp.sum(jnp.square(params[name]["kernel"]), axis=0) for name in HIDDEN])
    return jnp.exp(jnp.log(squares).mean())


def at_best_rate(results: xarray.Dataset) -> xarray.DataArray:
    """By seed, network and scale: test accuracy at the rate that is best in validation, %."""
    best = results["validation"].fillna(0).mean("seed").argmax("rate")
    return results["test"].isel(rate=best).transpose("seed", "arm", "scale")


def claims(results: xarray.Dataset) -> list[Claim]:
    """Where the scale matters; that it is a rate; that hidden layers stand still far from 1."""
    accuracy, scales = at_best_rate(results), results["scale"].values
    lost = accuracy.sel(scale=1.0) - accuracy.drop_sel(scale=1.0)
    pairs = results["test"].stack(pair=("scale", "rate")).transpose("seed", "arm", "pair")
    of_seeds = f"mean of {results.sizes['seed']} seeds"
    made = [
        about_means(
            "With BatchNorm the scale of the hidden weights hardly matters: points of accuracy "
            f"lost against scale 1, at the worst of {lost.sizes['scale']} scales from "
            f"{scales[0]:g} to {scales[-1]:g}; {of_seeds}",
            lost.sel(arm="hidden"),
            high=HARDLY,
        ),
        about_means(
            f"Without BatchNorm the scale matters: points lost at {scales[0]:g} and at "
            f"{scales[-1]:g}, the lesser of the two; {of_seeds}",
            lost.sel(arm="plain").isel(scale=[0, -1]),
            low=MATTERS,
        ),
        about_mean(
            "BatchNorm does not help the output layer, which has none behind it: points lost if "
            f"all weights are {scales[-1]:g} times He's; {of_seeds}",
            lost.sel(arm="all").isel(scale=-1),
            low=MATTERS,
        ),
        about_means(
            "With BatchNorm the scale a of the hidden weights is a learning rate: accuracy less "
            "that of scale 1 with the hidden rate eta/a^2, points, farthest from 0 of "
            f"{pairs.sizes['pair']} pairs of scale and rate; {of_seeds}",
            pairs.sel(arm="hidden") - pairs.sel(arm="law"),
            -NEAR,
            NEAR,
        ),
    ]
    effective = results["effective"].sel(arm="hidden").transpose("seed", "rate", "scale")
    for side, does, power in (
        (slice(-2, None), "Large hidden weights stand still", -2),
        (slice(2), "Small hidden weights leap once, and stand still too", 2),
    ):
        a = scales[side]
        made.append(
            about_mean(
                f"{does}: eta over their square at the end goes as a^p from {a[0]:g} to {a[-1]:g}; "
                f"p (law {power}), mean of the rates, {of_seeds}",
                slopes(np.log(a), np.log(effective.isel(scale=side))).mean(1),
                power - NEAR_POWER,
                power + NEAR_POWER,
            )
        )
    return made


def plot(results: xarray.Dataset) -> Any:
    """Accuracy by scale, at each rate; the rate at which the hidden layers still turn."""
    count = results.sizes["rate"] + 1
    rows = -(-count // 2)
    figure = new_figure(11, 4.5 * rows)
    grid = figure.subplots(rows, 2).ravel()
    for spare in grid[count:]:
        spare.remove()
    *panels, turning = grid[:count]
    scales, rates = results["scale"].values, results["rate"].values
    for axes, rate in zip(panels, rates, strict=True):
        for name, arm in ARMS.items():
            accuracy = results["test"].sel(arm=name, rate=rate).transpose("seed", "scale")
            if name == "law":
                axes.plot(scales, accuracy.mean("seed"), arm.style, ms=11, label=arm.label)
            else:
                band(axes, scales, accuracy, arm.style, spread="range", ms=6, label=arm.label)
        axes.axhline(CHANCE, color="k", ls=":", lw=1)
        axes.text(scales[0], CHANCE + 1, "chance", va="bottom")
        axes.set(ylim=(0, 102), title=rf"Learning rate $\eta$ = {rate:g}")
    for axes in panels:
        axes.set_ylabel(f"test accuracy, %, mean and range of {results.sizes['seed']} seeds")
    for rate, style in zip(rates, itertools.cycle(("C2-o", "C4-D", "C5-v"))):
        of_rate = results["effective"].sel(rate=rate).transpose("seed", "arm", "scale")
        measured, law = of_rate.sel(arm="hidden"), of_rate.sel(arm="law")
        band(turning, scales, measured, style, spread="range", label=rf"$\eta$ = {rate:g}")
        turning.plot(scales, law.mean("seed"), "kx", ms=11)
        turning.plot(scales, rate / (HE_SQUARE * scales**2), "k:", lw=1)
    turning.plot([], [], "kx", ms=11, label=r"law: scale 1, hidden rate $\eta/a^2$")
    turning.plot([], [], "k:", lw=1, label=r"weights that do not move: $\eta/(2a^2)$")
    measured = results["effective"].sel(arm="hidden")
    turning.set(
        yscale="log",
        ylim=(measured.min() / 1e5, 10 * measured.max()),
        ylabel=r"$\eta\,/\,\|w\|^2$ of a hidden unit after training",
        title="How fast hidden units can turn\n(BatchNorm, hidden weights x a)",
    )
    for axes in (*panels, turning):
        axes.set(xscale="log", xlabel="scale a of the first weights (1: He)")
        axes.grid(lw=0.3)
    turning.legend(fontsize=9, loc="lower left")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
