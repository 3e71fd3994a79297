"""Where a larger network, more examples and longer training hurt, and where they help again.

MNIST-1D with wrong labels, [40, w, w, 10] and a network of three convolutions, PyTorch's default
weights, momentum at rate 0.01, batches of 100, 20,000 steps. With the width the test error falls,
rises to a peak where the network can just learn all labels by heart, and falls again.

Meaning: The panels show the test error by width, by channels, by the number of examples and by
epoch, for networks trained on labels some of which are wrong. With wrong labels the error rises to
a peak where the network can just learn them all by heart, and falls again in larger networks; four
seeds leave undecided the peak of convolutions, its absence with true labels, and whether more
examples or longer training hurt and then help.

Data: mnist_1d, 5,000 signals of 40 points (4,000 to train on, 1,000 to test); Greydanus and Kobak
(2024), made by the package mnist1d.
Source: the lecture on double descent; Nakkiran et al. (2019), figures 1, 2 and 11; the notebook
deep-double-descent of MNIST-1D (2024), whose networks and rates these are; Prince (2023), section
8.4.
Run: python experiments/generalization/double_descent.py
Expected: the published curves, to 3 %: with wrong labels a peak at width 47, 7 % high; whether
there is none with true ones, four seeds cannot tell; with fewer examples it moves to narrower ones.
Not seen at this size: that more examples hurt (twice as many gain 5 % at the peak), and a second
descent with time: once all labels are learned, at 100 epochs, the test error stays where it is.
Time: 9 minutes on 2 CPU cores.
"""

import functools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import xarray

from jaxdl import activations, data, initializers, losses, metrics, models, optimizers, training
from jaxdl.claims import Claim, about_means, about_ratios, main, slopes
from jaxdl.plotting import band, new_figure

CLASSES, BATCH_SIZE, RATE, EXAMPLES = 10, 100, 0.01, 4000
KERNEL, BIAS = initializers.torch_kernel(), initializers.torch_bias
PUBLISHED_NOISE, PUBLISHED_EPOCHS = 0.135, 500
"""The notebook draws 15 % of the labels anew from all ten classes: 13.5 % are wrong."""
NOISES, WRONG = (0.0, 0.1, PUBLISHED_NOISE, 0.2), slice(0.1, None)
WIDTHS = (4, 9, 16, 27, 36, 47, 61, 104, 177, 300)
CHANNELS = (6, 10, 18, 24, 30, 45, 60, 95)
# The notebook's test errors, %: one run each, on another draw of the set.
PUBLISHED = (62.55, 48.97, 47.24, 50.69, 52.80, 54.05, 54.02, 50.23, 47.88, 45.47)
PUBLISHED_CLEAN = (58.27, 49.33, 44.55, 41.02, 41.66, 41.01, 41.24, 38.61, 38.09, 37.25)
PUBLISHED_CNN = (23.87, 19.64, 33.80, 32.03, 29.82, 30.23, 30.04, 27.38)
LEFT, PEAK, CHANNELS_LEFT, CHANNELS_PEAK = 16, 47, 10, 18
"""Sizes before the notebook's peaks, and at them."""
TEST_ERROR = 300 * (0.5 * 0.5 / 1000) ** 0.5
"""Three standard deviations of a share of a half of 1,000 test examples, %."""
FITTED = 10.0
"""The training error, %, at which examples count as fitted: the heuristic of Nakkiran et al."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    widths: tuple[int, ...] = WIDTHS[:-1]
    """Of both hidden layers; 16 and 47 are among them."""
    samples: tuple[int, ...] = (1000, 2000)
    """Numbers of examples beside all 4,000, with as many steps."""
    channels: tuple[int, ...] = (10, 18, 95)
    """Of the convolutions; 10 and 18 are among them."""
    epochs: int = PUBLISHED_EPOCHS
    """Passes over all 4,000 examples."""
    seeds: int = 4
    """Runs of each network, each with its own weights, order and wrong labels; at least 3."""
    seed: int = 0
    """The first seed; the others follow it."""

    def __post_init__(self) -> None:
        lacking = {LEFT, PEAK} - {*self.widths} | {CHANNELS_LEFT, CHANNELS_PEAK} - {*self.channels}
        if lacking or self.seeds < 3:
            raise ValueError(
                f"there must be 3 seeds, the widths {LEFT} and {PEAK}, and {CHANNELS_LEFT} and "
                f"{CHANNELS_PEAK} channels, got {self}; add what lacks"
            )


PRESETS = {
    "default": Config(),
    "smoke": Config((16, 47, 61), (1000,), (10, 18), epochs=3, seeds=3),
    "full": Config(WIDTHS, (500, 1000, 2000, 3000), CHANNELS, epochs=4000, seeds=10),
}


class ConvNet1d(nn.Module):
    """The notebook's: three convolutions that halve the signal, and a dense layer."""

    channels: int

    @nn.compact
    def __call__(self, x: Any, *, train: bool) -> Any:
        """The logits of signals of the shape (batch, times)."""
        x = x[..., None]
        for size in (5, 3, 3):
            bias = BIAS(size * x.shape[-1])
            conv = nn.Conv(self.channels, (size,), 2, padding=1, kernel_init=KERNEL, bias_init=bias)
            x = activations.relu(conv(x))
        x = x.reshape(len(x), -1)
        return nn.Dense(CLASSES, kernel_init=KERNEL, bias_init=BIAS(x.shape[-1]))(x)


