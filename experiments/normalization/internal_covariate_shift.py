"""How a layer's inputs are distributed while the network learns, with BatchNorm and without.

VGG-11, narrowed, on CIFAR-10 by plain SGD: no norm, BatchNorm, and noisy BatchNorm, whose outputs
are shifted and scaled at random in every step. On a fixed batch of test images the inputs of one
ReLU are followed: the 15th, 50th and 85th percentile of each channel, its whole distribution at a
few steps, and how far the channels' means move in one step. The norms normalise by that batch, and
the noise is that of the step.

Meaning: The panels follow the inputs of one ReLU through training without a norm, with BatchNorm,
and with BatchNorm whose outputs are shaken at random; beside them are the training loss and how far
inputs move in a step. BatchNorm holds a layer's inputs eleven times stiller and the noise undoes
that, yet the noisy network still trains faster than the one without a norm: still inputs are not
what helps.

Data: cifar10, 60,000 colour images of 32 x 32 (50,000 to train on, 64 test images to watch);
Krizhevsky (2009), downloaded.
Source: the lecture on BatchNorm; Ioffe and Szegedy (2015), figure 1, the percentiles; Santurkar,
Tsipras, Ilyas and Madry (2018), figure 2, the distributions and the noise.
Run: python experiments/normalization/internal_covariate_shift.py
Expected: BatchNorm holds the percentiles of a channel 11 times stiller than they are without a norm
(in units of their own distance). The noise undoes that: in a step it moves inputs 300 times farther
than BatchNorm does, and 1.4 times farther than they move without a norm; over the run the
percentiles move 8 times as far as BatchNorm's. Yet noisy BatchNorm trains faster than no norm, so
still inputs are not what helps: batchnorm_smoothing.py.
Time: 2 min on 2 CPU cores; the paper's width and length, `--preset full`, are for a GPU.
"""

import sys
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray

from jaxdl import data, layers, losses, models, optimizers, training
from jaxdl.claims import Claim, about_ratios, main
from jaxdl.plotting import band, new_figure
from jaxdl.training.steps import take

NEEDS = "cifar10"
NORMS = {"plain": None, "norm": layers.BatchNorm, "noisy": layers.NoisyBatchNorm}
LABELS = {"plain": "no norm", "norm": "BatchNorm", "noisy": "noisy BatchNorm"}
STYLES = {"plain": "k-o", "norm": "C0--s", "noisy": "C1:^"}
LAYER = 4
"""The layer whose ReLU's inputs are watched: the fifth of VGG-11's eight convolutions."""
LEVELS = np.arange(2.5, 100, 2.5)
"""The percentiles that are kept."""
DRAWN = {15.0: "k:", 50.0: "k-", 85.0: "k--"}
"""Those that the paper draws."""
LONG = 200
"""Steps from which a run is held to what the paper says of training."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 5
    """Runs of each kind, from different keys; at least 3."""
    seed: int = 0
    """First seed; the others follow."""
    steps: int = 240
    """Of each run, a multiple of `every`."""
    every: int = 10
    """Steps from one measurement to the next."""
    rate: float = 0.1
    """Of plain SGD; the paper's."""
    batch_size: int = 64
    """Of the training steps, and the test images that are watched; the paper's is 128."""
    channels: tuple[int, int, int, int, int] = (8, 16, 32, 32, 32)
    """Of VGG-11's five stages."""
    generator: str = "threefry2x32"
    """Of random numbers, as `jax.random.key` names it; "rbg" compiles faster."""
    data_dir: str | None = None
    """Where prepared data are kept; by default where `jaxdl data` keeps them."""
    raw_dir: str | None = None
    """A folder with the binary files, `data_batch_1.bin` and so on, or their archive."""


PRESETS = {
    "default": Config(),
    "smoke": Config(
        seeds=3, steps=30, every=5, batch_size=32, channels=(8, 8, 16, 16, 16), generator="rbg"
    ),
    "full": Config(steps=15_000, every=250, batch_size=128, channels=(64, 128, 256, 512, 512)),
}


def task_of(norm: str, channels: tuple[int, ...]) -> training.Task:
    """VGG-11 with this norm, on pixels in [-1, 1]."""
    return training.Task(
        models.VGG(11, channels=channels, norm=NORMS[norm]),
        losses.cross_entropy,
        preprocess=lambda pixels: 2 * training.scale_images(pixels) - 1,
    )


