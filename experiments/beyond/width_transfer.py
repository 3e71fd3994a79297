"""Whether the best learning rate of a narrow network is right for a wide one.

An MLP [64, w, w, 10] on 1,024 digits and a transformer of two blocks on sequences, Adam, under the
standard parametrisation and under maximal update, whose base is the narrowest. At every width the
same rates, a root of 2 apart. A rate is judged by the training loss, the mean over the last quarter
of the steps. The best rate of a run is the bottom of the parabola through the logarithms of the
losses next to the least one. Then the coordinate check: how far the outputs have moved after four
steps at one rate.

Meaning: The curves show the training loss by learning rate, a line for each width, and the points
how far the outputs move in four steps as the network grows wider. Under the standard
parametrisation every step moves a wider network farther, so its best rate is smaller; under maximal
update the steps are of one size, and the narrow network's best rate is right for the wide one.

Data: digits, 1,797 grey digits of 8 x 8 (1,024 to train on), from scikit-learn; and 1,024 sequences
of 16 tokens that are made here, where each token follows from the one three places before.
Source: Yang, Hu et al. (2022), Tensor Programs V, figures 1, 3 and 5 and
appendix D.1.
Run: python experiments/beyond/width_transfer.py
Expected: widths 64 to 1024 of the MLP: the outputs' change after four steps grows with the power
0.8 of the width under the standard parametrisation, and with -0.03 under maximal update; the best
rate falls by a factor of 6, and moves by 0.6 under maximal update, where four seeds do not decide
whether it stays within 2 (0.2 to 1.7), for these curves are flat. Widths 64 to 256 of the
transformer: 0.6 and -0.03; the best rate falls by 5, and rises by a third under maximal update. In
a pilot from width 32, where a head is 8 wide, it rose by a factor of 2. Adam and few steps only:
what longer training or SGD does is not shown.
Time: 4 minutes on 2 CPU cores.
"""

import sys
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
import xarray

from jaxdl import data, diagnostics, losses, models, optimizers, training
from jaxdl.claims import Claim, about_mean, about_ratios, interval, main, slopes
from jaxdl.plotting import new_figure

KINDS = ("standard", "maximal_update")
LABELS = {"standard": "standard", "maximal_update": "maximal update"}
EXAMPLES, MLP_BATCH, SEQUENCE_BATCH = 1024, 64, 16
TOKENS, LENGTH, LAG = 16, 16, 3
"""A sequence's first three tokens are random; each further one is a fixed function of the token
three places before."""
CHECK_RATE, CHECK_STEPS, CHECK_EXAMPLES = 2.0**-7, 4, 128
REACH = 1.5
"""Octaves to either side of the least loss that the parabola is fitted to."""
NETWORKS = ("mlp", "transformer")
NAMES = {"mlp": "MLP", "transformer": "transformer"}


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 4
    """Runs at each width and rate; at least 3."""
    seed: int = 0
    """First seed, of the weights and the order; the others follow."""
    mlp_widths: tuple[int, ...] = (64, 256, 1024)
    """Of the MLP; the first is the base."""
    transformer_widths: tuple[int, ...] = (64, 128, 256)
    """Of the transformer, each a multiple of 4, its number of heads; the first is the base."""
    lowest: float = -10.5
    """The logarithm to base 2 of the lowest rate."""
    highest: float = -4.5
    """And of the highest one."""
    spacing: float = 0.5
    """Octaves between two rates."""
    mlp_epochs: int = 4
    """Passes over the digits, 16 steps each."""
    transformer_epochs: int = 1
    """Passes over the sequences, 64 steps each."""


PRESETS = {
    "default": Config(),
    "smoke": Config(
        seeds=3, mlp_widths=(16, 128), transformer_widths=(8, 32), spacing=1.5, mlp_epochs=1,
        transformer_epochs=1,
    ),
    "full": Config(
        seeds=10, mlp_widths=(64, 128, 256, 512, 1024, 2048, 4096),
        transformer_widths=(64, 128, 256, 512, 1024), mlp_epochs=20, transformer_epochs=8,
    ),
}  # fmt: skip


def load_digits() -> data.Arrays:
    """1,024 digits with a mean of 0 and a variance of 1 over all pixels."""
    digits = data.load("digits").train
    pixels = np.asarray(training.scale_images(jnp.asarray(digits.inputs[:EXAMPLES])))
    pixels = (pixels - pixels.mean()) / pixels.std()
    return data.Arrays(pixels.reshape(EXAMPLES, -1), np.asarray(digits.targets[:EXAMPLES]))


