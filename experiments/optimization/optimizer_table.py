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

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from optimizer_comparison import ARMS, FEATURES, MARKERS, OF_UPDATES, Arm, batches, load

from jaxdl import initializers, losses, models, training
from jaxdl.claims import Claim, Results, about_ratios, main
from jaxdl.compiling import init_options
from jaxdl.plotting import new_figure

LOSS_SCALE, PARAMETER_SCALE = 1024.0, 16.0
"""Powers of two, which float32 multiplies without rounding: what differs is the rule's doing."""
NO_EPSILON = 1e-36
RATES = {
    "sgd": 0.3,
    "momentum": 0.03,
    "nesterov": 0.03,
    "adagrad": 0.03,
    "adadelta": 1.0,
    "rmsprop": 3e-3,
    "adam": 3e-3,
    "adamax": 0.01,
}
"""About those that optimizer_comparison chooses."""
ADAPTIVE = ("adagrad", "adadelta", "rmsprop", "adam", "adamax")
"""Those to which the lecture's table gives a rate for each parameter."""
SHARES = (0.05, 0.25, 0.5, 0.75, 0.95)
FLATNESS = np.array([1.0, 0.1, 0.01])
SADDLE_RATES = {"Adadelta": 1.0}
SADDLE_RATE, SADDLE_START, SADDLE_STEPS = 0.01, 0.1, 100_000
ROUNDING = 1e-4
"""Relative: 100 steps of float32, each rounded at 1e-7 and passed on about tenfold."""
LEAST_SHOWN = 1e-8


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


def mean_loss(params: Any, batch: Any) -> Any:
    """Cross-entropy of the network, nats."""
    inputs = training.scale_images(batch["inputs"])
    logits: Any = models.MLP(FEATURES).apply({"params": params}, inputs, train=True)
    return losses.cross_entropy(logits, batch["targets"]).mean()


def effective_rates(optimizer: Any, opt_state: Any, params: Any, gradients: Any) -> Any:
    """Quantiles of -du_i/dg_i: how far a parameter moves for a unit of its own gradient, now.

    A rule works on each parameter alone, so that one tangent of ones gives every derivative.
    Parameters without a gradient, those of pixels that are dark in the whole batch, do not count.
    """
    _, response = jax.jvp(
        lambda gradients: optimizer.update(gradients, opt_state, params)[0],
        (gradients,),
        (jax.tree.map(jnp.ones_like, gradients),),
    )
    moved = jax.tree.map(lambda r, g: jnp.where(g == 0, jnp.nan, jnp.abs(r)), response, gradients)
    every = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(moved)])
    return jnp.nanquantile(every, jnp.array(SHARES))


class Change(NamedTuple):
    """What a path is walked with: s and c in s L(phi / c), and the epsilons."""

    loss_scale: Any
    parameter_scale: Any
    epsilon: Any
    of_updates: Any = OF_UPDATES


def changes(epsilon: float) -> dict[str, Change]:
    """The paths of an optimizer, each with its epsilon and with next to none."""
    whose = {"": epsilon, "_no_epsilon": NO_EPSILON}
    made = {}
    for suffix, value in whose.items():
        made[f"plain{suffix}"] = Change(1.0, 1.0, value)
        made[f"loss{suffix}"] = Change(LOSS_SCALE, 1.0, value)
        made[f"units{suffix}"] = Change(1.0, PARAMETER_SCALE, value)
    made["units_of_epsilon"] = Change(
        1.0, PARAMETER_SCALE, NO_EPSILON, OF_UPDATES * PARAMETER_SCALE**2
    )
    return made


def walker(arm: Arm) -> Callable[..., Any]:
    """(arrays, start, order, rate, changes) -> theta - theta_0 after one step and all, rates."""

    @jax.jit
    def walk(arrays: Any, start: Any, order: Any, rate: Any, changes: Change) -> Any:
        def one(change: Change) -> Any:
            optimizer = arm.make(rate, change.epsilon, change.of_updates)
            scale = change.parameter_scale
            phi = jax.tree.map(lambda theta: scale * theta, start)

            def objective(phi: Any, batch: Any) -> Any:
                theta = jax.tree.map(lambda phi: phi / scale, phi)
                return change.loss_scale * mean_loss(theta, batch)

            def displacement(phi: Any) -> Any:
                moved = jax.tree.map(lambda phi, theta: phi / scale - theta, phi, start)
                return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(moved)])

            def gradient(phi: Any, rows: Any) -> Any:
                batch = {name: array[rows] for name, array in arrays.items()}
                return jax.grad(objective)(phi, batch)

            def step(state: Any, rows: Any) -> Any:
                count, phi, opt_state, first = state
                updates, opt_state = optimizer.update(gradient(phi, rows), opt_state, phi)
                phi = optax.apply_updates(phi, updates)
                first = jnp.where(count == 0, displacement(phi), first)
                return (count + 1, phi, opt_state, first), None

            before = (0, phi, optimizer.init(phi), displacement(phi))
            (_, phi, opt_state, first), _ = jax.lax.scan(step, before, order)
            rates = effective_rates(optimizer, opt_state, phi, gradient(phi, order.ravel()[:1000]))
            return first, displacement(phi), rates

        return jax.lax.map(one, changes)

    return walk


