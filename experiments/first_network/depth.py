"""Whether deeper is better, at equal width and at an equal number of parameters.

MNIST-1D, hidden layers with BatchNorm and ReLU, dense or convolutions (window 5) with a mean over
time at the end; Adam, cosine decay from 0.003, batches of 100, 20 epochs. One arm keeps the width
of all depths; the other makes shallow networks wider, so that all have as many parameters as the
one of three layers.

Meaning: Each curve is the accuracy of networks of 1 to 11 hidden layers, dense on the left and
convolutional on the right, at equal width or at an equal number of parameters. At equal width more
layers help the convolutional networks, while the dense ones do best with two or three; whether
deeper dense networks, or deeper ones with no more parameters, are worse in general four seeds leave
undecided.

Data: mnist_1d, 5,000 signals of 40 points (4,000 to train on, 1,000 to test); Greydanus and Kobak
(2024), made by the package mnist1d.
Source: Goodfellow, Bengio and Courville (2016), Deep Learning, figures 6.6 and 6.7, which are
Goodfellow et al. (2014): street numbers, 92.0 % with 3 hidden layers to 96.5 % with 11, and wide
shallow networks that over-fit where deep ones do not.
Run: python experiments/first_network/depth.py
Expected: with convolutions as published: 95 % with 3 layers, 98 % with 6 and with 11; 1 layer with
as many parameters has 57 %. At equal parameters 11 layers are 7 channels wide, and worse again.
The dense networks are best with 2 or 3 layers: depth does not help where it shares no weights, and
what over-fits less with 11 layers also learns less.
Time: 2 minutes on 2 CPU cores.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import flax.linen as nn
import xarray

from jaxdl import activations, data, initializers, losses, metrics, models, optimizers, training
from jaxdl.claims import Claim, about_mean, main, slopes
from jaxdl.layers import BatchNorm
from jaxdl.optimizers import schedules
from jaxdl.plotting import band, new_figure

CLASSES, BATCH_SIZE, RATE, WINDOW = 10, 100, 3e-3, 5
START = initializers.he_normal()
REFERENCE = 3
"""The depth whose number of parameters all of the second arm have; from it on slopes are taken."""
PUBLISHED = {3: 92.0, 11: 96.5}
"""Test accuracy on street numbers, %, by hidden layers: the ends of figure 6.6."""


class ConvSignal(nn.Module):
    """Convolutions of one width over time, the mean over time, and a dense layer."""

    depth: int
    width: int

    @nn.compact
    def __call__(self, x: Any, *, train: bool) -> Any:
        """The logits of signals of the shape (batch, times)."""
        x = x[..., None]
        for layer in range(self.depth):
            x = nn.Conv(self.width, (WINDOW,), use_bias=False, kernel_init=START)(x)
            x = activations.relu(BatchNorm(name=f"norm_{layer}")(x, train=train))
        return nn.Dense(CLASSES, kernel_init=START)(x.mean(1))


class Kind(NamedTuple):
    """A kind of network: its label, (depth, width) -> model, the width of equal width, its sizes.

    Its first layer has `first` weights for each unit, each other one `later` times its width.
    """

    label: str
    make: Callable[[int, int], nn.Module]
    width: int
    first: int
    later: int

    def parameters(self, depth: int, width: int) -> int:
        """Weights, BatchNorm's scales and shifts, and the dense layer of the outputs."""
        hidden = self.first * width + (depth - 1) * self.later * width**2 + 2 * depth * width
        return hidden + (width + 1) * CLASSES

    def equal_width(self, depth: int) -> int:
        """The width whose parameters come nearest to those of the reference depth."""
        budget = self.parameters(REFERENCE, self.width)
        return min(range(1, budget), key=lambda w: abs(self.parameters(depth, w) - budget))


def mlp(depth: int, width: int) -> nn.Module:
    """The dense kind."""
    return models.MLP([width] * depth + [CLASSES], norm=BatchNorm, kernel_init=START)


KINDS = {
    "dense": Kind("dense", mlp, width=64, first=40, later=1),
    "convolutional": Kind("convolutional", ConvSignal, width=16, first=WINDOW, later=WINDOW),
}
ARMS = {"width": "equal width", "parameters": "equal number of parameters"}
AT = {"width": "at equal width", "parameters": "at an equal number of parameters"}


@dataclass(frozen=True)
class Config:
    """The knobs."""

    depths: tuple[int, ...] = (1, 2, 3, 6, 11)
    """Hidden layers, rising; from 1 to beyond 3."""
    epochs: int = 20
    """Passes over the 4,000 examples."""
    seeds: int = 4
    """Runs of each network, each with its own weights and order; at least 3."""
    seed: int = 0
    """The first seed; the others follow it."""

    def __post_init__(self) -> None:
        """Refuse depths without the two that are compared, and too few seeds."""
        rising = [*self.depths] == sorted(set(self.depths))
        if not rising or not {1, REFERENCE} <= {*self.depths} or self.depths[-1] <= REFERENCE:
            raise ValueError(
                f"depths must rise, have 1 and {REFERENCE} and go beyond, got {self.depths}; "
                f"pass e.g. (1, {REFERENCE}, 11)"
            )
        if self.seeds < 3:
            raise ValueError(f"seeds must be at least 3, got {self.seeds}; run more")


PRESETS = {
    "default": Config(),
    "smoke": Config(depths=(1, 3, 4), epochs=1, seeds=3),
    "full": Config(depths=tuple(range(1, 12)), epochs=100, seeds=10),
}


