"""Why L2 is not weight decay in Adam, and whether the best strength depends on the rate.

Three measurements: the path of a network in training under an L2 penalty and under decoupled
decay, with SGD and with Adam; weights that no gradient pulls at; and the test loss over a grid of
rates and strengths, [784, 64, 10] on 1,000 digits with a fifth of the labels wrong, Adam, batches
of 50, 30 epochs.

Source: Loshchilov and Hutter (2019), sections 2 and 4.1; the decay of the library, as PyTorch's,
is eta lambda theta a step.
Run: python experiments/generalization/weight_decay.py
Expected: with SGD one path, theta (1 - eta lambda)^t for free weights; with Adam an L2 penalty
moves a free weight by eta a step whatever lambda is, decoupled decay as with SGD. Loshchilov and
Hutter tie L2's best strength to the rate; on this grid it moves with the rate under neither: best
near 0.03 for L2 and near 3 decoupled at every rate that over-fits, with losses that are alike.
Time: 60 s on 2 CPU cores.
"""

import functools
import sys
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from regularization import (
    BATCH_SIZE,
    LOSS,
    NOISE_KEY,
    NOISES,
    RATE,
    WIDTHS,
    first_weights,
    orders,
    splits,
    state_at,
    trainer,
)

from jaxdl import losses, models, optimizers, training
from jaxdl.claims import Claim, Results, about_mean, about_ratios, main, slopes
from jaxdl.plotting import new_figure

LEAST_RATE, GREATEST_RATE = 10**-3.5, 10**-1.5
GRID_STRENGTHS = {"l2": 10 ** np.arange(-3.0, 0.1, 0.5), "decay": 10 ** np.arange(-1.0, 2.1, 0.5)}
PATH_STEPS, PATH_RATE, PATH_STRENGTH = 100, 0.1, 1e-2
FREE_STEPS, FREE_RATE, FREE_STRENGTHS = 50, 1e-3, np.array([0.1, 1.0])
FLOAT32_STEP = 2.0**-23


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


def run(config: Config) -> Results:
    """The paths' distances, the free weights, the grid by rate, strength, seed and measure."""
    seeds = range(config.seed, config.seed + config.seeds)
    starts = first_weights(seeds)
    clean, wrong = (splits(noise, jax.random.key(NOISE_KEY)) for noise in NOISES)
    order = orders(seeds, config.epochs).reshape(len(seeds), 1, -1, BATCH_SIZE)
    results: dict[str, Any] = {**paths(clean, starts, order[:, 0, :PATH_STEPS]), **free_weights()}
    results["rates"] = np.geomspace(LEAST_RATE, GREATEST_RATE, config.rates)
    train = trainer(0.0, 0.0)
    for kind, strengths in GRID_STRENGTHS.items():
        axes = np.meshgrid(results["rates"], strengths, np.arange(config.seeds), indexing="ij")
        rate, strength, seed = (axis.ravel() for axis in axes)
        none = np.zeros_like(strength)
        pair = (strength, none) if kind == "l2" else (none, strength)
        runs = (
            *jax.tree.map(lambda leaf, seed=seed: leaf[seed], (starts, order)),
            *(jnp.asarray(values, jnp.float32) for values in (rate, *pair)),
        )
        measured = np.asarray(train(wrong, runs))
        results[f"{kind}_grid"] = measured[:, 0, 2].reshape(*axes[0].shape, -1)
    return results


