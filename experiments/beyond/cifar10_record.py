"""CIFAR-10 in seconds: what the start of a network is worth when there are ten epochs.

The network of the record: a convolution of 2 x 2, then three groups of two 3 x 3 convolutions with
max-pooling, BatchNorm without scale, and GELU. It starts in two ways. Whitened: the first kernel is
made from the training images' patches and frozen, and the other convolutions pass their channels on
(dirac). Usual: PyTorch's own draws, all trained. Everything else is the record's recipe for both:
Nesterov momentum, a triangle of rates, 64 times the rate for the norms' biases, lookahead, label
smoothing, images flipped every second epoch and moved by up to 2 pixels. A test image is judged by
the mean over six views of it. The clock runs from images on the device to the last decision; the
whitening kernel, made once for all seeds, is left out.

Meaning: The upper panels show the whitening layer's 12 directions and the six views of a test
image; the lower ones the training loss, and the test accuracy of every seed with one view and with
six. A network that starts with white inputs and with layers that pass them on draws ahead in the
first epochs, and in a short training it stays ahead; the mean over views adds accuracy for nothing
but the time of the test.

Data: cifar10, 60,000 colour images of 32 x 32 (50,000 to train on, 10,000 to test); Krizhevsky
(2009), downloaded.
Source: Jordan (2024), 94% on CIFAR-10 in 3.29 Seconds on a Single GPU (94.01 % in 9.9 epochs; 3.83
s on an A100, 3.29 s compiled); Page (2019) for the whitening.
Run: python experiments/beyond/cifar10_record.py
Expected: with 16, 64 and 64 channels and 4 epochs of the first 5,000 images the whitened start has
60.5 % of 2,000 test images right (4 seeds, 59.3 to 61.1), of which six views give 1.5 points; the
usual start has 55.0 %, and a training loss that is 0.11 nats higher. The preset smoke is too short
and too small for three seeds to tell the starts apart. The preset full has the record's size, with
10 epochs in place of 9.9 and the statistics of the norms measured anew for the averaged weights; it
needs a GPU, and its 94.0 % and its seconds were not measured yet. Which of the two parts of the
start gives how much, it cannot show: whitening and dirac stand together in one arm.
Time: 150 s on 2 CPU cores.
"""

import functools
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray

from jaxdl import activations, data, initializers, layers, losses, metrics, optimizers, training
from jaxdl.claims import Claim, about_mean, main
from jaxdl.data import augmentation
from jaxdl.layers import convolution
from jaxdl.optimizers import schedules
from jaxdl.plotting import new_figure

