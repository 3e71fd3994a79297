"""A first network on real images: 784-128-10 on Fashion-MNIST, and when it over-fits.

ReLU, PyTorch's default initialisation, Adam, batches of 100: 4 epochs at rate 1e-4, as in the
lecture, then 20 at 1e-3.

Meaning: The panels show the loss by step, the accuracy by epoch beside the lecture's, what happens
when training goes on to 20 epochs, the network's scores for some test images, and which classes it
confuses. Four epochs are enough to recognise 83 to 86 % of new images, depending on the rate;
trained on, the network fits its training images better and better, and the test accuracy falls
behind.

Data: fashion_mnist, 70,000 grey images of clothes of 28 x 28 (60,000 to train on, 10,000 to test);
Xiao, Rasul and Vollgraf (2017), downloaded.
Source: the lecture's first PyTorch notebook, at rate 1e-4; its slide repeats it at 1e-3.
Run: python experiments/first_network/fashion_mnist.py
Expected: training accuracy 69.465, 80.110, 82.467, 83.615 % by epoch and test accuracy 82.8 % at
rate 1e-4; test accuracy 86.2 % at 1e-3, from 85.3 to 87.1 by seed (the slide's 86.65 is one
run); trained on, the training accuracy leaves the test accuracy behind. Training accuracy is the
mean over the epoch's steps, each measured before its update, as the lecture's loop counts it.
Time: 40 s on 2 CPU cores.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jax.flatten_util import ravel_pytree

from jaxdl import data, initializers, losses, metrics, models, optimizers, training
from jaxdl.claims import Claim, about_mean, as_before, main
from jaxdl.plotting import band, confusion_matrix, new_figure

NEEDS = "fashion_mnist"
LECTURE_TRAIN_ACCURACY = np.array([69.465, 80.110, 82.467, 83.615])
LECTURE_EPOCHS = len(LECTURE_TRAIN_ACCURACY)
LECTURE_BAND = np.array([1.2, 0.6, 0.6, 0.6])
"""Points of accuracy; over 16 seeds the first epoch's has a standard deviation of 0.45."""
SLOW_TEST = 82.8 - 0.54, 82.8 + 0.54
"""Percent, at rate 1e-4: three standard deviations of one run, 0.18 over 16 seeds, about 82.8."""
TORCH_TEST_ACCURACY, TORCH_DEVIATION, TORCH_SEEDS = 86.20, 0.55, 16
"""The same in PyTorch 2.13 at rate 1e-3, after 4 epochs: percent, its deviation over seeds."""
SLOW, FAST = 1e-4, 1e-3
SHOWN_OF_EACH, MOST_SHOWN = 4, 500
"""Test images shown, of the first so many: those that the network gets right and gets wrong."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seed: int = 0
    """The first seed; the others follow it."""
    seeds: int = 5
    """Runs from different keys, at each of the two rates; at least 3."""
    long_epochs: int = 20
    """Epochs of the runs at 1e-3, which go on until they over-fit; more than 4."""
    data_dir: str | None = None
    """Where prepared data are kept; by default where `jaxdl data` keeps them."""
    raw_dir: str | None = None
    """A folder with the four IDX files, plain or gzipped."""


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=3, long_epochs=6),
    "full": Config(seeds=16, long_epochs=40),
}


def run(config: Config) -> xarray.Dataset:
    """By rate, seed, epoch and split: accuracy in percent; at 1e-4 the loss of every step."""
    dataset = data.load(NEEDS, data_dir=config.data_dir, raw_dir=config.raw_dir)
    train, test = dataset.train, dataset.test
    assert test is not None
    model = models.MLP(
        [128, 10], kernel_init=initializers.torch_kernel(), bias_init=initializers.torch_bias
    )
    task = training.Task(model, losses.cross_entropy, [metrics.accuracy])

    def member(key: Any, orders: Any, params: Any, *, rate: Any) -> dict[str, Any]:
        optimizer = optimizers.adam(rate, epsilon_position="outside")  # as PyTorch has it
        learn = training.make_run(task, optimizer, batch_size=100)
        # The lecture watches the test split as it trains; nothing is chosen by what it sees.
        splits = {"train": train, "test": test}
        state, measured = learn(key, splits, orders, learn.init(key, train, params))
        steps, by_epoch = measured["train"], measured["test"]
        return {
            "accuracy": 100 * jnp.stack([steps["accuracy"].mean(1), by_epoch["accuracy"]], axis=1),
            "step_loss": steps["loss"],
            "step_accuracy": 100 * steps["accuracy"],
            "params": ravel_pytree(state.params)[0],
        }

    def trained(rate: float, epochs: int) -> xarray.Dataset:
        steps = ("epoch", "iteration")
        return training.sweep(
            member,
            {"rate": [rate]},
            seeds=range(config.seed, config.seed + config.seeds),
            by_seed={
                "orders": lambda key: training.orders(key, epochs, len(train)),
                "params": training.first_weights(task, train),
            },
            dims={
                "accuracy": ("epoch", "split"),
                "step_loss": steps,
                "step_accuracy": steps,
                "params": ("param",),
            },
        ).assign_coords(epoch=np.arange(1, epochs + 1), split=["train", "test"])

    slow, fast = trained(SLOW, LECTURE_EPOCHS), trained(FAST, config.long_epochs)
    first = slow.sel(rate=SLOW).isel(seed=0)
    print_lines(first)
    # Not in the sweep's own program: its outputs for all test images at once were wrong on a CPU
    # with jax 0.10.2. After an epoch they had 76.05 % right. This has 77.04, as the accuracy that
    # is measured by batches.
    logits = outputs_of(task, first["params"].values, train, test)
    print_decision(logits[0], dataset.classes[test.targets[0]], dataset.classes)
    decisions = logits.argmax(-1)
    right = (decisions == test.targets)[:MOST_SHOWN]
    shown = np.r_[np.flatnonzero(right)[:SHOWN_OF_EACH], np.flatnonzero(~right)[:SHOWN_OF_EACH]]
    confusion = metrics.confusion(test.targets, decisions, classes=len(dataset.classes))
    return xarray.Dataset(
        {
            "accuracy": xarray.concat([slow["accuracy"], fast["accuracy"]], "rate", join="outer"),
            "loss": ("step", first["step_loss"].values.ravel()),
            "scores": (
                ("image", "class"),
                np.asarray(jax.nn.softmax(logits[shown])),
            ),
            "images": (("image", "row", "column"), test.inputs[shown, ..., 0]),
            "labels": ("image", test.targets[shown]),
            "confusion": (("class", "predicted"), confusion),
        }
    ).assign_coords({"class": [*dataset.classes]})


def outputs_of(task: training.Task, params: np.ndarray, train: Any, split: Any) -> np.ndarray:
    """The outputs of one network for a split; its parameters come in one row."""
    first_weights = training.first_weights(task, train)
    unravel = ravel_pytree(first_weights(jax.random.key(0)))[1]
    images = training.scale_images(jnp.asarray(split.inputs))
    variables = {"params": unravel(jnp.asarray(params))}
    return np.asarray(task.outputs(variables, images, train=False)[0])


def print_lines(run: xarray.Dataset) -> None:
    """The lecture's lines of a run: running means since the epoch began, every 200 iterations."""
    for epoch, of in run.groupby("epoch"):
        for iteration in range(200, of.sizes["iteration"] + 1, 200):
            so_far = of.isel(iteration=slice(iteration)).mean()
            print(
                f"Epoch: {epoch}, Iteration: {iteration}, "
                f"Loss: {float(so_far['step_loss']):.4f}, "
                f"Accuracy: {float(so_far['step_accuracy']):.3f} %"
            )