def paths(each: Any, starts: Any, order: Any) -> dict[str, Any]:
    """By seed: how far decoupled decay ends from L2, relative to the path, with SGD and with Adam.

    Beside it, how far L2 ends from itself where all first weights are one rounding larger.
    """
    params, keys = starts
    arrays = {name: each["train"][name] for name in ("inputs", "targets")}

    def flat(tree: Any) -> np.ndarray:
        leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
        return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)

    def ends(optimizer: Any, params: Any) -> np.ndarray:
        step = training.make_train_step(models.MLP(WIDTHS), optimizer, losses.cross_entropy)

        def end(run: Any) -> Any:
            start, order = run
            state = state_at(start, optimizer)
            return training.make_train_epoch(step)(state, arrays, order)[0].params

        return flat(jax.jit(lambda runs: jax.lax.map(end, runs))(((params, keys), order)))

    def length(vectors: np.ndarray) -> np.ndarray:
        return np.asarray(np.linalg.norm(vectors, axis=1))

    found = {}
    for name, optimizer in (("sgd", optimizers.sgd(PATH_RATE)), ("adam", optimizers.adam(RATE))):
        coupled = optax.chain(optimizers.l2(PATH_STRENGTH), optimizer)
        by_l2 = ends(coupled, params)
        moved = length(by_l2 - flat(params))
        decoupled = ends(optimizers.decoupled_decay(optimizer, PATH_STRENGTH), params)
        found[f"{name}_apart"] = length(decoupled - by_l2) / moved
        if name == "sgd":
            nudged = jax.tree.map(lambda leaf: leaf * (1 + FLOAT32_STEP), params)
            found["sgd_rounding"] = length(ends(coupled, nudged) - by_l2) / moved
    return found


def free_weights() -> dict[str, Any]:
    """Weights that no gradient pulls at, by optimizer, strength and step."""
    start = {"kernel": jnp.array([0.25, 0.5, 1.0])}

    def walk(make: Any, strength: Any) -> Any:
        optimizer = make(strength)

        def step(state: Any, _: Any) -> Any:
            params, opt_state = state
            nothing = jax.tree.map(jnp.zeros_like, params)
            updates, opt_state = optimizer.update(nothing, opt_state, params)
            params = optax.apply_updates(params, updates)
            return (params, opt_state), params["kernel"]

        return jax.lax.scan(step, (start, optimizer.init(start)), length=FREE_STEPS)[1]

    strengths = jnp.asarray(FREE_STRENGTHS, jnp.float32)
    made = {}
    for name, optimizer in (
        ("sgd", optimizers.sgd(FREE_RATE)),
        ("adam", optimizers.adam(FREE_RATE)),
    ):
        ways = {
            "l2": lambda strength, o=optimizer: optax.chain(optimizers.l2(strength), o),
            "decay": lambda strength, o=optimizer: optimizers.decoupled_decay(o, strength),
        }
        for way, make in ways.items():
            walked = jax.jit(jax.vmap(functools.partial(walk, make)))(strengths)
            first = jnp.broadcast_to(start["kernel"], walked[:, :1].shape)
            made[f"free_{name}_{way}"] = np.asarray(jnp.concatenate([first, walked], 1), np.float64)
    return made


def best_strength(results: Results, kind: str) -> np.ndarray:
    """By rate and seed: the strength of the least test loss; runs that overflowed are left out.

    Between the grid's points: the least of the parabola through the best and its neighbours.
    """
    loss = np.nan_to_num(results[f"{kind}_grid"][..., LOSS], nan=np.inf)
    best = loss.argmin(1)
    inner = best.clip(1, loss.shape[1] - 2)
    below, at, above = (
        np.take_along_axis(loss, (inner + shift)[:, None], 1)[:, 0] for shift in (-1, 0, 1)
    )
    with np.errstate(invalid="ignore", divide="ignore"):
        shift = (below - above) / (below - 2 * at + above) / 2
    is_inner = (inner == best) & np.isfinite(shift)
    logs = np.log(GRID_STRENGTHS[kind])
    return np.asarray(np.exp(logs[best] + np.where(is_inner, shift, 0) * (logs[1] - logs[0])))


def exponents(results: Results, kind: str) -> np.ndarray:
    """By seed: s in best strength ~ rate^s, least squares on the logarithms."""
    return slopes(np.log(results["rates"]), np.log(best_strength(results, kind)).T)