NEEDS = "cifar10"
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 11.5, 0.85, 0.0153
"""The rate and the decay of a step of 1,024 images, apart from what momentum makes of them."""
REFERENCE_BATCH = 1024
BIAS_FACTOR = 64.0
"""How much larger the rate of the norms' biases is; their decay is not."""
FIRST_RATE, LAST_RATE, RISE = 0.2, 0.07, 0.23
"""Shares of the largest rate at both ends of the triangle; the share of the steps before it."""
BIAS_SHARE = 0.3
"""The share of the steps in which the first layer's bias is trained: 3 of 10 epochs."""
LOOKAHEAD_PERIOD, LOOKAHEAD_DECAY = 5, 0.95**5
SMOOTHING, LOGIT_SCALE = 0.2, 1 / 9
NORM = functools.partial(layers.BatchNorm, momentum=0.6, epsilon=1e-12, use_scale=False)
WHITENING_EPSILON = 5e-4
SOME = 5000
"""The first so many training images say what is whitened, and give the averaged weights' norms
their statistics."""
VIEW_WEIGHTS = np.array([0.25, 0.25, 0.125, 0.125, 0.125, 0.125])
STARTS = {"whitened": "whitened, dirac", "usual": "usual draws"}
PAPER_WIDTHS, PAPER_EXAMPLES, PAPER_EPOCHS = (64, 256, 256), 50_000, 10
PAPER_ACCURACY = 93.95
"""Per cent: 94.0 to one decimal."""
GUESSING, FAR = 10.0, 3.0
"""Per cent of ten classes by chance; so many times as much is far from it."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seed: int = 0
    """The first seed; the others follow it."""
    seeds: int = 4
    """Runs of each start, from different keys; at least 3."""
    passes: int = 2
    """Over images and mirror images, each of two epochs."""
    examples: int | None = 5_000
    """The first so many images to train on; None for all."""
    test_examples: int | None = 2_000
    """The same of those to test on."""
    widths: tuple[int, int, int] = (16, 64, 64)
    """Channels of the three groups."""
    batch_size: int = 125
    """Images in a step."""
    learning_rate: float = 2 * LEARNING_RATE
    """The largest, for a step of 1,024 images; a run of few images needs more."""
    bfloat16: bool = False
    """Whether the layers compute in bfloat16, for a GPU; parameters and statistics stay float32."""
    data_dir: str | None = None
    """Where prepared data are kept; by default where `jaxdl data` keeps them."""
    raw_dir: str | None = None
    """A folder with the binary files, `data_batch_1.bin` and so on, or their archive."""


PRESETS = {
    "default": Config(),
    "smoke": Config(
        seeds=3, passes=1, examples=4_000, test_examples=1_000, widths=(8, 16, 16), batch_size=50,
        learning_rate=60.0,
    ),
    "full": Config(
        seeds=50, passes=5, examples=None, test_examples=None, widths=PAPER_WIDTHS,
        batch_size=1024, learning_rate=LEARNING_RATE, bfloat16=True,
    ),
}  # fmt: skip


class RecordNetwork(nn.Module):
    """Whitening layer, three groups of two convolutions, and the outputs; images to logits.

    In evaluation with `views` the logits are the mean over six views of an image.
    """

    widths: tuple[int, int, int]
    first_init: Callable[..., Any]
    kernel_init: Callable[..., Any]
    dtype: Any = None
    views: bool = False

    def setup(self) -> None:
        """The layers, each made once for all views."""
        conv = functools.partial(
            nn.Conv, dtype=self.dtype, conv_general_dilated=convolution.convolve
        )
        self.whiten = conv(24, (2, 2), padding="VALID", kernel_init=self.first_init)
        both = [width for width in self.widths for _ in range(2)]
        self.convs = [
            conv(width, (3, 3), use_bias=False, kernel_init=self.kernel_init) for width in both
        ]
        self.norms = [NORM() for _ in both]
        self.head = nn.Dense(
            10, use_bias=False, kernel_init=initializers.torch_kernel(), dtype=self.dtype
        )

    def __call__(self, images: Any, *, train: bool) -> Any:
        """Logits, (batch, 10), in float32."""
        if train or not self.views:
            return self.logits(images, train=train)
        logits = [self.logits(view, train=False) for view in views_of(images)]
        return sum(weight * each for weight, each in zip(VIEW_WEIGHTS, logits, strict=True))

    def logits(self, images: Any, *, train: bool) -> Any:
        """The logits of one view."""
        x = activations.gelu(self.whiten(images))
        for place, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = conv(x)
            if place % 2 == 0:
                x = layers.max_pool(x)
            x = activations.gelu(norm(x, train=train))
        x = layers.max_pool(x, (3, 3))
        return LOGIT_SCALE * self.head(x.reshape(len(x), -1)).astype(jnp.float32)


def views_of(images: Any) -> list[Any]:
    """An image as it is, moved a pixel up and left, and down and right; and each mirrored."""
    height, width = images.shape[1:3]
    padded = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), "reflect")
    moved = [padded[:, i : i + height, i : i + width] for i in (2, 0)]
    return [view for one in (images, *moved) for view in (one, jnp.flip(one, 2))]


def make_task(
    start: str, config: Config, images: Any, mean: np.ndarray, std: np.ndarray
) -> training.Task:
    """The network with one of the two starts, its loss and what is done to images."""
    first = rest = initializers.torch_kernel()
    prepare = functools.partial(normalize, mean=tuple(mean), std=tuple(std))
    if start == "whitened":
        moment = initializers.patch_second_moment(prepare(images[:SOME]))
        first = initializers.whitening(moment, epsilon=WHITENING_EPSILON)
        rest = initializers.dirac(rest=rest)
    dtype = jnp.bfloat16 if config.bfloat16 else None
    return training.Task(
        RecordNetwork(config.widths, first, rest, dtype),
        functools.partial(losses.cross_entropy, label_smoothing=SMOOTHING),
        [metrics.accuracy],
        preprocess=prepare,
        augment=functools.partial(augmentation.random_crop, padding=2, mode="reflect"),
    )


def normalize(pixels: Any, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Any:
    """Of stored images the distance from the mean of each channel, in standard deviations."""
    return (training.scale_images(pixels) - jnp.array(mean)) / jnp.array(std)


def make_optimizer(
    steps: int, config: Config, *, frozen: bool
) -> optax.GradientTransformationExtraArgs:
    """Nesterov momentum by groups of parameters, and lookahead whose average grows slower."""
    # The paper's rate is that of a step's sum of gradients, over what momentum makes of it.
    of_means = config.batch_size / REFERENCE_BATCH / (1 + 1 / (1 - MOMENTUM))
    peak = config.learning_rate * of_means

    def descent(factor: float, rate: schedules.Schedule) -> optax.GradientTransformation:
        decay = optimizers.l2(WEIGHT_DECAY / config.learning_rate / factor, mask=None)
        return optimizers.chain(
            decay, optimizers.nesterov(rate, decay=MOMENTUM, rate_position="outside")
        )

    plain, nothing = triangle(peak, steps), schedules.constant(0.0)
    stopped = schedules.joined([plain, nothing], boundaries=[max(1, round(BIAS_SHARE * steps))])
    groups: dict[str, Any] = {"whiten/kernel": None} if frozen else {}
    groups |= {
        "whiten/bias": descent(1.0, stopped),
        "norms_*": descent(BIAS_FACTOR, triangle(BIAS_FACTOR * peak, steps)),
        "*": descent(1.0, plain),
    }
    return optimizers.lookahead(
        optimizers.by_layer(groups),
        period=LOOKAHEAD_PERIOD,
        step_size=functools.partial(slow_share, steps=steps),
    )


def triangle(peak: float, steps: int) -> schedules.Schedule:
    """The rate by step: up to the peak in a quarter of the steps, and down to nearly nothing."""
    rise = max(1, int(RISE * steps))
    up = schedules.warmup(peak, steps=rise, start_factor=FIRST_RATE)
    down = schedules.polynomial_decay(peak, steps=steps - rise, end_rate=LAST_RATE * peak)
    return schedules.joined([up, down], boundaries=[rise])


def slow_share(step: Any, *, steps: int) -> Any:
    """How far the slow weights go towards the fast ones after this step, counted from 0."""
    return 1 - LOOKAHEAD_DECAY * ((step + 1) / steps) ** 3


class Arm(NamedTuple):
    """A start: its run, and two compiled functions that judge a state on a split."""

    learn: training.Run
    with_views: Callable[..., Any]
    with_one: Callable[..., Any]


def make_arm(start: str, config: Config, train: data.Arrays, statistics: Any) -> Arm:
    """The run of a start, with the test over six views and over one."""
    task = make_task(start, config, train.inputs, *statistics)
    steps = config.passes * (2 * len(train) // config.batch_size)
    optimizer = make_optimizer(steps, config, frozen=start == "whitened")
    learn = training.make_run(task, optimizer, batch_size=config.batch_size, drop_last=True)
    viewed = replace(task, model=task.model.clone(views=True))
    over_views = training.make_run(viewed, optimizer, batch_size=config.batch_size)
    compiled = functools.partial(
        jax.jit, compiler_options=training.compiler_options(convolutional=True)
    )

    def recalibrated(state: Any, images: data.Arrays, test: data.Arrays) -> Any:
        # The running statistics are those of the fast weights; the slow ones are judged.
        state = learn.recalibrated(state, images)
        return state, over_views.evaluate(state, test)

    return Arm(learn, compiled(recalibrated), compiled(learn.evaluate))


def timed_run(
    arm: Arm, key: Any, train: data.Arrays, test: data.Arrays, passes: int
) -> dict[str, Any]:
    """One run from images on the device to the decisions about the test images, and its seconds."""
    started = time.perf_counter()
    both = data.Arrays(
        jnp.concatenate([train.inputs, jnp.flip(train.inputs, 2)]),
        jnp.concatenate([train.targets, train.targets]),
    )
    orders = training.alternating_flip_orders(key, passes, len(train))
    state, measured = arm.learn(key, {"train": both}, orders)
    some = data.Arrays(train.inputs[:SOME], train.targets[:SOME])
    state, judged = arm.with_views(state, some, test)
    accuracy = float(judged["accuracy"])
    seconds = time.perf_counter() - started
    return {
        "seconds": seconds,
        "accuracy": 100 * accuracy,
        "one_view": 100 * float(arm.with_one(state, test)["accuracy"]),
        "loss": np.asarray(measured["train"]["loss"]).ravel(),
    }


def runs_of(
    start: str, config: Config, dataset: data.Dataset
) -> tuple[training.Task, list[dict[str, Any]]]:
    """The task of a start, and what `timed_run` gives for each seed."""
    train, test = on_device(config, dataset)
    arm = make_arm(start, config, train, data.image_statistics(dataset.train.inputs))
    seeds = range(config.seed, config.seed + config.seeds)
    rows = [timed_run(arm, jax.random.key(seed), train, test, config.passes) for seed in seeds]
    return arm.learn.task, rows


def on_device(config: Config, dataset: data.Dataset) -> list[data.Arrays]:
    """The images to train and to test on, as they are stored."""
    assert dataset.test is not None
    counts = (config.examples, config.test_examples)
    return [
        data.Arrays(jnp.asarray(part.inputs[:count]), jnp.asarray(part.targets[:count]))
        for part, count in zip((dataset.train, dataset.test), counts, strict=True)
    ]


def run(config: Config) -> xarray.Dataset:
    """By start and seed: accuracy in percent with six views and one, seconds, loss by step."""
    dataset = data.load(NEEDS, data_dir=config.data_dir, raw_dir=config.raw_dir)
    found = {start: runs_of(start, config, dataset) for start in STARTS}
    first = found["whitened"][1][0]
    values = {
        name: np.array([[row[name] for row in rows] for _, rows in found.values()])
        for name in first
    }
    kernel = found["whitened"][0].model.first_init(jax.random.key(0), (2, 2, 3, 12))
    train, test = on_device(config, dataset)
    steps = np.arange(1, len(first["loss"]) + 1)
    return xarray.Dataset(
        {
            **{name: (("start", "seed", "step")[: v.ndim], v) for name, v in values.items()},
            "directions": (("row", "column", "channel", "direction"), np.asarray(kernel)),
            "views": (
                ("view", "height", "width", "channel"),
                np.concatenate(views_of(test.inputs[:1])),
            ),
        },
        {
            "start": [*STARTS],
            "seed": np.arange(config.seed, config.seed + config.seeds),
            "epoch": ("step", 2 * config.passes * steps / len(steps)),
            "widths": ("group", [*config.widths]),
            "examples": len(train),
            "device": jax.devices()[0].device_kind,
        },
    )


def claims(results: xarray.Dataset) -> list[Claim]:
    """The accuracy; what the views add, and what the start adds."""
    accuracy = results["accuracy"]
    by_start = results["loss"].isel(step=slice(-max(1, results.sizes["step"] // 10), None))
    last = by_start.mean("step")
    epochs, examples = float(results["epoch"][-1]), int(results["examples"])
    of_seeds = f"mean of {results.sizes['seed']} seeds"
    of_images = f"after {epochs:.0f} epochs of {examples:,} images, {of_seeds}"
    paper = (
        (*results["widths"].values,) == PAPER_WIDTHS
        and examples == PAPER_EXAMPLES
        and epochs >= PAPER_EPOCHS
    )
    meaning = (
        "Ten epochs are enough for 94.0 %"
        if paper
        else f"So short a training is enough to be {FAR:.0f} times as good as chance"
    )
    return [
        about_mean(
            f"{meaning}: test accuracy of the whitened start over six views, %, {of_images}",
            accuracy.sel(start="whitened"),
            PAPER_ACCURACY if paper else FAR * GUESSING,
        ),
        about_mean(
            "Six views of a test image are no worse than one: points of test accuracy that they "
            f"add, whitened start, {of_seeds}",
            (accuracy - results["one_view"]).sel(start="whitened"),
            low=0.0,
        ),
        about_mean(
            "The whitened start generalises better than the usual one: points of test accuracy "
            f"more, {of_images}",
            accuracy.sel(start="whitened") - accuracy.sel(start="usual"),
            low=0.0,
        ),
        about_mean(
            "It also fits the training images better: its loss minus that of the usual start, nats "
            f"with smoothed labels, last tenth of the steps, {of_seeds}",
            last.sel(start="whitened") - last.sel(start="usual"),
            high=0.0,
        ),
    ]


def plot(results: xarray.Dataset) -> Any:
    """What is whitened, the views of an image, the loss by epoch, and the accuracy by seed."""
    figure = new_figure(11, 7.2)
    upper, lower = figure.subfigures(2, 1, height_ratios=[1, 1.9])
    left, right = upper.subfigures(1, 2)
    directions = results["directions"].transpose("direction", "row", "column", "channel").values
    # Of one size each; grey is 0.
    pictures = 0.5 + directions / (2 * np.abs(directions).max((1, 2, 3), keepdims=True))
    show(left, pictures, 2, "What the first layer looks for: 12 directions")
    left.supxlabel("patches of 2 x 2, the largest in the images first", fontsize=9)
    show(right, results["views"].values, 2, "Six views of a test image")
    right.supxlabel("as it is, and moved a pixel, each also mirrored", fontsize=9)

    loss, accuracy = lower.subplots(1, 2)
    styles = {"whitened": ("C0", "o", "-"), "usual": ("C1", "s", "--")}
    window = max(1, results.sizes["step"] // 40)
    for place, (start, (colour, marker, line)) in enumerate(styles.items()):
        of_start = results.sel(start=start)
        smooth = of_start["loss"].rolling(step=window).mean()
        for seed in results["seed"].values:
            loss.plot(results["epoch"], smooth.sel(seed=seed), line, color=colour, lw=0.8)
        seconds = float(of_start["seconds"].median())
        loss.plot([], [], line, color=colour, label=f"{STARTS[start]}, {seconds:.3g} s a run")
        at = place + np.linspace(-0.06, 0.06, results.sizes["seed"])
        for shift, name, fill in ((-0.2, "one_view", "w"), (0.2, "accuracy", colour)):
            accuracy.plot(at + shift, of_start[name], marker, color=colour, mfc=fill, ms=5)
        pairs = np.stack([of_start["one_view"], of_start["accuracy"]])
        accuracy.plot(np.stack([at - 0.2, at + 0.2]), pairs, "-", color=colour, lw=0.5)
    loss.set(xlabel="epoch", ylabel="training loss (nats)")
    loss.set_title("Loss of each seed, smoothed labels")
    loss.legend(title=f"Seconds (median): {results['device'].item()}", fontsize=9)
    accuracy.set_xticks(range(len(STARTS)), [STARTS[start] for start in styles])
    accuracy.set(ylabel="test accuracy (%)", xlim=(-0.5, 1.5))
    accuracy.set_title("One view (open), six views (filled)")
    return figure


def show(figure: Any, pictures: np.ndarray, rows: int, title: str) -> None:
    """Pictures in rows, without axes."""
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(rows, len(pictures) // rows).ravel()
    for cell, picture in zip(axes, pictures, strict=True):
        cell.imshow(picture, interpolation="nearest")
        cell.set_axis_off()


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