def run(config: Config) -> xarray.Dataset:
    """By kind, arm, depth and seed: train and test accuracy, %; the width and the parameters."""
    signals = data.load("mnist_1d")

    @functools.cache  # of the reference depth both arms have the same network
    def of(name: str, depth: int, width: int) -> xarray.Dataset:
        kind = KINDS[name]
        sizes = {"width": width, "parameters": kind.parameters(depth, width)}
        return accuracies(kind.make(depth, width), signals, config).assign(sizes)

    def by_depth(name: str, arm: str) -> xarray.Dataset:
        kind = KINDS[name]
        widths = [kind.width if arm == "width" else kind.equal_width(d) for d in config.depths]
        made = [of(name, *size) for size in zip(config.depths, widths, strict=True)]
        return xarray.concat(made, xarray.Variable("depth", [*config.depths]))

    kinds = [
        xarray.concat([by_depth(name, arm) for arm in ARMS], xarray.Variable("arm", [*ARMS]))
        for name in KINDS
    ]
    return xarray.concat(kinds, xarray.Variable("kind", [*KINDS]))


def accuracies(model: nn.Module, signals: data.Dataset, config: Config) -> xarray.Dataset:
    """By seed: accuracy on both splits after the last epoch, %, with running averages."""
    splits: dict[str, Any] = {"train": signals.train, "test": signals.test}
    task = training.Task(model, losses.cross_entropy, [metrics.accuracy])
    steps = config.epochs * len(signals.train) // BATCH_SIZE
    optimizer = optimizers.adam(schedules.cosine_decay(RATE, steps=steps))

    def member(key: Any, orders: Any, params: Any) -> dict[str, Any]:
        learn = training.make_run(task, optimizer, batch_size=BATCH_SIZE)
        start = learn.init(key, signals.train, params)
        state, _ = learn(key, {"train": signals.train}, orders, start)
        return {name: 100 * learn.evaluate(state, of)["accuracy"] for name, of in splits.items()}

    return training.sweep(
        member,
        seeds=range(config.seed, config.seed + config.seeds),
        by_seed={
            "orders": lambda key: training.orders(key, config.epochs, len(signals.train)),
            "params": training.first_weights(task, signals.train),
        },
    )


def claims(results: xarray.Dataset) -> list[Claim]:
    """The slopes of both arms, and whether wide and shallow over-fits where deep does not."""
    mean_of, most = f"mean of {results.sizes['seed']} seeds", int(results["depth"][-1])
    deep = results.sel(depth=slice(REFERENCE, None))
    equal = results.sel(arm="parameters")
    made = []
    for name, kind in KINDS.items():
        for arm in ARMS:
            accuracy = deep["test"].sel(kind=name, arm=arm).transpose("seed", "depth")
            made.append(
                about_mean(
                    f"Deeper {kind.label} networks are better {AT[arm]}: from {REFERENCE} to "
                    f"{most} hidden layers the test accuracy rises, % a layer (Goodfellow et al.: "
                    f"0.56, street numbers); {mean_of}",
                    slopes(deep["depth"], accuracy),
                    low=0.0,
                )
            )
        at = equal.sel(kind=name)
        gap, wide = at["train"] - at["test"], int(at["width"].sel(depth=1))
        made += [
            about_mean(
                f"A {kind.label} network of {REFERENCE} layers beats one of 1 layer "
                f"{AT['parameters']}: of width {wide}, test accuracy above its, %; {mean_of}",
                at["test"].sel(depth=REFERENCE) - at["test"].sel(depth=1),
                low=0.0,
            ),
            about_mean(
                f"A wide and shallow {kind.label} network over-fits more than a deep one "
                f"{AT['parameters']}: training less test accuracy with 1 layer above that with "
                f"{most}, %; {mean_of}",
                gap.sel(depth=1) - gap.sel(depth=most),
                low=0.0,
            ),
        ]
    return made


def plot(results: xarray.Dataset) -> Any:
    """Accuracy by depth: dense, convolutional; beside the second arm its widths."""
    figure = new_figure(12, 6)
    depths, panels = results["depth"].values, figure.subplots(1, 2, sharey=True)
    for axes, (name, kind) in zip(panels, KINDS.items(), strict=True):
        for (arm, label), style in zip(ARMS.items(), ("C0o-", "C3s-"), strict=True):
            at = results.sel(kind=name, arm=arm).transpose("seed", "depth")
            band(axes, depths, at["test"], style, spread="range", label=f"test, {label}")
            train = at["train"].mean("seed")
            axes.plot(depths, train, f"{style[:2]}:", label=f"training, {label}")
        for depth, of_arm, mean in zip(
            depths, at["width"].values, at["test"].mean("seed").values, strict=True
        ):
            axes.annotate(
                f"{of_arm}", (depth, mean), (5, -14), textcoords="offset points", color="C3"
            )
        axes.plot(
            [*PUBLISHED], [*PUBLISHED.values()], "k*", ms=10, label="test, street numbers (2014)"
        )
        axes.set(xlabel="hidden layers", title=kind.label, ylim=(30, 103))
    seeds = results.sizes["seed"]
    panels[0].set_ylabel(f"accuracy (%), mean and range of {seeds} seeds")
    panels[0].text(
        0.98,
        0.02,
        "numbers: the widths of equal parameters",
        color="C3",
        ha="right",
        transform=panels[0].transAxes,
    )
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