def claims(results: Results) -> list[Claim]:
    """SGD's two decays are one, Adam's are not; the best strength and the rate."""
    times = np.arange(FREE_STEPS + 1)[:, None]
    start = results["free_sgd_l2"][:, :1]
    geometric = start * (1 - FREE_RATE * FREE_STRENGTHS[:, None, None]) ** times
    off = max(
        np.abs(results[name] / geometric - 1).max()
        for name in ("free_sgd_l2", "free_sgd_decay", "free_adam_decay")
    )
    pulled = (start - results["free_adam_l2"])[:, -1] / (FREE_STEPS * FREE_RATE)
    mean_of = f"mean of {len(results['sgd_apart'])} seeds"
    made = [
        Claim(
            "Weights without a gradient shrink by eta lambda a step, under L2 and decay with SGD "
            "and under decay with Adam: farthest from theta (1 - eta lambda)^t in "
            f"{FREE_STEPS} steps, relative (arithmetic)",
            off,
            0.0,
            2 * FREE_STEPS * FLOAT32_STEP,
        ),
        Claim(
            "L2 with Adam moves such weights by eta a step, whatever their size and whatever "
            "lambda: the movement over eta t, farthest from 1 (arithmetic)",
            pulled.ravel()[np.abs(pulled - 1).argmax()],
            0.95,
            1.05,
        ),
        about_ratios(
            f"With SGD, L2 is weight decay: distance of the two paths after {PATH_STEPS} steps of "
            f"training, over what one rounding of the first weights becomes, geometric {mean_of}",
            results["sgd_apart"] / results["sgd_rounding"],
            high=PATH_STEPS,
        ),
        about_ratios(
            "With Adam it is not: distance of the two paths over their length, geometric "
            f"{mean_of}",
            results["adam_apart"],
            1e-2,
        ),
    ]
    for kind, label, said in (
        ("l2", "L2's best strength", "tied to the rate"),
        (
            "decay",
            "decoupled decay's best strength",
            "the decay of a step, eta lambda, is free of it, s = -1",
        ),
    ):
        made.append(
            about_mean(
                f"{label[0].upper()}{label[1:]} hardly moves with Adam's rate: it goes as rate^s "
                f"(Loshchilov and Hutter: {said}; refuted here, nearer to 0), s, {mean_of}",
                exponents(results, kind),
                -0.5,
                0.5,
            )
        )
    return made


def plot(results: Results) -> Any:
    """Free weights; the grids of test loss."""
    figure = new_figure(12, 4.5)
    free, *grids = figure.subplots(1, 3, width_ratios=[1.2, 1, 1])
    rates, middle = results["rates"], len(results["rates"]) // 2

    steps = np.arange(FREE_STEPS + 1)
    for way, style, label in (("l2", "-", "L2"), ("decay", "--", "decoupled")):
        for case, (marker, strength) in enumerate(zip("os", FREE_STRENGTHS, strict=True)):
            free.plot(
                steps, results[f"free_adam_{way}"][case, :, 0], f"k{style}", marker=marker, ms=5,
                mfc="w", markevery=(5 * case, 10), label=rf"{label}, $\lambda$ = {strength:g}",
            )  # fmt: skip
    free.set(
        xlabel="step",
        ylabel="weight",
        title=rf"Adam, no gradient, $\eta$ = {FREE_RATE:g}",
        ylim=(None, 0.255),
    )
    free.legend(fontsize=8, loc="lower left")

    for axes, (kind, title) in zip(grids, (("l2", "L2"), ("decay", "decoupled")), strict=True):
        loss = results[f"{kind}_grid"][..., LOSS].mean(2)
        strengths = GRID_STRENGTHS[kind]
        shown = axes.pcolormesh(
            edges(rates),
            edges(strengths),
            np.clip(np.nan_to_num(loss, nan=np.inf), None, 2.3).T,
            cmap="gray",
        )  # fmt: skip
        best = np.exp(np.log(best_strength(results, kind)).mean(1))
        axes.plot(rates, best, "C3o-", mec="w", ms=7, label="best strength")
        axes.plot(
            rates,
            best[middle] * rates[middle] / rates,
            "C0--",
            lw=2,
            label=r"$\eta\lambda$ constant",
        )
        axes.set(
            xscale="log",
            yscale="log",
            xlabel=r"rate $\eta$",
            ylabel=rf"strength $\lambda$, {title}",
            title=f"Adam, {title}: test loss (nats)",
        )
    grids[0].legend(fontsize=8, loc="upper right")
    figure.colorbar(shown, ax=grids)
    return figure


def edges(points: np.ndarray) -> np.ndarray:
    """Of the cells around points that a factor separates."""
    half = np.sqrt(points[1] / points[0])
    return np.geomspace(points[0] / half, points[-1] * half, len(points) + 1)


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
