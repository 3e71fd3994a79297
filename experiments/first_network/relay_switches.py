"""A ReLU network is a set of linear ones. Which one answers is told by the units that are on.

The function clamp(2 x1) - clamp(2 x2), clamped to [-1, 1], has 3 x 3 cases on the square [-1, 1]^2
and is affine in each. It is a network of 4 ReLUs, two a clamp, that switch where the cases meet;
these are written by hand. Beside it, networks with one hidden layer of 4, 8, 16 and 32 ReLUs,
trained on a grid of 32 x 32 points: Adam, batches of 64, the rate falling from 0.01 to 0 as a
cosine. A pattern is which hidden units are on. What it tells of the case is the mutual
information of the two, in bits, over 100 x 100 other points; the cases have 3 bits.

Meaning: The maps show where each hidden ReLU switches on and off, and which units are on for the
examples of each of nine cases; the curves show how much the pattern of units that are on tells of
the case. A ReLU network is one linear network for each pattern, and training moves the switches to
where the cases meet: 16 units find them, while 4, which are enough when written by hand, hardly do.

Data: none (synthetic: a grid of 32 x 32 points of a function with nine linear pieces; 100 x 100
others to measure on).
Source: the lecture's class project (EE541) on switching ReLUs; Montufar et al. (2014), On the
Number of Linear Regions of Deep Neural Networks; mutual information: Cover and Thomas (2006),
chapter 2.
Run: python experiments/first_network/relay_switches.py
Expected: the pattern of random units tells 1.0, 1.6, 2.2, 2.6 bits, of trained ones 1.7, 2.7, 3.0,
3.0; and trained ones say less that is not about the case. 4 units are enough by hand, but training
hardly finds them; with 16 it finds the cases.
Time: 20 s on 2 CPU cores.
"""

import sys
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray

from jaxdl import data, initializers, losses, models, optimizers, training
from jaxdl.claims import Claim, about_mean, about_means, about_ratios, main
from jaxdl.plotting import band, new_figure

SLOPE, KINK = 2.0, 0.5
"""The clamp is steep inside of +- KINK, where it reaches +- 1, and flat outside."""
CASES, CASE_BITS = 9, 3.0
"""Flat, steep and flat have 1/4, 1/2 and 1/4 of a side: 1.5 bits."""
BY_HAND, AMPLE = 4, 16
"""Units of the network written by hand; units that are four times as many."""
RATE, BATCH_SIZE, TRAIN_SIDE, SIDE = 0.01, 64, 32, 100
EPSILON = 2.0**-23
WHEN = ("untrained", "trained")


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seed: int = 0
    """The first seed; the others follow it."""
    seeds: int = 20
    """Networks of each width; at least 3."""
    epochs: int = 400
    """Passes over the 1024 points."""
    widths: tuple[int, ...] = (4, 8, 16, 32)
    """Hidden units of the trained networks, ascending; 16 among them."""


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=4, epochs=150, widths=(16,)),
    "full": Config(seeds=100, epochs=2000),
}


def clamps(x: Any) -> Any:
    """The function to learn, (points, 2) to (points, 1)."""
    sides = np.clip(SLOPE * x, -1, 1)
    return sides[:, :1] - sides[:, 1:]


def case_of(x: Any) -> np.ndarray:
    """The case of each point, 0 to 8, (points, 2) to (points,)."""
    return np.asarray(np.digitize(x, [-KINK, KINK]) @ [3, 1])


def square(side: int) -> data.Arrays:
    """The middles of side x side equal cells of the square, with the function's values."""
    middles = (np.arange(side) + 0.5) / side * 2 - 1
    x = np.stack(np.meshgrid(middles, middles, indexing="ij"), -1).reshape(-1, 2)
    return data.Arrays(x.astype(np.float32), clamps(x).astype(np.float32))