def run(config: Config) -> xarray.Dataset:
    """By norm and seed: the loss of each step; now and then what the ReLU is fed."""
    steps, every = config.steps, config.every
    if config.seeds < 3 or every < 1 or steps % every or steps < 4 * every:
        raise ValueError(
            "seeds must be at least 3 and steps a multiple of every, four times or more, "
            f"got {config.seeds}, {steps} and {every}"
        )
    dataset = data.load(NEEDS, data_dir=config.data_dir, raw_dir=config.raw_dir)
    train = jax.tree.map(jnp.asarray, dataset.train)
    watched = jnp.asarray(dataset.test.inputs[: config.batch_size])
    tasks = {norm: task_of(norm, config.channels) for norm in NORMS}
    draws = {norm: training.first_weights(task, train) for norm, task in tasks.items()}

    def member(key: Any, batches: Any, params: Any, *, norm: Any) -> Any:
        sgd = optimizers.sgd(config.rate)
        learn = training.make_run(tasks[norm], sgd, batch_size=config.batch_size)

        def step(states: Any, row: Any) -> Any:
            after, measured = learn.step(states[1], take(train, row))
            return (states[1], after), measured["loss"]

        def piece(states: Any, rows: Any) -> Any:
            states, loss = jax.lax.scan(step, states, rows)
            return states, measured_inputs(learn.task, states, watched) | {"loss": loss}

        start = learn.init(key, train, params[norm])
        pieces = batches.reshape(-1, every, config.batch_size)
        measured = jax.lax.scan(piece, (start, start), pieces)[1]
        return measured | {"loss": measured["loss"].ravel()}

    with jax.default_prng_impl(config.generator):
        return training.sweep(
            member,
            {"norm": list(NORMS)},
            seeds=range(config.seed, config.seed + config.seeds),
            by_seed={
                "batches": lambda key: training.step_orders(
                    key, steps, len(train), batch_size=config.batch_size
                ),
                "params": lambda key: {norm: draw(key) for norm, draw in draws.items()},
            },
            dims={
                "loss": ("step",), "shift": ("at",), "percentiles": ("at", "level", "channel")
            },
        ).assign_coords(
            step=np.arange(1, steps + 1), at=np.arange(every, steps + 1, every), level=LEVELS
        )  # fmt: skip


def measured_inputs(task: training.Task, states: Any, images: Any) -> dict[str, Any]:
    """The percentiles of the ReLU's inputs in the later of two states; how far the means moved.

    The shift is in standard deviations before it. Both are means over the channels.
    """

    def moments(state: Any) -> Any:
        fed = relu_inputs(task, state, images)
        by_channel = fed.reshape(-1, fed.shape[-1])
        return by_channel.mean(0), by_channel.std(0), jnp.percentile(by_channel, LEVELS, axis=0)

    # A loop, so that the network is compiled once.
    both = jax.tree.map(lambda *each: jnp.stack(each), *states)
    means, deviations, percentiles = jax.lax.map(moments, both)
    shift = jnp.abs(means[1] - means[0]).mean() / deviations[0].mean()
    return {"shift": shift, "percentiles": percentiles[1]}


def relu_inputs(task: training.Task, state: Any, images: Any) -> Any:
    """What the ReLU of the layer is fed, (images, height, width, channels), in training mode."""
    name = f"conv_{LAYER}" if task.model.norm is None else f"norm_{LAYER}"
    _, kept = task.model.apply(
        state.variables, task.preprocess(images), train=True,
        mutable=["batch_stats", "intermediates"], rngs={"dropout": state.dropout_key()},
        capture_intermediates=lambda module, _: module.name == name,
    )  # fmt: skip
    return kept["intermediates"][name]["__call__"][0]


def wander(percentiles: xarray.DataArray) -> xarray.DataArray:
    """By norm, seed and channel: how far the percentiles move, in units of their own distance.

    The standard deviation over time of each of the three, averaged, over the mean distance from
    the 15th to the 85th.
    """
    drawn = percentiles.sel(level=list(DRAWN))
    moved = drawn.std("at", skipna=False).mean("level", skipna=False)
    distance = drawn.isel(level=-1, drop=True) - drawn.isel(level=0, drop=True)
    return moved / distance.mean("at", skipna=False)