def steps_off_saddle(arm: Arm) -> Any:
    """Steps at one rate until |y| > 1 on (x^2 - h y^2)/2, from (1, 0.1).

    By epsilon, its own and next to none, and by flatness h.
    """

    def leave(case: Any) -> Any:
        epsilon, flatness = case
        optimizer = arm.make(SADDLE_RATES.get(arm.label, SADDLE_RATE), epsilon)
        start = jnp.array([1.0, SADDLE_START])

        def step(state: Any) -> Any:
            count, at, opt_state = state
            gradient = at * jnp.stack([jnp.ones(()), -flatness])
            updates, opt_state = optimizer.update(gradient, opt_state, at)
            return count + 1, optax.apply_updates(at, updates), opt_state

        def stays(state: Any) -> Any:
            return (jnp.abs(state[1][1]) < 1) & (state[0] < SADDLE_STEPS)

        return jax.lax.while_loop(stays, step, (0, start, optimizer.init(start)))[0]

    epsilons, flatness = np.meshgrid([arm.epsilon, NO_EPSILON], FLATNESS, indexing="ij")
    cases = jnp.float32(epsilons.ravel()), jnp.float32(flatness.ravel())
    return jax.jit(lambda cases: jax.lax.map(leave, cases))(cases).reshape(epsilons.shape)


def run(config: Config) -> Results:
    """By optimizer and seed: effective rates, steps and departures; steps off a saddle."""
    dataset = load(config.dataset, config.data_dir, config.raw_dir)
    arrays = {
        "inputs": jnp.asarray(dataset.train.inputs),
        "targets": jnp.asarray(dataset.train.targets),
    }
    keys = jax.vmap(jax.random.key)(config.seed + np.arange(config.seeds))
    # Over more than one epoch where the set is small.
    orders = [jnp.asarray(batches(key, 3, len(dataset.train))[: config.path_steps]) for key in keys]
    model = models.MLP(FEATURES, kernel_init=initializers.he_normal())
    init = jax.jit(
        lambda key: model.init(key, jnp.zeros((1, 784)), train=False)["params"],
        compiler_options=init_options(),
    )
    found: dict[str, list[Any]] = {}
    for name, arm in ARMS.items():
        walk = walker(arm)
        by_seed = [
            scaling(arm, functools.partial(walk, arrays, init(key), order), RATES[name])
            for key, order in zip(keys, orders, strict=True)
        ]
        measured = {what: np.stack([each[what] for each in by_seed]) for what in by_seed[0]}
        measured["saddle_steps"] = np.asarray(steps_off_saddle(arm))
        for key_, value in measured.items():
            found.setdefault(key_, []).append(value)
    return {
        "names": np.array(list(ARMS)),
        "dataset": np.array(dataset.name),
        "path_steps": np.array(config.path_steps),
        **{name: np.stack(values) for name, values in found.items()},
    }


def scaling(arm: Arm, walk: Callable[..., Any], rate: float) -> dict[str, Any]:
    """How often larger the first step is, and how far off the path ends, after each change.

    Of one network: `walk` takes the rate and the changes.
    """
    each = changes(arm.epsilon)
    stacked = Change(
        *(jnp.asarray(values, jnp.float32) for values in zip(*each.values(), strict=True))
    )
    walked = walk(jnp.float32(rate), stacked)
    first, last, rates = (
        {name: np.asarray(values, np.float64) for name, values in zip(each, part, strict=True)}
        for part in walked
    )
    measured = {
        "effective_rates": np.stack([rates["plain"], rates["plain_no_epsilon"]]) / rate,
    }
    for name in each:
        plain = "plain" if name in ("loss", "units") else "plain_no_epsilon"
        if name.startswith("plain"):
            continue
        measured[f"{name}_step"] = norm(first[name]) / norm(first[plain])
        departure = norm(last[name] - last[plain]) / norm(last[plain])
        measured[f"{name}_path"] = np.nan_to_num(departure, nan=np.inf)
    return measured