def print_decision(logits: np.ndarray, label: str, classes: Sequence[str]) -> None:
    """The lecture's last cell: the outputs of the network for one image, and its hard decision."""
    shares = jax.nn.softmax(logits)
    for name, logit, share in zip(classes, logits, shares, strict=True):
        print(f"{name:>12}  logit {logit:8.3f}  softmax {share:.4f}")
    print(f"decision: {classes[int(logits.argmax())]} (the first test image is: {label})")


def claims(results: xarray.Dataset) -> list[Claim]:
    """The lecture's numbers."""
    mean_of = f"mean of {results.sizes['seed']} seeds"
    slow, fast = (results["accuracy"].sel(rate=rate) for rate in (SLOW, FAST))
    made = [
        about_mean(
            f"In epoch {epoch} at rate 1e-4 the network learns as the lecture's does: training "
            f"accuracy, % (lecture: {lecture}, one run); {mean_of}",
            slow.sel(split="train", epoch=epoch),
            lecture - near,
            lecture + near,
        )
        for epoch, (lecture, near) in enumerate(
            zip(LECTURE_TRAIN_ACCURACY, LECTURE_BAND, strict=True), start=1
        )
    ]
    made.append(
        about_mean(
            "At rate 1e-4 the network does nearly as well on new images: test accuracy after 4 "
            f"epochs, %; {mean_of}",
            slow.sel(split="test", epoch=LECTURE_EPOCHS),
            *SLOW_TEST,
        )
    )
    made.append(
        as_before(
            "At rate 1e-3 the network does as well as PyTorch's: test accuracy after 4 epochs, % "
            f"(PyTorch: {TORCH_TEST_ACCURACY:.2f}, mean of {TORCH_SEEDS} seeds; slide: 86.65, one "
            f"run); {mean_of}",
            fast.sel(split="test", epoch=LECTURE_EPOCHS),
            TORCH_TEST_ACCURACY,
            TORCH_DEVIATION,
            over=TORCH_SEEDS,
        )
    )
    gap = fast.sel(split="train") - fast.sel(split="test")
    made.append(
        about_mean(
            "Trained on, the network over-fits: points by which the gap between training and "
            f"test accuracy grows from epoch {LECTURE_EPOCHS} to {gap.sizes['epoch']}; {mean_of}",
            gap.isel(epoch=-1) - gap.sel(epoch=LECTURE_EPOCHS),
            low=0.0,
        )
    )
    return made


