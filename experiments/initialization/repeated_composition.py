"""What eight tanh layers make of a straight line: most slopes near 0, a few huge, many turns.

A straight line crosses the space of 100 inputs, x = t u with |u| = 1 and t from -60 to 60; each
layer multiplies by weights N(0, 4/100), without biases, and takes tanh. After each layer the 100
values are projected on 16 random directions, of norm 1 on average. The slope dy/dt is computed at
each of 4,001 points, exactly, beside y. Going through such a network forward, or a gradient going
back, is multiplying by these slopes.

The mean field follows, at each t, the variance of a unit's z, that of dz/dt and their covariance.
So it knows the distribution of the slope: a normal one at each t, mixed over t.

Meaning: The curves show what a straight line through the inputs has become after 1, 2, 4 and 8 tanh
layers; below are the slopes of the curve and how often it turns. Layers stacked make most slopes
nearly zero and a few huge, which are the vanishing and the exploding gradient in one picture;
whether theory still has the median slope right after eight layers is undecided.

Data: none (synthetic: 4,001 points on a straight line through 100 inputs).
Source: the lecture on weight initialisation; Goodfellow, Bengio and Courville (2016), figure 10.15;
Poole et al. (2016), for the theory.
Run: python experiments/initialization/repeated_composition.py
Expected: the median of |dy/dt| falls from 0.07 to some 0.004 in the first layer and stays small,
while the largest doubles with each layer, past 1 in the third; the curve turns more often after
each layer. The slopes are distributed as the mean field has them, but layers of 100 units drift
from it: after eight, 53 of 100 slopes lie below theory's median, so that claim is undecided.
Time: 35 s on 2 CPU cores.
"""

import math
import sys
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Array, Float

from jaxdl import initializers, training
from jaxdl.claims import Claim, about_mean, about_means, about_ratios, main
from jaxdl.plotting import band, new_figure

