"""A dense network on CIFAR-10, with all that a longer run needs: and what BatchNorm does for it.

Flatten, Dense(100, no bias), BatchNorm, ReLU, Dense(10), Kaiming uniform weights; SGD at rate 1e-3
with momentum 0.9, batches of 64, 5 epochs. One run is watched (TensorBoard, history.jsonl), its
rate on a plateau schedule; it is interrupted half-way, and resumed from its checkpoint. Then
five seeds with and without BatchNorm, on pixels centred to [-1, 1] and on pixels as they are,
in [0, 1].

Source: the lecture's notebook on CIFAR-10; the same network in PyTorch 2.13, three seeds each.
Run: python experiments/normalization/cifar10.py [--log-dir DIR], and tensorboard --logdir DIR.
Expected: test accuracy 47.8, 48.2, 48.5 % with BatchNorm and 48.3, 49.1, 49.2 % without: at this
size and rate BatchNorm does not help. It does where the pixels are not centred, by four points: it
centres each unit's input itself. The resumed run ends as one never interrupted, to rounding.
The plateau's patience of 10 epochs is not over after 5, so the rate stays.
Time: 130 s on 2 CPU cores.
"""

import contextlib
import functools
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxdl import (
    data,
    initializers,
    layers,
    losses,
    metrics,
    models,
    observers,
    optimizers,
    training,
)
from jaxdl.claims import Claim, Results, about_mean, main
from jaxdl.plotting import new_figure

NEEDS = "cifar10"
TORCH = {
    "norm_centred": np.array([47.8, 48.2, 48.5]),
    "plain_centred": np.array([48.3, 49.1, 49.2]),
}
TORCH_EPOCHS = 5
NEAR_TORCH = 1.5
"""Points of accuracy: so far PyTorch's own mean over three seeds may be off, 99 times in 100 for
three comparisons, by Student's t with the deviation of its six runs, 0.43."""
NO_HELP = 1.0
"""Points of accuracy that are next to nothing."""
ROUNDING = 1e-4
"""Rounding, some 1e-8, grows to 2e-7 in 3 epochs; a resume without momentum is off by 6e-3."""
RATE, FACTOR = 1e-3, 0.1
LABELS = {"norm": "with BatchNorm", "plain": "without"}
INPUTS = {"centred": "pixels in [-1, 1]", "raw": "pixels in [0, 1]"}


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seed: int = 0
    """The first seed; the others follow it."""
    seeds: int = 5
    """Runs of each kind, from different keys; at least 3."""
    epochs: int = 5
    """Of each run; at least 2."""
    examples: int | None = None
    """The first so many images of either split; by default all."""
    patience: int = 10
    """Bad epochs that the plateau schedule lets pass; PyTorch's default."""
    log_dir: str | None = None
    """Where TensorBoard's files, history.jsonl and checkpoints go; by default nowhere."""
    data_dir: str | None = None
    """Where prepared data are kept; by default where `jaxdl data` keeps them."""
    raw_dir: str | None = None
    """A folder with the binary files, `data_batch_1.bin` and so on, or their archive."""


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=3, epochs=2, examples=4_096),
    "full": Config(seeds=10, epochs=60, patience=3),
}


class PowerCutError(Exception):
    """Stands for the machine that goes down."""


def centre(pixels: Any) -> Any:
    """From uint8 to [-1, 1]: `Normalize(0.5, 0.5)` after `ToTensor`."""
    return (training.scale_images(pixels) - 0.5) / 0.5


@functools.cache
def network(kind: str) -> models.MLP:
    """3072-100-10; without a norm the hidden layer has its bias back."""
    return models.MLP(
        [100, 10],
        norm=layers.BatchNorm if kind == "norm" else None,
        kernel_init=initializers.he_uniform(),
        bias_init=initializers.torch_bias,
    )


def run(config: Config) -> Results:
    """Accuracies in percent by seed and epoch, confusions, and what the watched run left behind."""
    dataset = data.load(NEEDS, data_dir=config.data_dir, raw_dir=config.raw_dir)
    assert dataset.test is not None
    train, test = (
        data.Arrays(part.inputs[: config.examples], part.targets[: config.examples])
        for part in (dataset.train, dataset.test)
    )
    # The notebook watches the test split as it trains; nothing is chosen by what it sees: the
    # plateau goes by the training loss.
    dataset = replace(dataset, train=train, validation=test, test=test)

    # One model and one optimizer for all seeds: their runs share what is compiled.
    optimizer = optimizers.momentum(
        optimizers.plateau(RATE, factor=FACTOR, patience=config.patience), decay=0.9
    )

    def fit(kind: str, inputs: str, seed: int, **options: Any) -> training.Result:
        return training.fit(
            network(kind),
            dataset,
            optimizer,
            loss=losses.cross_entropy,
            metrics=[metrics.accuracy],
            epochs=config.epochs,
            batch_size=64,
            key=jax.random.key(seed),
            preprocess=centre if inputs == "centred" else training.scale_images,
            observers=[observers.report_plateau(split="train"), *options.pop("observers", ())],
            **options,
        )

    with log_folder(config) as folder:
        rates: list[float] = []
        resumed = watched(fit, folder, config, rates)
        lines = observers.read_lines(folder / "history.jsonl")
    runs = {
        f"{kind}_{inputs}": [fit(kind, inputs, config.seed + run) for run in range(config.seeds)]
        for inputs in INPUTS
        for kind in LABELS
    }
    whole = runs["norm_centred"][0].state.params
    results: dict[str, Any] = {
        "classes": np.array(dataset.classes),
        "rates": np.array(rates),
        "patience": np.array(config.patience),
        "watched_loss": resumed.history.train["loss"],
        "resumed_difference": largest_difference(resumed.state.params, whole),
        "lines": np.array([line["epoch"] for line in lines]),
    }
    for name, each in runs.items():
        for split in ("train", "validation"):
            curves = [getattr(result.history, split) for result in each]
            results[f"{name}_{split}"] = 100 * np.stack([curve["accuracy"] for curve in curves])
        results[f"{name}_loss"] = np.stack([result.history.train["loss"] for result in each])
        if name.endswith("centred"):
            model = network(name.split("_")[0])
            results[f"{name}_confusion"] = np.stack(
                [confusion(model, result.state.variables, test) for result in each]
            )
    return results


