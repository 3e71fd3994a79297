"""Eight optimizers in a ravine, on Beale's function and at a saddle: their paths, step by step.

The ravine is a quadratic of condition number 100; a second one is the same turned by 30 degrees,
start and all. The figure shows one start; the claims are about random ones around it. An optimizer
has settled when its height above the minimum has fallen to the function's share of the start's and
stays there. Each one has, on each function, the constant rate of the grid with which its slowest
start settles first (where none does, the one that ends lowest), among the rates that never lift it
above where it started.

Meaning: The paths are those of eight optimizers in a ravine, on Beale's function and beside the
ridge of a saddle; the last panel counts the steps that each needs. Momentum and Nesterov cross the
ravine in fewer steps than SGD, and most adaptive optimizers leave the saddle first; but Adagrad is
quick in the ravine only while it lies along the axes, for turned by 30 degrees it takes 25 times
the steps.

Data: none (synthetic: functions of two parameters, from 24 random starts).
Source: the lecture on optimizers; Polyak (1964) for the ravine, Beale (1958).
Run: python experiments/optimization/optimizer_trajectories.py
Expected: in the ravine momentum settles in two fifths of the steps of SGD, Nesterov in a quarter.
Started a millionth beside the saddle's ridge, SGD gains a constant factor a step and needs
ln(0.1/offset)/ln(1 + 2 rate) of them; the steps of the adaptive optimizers hardly depend on the
gradient's size, and they leave first. What Adagrad wins in the ravine it owes to the axes: turned,
it needs 25 times the steps, while SGD, momentum and Nesterov do not notice. Adadelta settles
nowhere in the ravine: the length of its steps follows that of earlier steps, not the gradient.
Time: 15 s on 2 CPU cores.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Array, Float

from jaxdl import optimizers, plotting
from jaxdl.claims import Claim, about_mean, about_means, about_share, main
from jaxdl.diagnostics.landscape import artificial_landscapes as landscapes
from jaxdl.diagnostics.landscape.trajectories import descend

OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "SGD": optimizers.sgd,
    "momentum": optimizers.momentum,
    "Nesterov": optimizers.nesterov,
    "Adagrad": optimizers.adagrad,
    "Adadelta": optimizers.adadelta,
    "RMSprop": optimizers.rmsprop,
    "Adam": optimizers.adam,
    "Adamax": optimizers.adamax,
}
NAMES = list(OPTIMIZERS)
PLAIN = ["SGD", "momentum", "Nesterov"]
ADAPTIVE_FOUR = ["Adagrad", "Adadelta", "RMSprop", "Adam"]
ANGLE = np.pi / 6
LOWEST_RATE, HIGHEST_RATE = 1e-3, 10.0
ROUNDING = 1e-5
"""By how much of it a height may rise that does not."""
RIDGE_LEFT = 0.1
"""The distance from the saddle's ridge at which it has been left."""


class Place(NamedTuple):
    """A function, where to start, and what counts as settled."""

    function: Callable[..., Any]
    start: tuple[float, float]
    lowest: float
    settled_share: float
    """Of the start's height above the lowest."""
    minima: list[tuple[float, float]]
    x: tuple[float, float]
    y: tuple[float, float]


