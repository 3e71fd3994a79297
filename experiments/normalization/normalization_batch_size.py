"""How small a batch each normalisation bears: batch, group, layer and instance norm.

4,000 images of CIFAR-10 at 16 x 16; three convolutions of 2 x 2 at stride 2 with a norm and a ReLU
each, the mean over positions, 10 outputs. Momentum 0.9, rate 0.1 N / 32 at batch N, falling along
half a cosine; 10 epochs at every N, the same starts and orders for all. BatchNorm is evaluated
with its running averages, then with the statistics of the training set; and it is trained once
more in steps of 128 with statistics over N of them (ghost batches), which tells the batch of the
statistics from that of the gradient.

Meaning: The left panel shows the test error with each norm by the size of the batch, the middle one
the same of a large network as published, the right one what BatchNorm needs its batch for. In
batches of two BatchNorm loses six points, because the statistics of two images disturb training,
while GroupNorm and LayerNorm lose none; InstanceNorm hardly learns in this network, and its claim
is undecided.

Data: cifar10, 60,000 colour images of 32 x 32, shrunk to 16 x 16 (4,000 of 50,000 to train on,
10,000 to test); Krizhevsky (2009), downloaded.
Source: the lecture on BatchNorm; Wu and He (2018), figure 1 and table 2: ResNet-50 on ImageNet, 8
devices that normalise over N images each and step over 8 N together. Ghost batches: Hoffer, Hubara
and Soudry (2017).
Run: python experiments/normalization/normalization_batch_size.py
Expected: BatchNorm's error is 65.0, 59.5, 59.2, 58.5, 58.9 % at batch 2 to 32; GroupNorm's 59.9 to
60.2 %. In the paper BatchNorm loses 3.7 points at 4 and 1.2 at 8, and leads by 0.5 at 32; here six
seeds show little of the loss (0.6 +- 0.6, 0.3 +- 0.9) and a lead of 1.0 +- 0.7. Of the 6.1 points
at 2, 1.4 are the running averages'; steps of 128 with statistics over 2 lose as much: it is the
statistics in training, not the gradient. At 64 and 128, where steps are few, GroupNorm and
LayerNorm lose a point, BatchNorm hardly any. InstanceNorm, at 82 %, hardly learns at any N: it
takes each image's mean out of each channel, which is what this network's last layer reads.
Time: 3.5 min on 2 CPU cores.
"""

import functools
import sys
from dataclasses import dataclass, replace
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Array, Float

from jaxdl import data, initializers, layers, losses, metrics, optimizers, training
from jaxdl.claims import Claim, about_mean, interval, main
from jaxdl.layers.norm import apply_norm
from jaxdl.plotting import new_figure

NORMS: dict[str, Any] = {
    "batch": layers.BatchNorm,
    "group": functools.partial(nn.GroupNorm, num_groups=4, epsilon=1e-5),
    # Over all of an image, with a scale of each channel's own, as in the paper.
    "layer": functools.partial(
        nn.LayerNorm, epsilon=1e-5, reduction_axes=(1, 2, 3), feature_axes=-1
    ),
    "instance": functools.partial(nn.InstanceNorm, epsilon=1e-5),
}
NEEDS = "cifar10"
SMALL, USUAL = 2, 32
"""Batch sizes that the claims compare; the paper's least and largest."""
GHOST_STEP = 128
RATE, MOMENTUM = 0.1, 0.9
"""The rate is that of batch 32, and proportional to the batch."""
MARGIN = 0.25
"""A norm whose error rises by less than this share of BatchNorm's is said not to rise. The
paper's GroupNorm moves by 0.2 points where BatchNorm rises by 11.1; six seeds resolve a quarter."""
PAPER = xarray.DataArray(
    [[34.7, 27.3, 24.8, 23.7, 23.6], [24.1, 24.2, 24.0, 24.2, 24.1]],
    {"norm": ["batch", "group"], "batch_size": [2, 4, 8, 16, 32]},
)
"""Table 2: validation error of ResNet-50 in percent by batch per device."""
PART = 4_000
"""Images of a batch in which the training set is recalibrated."""
LABELS = {name: f"{name.capitalize()}Norm" for name in NORMS}
STYLES = {"batch": "k-o", "group": "C0--s", "layer": "C1-.^"}


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 6
    """Runs of each norm and batch size; at least 3."""
    seed: int = 0
    """First seed; the others follow. A seed gives the first weights and the order."""
    examples: int = 4_000
    """Training images, the first of the training split."""
    epochs: int = 10
    """Passes over them, at every batch size."""
    batch_sizes: tuple[int, ...] = (2, 4, 8, 16, 32, 64, 128)
    """Increasing; 2 and 32 among them."""
    norms: tuple[str, ...] = ("batch", "group", "layer", "instance")
    """Of "batch", "group", "layer", "instance"; the first two among them."""
    ghost_sizes: tuple[int, ...] = (2, 4, 8, 16, 32)
    """Examples that statistics are taken over in steps of 128; divisors of it."""
    channels: tuple[int, ...] = (16, 32, 64)
    """Of the convolutions, each of which halves the image."""
    pooling: int = 2
    """Pixels of the 32 x 32 images that are averaged, in height and in width."""
    data_dir: str | None = None
    """Where prepared data are kept; by default where `jaxdl data` keeps them."""
    raw_dir: str | None = None
    """A folder with the binary files, `data_batch_1.bin` and so on, or their archive."""