WIDTH, DEPTH, REACH, PROJECTIONS = 100, 8, 60.0, 16
WEIGHT_VARIANCE = 4.0
"""WIDTH Var(W). tanh keeps a small signal at 1; beyond, neighbouring points part."""
QUANTILES = (0.5, 0.9, 0.99, 1.0)
COMPARED = (0.5, 0.9)
"""The quantiles that theory is asked for; the highest are too few points of one network."""
NEAR = 5 / WIDTH
"""So far, as a share, a finite layer strays from its law on average."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seed: int = 0
    """The first seed; the others follow it."""
    seeds: int = 100
    """Networks; at least 3."""
    points: int = 4_001
    """On the line; a turn between two of them is missed."""


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=60, points=1_001),
    "full": Config(seeds=400, points=12_001),
}


def line(points: int) -> np.ndarray:
    """t, where the curve is computed."""
    return np.linspace(-REACH, REACH, points)


def compose(key: Any, t: Float[Array, " points"]) -> tuple[Array, Array]:
    """y and dy/dt, each (DEPTH + 1, points, PROJECTIONS): of the inputs, and after each layer."""
    direction_key, projection_key, weights_key = jax.random.split(key, 3)
    normal = initializers.normal()
    u, projection = normal(direction_key, (WIDTH,)), normal(projection_key, (WIDTH, PROJECTIONS))
    u, projection = u / jnp.linalg.norm(u), projection / math.sqrt(WIDTH)
    weights = normal(weights_key, (DEPTH, WIDTH, WIDTH)) * math.sqrt(WEIGHT_VARIANCE / WIDTH)

    def layer(state: tuple[Array, Array], kernel: Array) -> Any:
        a, slope = state
        after = jnp.tanh(a @ kernel)
        after_slope = (1 - jnp.square(after)) * (slope @ kernel)
        return (after, after_slope), (after @ projection, after_slope @ projection)

    start = t[:, None] * u, jnp.broadcast_to(u, (len(t), WIDTH))
    _, layers = jax.lax.scan(layer, start, weights)
    of_inputs = start[0] @ projection, start[1] @ projection
    y, slopes = (
        jnp.concatenate([first[None], rest]) for first, rest in zip(of_inputs, layers, strict=True)
    )
    return y, slopes


def run(config: Config) -> xarray.Dataset:
    """By seed and layer: quantiles of |dy/dt|, turns, shares below theory's quantiles; a curve."""
    t = line(config.points)
    predicted = theory(np.abs(t[:: max(1, len(t) // 400)]))
    levels = jnp.asarray([predicted[share] for share in COMPARED], jnp.float32)
    shown = slice(None, None, max(1, len(t) // 2000))

    def member(key: Any) -> dict[str, Any]:
        y, slopes = compose(key, jnp.asarray(t, jnp.float32))
        sizes = jnp.abs(slopes)
        return {
            "slope": jnp.quantile(sizes, jnp.array(QUANTILES), axis=(1, 2)),
            "turns": jnp.sum(slopes[:, 1:] * slopes[:, :-1] < 0, axis=(1, 2)) / PROJECTIONS,
            "below": jnp.mean(sizes < levels[..., None, None], axis=(2, 3)),
            "y": y[:, shown, 0],
        }

    swept = training.sweep(
        member,
        seeds=range(config.seed, config.seed + config.seeds),
        dims={
            "slope": ("quantile", "layer"),
            "turns": ("layer",),
            "below": ("share", "layer"),
            "y": ("layer", "t"),
        },
    )
    return swept.assign(
        theory=(("share", "layer"), np.array([predicted[share] for share in COMPARED]))
    ).assign_coords(
        quantile=[*QUANTILES], share=[*COMPARED], layer=np.arange(DEPTH + 1), t=t[shown]
    )


def slope_variances(t: np.ndarray) -> np.ndarray:
    """(DEPTH + 1, points): the variance of dy/dt at each t, in wide layers.

    With q = E[z^2], b = E[z z'], d = E[z'^2] (a dash is d/dt), z' given z has mean (b / q) z and
    variance d - b^2 / q.
    """
    x = np.linspace(-8.0, 8.0, 4001)
    density = np.exp(-(x**2) / 2)
    density /= density.sum()
    # Of the inputs, by unit: t u and u, where u^2 is 1 / WIDTH on average.
    square, product, slope = t**2 / WIDTH, t / WIDTH, np.full_like(t, 1 / WIDTH)
    # y adds WIDTH units, each times a projection of variance 1 / WIDTH.
    variances = [slope]
    for _ in range(DEPTH):
        q, b, d = (WEIGHT_VARIANCE * each for each in (square, product, slope))
        z = np.sqrt(q)[:, None] * x
        f, df = np.tanh(z), 1 - np.tanh(z) ** 2
        along = np.divide(b, q, out=np.zeros_like(q), where=q > 0)
        square = f**2 @ density
        product = along * ((f * df * z) @ density)
        slope = (d - along * b) * (df**2 @ density) + along**2 * ((df * z) ** 2 @ density)
        variances.append(slope)
    return np.array(variances)


def theory(t: np.ndarray) -> dict[float, np.ndarray]:
    """By share: the size below which so large a share of the slopes lies, (DEPTH + 1,)."""
    from scipy.optimize import brentq
    from scipy.special import erf

    def quantile(share: float, deviations: np.ndarray) -> float:
        def excess(log_size: float) -> float:
            return float(np.mean(erf(math.exp(log_size) / (math.sqrt(2) * deviations))) - share)

        return math.exp(brentq(excess, -60.0, 60.0))

    all_deviations = np.sqrt(slope_variances(t))
    return {
        share: np.array([quantile(share, deviations) for deviations in all_deviations])
        for share in COMPARED
    }


def claims(results: xarray.Dataset) -> list[Claim]:
    """What the mean field says of the slopes; most fall, a few grow, the curve turns."""
    of_seeds = f"mean of {results.sizes['seed']} seeds"
    slope, turns = results["slope"], results["turns"]
    made = [
        about_means(
            f"Theory knows the {share:g} quantile of the curve's slopes: share of slopes below "
            f"it, the farthest of {DEPTH} layers; {of_seeds}",
            results["below"].sel(share=share).isel(layer=slice(1, None)).transpose("seed", "layer"),
            share - NEAR,
            share + NEAR,
        )
        for share in COMPARED
    ]
    made += [
        about_ratios(
            f"Most slopes fall to near 0: median of |dy/dt| after {DEPTH} layers, over that of the "
            f"straight line; geometric {of_seeds}",
            slope.sel(quantile=0.5, layer=DEPTH) / slope.sel(quantile=0.5, layer=0),
            0.0,
            1.0,
        ),
        about_ratios(
            f"A few slopes grow: the largest |dy/dt| after {DEPTH} layers, over that of the "
            f"straight line; geometric {of_seeds}",
            slope.sel(quantile=1.0, layer=DEPTH) / slope.sel(quantile=1.0, layer=0),
            1.0,
        ),
        about_mean(
            f"The curve turns more often with depth: turns after {DEPTH} layers less those after "
            f"1; {of_seeds}",
            turns.sel(layer=DEPTH) - turns.sel(layer=1),
            low=0.0,
        ),
    ]
    return made


def plot(results: xarray.Dataset) -> Any:
    """One network's curve after some layers; slopes by layer beside theory; turns."""
    figure = new_figure(12, 8)
    top, bottom = figure.subfigures(2, 1, height_ratios=[1, 1.2])
    curve = results["y"].isel(seed=0)
    shown = (0, 1, 2, 4, DEPTH)
    for axes, layer in zip(top.subplots(1, len(shown)), shown, strict=True):
        axes.plot(curve["t"], curve.sel(layer=layer), "C0-", lw=0.9)
        axes.set(
            xlabel="t, place on the line", title=f"after layer {layer}" if layer else "the line"
        )
    top.axes[0].set_ylabel("projection y, one network")
    left, right = bottom.subplots(1, 2)
    layers, styles = results["layer"].values, ("C0-", "C1--", "C2-.", "C3-")
    labels = {0.5: "median", 0.9: "90 %", 0.99: "99 %", 1.0: "largest"}
    for quantile, style in zip(QUANTILES, styles, strict=True):
        values = results["slope"].sel(quantile=quantile).transpose("seed", "layer")
        logs = np.log10(np.maximum(values, 1e-12))
        band(left, layers, logs, style, lw=2.5, label=labels[quantile])
    for share in COMPARED:
        left.plot(
            layers, np.log10(results["theory"].sel(share=share)), "k-", lw=0.8,
            label="theory: median, 90 %" if share == COMPARED[0] else None,
        )  # fmt: skip
    left.set(
        xlabel="layers passed",
        ylabel="log10 of |dy/dt|",
        title=f"Slopes on the line: mean of {results.sizes['seed']} seeds, 95 % interval",
    )
    left.legend(loc="upper left", frameon=False)
    band(right, layers, results["turns"].transpose("seed", "layer"), "C4-o", lw=2)
    right.set(
        xlabel="layers passed",
        ylabel="turns between t = -60 and 60",
        title="Changes between rising and falling",
    )
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