PLACES = {
    "ravine": Place(
        landscapes.ravine, (-2.0, 0.6), 0.0, 1e-4, [(0.0, 0.0)], (-2.4, 1.2), (-1.0, 1.0)
    ),
    "turned": Place(
        functools.partial(landscapes.ravine, angle=ANGLE),
        (-2.0, 0.6), 0.0, 1e-4, [(0.0, 0.0)], (-2.4, 1.2), (-1.0, 1.0),
    ),
    "beale": Place(landscapes.beale, (1.0, 1.5), 0.0, 1e-4, [(3.0, 0.5)], (-1.2, 4.0), (-2.0, 2.0)),
    "saddle": Place(
        landscapes.saddle, (1.0, 1e-6), -1.0, 1e-2, [(0.0, 2**0.5), (0.0, -(2**0.5))],
        (-1.2, 1.2), (-2.0, 2.0),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Config:
    """The knobs."""

    steps: int = 500
    """Of each path."""
    rates_per_decade: int = 10
    """Of the grid from 0.001 to 10."""
    starts: int = 25
    """Of each function: the one that the figure shows, and random ones around it; at least 4."""
    seed: int = 0
    """Of the random starts."""


PRESETS = {
    "default": Config(),
    "smoke": Config(rates_per_decade=5),
    "full": Config(rates_per_decade=20, starts=65),
}


def starts_of(count: int, seed: int = 0) -> dict[str, Float[np.ndarray, "starts 2"]]:
    """The start of each function and others around it; the turned ravine's are turned with it.

    Beside the ridge of the saddle the others' offsets lie between a hundredth and a hundred times
    the first one's.
    """
    draws = np.random.default_rng(seed)
    starts = {name: np.array([place.start] * count) for name, place in PLACES.items()}
    for around in starts.values():
        around[1:] += 0.1 * draws.normal(size=(count - 1, 2))
    starts["saddle"][1:, 1] = PLACES["saddle"].start[1] * 10 ** draws.uniform(-2, 2, count - 1)
    cosine, sine = np.cos(ANGLE), np.sin(ANGLE)
    starts["turned"] = starts["ravine"] @ np.array([[cosine, sine], [-sine, cosine]])
    return starts


def run(config: Config) -> xarray.Dataset:
    """By optimizer and function, at the best rate: paths, and the step at which each start settles.

    A start that never settles, or never leaves the ridge, has the step after the last.
    """
    decades = round(np.log10(HIGHEST_RATE / LOWEST_RATE))
    rates = np.geomspace(LOWEST_RATE, HIGHEST_RATE, decades * config.rates_per_decade + 1)
    starts = np.stack([*starts_of(config.starts, config.seed).values()])
    found = all_paths(starts, rates, config.steps)
    lowest, share = (
        xarray.DataArray([getattr(place, name) for place in PLACES.values()], dims="function")
        for name in ("lowest", "settled_share")
    )
    above = found["height"] - lowest
    settled, first = settling_step(above, share), above.isel(step=0)
    tail = above.isel(step=slice(-config.steps // 10, None))
    ends = tail.mean(["step", "start"], skipna=False).fillna(np.inf)
    is_lifted = ~(above <= (1 + ROUNDING) * first).all(["step", "start"])
    # Of the rates whose slowest start is the fastest, the one that ends lowest.
    slowest = settled.max("start").where(~is_lifted, np.inf)
    best = ends.where(slowest == slowest.min("rate"), np.inf).argmin("rate")
    # What is picked by optimizer and function has the rate of each as a coordinate.
    chosen = xarray.Dataset({"settled": settled, "path": found["path"]}).isel(rate=best)
    results = chosen.transpose("optimizer", "function", "start", "step", "axis")
    results["start_point"] = ("function", "start", "axis"), starts
    away = abs(results["path"].sel(function="saddle", axis="y", drop=True)) > RIDGE_LEFT
    left = away.argmax("step").where(away.any("step"), config.steps + 1)
    return results.assign(left=left.drop_vars("rate"))


def all_paths(starts: np.ndarray, rates: np.ndarray, steps: int) -> xarray.Dataset:
    """By optimizer, rate, function and start: the points and their heights, step by step.

    The sum of the functions has each one's gradient, and all eight optimizers treat each number
    by itself: one path holds all functions and all starts. One program holds all paths.
    """

    def heights(points: Array) -> Array:
        each = [place.function(points[..., i, :, :]) for i, place in enumerate(PLACES.values())]
        return jnp.stack(each, axis=-2)

    def walk(optimizer: Callable[..., Any], starts: Array, rate: Array) -> tuple[Array, Array]:
        path = descend(lambda points: heights(points).sum(), optimizer(rate), starts, steps)
        return path, heights(path)

    @jax.jit
    def walk_all(starts: Array, rates: Array) -> list[tuple[Array, Array]]:
        each = [functools.partial(walk, optimizer) for optimizer in OPTIMIZERS.values()]
        return [jax.vmap(one, (None, 0))(starts, rates) for one in each]

    walked = walk_all(jnp.asarray(starts, jnp.float32), jnp.asarray(rates, jnp.float32))
    path, height = map(np.stack, zip(*jax.device_get(walked), strict=True))
    by = ("optimizer", "rate", "step", "function", "start")
    return xarray.Dataset(
        {"path": ((*by, "axis"), path), "height": (by, height)},
        coords={"optimizer": NAMES, "rate": rates, "function": list(PLACES), "axis": ["x", "y"]},
    )


def settling_step(above: xarray.DataArray, share: Any) -> xarray.DataArray:
    """The first step from which on the height stays low, or the one after the last."""
    is_high = ~(above <= share * above.isel(step=0))  # NaN is high
    from_the_end = is_high.isel(step=slice(None, None, -1)).argmax("step")
    return xarray.DataArray((above.sizes["step"] - from_the_end).where(is_high.any("step"), 0))


def claims(results: xarray.Dataset) -> list[Claim]:
    """Fewer steps in the ravine; who leaves the ridge first, and SGD's law; what turning does.

    The start that the figure shows is chosen; the statistics are of the random ones around it.
    """
    random = results.isel(start=slice(1, None))
    ravine = random["settled"].sel(function="ravine")
    starts, steps = random.sizes["start"], results.sizes["step"] - 1
    mean_of = f"mean of {starts} starts"
    sgd, adagrad = ravine.sel(optimizer="SGD"), ravine.sel(optimizer="Adagrad")
    made = [
        about_mean(
            f"{name[0].upper()}{name[1:]} crosses a ravine sooner than SGD: steps that it saves, "
            f"of the {sgd.mean():.0f} of SGD, {mean_of}",
            sgd - ravine.sel(optimizer=name), 1.0,
        )
        for name in ("momentum", "Nesterov")
    ]  # fmt: skip
    # The first of the three less each of the four: all differences are to be positive.
    left = random["left"]
    lead = left.sel(optimizer=PLAIN).min("optimizer") - left.sel(optimizer=ADAPTIVE_FOUR)
    offsets = results["start_point"].sel(function="saddle", axis="y")
    growth = 1 + 2 * results["rate"].sel(optimizer="SGD", function="saddle")
    off = results["left"].sel(optimizer="SGD") - np.log(RIDGE_LEFT / offsets) / np.log(growth)
    moved = results["settled"].sel(function="turned") - results["settled"].sel(function="ravine")
    return [
        *made,
        about_means(
            "The adaptive optimizers leave a saddle's ridge first: steps by which Adagrad, "
            "Adadelta, RMSprop and Adam leave before the first of SGD, momentum and Nesterov, the "
            f"least of the four, {mean_of}",
            lead.transpose("start", "optimizer"), 1.0,
        ),
        # A law between two whole steps; the fourth power slows the last one by half a percent.
        Claim(
            "SGD leaves the ridge when a formula says, for it gains a constant factor a step: its "
            "steps less ln(0.1/offset)/ln(1 + 2 rate), farthest from 0 of all "
            f"{offsets.size} starts (arithmetic: the next whole step)",
            max(off.values, key=abs), 0.0, 1.1,
        ),
        Claim(
            "SGD, momentum and Nesterov do not notice that a ravine is turned: by 30 degrees, "
            f"steps more or less, most of all {offsets.size} starts (arithmetic: rounding may "
            "move one)",
            abs(moved.sel(optimizer=PLAIN)).max(), 0.0, 1.0,
        ),
        about_mean(
            "What Adagrad wins in a ravine it owes to the axes: turned by 30 degrees, steps that "
            f"it needs more than the {adagrad.mean():.0f} along them, {mean_of}",
            moved.sel(optimizer="Adagrad")[1:], 1.0,
        ),
        about_share(
            f"Adadelta does not settle in the ravine at any constant rate: share of {starts} "
            f"starts from which it does within {steps} steps at its best one",
            (ravine.sel(optimizer="Adadelta") <= steps).sum().item(), starts, high=0.25,
        ),
    ]  # fmt: skip


def panels(results: xarray.Dataset) -> list[plotting.Landscape]:
    """The first start's paths over three functions: of the plain optimizers, then of the others."""
    first = results.isel(start=0)
    offset = first["start_point"].sel(function="saddle", axis="y").item()
    made = []
    for names in (PLAIN, [name for name in NAMES if name not in PLAIN]):
        for function, title in (
            ("ravine", "Ravine, condition number 100"),
            ("beale", "Beale's function"),
            ("saddle", f"Saddle, {offset:.0e} beside the ridge"),
        ):
            place, paths = PLACES[function], first["path"].sel(function=function)
            x, y = (np.linspace(*ends, 121) for ends in (place.x, place.y))
            grid = jnp.asarray(np.stack(np.meshgrid(x, y, indexing="ij"), axis=-1))
            by_name = {name: paths.sel(optimizer=name) for name in names}
            labels = {
                name: f"{name}, rate {path['rate'].item():.2g}" for name, path in by_name.items()
            }
            made.append(
                plotting.Landscape(
                    x, y, np.asarray(place.function(grid)),
                    {name: path.values for name, path in by_name.items()},
                    place.minima, title, labels=labels,
                )
            )  # fmt: skip
    return made


def plot(results: xarray.Dataset) -> Any:
    """The paths; and the steps that each optimizer needs."""
    figure = plotting.new_figure(12, 12)
    above, below = figure.subfigures(2, 1, height_ratios=[2.3, 1])
    plotting.contours(*panels(results), columns=3, figure=above)
    axes = below.subplots()
    rows, settled = np.arange(len(NAMES)), results["settled"]
    for shift, values, style, label in (
        (-0.3, settled.sel(function="ravine"), "ko", "ravine"),
        (-0.1, settled.sel(function="turned"), "wD", "the same, turned by 30 degrees"),
        (0.1, settled.sel(function="beale"), "ks", "Beale"),
        (0.3, results["left"], "w^", "saddle: ridge left"),
    ):
        middle = values.median("start")
        reach = [middle - values.min("start"), values.max("start") - middle]
        axes.errorbar(
            middle, rows + shift, xerr=reach, fmt=style, mec="k", ecolor="0.4", ms=5, label=label
        )
    axes.hlines(rows[1:] - 0.5, 0, 1, color="0.85", lw=0.8, transform=axes.get_yaxis_transform())
    axes.axvline(results.sizes["step"] - 1, color="0.4", ls=":", label="end of the run")
    axes.set(
        xscale="log", yticks=rows, yticklabels=NAMES, ylim=(len(NAMES) - 0.5, -0.5),
        xlabel="steps to settle, or to leave the ridge (beyond the dotted line: not in this run)",
        title=f"Median and range of {results.sizes['start']} starts, best rate each",
    )  # fmt: skip
    below.legend(loc="outside center right", frameon=False)
    return figure


def animate(results: xarray.Dataset, folder: Path) -> list[Path]:
    """The first 100 steps as a GIF; as an MP4 too where there is ffmpeg."""
    suffixes = ["gif", "mp4"] if plotting.has_ffmpeg() else ["gif"]
    return [
        plotting.animate_paths(
            *panels(results), path=folder / f"paths.{suffix}", steps=100, hold=3.0, columns=3,
            size=(12.0, 9.0),
        )
        for suffix in suffixes
    ]  # fmt: skip


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