def norm(vector: np.ndarray) -> Any:
    """The Euclidean norm, inf where float32 overflowed."""
    return np.sqrt(np.sum(vector**2))


def farthest(values: np.ndarray, expected: float) -> Any:
    """The value that is farthest from the expected one."""
    values = np.ravel(values)
    return values[np.abs(values - expected).argmax()]


def claims(results: Results) -> list[Claim]:
    """The table, entry by entry."""
    return [*rates_of_their_own(results), *scale_claims(results), *saddle_claims(results)]


def rows_of(results: Results) -> tuple[list[int], list[int], list[int], int]:
    """The rows of the adaptive optimizers, of the others, of the adaptive but Adadelta; its own."""
    names = results["names"].tolist()
    adaptive = [names.index(name) for name in ADAPTIVE]
    others = [names.index(name) for name in names if name not in ADAPTIVE]
    adadelta = names.index("adadelta")
    return adaptive, others, [row for row in adaptive if row != adadelta], adadelta


def rates_of_their_own(results: Results) -> list[Claim]:
    """Who gives each parameter a rate."""
    _, others, beside, adadelta = rows_of(results)
    low, high = results["effective_rates"][..., 0], results["effective_rates"][..., -1]
    spread = high / low  # (optimizers, seeds, epsilon: its own or none)
    text = f"-du/dg, the parameters' {SHARES[-1]:.0%} quantile over the {SHARES[0]:.0%}"
    mean_of = f"geometric mean of {spread.shape[1]} seeds"
    return [
        Claim(
            f"SGD, momentum and Nesterov have one rate for all parameters: {text}; farthest from 1",
            farthest(spread[others], 1),
            1 - ROUNDING,
            1 + ROUNDING,
        ),
        about_ratios(
            f"Adagrad, RMSprop, Adam and Adamax give each parameter a rate: {text}; the least, "
            f"{mean_of}",
            spread[beside, :, 0].T,
            10,
        ),
        about_ratios(
            "Adadelta hardly does, for its epsilon of 1e-6 exceeds the squared gradients (lecture: "
            f"adaptive; refuted here): {text}, {mean_of}",
            spread[adadelta, :, 0],
            1,
            10,
        ),
        about_ratios(
            f"Without that epsilon Adadelta does: {text}, {mean_of}", spread[adadelta, :, 1], 10
        ),
    ]


def scale_claims(results: Results) -> list[Claim]:
    """Who heeds the loss's scale, and whose units are consistent.

    A factor of two to some power is no rounding: what these numbers are is arithmetic, not drawn.
    """
    adaptive, others, beside, adadelta = rows_of(results)
    seeds, steps = results["loss_step"].shape[1], results["path_steps"]
    exponent = np.log(results["units_no_epsilon_step"]) / np.log(PARAMETER_SCALE)
    made = [
        Claim(
            "SGD, momentum and Nesterov heed the loss's scale: first step when the loss is "
            f"{LOSS_SCALE:.0f} times as large, times; farthest of {seeds} seeds",
            farthest(results["loss_step"][others], LOSS_SCALE),
            LOSS_SCALE * (1 - ROUNDING),
            LOSS_SCALE * (1 + ROUNDING),
        ),
        Claim(
            "The five adaptive ones without epsilon do not (lecture: Adadelta's path does not "
            f"change at all; nor do the others'): departure after {steps} steps, relative, "
            f"the greatest of {seeds} seeds",
            results["loss_no_epsilon_path"][adaptive].max(),
            0.0,
            ROUNDING,
        ),
        about_ratios(
            "Adadelta with its epsilon of 1e-6 heeds it (lecture: not at all; refuted here): the "
            f"same, geometric mean of {seeds} seeds",
            results["loss_path"][adadelta],
            0.1,
        ),
    ]
    for who, rows, power in (
        ("In other units SGD, momentum and Nesterov make other steps", others, -2),
        ("So do Adagrad, RMSprop, Adam and Adamax, less so", beside, -1),
        ("So does Adadelta (lecture: consistent units, p = 0; refuted)", [adadelta], -1),
    ):
        made.append(
            Claim(
                f"{who}: with parameters in units c times smaller the first step goes as c^p; p, "
                f"farthest from {power} of {seeds} seeds",
                farthest(exponent[rows], power),
                power - ROUNDING,
                power + ROUNDING,
            )
        )
    made.append(
        Claim(
            "Adadelta's units are consistent if its epsilon under RMS of the updates goes as c^2: "
            f"departure after {steps} steps, relative; the greatest of {seeds} seeds",
            results["units_of_epsilon_path"][adadelta].max(),
            0.0,
            ROUNDING,
        )
    )
    return made


