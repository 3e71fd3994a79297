"""The lecture's table of optimizers, with a measurement behind each entry.

[784, 128, 10] on Fashion-MNIST, 100 batches of 100, four seeds. A rate for each parameter: the
spread of -du_i/dg_i, how far parameter i moves for a unit of its gradient. Units: the path when the
loss is 1024 times as large, and when every parameter is a number 16 times larger (phi = 16 theta).
Saddles: the steps to leave (x^2 - h y^2)/2 from (1, 0.1) as the way out gets flatter.

Source: the lecture on optimisation; Zeiler (2012), section 3, for the units.
Run: python experiments/optimization/optimizer_table.py
Expected: without epsilon no adaptive rule heeds the loss's scale, Adadelta no more and no less than
Adam. Adadelta's epsilon of 1e-6 exceeds the squared gradients of this network and undoes its
entries: rates nearly alike, a path that the loss's scale changes, a flat saddle slow to leave. Nor
are its units consistent: the root of the epsilon under RMS of the updates has the parameters'
units, so that its step goes as 1/c, as Adam's; it is consistent if that epsilon goes as c^2.
Time: 40 s on 2 CPU cores.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray
from jax.flatten_util import ravel_pytree

from jaxdl import data, initializers, losses, models, optimizers, training
from jaxdl.claims import Claim, about_ratios, main
from jaxdl.plotting import new_figure

BATCH_SIZE = 100
MODEL = models.MLP((128, 10), kernel_init=initializers.he_normal())
TASK = training.Task(MODEL, losses.cross_entropy)
EPSILONS = {"own": True, "none": False}
NO_EPSILON, OF_UPDATES = 1e-36, 1e-6
"""Next to none; and Adadelta's other epsilon, under RMS of its updates: the scale of its steps."""
LOSS_SCALE, PARAMETER_SCALE = 1024.0, 16.0
"""Powers of two, which float32 multiplies without rounding: what differs is the rule's doing."""
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
FLATNESS = np.array([1.0, 0.1, 0.01])
SADDLE_RATE, SADDLE_START, SADDLE_STEPS = 0.01, 0.1, 100_000
ROUNDING = 1e-4
"""Relative: 100 steps of float32, each rounded at 1e-7 and passed on about tenfold."""
LEAST_SHOWN = 1e-8


class Change(NamedTuple):
    """What a path is walked with: s and c of s L(phi / c), and Adadelta's epsilon of updates."""

    loss_scale: Any = 1.0
    parameter_scale: Any = 1.0
    of_updates: Any = OF_UPDATES


CHANGES = {
    "loss": Change(loss_scale=LOSS_SCALE),
    "units": Change(parameter_scale=PARAMETER_SCALE),
    "units of epsilon too": Change(1.0, PARAMETER_SCALE, OF_UPDATES * PARAMETER_SCALE**2),
}


class Arm(NamedTuple):
    """An optimizer: label, function of (rate, epsilon, of_updates), rate, epsilon, line, marker."""

    label: str
    make: Callable[..., optax.GradientTransformation]
    rate: float
    epsilon: float
    line: str
    marker: str
    saddle_rate: float = SADDLE_RATE


def with_epsilon(factory: Any) -> Any:
    """An optimizer of one epsilon."""
    return lambda rate, epsilon, _: factory(rate, epsilon=epsilon)


def without_epsilon(factory: Any) -> Any:
    """An optimizer that has none."""
    return lambda rate, *_: factory(rate)


def adadelta(rate: Any, epsilon: Any, of_updates: Any) -> Any:
    """Adadelta with an epsilon under each of its two roots."""
    return optimizers.adadelta(rate, epsilon=of_updates, gradient_epsilon=epsilon)