PRESETS = {
    "default": Config(),
    "smoke": Config(
        seeds=4, examples=1_000, epochs=8, batch_sizes=(2, 32), norms=("batch", "group"),
        ghost_sizes=(),
    ),
    "full": Config(seeds=10, examples=50_000, epochs=60, channels=(64, 128, 256, 512), pooling=1),
}  # fmt: skip


class PatchNet(nn.Module):
    """Convolutions of 2 x 2 at stride 2, a norm and a ReLU each; the mean; 10 logits.

    The windows do not overlap, so that a convolution is a dense layer on patches: matrix products,
    which a loop on a CPU compiles well, where a convolution in it is 25 times slower. They have no
    bias, as in the paper's network, so that all norms have the same parameters.
    """

    channels: tuple[int, ...]
    norm: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width features"], *, train: bool
    ) -> Float[Array, "batch classes"]:
        """The logits."""
        for layer, channels in enumerate(self.channels):
            batch, height, width, features = x.shape
            x = x.reshape(batch, height // 2, 2, width // 2, 2, features).swapaxes(2, 3)
            x = x.reshape(batch, height // 2, width // 2, 4 * features)
            he = initializers.he_normal()
            x = nn.Dense(channels, use_bias=False, kernel_init=he, name=f"conv_{layer}")(x)
            x = nn.relu(apply_norm(self.norm(name=f"norm_{layer}"), x, train=train))
        return nn.Dense(10, name="dense")(x.mean((1, 2)))


def task_of(norm: Any, channels: tuple[int, ...]) -> training.Task:
    """The network with these norms, and its error in percent."""
    error = {"error": lambda logits, labels: 100 * (1 - metrics.accuracy(logits, labels))}
    return training.Task(PatchNet(channels, norm), losses.cross_entropy, error)


def run(config: Config) -> xarray.Dataset:
    """By norm, batch size and seed: test errors in percent, the last epoch's training loss."""
    train, test = load(config)
    parts = jnp.array_split(train.inputs, -(-len(train) // PART))

    def member(key: Any, orders: Any, params: Any, *, norm: Any, batch_size: Any) -> Any:
        steps = config.epochs * (config.examples // batch_size)
        rate = optimizers.schedules.cosine_decay(RATE * batch_size / USUAL, steps=steps)
        optimizer = optimizers.momentum(rate, decay=MOMENTUM)
        task = task_of(norm, config.channels)
        learn = training.make_run(task, optimizer, batch_size=batch_size, drop_last=True)
        start = learn.init(key, train, params)
        state, measured = learn(key, {"train": train}, orders, start)
        recalibrated = error = learn.evaluate(state, test)["error"]
        if norm is NORMS["batch"]:
            found = training.recalibrate(task.model, state.variables, parts)
            exact = replace(state, batch_stats=found["batch_stats"])
            recalibrated = learn.evaluate(exact, test)["error"]
        last = measured["train"]["loss"][-1].mean()
        return {"error": error, "recalibrated": recalibrated, "loss": last}

    def ghost(key: Any, orders: Any, params: Any, *, ghost_size: Any) -> Any:
        norm = functools.partial(layers.BatchNorm, virtual_batch_size=ghost_size)
        found = member(key, orders, params, norm=norm, batch_size=GHOST_STEP)
        return {"ghost_error": found["error"]}

    swept = functools.partial(
        training.sweep,
        seeds=range(config.seed, config.seed + config.seeds),
        by_seed={
            "orders": lambda key: training.orders(key, config.epochs, len(train)),
            "params": training.first_weights(task_of(NORMS["batch"], config.channels), train),
        },
        # A step of few examples is mostly overhead, which the members of a call share.
        chunk=-(-config.seeds // 2),
    )
    norms = {name: NORMS[name] for name in config.norms}
    over = {"norm": norms, "batch_size": config.batch_sizes}
    results = swept(member, over, static=("batch_size",))
    if config.ghost_sizes:
        ghosts = swept(ghost, {"ghost_size": config.ghost_sizes}, static=("ghost_size",))
        results = results.merge(ghosts)
    return results.assign_attrs(examples=config.examples, epochs=config.epochs)


def load(config: Config) -> tuple[data.Arrays, data.Arrays]:
    """The training images asked for and the test split, pooled and standardised by channel."""
    dataset = data.load(NEEDS, data_dir=config.data_dir, raw_dir=config.raw_dir)
    assert dataset.test is not None
    if config.examples > len(dataset.train):
        raise ValueError(
            f"examples must be at most the {len(dataset.train)} training images, "
            f"got {config.examples}"
        )
    images, of_test = (
        data.shrink_images(part.inputs[:count], config.pooling) / 255
        for part, count in ((dataset.train, config.examples), (dataset.test, None))
    )
    normalize = data.normalize_images(*data.image_statistics(images))
    labels = jnp.asarray(dataset.train.targets[: config.examples])
    train = data.Arrays(normalize(jnp.asarray(images)), labels)
    return train, data.Arrays(normalize(jnp.asarray(of_test)), jnp.asarray(dataset.test.targets))


def rise(errors: xarray.DataArray, norm: str) -> xarray.DataArray:
    """What batches of 2 cost against batches of 32."""
    of_norm = errors.sel(norm=norm, drop=True)
    return of_norm.sel(batch_size=SMALL) - of_norm.sel(batch_size=USUAL)


def lead(errors: xarray.DataArray, batch_size: int) -> xarray.DataArray:
    """How far GroupNorm is ahead of BatchNorm."""
    at_size = errors.sel(batch_size=batch_size)
    return at_size.sel(norm="batch") - at_size.sel(norm="group")


def shown(values: xarray.DataArray) -> str:
    """Mean and 95 % interval, in words."""
    mean, half_width = interval(values)
    return f"{mean:.2f} +- {half_width:.2f}"


def claims(results: xarray.Dataset) -> list[Claim]:
    """BatchNorm alone needs the batch; and what it needs it for."""
    error, exact, loss = results["error"], results["recalibrated"], results["loss"]
    cost, seeds = f"batch {SMALL} costs against {USUAL}", results.sizes["seed"]
    of_batch, won_back = rise(error, "batch"), (error - exact).sel(norm="batch", batch_size=SMALL)

    def mean(text: str, values: Any, low: float = 0.0, high: float = np.inf) -> Claim:
        return about_mean(f"{text}, mean of {seeds} seeds", values, low, high)

    text = f"BatchNorm bears no small batch: points of test error that {cost} (ResNet-50: "
    made = [mean(f"{text}{rise(PAPER, 'batch'):.1f})", of_batch)]
    for name in [name for name in results["norm"].values if name != "batch"]:
        own = rise(error, name)
        beside = f" (ResNet-50: {rise(PAPER, name):.1f})" if name in PAPER["norm"] else ""
        text = f"{LABELS[name]} bears a small batch: points that {cost}, {shown(own)}{beside}, less"
        made.append(mean(f"{text} {MARGIN} of BatchNorm's", own - MARGIN * of_batch, -np.inf, 0.0))
    made += [
        mean(
            f"At a small batch GroupNorm is ahead of BatchNorm: points of test error at batch "
            f"{SMALL} (ResNet-50: {lead(PAPER, SMALL):.1f}; at {USUAL} "
            f"{shown(lead(error, USUAL))}, ResNet-50: {lead(PAPER, USUAL):.1f})",
            lead(error, SMALL),
        ),
        mean(
            f"A small batch disturbs BatchNorm in training already: nats of training loss, in the "
            f"last epoch, that {cost} (GroupNorm: {shown(rise(loss, 'group'))})",
            rise(loss, "batch"),
        ),
        mean(
            "Better statistics in evaluation do not make up for a small batch: with those of the "
            f"training set, which win back {shown(won_back)} points at batch {SMALL}, points that "
            f"{cost}",
            rise(exact, "batch"),
        ),
    ]
    sizes = results["batch_size"].values
    if "ghost_error" in results and SMALL in results["ghost_size"] and GHOST_STEP in sizes:
        text = (
            f"It is the statistics' batch that counts, not the gradient's: all in steps of "
            f"{GHOST_STEP}, points that statistics over {SMALL} cost against {GHOST_STEP}"
        )
        whole = error.sel(norm="batch", batch_size=GHOST_STEP)
        made.append(mean(text, results["ghost_error"].sel(ghost_size=SMALL) - whole))
    return made


def plot(results: xarray.Dataset) -> Any:
    """Ours, the paper's, and what BatchNorm needs the batch for."""
    figure = new_figure(12, 5)
    ours, published, parts = figure.subplots(1, 3, width_ratios=[1.15, 0.8, 1.05])
    sizes, theirs = results["batch_size"].values, PAPER["batch_size"].values

    def draw(axes: Any, x: Any, values: xarray.DataArray, label: str, style: str) -> None:
        mean, half_width = interval(values.transpose("seed", ...))
        axes.errorbar(x, mean, half_width, fmt=style, ms=6, capsize=3, label=label)

    for row, name in enumerate(results["norm"].values):
        error = results["error"].sel(norm=name)
        if name in STYLES:
            draw(ours, sizes * (0.97 + 0.03 * row), error, LABELS[name], STYLES[name])
        else:
            ends = [round(end(error.mean("seed")).item()) for end in (np.min, np.max)]
            label = f"{LABELS[name]}: {ends[0]} to {ends[1]} %, off scale"
            ours.plot([], [], label=label, color="none")
    for name in PAPER["norm"].values:
        published.plot(theirs, PAPER.sel(norm=name), STYLES[name], ms=6, label=LABELS[name])
    batch = results.sel(norm="batch")
    draw(parts, sizes, batch["error"], "steps of N; evaluated with running averages", "k-o")
    text = "steps of N; evaluated with statistics\nof the training set"
    draw(parts, sizes * 1.04, batch["recalibrated"], text, "C3:v")
    if "ghost_error" in results:
        text = f"steps of {GHOST_STEP}, statistics over N\n(ghost batches)"
        draw(parts, results["ghost_size"] * 0.96, results["ghost_error"], text, "C4--P")
    trained = f"{results.attrs['examples']:,} CIFAR-10 images, {results.attrs['epochs']} epochs"
    for axes, ticks, title, whose in (
        (ours, sizes, trained, ""),
        (published, theirs, "ResNet-50, ImageNet (Wu and He)", ", per device of 8"),
        (parts, sizes, "BatchNorm: whose batch matters?", ""),
    ):
        axes.set_xscale("log", base=2)
        axes.set_xticks(ticks, ticks)
        axes.minorticks_off()
        axes.set(xlabel=f"batch size N (images){whose}", title=title)
        axes.grid(lw=0.3)
        axes.legend(fontsize=8, loc="upper right")
    ours.set_ylabel(f"test error (%), mean and 95 % interval of {results.sizes['seed']} seeds")
    published.set_ylabel("validation error (%)")
    parts.set_ylabel("test error (%)")
    parts.margins(y=0.12)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