def written_by_hand() -> dict[str, np.ndarray]:
    """The parameters of MLP((4, 1)) that is the function: clamp(2x) = r(2x + 1) - r(2x - 1) - 1."""
    made: dict[str, Any] = {
        "dense_0/kernel": [[SLOPE, SLOPE, 0, 0], [0, 0, SLOPE, SLOPE]],
        "dense_0/bias": [1, -1, 1, -1],
        "dense_1/kernel": [[1], [-1], [-1], [1]],
        "dense_1/bias": [0],
    }
    return {name: np.array(leaf, np.float32) for name, leaf in made.items()}


def run(config: Config) -> xarray.Dataset:
    """By width, seed, and before or after training: what patterns tell, and how affine they are."""
    widths = [*config.widths]
    if AMPLE not in widths or widths != sorted({*widths}) or widths[0] < 1:
        raise ValueError(
            f"widths must ascend from 1 or more, {AMPLE} among them, got {config.widths}; "
            "pass e.g. (4, 8, 16, 32)"
        )
    fine = square(SIDE)
    trained = {width: train(width, config) for width in widths}
    by_width = xarray.concat([measured(each, fine) for each in trained.values()], "width")
    hand_on = switches(written_by_hand(), fine.inputs)[0]
    shown = trained[AMPLE].isel(seed=0)
    return by_width.assign(
        hand_bits=tells(hand_on, case_of(fine.inputs))[0],
        shown_kernel=(("when", "input", "unit"), shown["dense_0/kernel"].values),
        shown_bias=(("when", "unit"), shown["dense_0/bias"].values),
    ).assign_coords(width=widths)