def plot(results: xarray.Dataset) -> Any:
    """Loss; accuracy against the lecture's; the gap; test images with scores; confusions."""
    figure = new_figure(12, 12)
    curves, below = figure.subfigures(2, 1, height_ratios=[1, 2.1])
    grid, matrix = below.subfigures(1, 2, width_ratios=[1.15, 1])
    left, middle, right = curves.subplots(1, 3)

    loss = results["loss"].values
    iterations = np.arange(1, len(loss) + 1)
    left.plot(iterations, loss, color="0.75", lw=0.6, label="one batch")
    window = 100
    smooth = np.convolve(loss, np.ones(window) / window, mode="valid")
    middles = iterations[window // 2 : window // 2 + len(smooth)]
    left.plot(middles, smooth, "k-", lw=1.5, label=f"mean of {window} around it")
    left.set(
        xlabel="iteration (batches of 100)",
        ylabel="cross-entropy (nats)",
        title="Loss, rate $10^{-4}$, first seed",
        ylim=(0, None),
    )
    left.legend()

    slow, fast = (results["accuracy"].sel(rate=rate) for rate in (SLOW, FAST))
    epochs = np.arange(1, LECTURE_EPOCHS + 1)
    for split, style, label in (("train", "C0o", "training"), ("test", "C1s", "test")):
        of = slow.sel(split=split, epoch=epochs)
        middle.errorbar(
            epochs, of.mean("seed"), of.std("seed", ddof=1), fmt=f"{style}-", ms=5, capsize=3,
            label=label,
        )  # fmt: skip
        values = fast.sel(split=split).transpose("seed", "epoch")
        band(right, fast["epoch"], values, f"{style}-", spread="range", ms=4, label=label)
    middle.plot(epochs, LECTURE_TRAIN_ACCURACY, "kx", ms=9, label="lecture, training")
    middle.set(
        xlabel="epoch",
        ylabel="accuracy (%)",
        xticks=epochs,
        title=f"Rate $10^{{-4}}$: mean and s.d. of {results.sizes['seed']} seeds",
    )
    middle.legend()
    right.set(
        xlabel="epoch", ylabel="accuracy (%)", title="Rate $10^{-3}$, trained on: mean, range"
    )
    right.legend(loc="lower right")

    show_decisions(grid, results)
    axes = matrix.subplots()
    confusion_matrix(axes, results["confusion"].values, list(results["class"].values))
    axes.set_title(
        f"The same network on all {int(results['confusion'].sum()):,} test images:\n"
        "% of each true class, by decision (blue: right)"
    )
    return figure


def show_decisions(grid: Any, results: xarray.Dataset) -> None:
    """The images that the network gets right, below them those that it gets wrong."""
    grid.suptitle("Test images, and the scores of the network\ntrained at $10^{-4}$ (first seed)")
    columns = SHOWN_OF_EACH
    cells = grid.subplots(4, columns, height_ratios=[1, 1.3, 1, 1.3], sharey="row")
    pictures, bars = cells[::2].ravel(), cells[1::2].ravel()
    classes = results["class"].values
    shown = (results[name].values for name in ("images", "scores", "labels"))
    for picture, bar, image, scores, label in zip(pictures, bars, *shown, strict=True):
        decision = scores.argmax()
        picture.imshow(image, cmap="gray_r")
        verdict = "right" if decision == label else f"wrong, is {classes[label]}"
        picture.set_title(f"{classes[decision]}\n({verdict})", fontsize=9)
        picture.set_axis_off()
        bar.barh(classes, scores, color="0.7")
        bar.barh(classes[decision], scores[decision], color="C0" if decision == label else "C3")
        bar.set(xlim=(0, 1), xticks=[0, 0.5, 1], xticklabels=["0", "0.5", "1"])
        bar.tick_params(axis="y", labelsize=9)
    for bar in bars[::columns]:
        bar.invert_yaxis()
    for bar in bars[-columns:]:
        bar.set_xlabel("score")


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