def make_sequences() -> data.Arrays:
    """Sequences, and the tokens that follow from earlier ones."""
    draw = np.random.default_rng(0)
    follows = draw.permutation(TOKENS)
    tokens = draw.integers(0, TOKENS, (EXAMPLES, LENGTH))
    for place in range(LAG, LENGTH):
        tokens[:, place] = follows[tokens[:, place - LAG]]
    return data.Arrays(tokens[:, :-1].astype(np.int32), tokens[:, LAG:].astype(np.int32))


def sequence_loss(logits: Any, tokens: Any) -> Any:
    """The mean over the tokens that can be known."""
    known = logits[:, LAG - 1 :]
    values = losses.cross_entropy(known.reshape(-1, TOKENS), tokens.reshape(-1))
    return values.reshape(tokens.shape).mean(1)


def task_of(network: str, width: int) -> training.Task:
    """What is learned, by a network of this width."""
    if network == "mlp":
        return training.Task(models.MLP([width, width, 10]), losses.cross_entropy)
    model = models.Transformer(
        TOKENS, features=width, layers=2, heads=4, hidden=2 * width, length=LENGTH
    )
    return training.Task(model, sequence_loss)


def multipliers(network: str, base: int, width: int) -> dict[str, float]:
    """Attention divides by the root of a head's width, where maximal update asks for the width."""
    return {"*/query": (base / width) ** 0.5} if network == "transformer" else {}


def run(config: Config) -> xarray.Dataset:
    """By network, parametrisation, width, rate and seed: the loss; and the coordinate checks."""
    both = {
        "mlp": (config.mlp_widths, load_digits(), MLP_BATCH, config.mlp_epochs),
        "transformer": (
            config.transformer_widths, make_sequences(), SEQUENCE_BATCH, config.transformer_epochs,
        ),
    }  # fmt: skip
    measured = {}
    for network, (widths, train, batch_size, epochs) in both.items():
        measured[f"{network}_loss"] = xarray.concat(
            [
                xarray.concat(
                    [
                        rates_at(config, network, kind, width, widths, train, batch_size, epochs)
                        for width in widths
                    ],
                    xarray.Variable(f"{network}_width", list(widths)),
                )
                for kind in KINDS
            ],
            xarray.Variable("kind", list(KINDS)),
        )
        measured[f"{network}_change"] = check(config, network, widths, train)
    return xarray.Dataset(measured)