def train(width: int, config: Config) -> xarray.Dataset:
    """By seed: the parameters of a network, before training and after."""
    points = square(TRAIN_SIDE)
    steps = config.epochs * -(-len(points) // BATCH_SIZE)
    draw, draw_bias = initializers.torch_kernel(), initializers.torch_bias
    model = models.MLP((width, 1), kernel_init=draw, bias_init=draw_bias)
    task = training.Task(model, losses.mean_squared_error)
    falling = optimizers.schedules.cosine_decay(RATE, steps=steps)
    learn = training.make_run(task, optimizers.adam(falling), batch_size=BATCH_SIZE)

    def member(key: Any, orders: Any, params: Any) -> dict[str, Any]:
        start = learn.init(key, points, params)
        end = learn(key, {"train": points}, orders, start)[0].params
        return dict(jax.tree.map(lambda *both: jnp.stack(both), params, end))

    return training.sweep(
        member,
        seeds=range(config.seed, config.seed + config.seeds),
        by_seed={
            "orders": lambda key: training.orders(key, config.epochs, len(points)),
            "params": training.first_weights(task, points),
        },
        dims={
            "dense_0/kernel": ("when", "input", "unit"), "dense_0/bias": ("when", "unit"),
            "dense_1/kernel": ("when", "unit", "output"), "dense_1/bias": ("when", "output"),
        },
    )  # fmt: skip


def switches(params: Any, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Units on, (points, units); the output, (points,); a bound on the rms of its rounding errors.

    A sum of n terms in float32 is off by at most n epsilon times the sum of their sizes.
    """
    names = ("dense_0/kernel", "dense_0/bias", "dense_1/kernel", "dense_1/bias")
    kernel, bias, read, offset = (params[name] for name in names)
    hidden = x @ kernel + bias
    sizes = (np.abs(x) @ np.abs(kernel) + np.abs(bias)) @ np.abs(read) + np.abs(offset)
    terms = len(kernel) + 1 + len(read) + 1
    bound = float(terms * EPSILON * np.sqrt(np.mean(sizes.astype(np.float64) ** 2)))
    return hidden > 0, (np.maximum(hidden, 0) @ read + offset)[:, 0], bound


def tells(on: np.ndarray, cases: np.ndarray) -> tuple[float, float]:
    """What the pattern tells of the case, I(P; C) = H(P) - H(P | C); and of all else, H(P | C)."""
    patterns = np.unique(on, axis=0, return_inverse=True)[1].ravel()
    aside = entropy(patterns * CASES + cases) - entropy(cases)
    return entropy(patterns) - aside, aside


def entropy(symbols: np.ndarray) -> float:
    """- sum p log2 p, in bits, of the shares p of the symbols."""
    shares = np.unique(symbols, return_counts=True)[1] / len(symbols)
    return float(-(shares * np.log2(shares)).sum())


def affine_misfit(on: np.ndarray, x: np.ndarray, values: np.ndarray) -> np.ndarray:
    """By column of values: their rms distance from the best plane through each pattern's points."""
    design = np.column_stack([x, np.ones(len(x))]).astype(np.float64)
    squares, patterns = np.zeros(values.shape[1]), np.unique(on, axis=0, return_inverse=True)[1]
    for pattern in np.unique(patterns):
        rows = patterns.ravel() == pattern
        plane = np.linalg.lstsq(design[rows], values[rows], rcond=None)[0]
        squares += ((values[rows] - design[rows] @ plane) ** 2).sum(0)
    return np.asarray(np.sqrt(squares / len(x)))


def measured(trained: xarray.Dataset, points: data.Arrays) -> xarray.Dataset:
    """By seed, and before or after training: bits, and how affine each pattern is."""
    x, found = np.asarray(points.inputs), []
    for seed, when in np.ndindex(trained.sizes["seed"], len(WHEN)):
        weights = trained.isel(seed=seed, when=when)
        on, output, bound = switches({name: weights[name].values for name in weights}, x)
        network, function = affine_misfit(on, x, np.column_stack([output, clamps(x)]))
        found.append([*tells(on, case_of(x)), network / bound, function])
    names = ("bits", "aside_bits", "network_misfit", "function_misfit")
    columns = np.reshape(found, (-1, len(WHEN), len(names))).transpose(2, 0, 1)
    return xarray.Dataset(
        {name: (("seed", "when"), column) for name, column in zip(names, columns, strict=True)},
        {"seed": trained["seed"], "when": [*WHEN]},
    )


def claims(results: xarray.Dataset) -> list[Claim]:
    """The pattern tells the case; and within a pattern all is affine."""
    before, after = (results.transpose("seed", ...).sel(when=when, drop=True) for when in WHEN)
    widths, seeds = ", ".join(map(str, results["width"].values)), results.sizes["seed"]
    where = f"{widths} units, the width that decides; mean of {seeds} seeds"
    return [
        Claim(
            "Four units written by hand switch where the cases meet: what their pattern "
            f"tells of the case, of {CASE_BITS:g} bits (arithmetic)",
            results["hand_bits"],
            *(CASE_BITS - EPSILON, CASE_BITS + EPSILON),
        ),
        Claim(
            "A network is linear while no unit switches: rms distance of the output from the best "
            "linear read-outs of the patterns, over a bound on float32's rounding; the farthest "
            f"of {results['network_misfit'].size} networks (arithmetic)",
            results["network_misfit"].max(),
            *(0.0, 1.0),
        ),
        about_means(
            "Training moves the switches to where the cases meet: bits that the pattern tells of "
            f"the case, trained less untrained, {where}",
            after["bits"] - before["bits"],
            low=0.0,
        ),
        about_mean(
            f"With {AMPLE} units, 4 times as many as needed, the pattern tells the case: bits of "
            f"{CASE_BITS:g}, mean of {seeds} seeds, at least nine tenths",
            after["bits"].sel(width=AMPLE),
            0.9 * CASE_BITS,
        ),
        about_ratios(
            f"After training the function, too, is nearly linear within a pattern: {AMPLE} units, "
            "rms distance from its best linear read-outs, untrained over trained, geometric, "
            f"{seeds} seeds",
            (before["function_misfit"] / after["function_misfit"]).sel(width=AMPLE),
            low=1.0,
        ),
        about_means(
            "After training the patterns say less that is not about the case: H(pattern | case) "
            f"in bits, untrained less trained, {where}",
            before["aside_bits"] - after["aside_bits"],
            low=0.0,
        ),
    ]


def plot(results: xarray.Dataset) -> Any:
    """The kinks in the square, the units by example, and the bits by width."""
    figure, widths = new_figure(13, 7.5), results["width"].values
    grid = figure.add_gridspec(2, 3, width_ratios=[1, 1.15, 1.1])
    for row, when in enumerate(WHEN):
        shown = results.sel(when=when)
        kernel, bias = shown["shown_kernel"].values, shown["shown_bias"].values
        plane, chart = (figure.add_subplot(grid[row, column]) for column in (0, 1))
        draw_kinks(plane, kernel, bias)
        plane.set(title=f"{when}: where each of {AMPLE} units switches", aspect="equal")
        plane.set(xlabel="$x_1$", ylabel="$x_2$", xlim=(-1, 1), ylim=(-1, 1))
        draw_units(chart, kernel, bias)
        chart.set(title=f"{when}: units on (black) by example", ylabel="unit")
    bits = figure.add_subplot(grid[:, 2])
    for when, style in zip(WHEN, ("C7--s", "C0-o"), strict=True):
        after = results.sel(when=when).transpose("seed", "width", ...)
        band(bits, widths, after["bits"], style, label=f"{when}: about the case")
        band(
            bits, widths, after["aside_bits"], f"{style[:2]}:", label=f"{when}: about other things"
        )
    bits.axhline(CASE_BITS, color="k", lw=1)
    bits.plot(BY_HAND, results["hand_bits"], "k*", ms=14, label="written by hand: about the case")
    bits.text(widths[-1], CASE_BITS + 0.04, "all there is to know: 3 bits", ha="right")
    bits.set_xscale("log", base=2)
    bits.set_xticks(widths, widths)
    bits.set(xlabel="hidden units", ylabel="what the pattern of units tells (bits)")
    bits.set_title(f"Mean and 95 % interval of {results.sizes['seed']} seeds")
    bits.legend(fontsize=9)
    return figure


def draw_kinks(axes: Any, kernel: np.ndarray, bias: np.ndarray) -> None:
    """The line w x + b = 0 of each unit, over the cases."""
    shades = (case_of(square(SIDE).inputs) % 2).reshape(SIDE, SIDE).T
    axes.imshow(shades, extent=(-1, 1, -1, 1), origin="lower", cmap="Greys", vmax=4)
    for case, (row, column) in enumerate(np.ndindex(3, 3)):
        axes.text(0.75 * (row - 1), 0.75 * (column - 1), case + 1, fontsize=14, color="C0")
    for weights, offset in zip(kernel.T, bias, strict=True):
        nearest = -offset * weights / (weights @ weights)
        along = np.array([weights[1], -weights[0]])
        axes.axline(nearest, nearest + along, color="C3", lw=1.2)


def draw_units(axes: Any, kernel: np.ndarray, bias: np.ndarray) -> None:
    """Units by example, the examples sorted by case; alike units side by side."""
    x = square(TRAIN_SIDE).inputs
    cases = case_of(x)
    on = (x @ kernel + bias > 0)[np.argsort(cases, kind="stable")]
    on = on[:, np.lexsort(on[:: len(on) // 50])]
    axes.imshow(on.T, aspect="auto", cmap="Greys", vmax=1.3, interpolation="nearest")
    ends = np.cumsum(np.bincount(cases, minlength=CASES))
    for end in ends[:-1]:
        axes.axvline(end - 0.5, color="C3", lw=1)
    axes.set_xticks(ends - np.diff(ends, prepend=0) / 2, range(1, CASES + 1))
    axes.set_xlabel("examples, sorted by case")


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