def watched(fit: Any, folder: Path, config: Config, rates: list[float]) -> training.Result:
    """A run with all observers, interrupted after half of its epochs and resumed."""

    half = config.epochs // 2

    def note_rate(event: training.Event) -> None:
        rates.append(float(optimizers.current_learning_rate(event.state.opt_state)))

    def interrupt(event: training.Event) -> None:
        if event.epoch == half:
            raise PowerCutError

    observe = [
        observers.tensorboard(folder / "tensorboard"),
        observers.history_lines(folder / "history.jsonl"),
        note_rate,
    ]
    options = {"checkpoint_dir": folder / "checkpoints"}
    with contextlib.suppress(PowerCutError):
        fit("norm", "centred", config.seed, observers=[*observe, interrupt], **options)
    print(f"interrupted after epoch {half}; resumed from the checkpoint", flush=True)
    resumed: training.Result = fit("norm", "centred", config.seed, observers=observe, **options)
    return resumed


@contextlib.contextmanager
def log_folder(config: Config) -> Iterator[Path]:
    """The folder asked for, which must be a new one, or one that is gone at the end."""
    if config.log_dir is None:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)
        return
    kept = Path(config.log_dir)
    if kept.exists() and any(kept.iterdir()):
        raise ValueError(f"log_dir must be a new folder, got {kept}, which holds a run already")
    yield kept


def largest_difference(one: Any, other: Any) -> np.ndarray:
    """Between the entries of two trees."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return np.array(max(float(jnp.abs(a - b).max()) for a, b in pairs))


def confusion(model: models.MLP, variables: Any, arrays: data.Arrays) -> np.ndarray:
    """How many images of each class (row) are taken for each class (column)."""

    decisions = np.concatenate(
        [decide(model, variables, images) for images in np.array_split(arrays.inputs, 10)]
    )
    table = np.zeros((10, 10), np.int64)
    np.add.at(table, (arrays.targets, decisions), 1)
    return table


@functools.partial(jax.jit, static_argnums=0)
def decide(model: models.MLP, variables: Any, images: Any) -> Any:
    """The class that the network takes each image for."""
    logits: Any = model.apply(variables, centre(images), train=False)
    return logits.argmax(-1)


def replayed_rates(loss: np.ndarray, patience: int) -> np.ndarray:
    """The rate after each epoch by the rule of `ReduceLROnPlateau`, in float64."""
    rate, best, bad, rates = RATE, np.inf, 0, []
    for value in loss:
        bad = 0 if value < best * (1 - 1e-4) else bad + 1
        best = min(best, value) if bad == 0 else best
        if bad > patience:
            bad, rate = 0, (FACTOR * rate if rate - FACTOR * rate > 1e-8 else rate)
        rates.append(rate)
    return np.array(rates)


def gain(results: Results, inputs: str) -> np.ndarray:
    """By seed: the points of test accuracy that BatchNorm adds."""
    return np.asarray(
        results[f"norm_{inputs}_validation"][:, -1] - results[f"plain_{inputs}_validation"][:, -1]
    )


def claims(results: Results) -> list[Claim]:
    """PyTorch's numbers; where BatchNorm helps; the resumed run."""
    seeds, epochs = results["norm_centred_validation"].shape
    of_seeds = f"mean of {seeds} seeds"
    made = []
    if epochs == TORCH_EPOCHS:
        for name, torch in TORCH.items():
            label = LABELS[name.split("_")[0]].replace("without", "without BatchNorm")
            made.append(
                about_mean(
                    f"The network {label} does as well as PyTorch's: test accuracy after {epochs} "
                    f"epochs, % (PyTorch {torch.mean():.1f}, mean of {len(torch)} seeds); "
                    f"{of_seeds}",
                    results[f"{name}_validation"][:, -1],
                    torch.mean() - NEAR_TORCH,
                    torch.mean() + NEAR_TORCH,
                )
            )
        torch_gain = TORCH["norm_centred"].mean() - TORCH["plain_centred"].mean()
        made.append(
            about_mean(
                "On pixels in [-1, 1] BatchNorm does not help at this size and rate: points of "
                f"test accuracy that it adds (PyTorch {torch_gain:.1f}); {of_seeds}",
                gain(results, "centred"),
                torch_gain - NEAR_TORCH,
                NO_HELP,
            )
        )
    expected = replayed_rates(results["watched_loss"], int(results["patience"]))
    off = np.abs(results["rates"] / expected - 1).max()
    return [
        *made,
        about_mean(
            "On pixels in [0, 1], which are not centred, it helps: points of test accuracy that it "
            f"adds; {of_seeds}",
            gain(results, "raw"),
            low=0.0,
        ),
        about_mean(
            f"It adds more there than on centred pixels: points more; {of_seeds}",
            gain(results, "raw") - gain(results, "centred"),
            low=0.0,
        ),
        Claim(
            "The rate follows the rule of PyTorch's plateau: largest difference by epoch, relative "
            f"(patience {int(results['patience'])}, {np.unique(expected).size - 1} reductions)",
            off,
            0.0,
            # Each reduction is a product rounded to float32.
            2.0**-23 * (1 + len(expected)),
        ),
        Claim(
            "A run resumed from a checkpoint ends as one never interrupted, to rounding: largest "
            "difference of a weight",
            float(results["resumed_difference"]),
            0.0,
            ROUNDING,
        ),
        Claim(
            "The log misses no epoch: epochs that history.jsonl lacks or has twice",
            float(np.sum(np.bincount(results["lines"], minlength=epochs + 1)[1:] != 1)),
            0.0,
            0.0,
        ),
    ]