def rates_at(
    config: Config,
    network: str,
    kind: str,
    width: int,
    widths: tuple[int, ...],
    train: data.Arrays,
    batch_size: int,
    epochs: int,
) -> xarray.DataArray:
    """By rate and seed the loss of the last quarter of the steps."""
    task, base = task_of(network, width), widths[0]
    found = training.parametrization(
        kind, task, task_of(network, base), train.inputs[:1], delta=task_of(network, widths[-1]),
        multipliers={} if kind == "standard" else multipliers(network, base, width),
    )  # fmt: skip
    draw = training.first_weights(task, train)

    def member(key: Any, orders: Any, params: Any, *, rate: Any) -> Any:
        optimizer = found.optimizer(optimizers.adam, rate)
        learn = training.make_run(task, optimizer, batch_size=batch_size)
        start = learn.init(key, train, params)
        _, measured = learn(key, {"train": train}, orders, start)
        steps = measured["train"]["loss"].reshape(-1)
        return {"loss": steps[-(len(steps) // 4) :].mean()}

    swept = training.sweep(
        member,
        {"rate": 2.0 ** np.arange(config.lowest, config.highest + 0.01, config.spacing)},
        seeds=range(config.seed, config.seed + config.seeds),
        by_seed={
            "orders": lambda key: training.orders(key, epochs, EXAMPLES),
            "params": lambda key: found.rescale({"params": draw(key)})["params"],
        },
    )
    return swept["loss"]


def check(
    config: Config, network: str, widths: tuple[int, ...], train: data.Arrays
) -> xarray.DataArray:
    """By parametrisation, width and seed: how far the outputs have moved."""
    batch = {"inputs": train.inputs[:CHECK_EXAMPLES], "targets": train.targets[:CHECK_EXAMPLES]}
    moved = [
        diagnostics.coordinate_check(
            lambda width: task_of(network, width),
            widths,
            batch,
            lambda found: found.optimizer(optimizers.adam, CHECK_RATE),
            kind=kind,
            multipliers=lambda width: multipliers(network, widths[0], width),
            steps=CHECK_STEPS,
            seeds=config.seeds,
        ).changes[:, :, -1, -1]
        for kind in KINDS
    ]
    return xarray.DataArray(np.stack(moved), dims=("kind", f"{network}_width", "seed"))


def best_rates(loss: xarray.DataArray) -> xarray.DataArray:
    """The rate at the bottom of the parabola near the least loss, of each curve."""
    octaves = np.log2(loss["rate"].values)

    def bottom(curve: np.ndarray) -> float:
        logs = np.log(np.where(np.isfinite(curve) & (curve > 0), curve, np.inf))
        least = octaves[int(np.argmin(logs))]
        near = (np.abs(octaves - least) <= REACH) & np.isfinite(logs)
        if near.sum() < 3:
            return float(2.0**least)
        bend, slope, _ = np.polyfit(octaves[near] - least, logs[near], 2)
        shift = np.clip(-slope / (2 * bend), -REACH, REACH) if bend > 0 else 0.0
        return float(2.0 ** (least + shift))

    found: xarray.DataArray = xarray.apply_ufunc(
        bottom, loss, input_core_dims=[["rate"]], vectorize=True
    )
    return found


def claims(results: xarray.Dataset) -> list[Claim]:
    """What the steps and the best rates do as the network grows wider."""
    made = []
    of_seeds = f"geometric mean of {results.sizes['seed']} seeds"
    for network in NETWORKS:
        widths = results[f"{network}_width"].values
        axis, span = f"{network}_width", f"{NAMES[network]}, widths {widths[0]} to {widths[-1]}"
        best = best_rates(results[f"{network}_loss"])
        falls = (best.isel({axis: 0}) / best.isel({axis: -1})).sel(kind=list(KINDS))
        changes = results[f"{network}_change"].transpose("kind", "seed", axis)
        powers = dict(zip(KINDS, slopes(np.log(widths), np.log(changes)), strict=True))
        standard, maximal = (falls.sel(kind=kind) for kind in KINDS)
        made += [
            about_mean(
                f"Standard steps move a wider network farther: {span}, the power of the width in "
                "the outputs' change",
                powers["standard"],
                0.2,
            ),
            about_mean(
                f"Steps of maximal update are of one size at every width: {span}, the power of the "
                "width in the outputs' change",
                powers["maximal_update"],
                -0.2,
                0.2,
            ),
            about_ratios(
                f"The standard best rate of a narrow network is too large for a wide one: {span}, "
                f"it falls by the factor, {of_seeds}",
                standard,
                2.0,
            ),
            about_ratios(
                f"Under maximal update the best rate of the narrow network stays best: {span}, it "
                f"falls by the factor, {of_seeds}",
                maximal,
                0.5,
                2.0,
            ),
        ]
    return made


def plot(results: xarray.Dataset) -> Any:
    """Loss by rate for each width, and the outputs' change by width; a row for each network."""
    from matplotlib import colormaps

    figure = new_figure(12, 7.5)
    rows = figure.subplots(2, 3)
    for panels, network in zip(rows, NETWORKS, strict=True):
        axis = f"{network}_width"
        widths = results[axis].values
        shades = colormaps["viridis"](np.linspace(0, 0.9, len(widths)))
        losses_here = results[f"{network}_loss"]
        best = best_rates(losses_here)
        finite = losses_here.where(np.isfinite(losses_here))
        panels[1].sharey(panels[0])
        for axes, kind in zip(panels, KINDS, strict=False):
            for width, shade in zip(widths, shades, strict=True):
                logs: Any = np.log(finite.sel({"kind": kind, axis: width}))
                curve = np.exp(logs.mean("seed"))
                axes.plot(curve["rate"], curve, "-", color=shade, label=f"width {width}")
                at = np.exp(np.log(best.sel({"kind": kind, axis: width})).mean())
                height = np.interp(np.log(at), np.log(curve["rate"]), curve)
                axes.plot(at, height, "o", color=shade, mec="k", ms=7)
            axes.set(
                xscale="log", yscale="log", xlabel="learning rate of Adam",
                ylabel="training loss (nats)", title=f"{NAMES[network]}, {LABELS[kind]}",
            )  # fmt: skip
            axes.grid(lw=0.3)
        panels[0].legend(fontsize=8, title="dot: best rate", title_fontsize=8)
        for kind, style in zip(KINDS, ("C3s-", "C0o-"), strict=True):
            changes = results[f"{network}_change"].sel(kind=kind).transpose(axis, "seed")
            mean, half = interval(np.log(changes), axis=1)
            spread = [np.exp(mean) - np.exp(mean - half), np.exp(mean + half) - np.exp(mean)]
            panels[2].errorbar(
                widths, np.exp(mean), yerr=spread, fmt=style, capsize=2, label=LABELS[kind]
            )
        panels[2].set(
            xscale="log", yscale="log", xlabel="width",
            ylabel=f"r.m.s. change of the outputs, {CHECK_STEPS} steps",
            title=f"{NAMES[network]}: coordinate check",
        )  # fmt: skip
        panels[2].set_xticks(widths, [str(width) for width in widths])
        panels[2].xaxis.minorticks_off()
        panels[2].grid(lw=0.3)
        panels[2].legend(fontsize=8)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