def run(config: Config) -> xarray.Dataset:
    """Errors by width, noise and epoch; by width and samples; of the convolutional network."""
    signals, published = data.load("mnist_1d"), [PUBLISHED_NOISE]

    def by_width(noises: Sequence[float], examples: int = EXAMPLES) -> xarray.Dataset:
        cut = replace(signals, train=jax.tree.map(lambda rows: rows[:examples], signals.train))
        mlp = functools.partial(models.MLP, kernel_init=KERNEL, bias_init=BIAS)
        made = {w: errors(mlp((w, w, CLASSES)), cut, noises, config) for w in config.widths}
        return joined("width", made)

    mlps = by_width(NOISES)
    cnns = {c: errors(ConvNet1d(c), signals, published, config) for c in config.channels}
    counted = {n: last(by_width(published, n), n) for n in config.samples}
    counted[EXAMPLES] = last(mlps).sel(noise=published)
    others = {"cnn": last(joined("channels", cnns)), "samples": joined("samples", counted)}
    for name, other in others.items():
        one = other.squeeze("noise", drop=True)
        mlps = mlps.assign({f"{name}_{split}": one[split] for split in ("test", "train")})
    return mlps


def errors(model: Any, signals: Any, noises: Sequence[float], config: Config) -> xarray.Dataset:
    """By share of wrong labels, seed and epoch, %: on the true test set; before each step."""
    inputs, true = jnp.asarray(signals.train.inputs), signals.train.targets
    epochs = config.epochs * EXAMPLES // len(true)
    task = training.Task(model, losses.cross_entropy, metrics=[metrics.accuracy])

    def labels(key: Any) -> Any:
        wrong = jax.random.fold_in(key, 1)
        return jnp.stack([data.mislabel(wrong, true, share, classes=CLASSES) for share in noises])

    def member(key: Any, orders: Any, params: Any, labels: Any, *, level: Any) -> dict[str, Any]:
        train = data.Arrays(inputs, labels[level])
        learn = training.make_run(task, optimizers.momentum(RATE), batch_size=BATCH_SIZE)
        start = learn.init(key, train, params)
        _, right = learn(key, {"train": train, "test": signals.test}, orders, start)
        shares = {"train": right["train"]["accuracy"].mean(1), "test": right["test"]["accuracy"]}
        return {split: 100 * (1 - share) for split, share in shares.items()}

    found = training.sweep(
        member,
        {"level": range(len(noises))},
        seeds=range(config.seed, config.seed + config.seeds),
        by_seed={
            "orders": lambda key: training.orders(key, epochs, len(true)),
            "params": training.first_weights(task, signals.train),
            "labels": labels,
        },
        dims={"train": ("epoch",), "test": ("epoch",)},
    )
    return found.rename(level="noise").assign_coords(noise=[*noises], epoch=range(1, epochs + 1))


def joined(name: str, results: Mapping[int, xarray.Dataset]) -> xarray.Dataset:
    """One more axis, of sizes."""
    return xarray.concat([*results.values()], xarray.Variable(name, [*results]))