def claims(results: xarray.Dataset) -> list[Claim]:
    """Whose inputs move farther: over the run, and in a step."""
    moved = wander(results["percentiles"]).mean("channel", skipna=False)
    shift = results["shift"].isel(at=slice(results.sizes["at"] // 2, None))

    def times(text: str, of: xarray.DataArray, one: str, other: str) -> Claim:
        """The ratio is above 1; by seed, its geometric mean over the times."""
        ratios: Any = np.log(of.sel(norm=one) / of.sel(norm=other))
        if "at" in ratios.dims:
            ratios = ratios.mean("at", skipna=False)
        text = f"{text}, geometric mean of {results.sizes['seed']} seeds"
        return about_ratios(text, np.exp(ratios), 1.0)

    later = ", second half of the steps"
    text = "Noisy BatchNorm does not hold a layer's inputs still: their shift in a step over "
    made = [times(f"{text}BatchNorm's{later}", shift, "noisy", "norm")]
    if results.sizes["step"] < LONG:
        return made
    text = "Noisy BatchNorm moves inputs even farther than no norm: their shift over that without a"
    made.append(times(f"{text} norm{later}", shift, "noisy", "plain"))
    text = "BatchNorm keeps the distribution of a layer's inputs steadier: how far the percentiles "
    text += "of a channel move, in units of their distance, without a norm over with BatchNorm"
    return [*made, times(text, moved, "plain", "norm")]


def density(percentiles: Any, x: Any) -> Any:
    """At each x, a Gaussian kernel estimate of the distribution with these percentiles."""
    deviation = np.subtract(*np.interp([84.0, 16.0], LEVELS, percentiles)) / 2
    width = 1.06 * deviation * len(LEVELS) ** -0.2  # Silverman's rule
    return np.exp(-(((x[:, None] - percentiles) / width) ** 2) / 2).mean(axis=1) / width


def plot(results: xarray.Dataset) -> Any:
    """A typical channel: its percentiles, its distributions; the training loss, and the shift."""
    figure = new_figure(14, 8)
    (*across, learning), (*ridges, shift) = figure.subplots(2, 4)
    of_channels, times = wander(results["percentiles"]).isel(seed=0), results["at"].values
    shown = times[np.linspace(0, len(times) - 1, min(6, len(times))).astype(int)]
    steps, window = results.sizes["step"], max(results.sizes["step"] // 15, 1)
    smooth = results["loss"].rolling(step=window).mean().isel(step=slice(window - 1, None))
    for norm, lines, ridge in zip(NORMS, across, ridges, strict=True):
        # Of the middle one when channels are put in the order of how far their percentiles move.
        channel = of_channels.sel(norm=norm).argsort()[of_channels.sizes["channel"] // 2].item()
        followed = results["percentiles"].sel(norm=norm).isel(seed=0, channel=channel)
        for level, style in DRAWN.items():
            lines.plot(times, followed.sel(level=level), style, label=f"{level:g}th percentile")
        lines.set(title=f"One channel, {LABELS[norm]}", xlabel="step", ylabel="input to the ReLU")
        values = followed.sel(at=shown).transpose("at", "level").values
        x = np.linspace(values.min() - np.ptp(values) / 4, values.max() + np.ptp(values) / 4, 300)
        curves = np.stack([density(each, x) for each in values])
        for place, curve in reversed([*enumerate(curves * 2 / curves.max())]):
            colour = STYLES[norm][:2].rstrip("-")
            ridge.fill_between(x, place, place + curve, color=colour, alpha=0.6, lw=0)
            ridge.plot(x, place + curve, "w-", lw=1)
        ridge.axvline(0, color="0.3", lw=0.8, ls=":")
        ridge.set_yticks(range(len(shown)), [f"{step}" for step in shown])
        ridge.set(title=f"Its distribution, {LABELS[norm]}", xlabel="input to the ReLU")
        ridge.set(ylabel="step")
        line: dict[str, Any] = {"ms": 5, "label": LABELS[norm]}
        runs = smooth.sel(norm=norm)
        marks = max(steps // 6, 1)
        band(learning, smooth["step"], runs, STYLES[norm], spread="range", markevery=marks, **line)
        runs, marks = results["shift"].sel(norm=norm), max(len(times) // 6, 1)
        band(shift, times, runs, STYLES[norm], spread=(0, 1), alpha=0.15, markevery=marks, **line)
    for axes in across:
        axes.sharey(across[0])
    low, high = (each(axes.get_ylim()) for each, axes in ((min, across[0]), (max, across[0])))
    across[0].set_ylim(low, high + 0.3 * (high - low))
    across[0].legend(fontsize=8, loc="upper left")
    learning.set(title="Training", xlabel="step", ylabel=f"loss (nats), mean of {window} steps")
    learning.legend(fontsize=8, title=f"mean and range of {results.sizes['seed']} seeds")
    shift.set(title="All channels", xlabel="step", ylabel="shift of a mean in a step (s.d.)")
    shift.set(yscale="log")
    shift.legend(fontsize=8, title="median and range")
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