ARMS = {
    "sgd": Arm("SGD", without_epsilon(optimizers.sgd), 0.3, 0.0, "k-", "o"),
    "momentum": Arm("momentum", without_epsilon(optimizers.momentum), 0.03, 0.0, "k--", "s"),
    "nesterov": Arm("Nesterov", without_epsilon(optimizers.nesterov), 0.03, 0.0, "C7:", "D"),
    "adagrad": Arm("Adagrad", with_epsilon(optimizers.adagrad), 0.03, 1e-8, "C0-", "^"),
    "adadelta": Arm("Adadelta", adadelta, 1.0, 1e-6, "C1-", "v", saddle_rate=1.0),
    "rmsprop": Arm("RMSprop", with_epsilon(optimizers.rmsprop), 3e-3, 1e-8, "C2--", "<"),
    "adam": Arm("Adam", with_epsilon(optimizers.adam), 3e-3, 1e-8, "C3-.", ">"),
    "adamax": Arm("Adamax", with_epsilon(optimizers.adamax), 0.01, 1e-8, "C4:", "P"),
}
"""At about the rates that optimizer_comparison chooses."""
PLAIN = ["sgd", "momentum", "nesterov"]
BESIDE = ["adagrad", "rmsprop", "adam", "adamax"]
ADAPTIVE = [*BESIDE, "adadelta"]
"""Those to which the lecture's table gives a rate for each parameter."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 4
    """Networks whose paths are walked; at least 3."""
    seed: int = 0
    """First seed, of the weights and the order; the others follow."""
    path_steps: int = 100
    """Of each path."""
    dataset: str | None = None
    """By default fashion_mnist where it is on this machine, else mnist_5k."""
    data_dir: str | None = None
    """Where prepared data are kept; by default where `jaxdl data` keeps them."""
    raw_dir: str | None = None
    """A folder with the four IDX files, plain or gzipped."""


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=3, path_steps=25, dataset="mnist_5k"),
    "full": Config(),
}


def run(config: Config) -> xarray.Dataset:
    """What `paths` and `saddles` measure."""
    dataset = data.load_or_small(
        "fashion_mnist", config.dataset, data_dir=config.data_dir, raw_dir=config.raw_dir
    )
    train = data.split(dataset, key=jax.random.key(0)).train
    measured = xarray.merge([paths(train, config), saddles()])
    return measured.assign_attrs(path_steps=config.path_steps)


def paths(train: data.Arrays, config: Config) -> xarray.Dataset:
    """By optimizer, epsilon and seed: effective rates; what each of CHANGES does to the path.

    How often larger the first step is, and how far off the last point, over the path's length.
    """
    examples = len(train)
    images = jax.tree.map(jnp.asarray, train)
    changes = [jnp.array(values) for values in zip(Change(), *CHANGES.values(), strict=True)]

    def loss(params: Any, batch: data.Arrays) -> Any:
        logits, _ = TASK.outputs({"params": params}, TASK.preprocess(batch.inputs), train=True)
        return TASK.loss(logits, batch.targets).mean()

    def picked(rows: Any) -> Any:
        return jax.tree.map(lambda array: array[rows], images)

    def member(key: Any, order: Any, params: Any, *, optimizer: Arm, epsilon: Any) -> Any:
        epsilon = jnp.where(epsilon, optimizer.epsilon, NO_EPSILON)

        def walk(change: Change) -> Any:
            rule = optimizer.make(optimizer.rate, epsilon, change.of_updates)
            rule = rescaled(rule, change.loss_scale, change.parameter_scale)
            learn = training.make_run(TASK, rule, batch_size=BATCH_SIZE)

            def step(carry: Any, rows: Any) -> Any:
                state, first = carry
                state, _ = learn.step(state, picked(rows))
                first = optax.tree.where(state.step == 1, state.params, first)
                return (state, first), None

            start = learn.init(key, images, params), params
            (end, first), _ = jax.lax.scan(step, start, order)
            return moved(first), moved(end.params), end

        def moved(to: Any) -> Any:
            return ravel_pytree(to)[0] - ravel_pytree(params)[0]

        first, last, ends = jax.vmap(walk)(Change(*changes))
        end = jax.tree.map(lambda leaf: leaf[0], ends)
        now = jax.grad(loss)(end.params, picked(order.ravel()[: 10 * BATCH_SIZE]))
        rule = optimizer.make(optimizer.rate, epsilon, OF_UPDATES)
        return {
            "rates": effective_rates(rule, end.opt_state, now) / optimizer.rate,
            "step": lengths_over(first[0], first[1:]),
            "path": lengths_over(last[0], last[1:] - last[0]),
        }

    def order(key: Any) -> np.ndarray:
        epochs = -(-config.path_steps * BATCH_SIZE // examples)
        rows = training.orders(key, epochs, examples).ravel()
        return rows[: config.path_steps * BATCH_SIZE].reshape(-1, BATCH_SIZE)

    # A member walks four paths, which keep a core busy: one member a call.
    return training.sweep(
        member,
        {"optimizer": ARMS, "epsilon": EPSILONS},
        seeds=range(config.seed, config.seed + config.seeds),
        by_seed={"order": order, "params": training.first_weights(TASK, train)},
        chunk=1,
        dims={"rates": ("share",), "step": ("change",), "path": ("change",)},
    ).assign_coords(share=list(SHARES), change=list(CHANGES))


def rescaled(
    rule: optax.GradientTransformation, loss_scale: Any, parameter_scale: Any
) -> optax.GradientTransformation:
    """What a rule that works on s L(phi / c) does to theta = phi / c, from the gradients of L.

    By the chain rule: the gradient by phi is s / c times that by theta.
    """

    def scale(factor: Any, tree: Any) -> Any:
        return jax.tree.map(lambda leaf: factor * leaf, tree)

    def init(params: Any) -> Any:
        return rule.init(scale(parameter_scale, params))

    def update(gradients: Any, state: Any, params: Any = None) -> Any:
        gradients = scale(loss_scale / parameter_scale, gradients)
        updates, state = rule.update(gradients, state, scale(parameter_scale, params))
        return scale(1 / parameter_scale, updates), state

    return optax.GradientTransformation(init, update)


def effective_rates(rule: Any, opt_state: Any, gradients: Any) -> Any:
    """Quantiles of -du_i/dg_i: how far a parameter moves for a unit of its own gradient, now.

    A rule works on each parameter alone, so that one tangent of ones gives every derivative.
    Parameters without a gradient, those of pixels that are dark in the whole batch, do not count.
    """
    ones = jax.tree.map(jnp.ones_like, gradients)
    _, response = jax.jvp(lambda g: rule.update(g, opt_state)[0], (gradients,), (ones,))
    response, gradients = ravel_pytree(response)[0], ravel_pytree(gradients)[0]
    return jnp.nanquantile(jnp.where(gradients == 0, jnp.nan, jnp.abs(response)), jnp.array(SHARES))


def lengths_over(plain: Any, vectors: Any) -> Any:
    """Euclidean lengths over that of the plain vector; inf where float32 overflowed."""
    found = jnp.linalg.norm(vectors, axis=-1) / jnp.linalg.norm(plain)
    return jnp.where(jnp.isnan(found), jnp.inf, found)


def saddles() -> xarray.Dataset:
    """By optimizer, epsilon and flatness h: steps until |y| > 1 on (x^2 - h y^2)/2."""

    def member(_: Any, *, optimizer: Arm, epsilon: Any, flatness: Any) -> Any:
        epsilon = jnp.where(epsilon, optimizer.epsilon, NO_EPSILON)
        rule = optimizer.make(optimizer.saddle_rate, epsilon, OF_UPDATES)
        start = jnp.array([1.0, SADDLE_START])

        def step(state: Any) -> Any:
            count, at, opt_state = state
            gradient = at * jnp.stack([jnp.ones(()), -flatness])
            updates, opt_state = rule.update(gradient, opt_state, at)
            return count + 1, optax.apply_updates(at, updates), opt_state

        def stays(state: Any) -> Any:
            return (jnp.abs(state[1][1]) < 1) & (state[0] < SADDLE_STEPS)

        return {"saddle": jax.lax.while_loop(stays, step, (0, start, rule.init(start)))[0]}

    over = {"optimizer": ARMS, "epsilon": EPSILONS, "flatness": FLATNESS}
    return training.sweep(member, over, seeds=1).squeeze("seed", drop=True)


def claims(results: xarray.Dataset) -> list[Claim]:
    """The table, entry by entry."""
    return [*rates_of_their_own(results), *scale_claims(results), *saddle_claims(results)]


def all_are(text: str, values: Any, expected: float, tolerance: float) -> Claim:
    """No value is farther from the expected one; for numbers that are arithmetic, not drawn."""
    values = np.ravel(values)
    farthest = values[np.abs(values - expected).argmax()]
    return Claim(text, farthest, expected - tolerance, expected + tolerance)


def rates_of_their_own(results: xarray.Dataset) -> list[Claim]:
    """Who gives each parameter a rate."""
    rates = results["rates"].transpose("seed", ...)
    spread = rates.isel(share=-1) / rates.isel(share=0)
    own, none = spread.sel(epsilon="own"), spread.sel(epsilon="none")
    text = f"-du/dg, the parameters' {SHARES[-1]:.0%} quantile over the {SHARES[0]:.0%}"
    mean_of = f"geometric mean of {spread.sizes['seed']} seeds"
    return [
        all_are(
            f"SGD, momentum and Nesterov have one rate for all parameters: {text}; farthest from 1",
            spread.sel(optimizer=PLAIN), 1, ROUNDING,
        ),
        about_ratios(
            f"Adagrad, RMSprop, Adam and Adamax give each parameter a rate: {text}; the least, "
            f"{mean_of}",
            own.sel(optimizer=BESIDE), 10,
        ),
        about_ratios(
            "Adadelta hardly gives each parameter a rate, for its epsilon of 1e-6 exceeds the "
            f"squared gradients (lecture: adaptive; refuted here): {text}, {mean_of}",
            own.sel(optimizer="adadelta"), 1, 10,
        ),
        about_ratios(
            f"Without that epsilon Adadelta gives each parameter a rate: {text}, {mean_of}",
            none.sel(optimizer="adadelta"), 10,
        ),
    ]  # fmt: skip


def scale_claims(results: xarray.Dataset) -> list[Claim]:
    """Who heeds the loss's scale, and whose units are consistent.

    A factor of two to some power is no rounding: what these numbers are is arithmetic, not drawn.
    """
    seeds, steps = results.sizes["seed"], results.attrs["path_steps"]
    own, none = results.sel(epsilon="own"), results.sel(epsilon="none")
    power = np.log(none["step"].sel(change="units")) / np.log(PARAMETER_SCALE)
    departure = f"departure after {steps} steps, relative"
    units = "with parameters in units c times smaller the first step goes as c^p; p, farthest from"
    return [
        all_are(
            "SGD, momentum and Nesterov heed the loss's scale: first step when the loss is "
            f"{LOSS_SCALE:.0f} times as large, times; farthest of {seeds} seeds",
            own["step"].sel(change="loss", optimizer=PLAIN), LOSS_SCALE, LOSS_SCALE * ROUNDING,
        ),
        Claim(
            "Without epsilon the five adaptive optimizers do not heed the loss's scale (lecture: "
            f"Adadelta's path does not change at all; nor do the others'): {departure}, the "
            f"greatest of {seeds} seeds",
            none["path"].sel(change="loss", optimizer=ADAPTIVE).max(), 0, ROUNDING,
        ),
        about_ratios(
            "Adadelta with its epsilon of 1e-6 heeds the loss's scale (lecture: not at all; "
            f"refuted here): {departure}, geometric mean of {seeds} seeds",
            own["path"].sel(change="loss", optimizer="adadelta"), 0.1,
        ),
        all_are(
            f"In other units SGD, momentum and Nesterov make other steps: {units} -2 of {seeds} "
            "seeds",
            power.sel(optimizer=PLAIN), -2, ROUNDING,
        ),
        all_are(
            "In other units Adagrad, RMSprop, Adam and Adamax make other steps too, less so: "
            f"{units} -1 of {seeds} seeds",
            power.sel(optimizer=BESIDE), -1, ROUNDING,
        ),
        all_are(
            "In other units Adadelta makes other steps too (lecture: consistent units, p = 0; "
            f"refuted): {units} -1 of {seeds} seeds",
            power.sel(optimizer="adadelta"), -1, ROUNDING,
        ),
        Claim(
            "Adadelta's units are consistent if its epsilon under RMS of the updates goes as c^2: "
            f"{departure}; the greatest of {seeds} seeds",
            none["path"].sel(change="units of epsilon too", optimizer="adadelta").max(),
            0, ROUNDING,
        ),
    ]  # fmt: skip


def saddle_claims(results: xarray.Dataset) -> list[Claim]:
    """Who leaves a flat saddle; nothing is drawn."""
    steps = results["saddle"]
    growth = xarray.DataArray(np.log10(steps.isel(flatness=-1) / steps.isel(flatness=-2)))
    flattest = steps.isel(flatness=-1).sel(epsilon="own")
    return [
        all_are(
            "A flatter saddle holds SGD, momentum and Nesterov as much longer: ten times flatter, "
            "steps to leave it go as h^-p; p, farthest from 1",
            growth.sel(epsilon="own", optimizer=PLAIN), 1, 0.1,
        ),
        Claim(
            "A flatter saddle does not hold the five adaptive optimizers without epsilon: p, the "
            "greatest",
            abs(growth.sel(epsilon="none", optimizer=ADAPTIVE)).max(), 0, 0.01,
        ),
        Claim(
            "A flatter saddle holds Adadelta, with its epsilon of 1e-6, longer (lecture: eases "
            f"out; no longer at h = {FLATNESS[-1]:g}): p",
            growth.sel(epsilon="own", optimizer="adadelta"), 0.2, np.inf,
        ),
        Claim(
            f"The adaptive optimizers still leave first: h = {FLATNESS[-1]:g}, steps of the "
            "slowest of them over those of the fastest other",
            flattest.sel(optimizer=ADAPTIVE).max() / flattest.sel(optimizer=PLAIN).min(), 0, 1,
        ),
    ]  # fmt: skip


def plot(results: xarray.Dataset) -> Any:
    """Effective rates, the two rescalings, the saddle."""
    figure = new_figure(12, 4.8)
    spread, scales, saddle = figure.subplots(1, 3)
    rows, labels = np.arange(len(ARMS)), [arm.label for arm in ARMS.values()]

    logs = xarray.DataArray(np.log(results["rates"])).mean("seed").transpose("share", ...)
    for name, shift, colour, label in (
        ("own", -0.17, "k", "with its epsilon"),
        ("none", 0.17, "0.6", "next to no epsilon"),
    ):
        values = np.exp((logs - logs.sel(share=0.5)).sel(epsilon=name).values)
        spread.hlines(rows + shift, values[0], values[-1], colour, lw=1.5, label=label)
        spread.hlines(rows + shift, values[1], values[-2], colour, lw=5)
    spread.plot(np.ones(len(rows)), rows, "k|", ms=18)
    spread.set(
        xscale="log", yticks=rows, yticklabels=labels,
        xlabel="-du/dg of a parameter / their median",
        title="A rate for each parameter? (5, 25, 75, 95 %)",
    )  # fmt: skip
    spread.legend(fontsize=8, loc="upper right")
    spread.invert_yaxis()

    departure = results["path"].clip(LEAST_SHOWN, 1e3).median("seed")
    for place, (change, epsilon, style, label) in enumerate(
        (
            ("loss", "own", "ks", f"loss x {LOSS_SCALE:.0f}"),
            ("loss", "none", "wD", f"loss x {LOSS_SCALE:.0f}, no epsilon"),
            ("units", "own", "C0o", f"parameters x {PARAMETER_SCALE:.0f}"),
            ("units of epsilon too", "none", "C1^",
             f"parameters x {PARAMETER_SCALE:.0f}, their epsilon too"),
        )
    ):  # fmt: skip
        names = list(ARMS) if place < 3 else ["adadelta"]
        shown = np.array([list(ARMS).index(name) for name in names])
        scales.plot(
            departure.sel(change=change, epsilon=epsilon, optimizer=names),
            shown + 0.16 * (place - 1.5), style, ms=6, mec="k", label=label, lw=0,
        )  # fmt: skip
    scales.set(
        xscale="log", xlim=(LEAST_SHOWN / 4, 4e3), ylim=(len(rows) + 2.6, -0.6),
        yticks=rows, yticklabels=labels, title="Does the path heed the scale?",
        xlabel=f"departure after {results.attrs['path_steps']} steps / length of the path",
    )  # fmt: skip
    ticks = {LEAST_SHOWN: "none", 1e-6: "$10^{-6}$", 1e-3: "$10^{-3}$", 1: "1", 1e3: "$\\geq 10^3$"}
    scales.set_xticks(list(ticks), ticks.values())
    scales.grid(axis="x", lw=0.3)
    scales.legend(fontsize=8, loc="lower center")

    for name, arm in ARMS.items():
        steps = results["saddle"].sel(optimizer=name, epsilon="own")
        saddle.plot(FLATNESS, steps, arm.line, marker=arm.marker, ms=5, label=arm.label)
    saddle.set(
        xscale="log", yscale="log", xlabel="curvature h (rate 0.01, Adadelta 1)",
        ylabel="steps to leave", ylim=(None, 1e6), title="Leaving the saddle $(x^2 - h y^2)/2$",
    )  # fmt: skip
    saddle.invert_xaxis()
    saddle.legend(fontsize=7.5, ncols=3, loc="upper center")
    saddle.grid(lw=0.3)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