def last(results: xarray.Dataset, examples: int = EXAMPLES) -> xarray.Dataset:
    """After as many steps as published, or at the end where there are fewer."""
    epoch = min(results.sizes["epoch"], PUBLISHED_EPOCHS * EXAMPLES // examples)
    return results.sel(epoch=epoch, drop=True)


def above(errors: xarray.DataArray, peak: int, left: int) -> xarray.DataArray:
    """By seed and side: the error at the peak less those on its left and at the largest size."""
    name = "width" if "width" in errors.dims else "channels"
    sides = errors.sel({name: [left, errors[name].values[-1]]}).rename({name: "side"})
    height = errors.sel({name: peak}, drop=True) - sides.drop_vars("side")
    return height.transpose("seed", ...)


def beside(errors: xarray.DataArray, sizes: Sequence[int], published: Sequence[float]) -> Any:
    """By seed: the mean difference from what is published for the same sizes."""
    name = "width" if "width" in errors.dims else "channels"
    return (errors - xarray.DataArray([*published], {name: [*sizes]}, [name])).mean(name)


def top(curves: np.ndarray) -> np.ndarray:
    """The place, along the last axis, where a curve lies highest above the least value before."""
    before = np.minimum.accumulate(curves, -1)[..., :-1]
    return np.asarray(1 + (curves[..., 1:] - before).argmax(-1))


def peaks(results: xarray.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """By seed and share of wrong labels: the width of the peak, and the least that fits, or NaN."""
    at = last(results).sel(noise=WRONG).transpose("seed", "noise", "width", ...)
    fits, widths = at["train"].values <= FITTED, results["width"].values
    least = np.where(fits.any(-1).all(0), widths[fits.argmax(-1)], np.nan)
    return widths[top(at["test"].values)], least


def turns(results: xarray.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """By seed: how far the widest network's test error rises after its least, and falls again.

    Means of ten epochs. Where the turns are, the other seeds say: the greatest of noisy numbers
    lies above the last one in any run. No second fall counts for more than the rise before it.
    """
    test = results["test"].sel(noise=PUBLISHED_NOISE).isel(width=-1)
    own = test.rolling(epoch=10, min_periods=1).mean().transpose("seed", "epoch").values
    others = (own.sum(0) - own) / (len(own) - 1)
    highest, seeds = top(others), np.arange(len(own))
    least = [others[seed, : highest[seed]].argmin() for seed in seeds]
    rise, fall = own[seeds, highest] - own[seeds, least], own[seeds, highest] - own[:, -1]
    return rise, np.minimum(rise, fall)


def claims(results: xarray.Dataset) -> list[Claim]:
    """What is published; each of the three descents; what wrong labels have to do with it."""
    seeds, test, cnn = results.sizes["seed"], last(results)["test"], results["cnn_test"]
    clean, noisy = test.sel(noise=0.0), test.sel(noise=PUBLISHED_NOISE)
    wrong = above(test.sel(noise=WRONG).mean("noise"), PEAK, LEFT)
    widest, most = int(results["width"][-1]), int(results["channels"][-1])
    clear, by_channels = above(clean, PEAK, LEFT), above(cnn, CHANNELS_PEAK, CHANNELS_LEFT)
    few, some, all_ = results["samples"].values[[0, -2, -1]]
    left, at_peak = (results["samples_test"].sel(width=width, drop=True) for width in (LEFT, PEAK))
    hurt = at_peak.sel(samples=all_) - at_peak.sel(samples=some)
    moved = (at_peak - left).sel(samples=all_) - (at_peak - left).sel(samples=few)
    (peak, fitting), (rise, fall) = peaks(results), turns(results)
    theirs = (
        "are wrong as often as the published notebook's: ours less theirs, mean over the sizes, %"
    )
    has, at = "the test error has", "at {} less that at {} and {}, %"
    by = f"test error of width {widest}, by how much, %"
    as_published = {
        f"MLPs trained on 13.5 % wrong labels {theirs}": beside(noisy, WIDTHS, PUBLISHED),
        f"MLPs trained on true labels {theirs}": beside(clean, WIDTHS, PUBLISHED_CLEAN),
        f"Convolutional networks {theirs}": beside(cnn, CHANNELS, PUBLISHED_CNN),
    }
    positive = {
        f"With wrong labels {has} a peak: all three shares, {at.format(PEAK, LEFT, widest)}": wrong,
        f"In convolutional networks, too, {has} a peak: "
        f"{at.format(CHANNELS_PEAK, CHANNELS_LEFT, most)}": by_channels,
        f"With true labels {has} no peak: at {LEFT} less that at {PEAK}, %": -clear[:, 0],
        "Wrong labels raise the peak: its height above the mean of both sides, % for each % of "
        "wrong labels": slopes(100 * test["noise"], above(test, PEAK, LEFT).mean("side")),
        f"More examples move the peak to wider networks: test error at {PEAK} less that at {LEFT}, "
        f"with {all_} examples above that with {few}, %": moved,
        f"At a peak more examples hurt: test error at width {PEAK} with {all_} less that with "
        f"{some}, % (Nakkiran et al.: somewhere 4.5 times as many hurt)": hurt,
    }
    turning = {
        f"Trained longer, networks grow worse after their best: {by}": rise,
        f"Trained still longer, networks grow better again: {by}, up to the end": fall,
    }
    bands = ((as_published, -TEST_ERROR, TEST_ERROR), (positive, 0, np.inf), (turning, 0.1, np.inf))
    made = [
        about_means(f"{text}; {seeds} seeds", np.asarray(of).reshape(seeds, -1), low, high)
        for part, low, high in bands
        for text, of in part.items()
    ]
    if (known := np.isfinite(fitting).all(0)).any():
        text = f"The peak stands where labels are just fitted: width over the first of {FITTED:g} %"
        ratio = np.exp(np.log(peak / fitting)[:, known].mean(1))
        made.append(about_ratios(f"{text} training error; {seeds} seeds", ratio, 0.5, 2.0))
    return made


def plot(results: xarray.Dataset) -> Any:
    """Test errors by width, channels, number of examples and epoch."""
    figure = new_figure(13, 9)
    by_width, by_channels, by_samples, by_epoch = figure.subplots(2, 2, sharey=True).ravel()

    def draw(axes: Any, test: Any, train: Any, color: int, label: str) -> None:
        (name,) = set(test.dims) - {"seed"}
        x, runs = test[name].values, test.transpose("seed", name)
        band(axes, x, runs, f"C{color}-", spread="range", label=label)
        axes.plot(test[name], train.mean("seed"), f"C{color}:")

    final = last(results)
    for color, noise in enumerate(final["noise"].values):
        at, label = final.sel(noise=noise), f"{100 * noise:g} % wrong labels"
        draw(by_width, at["test"], at["train"], color, label)
    draw(by_channels, final["cnn_test"], final["cnn_train"], 2, "test error")
    for color, samples in enumerate(results["samples"].values, 4):
        at, label = final.sel(samples=samples), f"{samples} examples"
        draw(by_samples, at["samples_test"], at["samples_train"], color, label)
        # w^2 + 52 w + 10 weights and biases
        by_samples.axvline((666 + samples) ** 0.5 - 26, color=f"C{color}", ls="--", lw=1)
    by_samples.plot([], [], "k--", lw=1, label="as many weights as examples")
    for color, size in zip((7, 8, 9), (LEFT, PEAK, results["width"].values[-1]), strict=True):
        at = results.sel(width=size, noise=PUBLISHED_NOISE)
        draw(by_epoch, at["test"], at["train"], color, f"width {size}")
    star = {"mec": "k", "mew": 0.5, "ms": 10}
    by_width.plot(WIDTHS, PUBLISHED_CLEAN, "C0*", **star)
    by_width.plot(WIDTHS, PUBLISHED, "C2*", label="published, one run", **star)
    by_channels.plot(CHANNELS, PUBLISHED_CNN, "C2*", label="published, one run", **star)
    widths, told = "width of both hidden layers", ", 13.5 % wrong labels"
    for axes, label, title in (
        (by_width, widths, f"Larger networks: mean and range of {results.sizes['seed']} seeds"),
        (by_channels, "channels of each convolution", "Larger convolutional networks" + told),
        (by_samples, widths, "More examples" + told),
        (by_epoch, "epoch", "Longer training" + told),
    ):
        axes.plot([], [], "k:", label="training error")
        axes.set(xscale="log", xlabel=label, ylabel="error (%)", title=title, ylim=(-2, 100))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.legend(fontsize=8, loc="upper right", ncols=2)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