def saddle_claims(results: Results) -> list[Claim]:
    """Who leaves a flat saddle; nothing is drawn."""
    adaptive, others, _, adadelta = rows_of(results)
    steps = results["saddle_steps"]
    growth = np.log10(steps[..., -1] / steps[..., -2])
    return [
        Claim(
            "A flatter saddle holds SGD, momentum and Nesterov as much longer: ten times flatter, "
            "steps to leave it go as h^-p; p, farthest from 1",
            farthest(growth[others, 0], 1),
            0.9,
            1.1,
        ),
        Claim(
            "It does not hold the five adaptive ones without epsilon: p, the greatest",
            np.abs(growth[adaptive, 1]).max(),
            0.0,
            0.01,
        ),
        Claim(
            "It holds Adadelta with its epsilon of 1e-6 (lecture: eases out; no longer at "
            f"h = {FLATNESS[-1]:g}): p",
            growth[adadelta, 0],
            0.2,
            np.inf,
        ),
        Claim(
            f"The adaptive ones still leave first: h = {FLATNESS[-1]:g}, steps of the slowest of "
            "them over those of the fastest other",
            steps[adaptive, 0, -1].max() / steps[others, 0, -1].min(),
            0.0,
            1.0,
        ),
    ]


def plot(results: Results) -> Any:
    """Effective rates, the two rescalings, the saddle."""
    figure = new_figure(12, 4.8)
    spread, scales, saddle = figure.subplots(1, 3)
    arms = [ARMS[name] for name in results["names"].tolist()]
    labels = [arm.label for arm in arms]
    rows = np.arange(len(arms))

    for case, (shift, colour, label) in enumerate(
        ((-0.17, "k", "with its epsilon"), (0.17, "0.6", "next to no epsilon"))
    ):
        values = np.exp(np.log(results["effective_rates"][:, :, case]).mean(1))
        values = values / values[:, 2:3]
        spread.hlines(rows + shift, values[:, 0], values[:, -1], colour, lw=1.5, label=label)
        spread.hlines(rows + shift, values[:, 1], values[:, -2], colour, lw=5)
    spread.plot(np.ones(len(rows)), rows, "k|", ms=18)
    spread.set(
        xscale="log",
        yticks=rows,
        yticklabels=labels,
        xlabel="-du/dg of a parameter / their median",
        title="A rate for each parameter? (5, 25, 75, 95 %)",
    )
    spread.legend(fontsize=8, loc="upper right")
    spread.invert_yaxis()

    changes = (
        ("loss_path", "ks", f"loss x {LOSS_SCALE:.0f}"),
        ("loss_no_epsilon_path", "wD", f"loss x {LOSS_SCALE:.0f}, no epsilon"),
        ("units_path", "C0o", f"parameters x {PARAMETER_SCALE:.0f}"),
        ("units_of_epsilon_path", "C1^", f"parameters x {PARAMETER_SCALE:.0f}, their epsilon too"),
    )
    for place, (name, style, label) in enumerate(changes):
        shown = rows if name != "units_of_epsilon_path" else rows[rows == labels.index("Adadelta")]
        departure = np.median(np.clip(results[name][shown], LEAST_SHOWN, 1e3), axis=1)
        scales.plot(
            departure, shown + 0.16 * (place - 1.5), style, ms=6, mec="k", label=label, lw=0
        )
    scales.set(
        xscale="log",
        xlim=(LEAST_SHOWN / 4, 4e3),
        ylim=(len(rows) + 2.6, -0.6),
        yticks=rows,
        yticklabels=labels,
        xlabel=f"departure after {results['path_steps']} steps / length of the path",
        title="Does the path heed the scale?",
    )
    scales.set_xticks(
        [LEAST_SHOWN, 1e-6, 1e-3, 1, 1e3],
        ["none", "$10^{-6}$", "$10^{-3}$", "1", "$\\geq 10^3$"],
    )
    scales.grid(axis="x", lw=0.3)
    scales.legend(fontsize=8, loc="lower center")

    for row, arm in enumerate(arms):
        saddle.plot(
            FLATNESS, results["saddle_steps"][row, 0], arm.style, marker=MARKERS[row], ms=5,
            label=arm.label,
        )  # fmt: skip
    saddle.set(
        xscale="log",
        yscale="log",
        xlabel="curvature h (rate 0.01, Adadelta 1)",
        ylabel="steps to leave",
        title="Leaving the saddle $(x^2 - h y^2)/2$",
        ylim=(None, 1e6),
    )
    saddle.invert_xaxis()
    saddle.legend(fontsize=7.5, ncols=3, loc="upper center")
    saddle.grid(lw=0.3)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