def plot(results: Results) -> Any:
    """Accuracy and loss by epoch, accuracy by class, and what is taken for what."""
    figure = new_figure(12, 7.5)
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.15])
    accuracy, loss = left.subplots(2, 1)
    styles = {"norm": ("C0", "o"), "plain": ("C1", "s")}
    for kind, (colour, marker) in styles.items():
        for inputs, line in (("centred", "-"), ("raw", "--")):
            label = f"{LABELS[kind]}, {INPUTS[inputs]}"
            for axes, name in ((accuracy, "validation"), (loss, "loss")):
                values = results[f"{kind}_{inputs}_{name}"]
                epochs = np.arange(1, values.shape[1] + 1)
                axes.errorbar(
                    epochs, values.mean(0), values.std(0, ddof=1), color=colour, marker=marker,
                    ls=line, ms=5, capsize=3, label=label,
                )  # fmt: skip
    if len(epochs) == TORCH_EPOCHS:
        for offset, (name, values) in zip((0.12, 0.22), TORCH.items(), strict=True):
            colour = styles[name.split("_")[0]][0]
            places = np.full(len(values), epochs[-1] + offset)
            accuracy.plot(places, values, "x", color=colour, ms=6)
        accuracy.plot([], [], "kx", label="PyTorch, centred, each seed")
    seeds = len(results["norm_centred_loss"])
    accuracy.set(ylabel="test accuracy (%)", title=f"Mean and s.d. of {seeds} seeds", xticks=epochs)
    accuracy.legend(fontsize=8, loc="lower right")
    loss.set(xlabel="epoch", ylabel="training loss (nats)", xticks=epochs)

    bars, table = right.subplots(2, 1, height_ratios=[1, 1.9])
    classes = results["classes"]
    places = np.arange(len(classes))
    for shift, (kind, (colour, _)) in zip((-0.2, 0.2), styles.items(), strict=True):
        counts = results[f"{kind}_centred_confusion"]
        by_class = 100 * np.diagonal(counts, axis1=1, axis2=2) / counts.sum(2)
        bars.bar(
            places + shift, by_class.mean(0), 0.38, yerr=by_class.std(0, ddof=1), color=colour,
            hatch="" if kind == "norm" else "//", edgecolor="white", capsize=2, label=LABELS[kind],
        )  # fmt: skip
    bars.set_xticks(places, classes, rotation=30, ha="right", fontsize=8)
    bars.set(ylabel="test accuracy (%)", title="By class, centred pixels", ylim=(0, 85))
    bars.legend(fontsize=8, ncols=2, loc="upper right")

    counts = results["norm_centred_confusion"]
    share = 100 * (counts / counts.sum(2, keepdims=True)).mean(0)
    table.imshow(share, cmap="Greys", vmin=0, vmax=70, aspect="auto")
    for row in places:
        for column in places:
            table.text(
                column, row, f"{share[row, column]:.0f}", ha="center", va="center", fontsize=8,
                color="white" if share[row, column] > 45 else "black",
            )  # fmt: skip
    table.set_xticks(places, classes, rotation=30, ha="right", fontsize=8)
    table.set_yticks(places, classes, fontsize=8)
    table.set(
        xlabel="predicted class",
        ylabel="true class",
        title="With BatchNorm: % of each class's images",
    )
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
