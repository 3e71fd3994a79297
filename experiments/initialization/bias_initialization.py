"""Zero, small positive or random biases: how many ReLU units, and whole networks, die.

Boston's house prices from two features, MLP 2-4-3-1, ReLU, Adam at rate 0.01, batches of 128, 500
epochs (the network of `boston_housing`), PyTorch's weights in every arm; the biases start at 0,
0.01, 0.1 or 1, or at PyTorch's U(-1/sqrt(fan_in), 1/sqrt(fan_in)). A unit is dead if it is off for
all training examples: no gradient passes. If all units of a layer are dead, the network predicts a
constant for ever. The second layer gets numbers that are never negative, so with zero biases a unit
of it whose four weights are all negative is dead from the start: 1 in 16 at least.

Meaning: The bars show how many networks die, and how many of their ReLU units are dead before and
after training, for five ways to start the biases; the curves show the test errors. Biases that
start above zero keep units and networks alive at no cost to the others: with biases of 0 one
network in ten dies, with biases of 1 one in fifty.

Data: boston_housing, 506 examples (404 to train on, 102 to test), 2 of the 13 features; Harrison
and Rubinfeld (1978), from the package mlxtend.
Source: the lecture on initialisation; Goodfellow, Bengio and Courville (2016), section 8.4 (small
positive biases for ReLU); Lu, Shin, Su and Karniadakis (2019), on networks born dead.
Run: python experiments/initialization/bias_initialization.py
Expected: 9 % of the runs die with PyTorch's biases and as many with zeros, 6 % with 0.01, 4 to 5 %
with 0.1, 2 % with 1; those that live are as good with any. Of layer 2's units 17 % are born dead
with PyTorch's biases, 12 % with zeros, next to none from 0.1 on.
Time: 55 s on 2 CPU cores.
"""

import sys
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jaxtyping import Array, Float

from jaxdl import activations, data, initializers, losses, models, optimizers, training
from jaxdl.claims import Claim, about_mean, about_quantile, about_share, main
from jaxdl.intervals import interval
from jaxdl.plotting import new_figure

COLUMNS = (5, 12)
"""RM and LSTAT."""
WIDTHS, RATE, BATCH_SIZE, EPOCHS = (4, 3, 1), 0.01, 128, 500
CONSTANT = 3.0
"""A run has died whose test predictions have a smaller standard deviation; prices have 9."""
ONE_IN_TEN = 0.05, 0.15
BORN_DEAD = 0.5 ** WIDTHS[0]
"""At least so many units of layer 2 are dead at the start, with zero biases."""
MEDIAN_LOW, MEDIAN_HIGH = 13.8, 15.6
"""Of the test error, (1000 dollars)^2, as in `boston_housing`."""
BIASES: dict[str, Any] = {
    "PyTorch's": initializers.torch_bias,
    "0": initializers.zeros(),
    "0.01": initializers.constant(0.01),
    "0.1": initializers.constant(0.1),
    "1": initializers.constant(1.0),
}
LINES = (":", "--", "-", "-.", (0, (8, 2)))
TIMES = ("start", "end")


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seed: int = 0
    """The first seed; the others follow it."""
    seeds: int = 600
    """Runs of each bias; at least 20."""
    epochs: int = EPOCHS
    """Passes over the training split."""


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=60),
    "full": Config(seeds=4000),
}


def housing() -> data.Dataset:
    """The split of `boston_housing`, its inputs standardised on the training part."""
    from sklearn.model_selection import train_test_split

    whole = data.load("boston_housing").train
    x_train, x_test, y_train, y_test = train_test_split(
        whole.inputs[:, COLUMNS], whole.targets, test_size=0.2, random_state=5
    )
    train, test = data.Arrays(x_train, y_train), data.Arrays(x_test, y_test)
    return data.standardize(data.Dataset("boston_housing", train, None, test))[0]


def make_task(bias: str) -> training.Task:
    """The network, with biases that start so, and squared error."""
    model = models.MLP(WIDTHS, kernel_init=initializers.torch_kernel(), bias_init=BIASES[bias])
    return training.Task(model, losses.mean_squared_error)


def dead_units(params: Any, inputs: Float[Array, "examples 2"]) -> Float[Array, " hidden"]:
    """By hidden layer: the share of its units that are off for all examples."""
    shares = []
    for layer in range(len(WIDTHS) - 1):
        dense = params[f"dense_{layer}"]
        inputs = activations.relu(inputs @ dense["kernel"] + dense["bias"])
        shares.append(jnp.mean(jnp.all(inputs <= 0, axis=0)))
    return jnp.stack(shares)


def run(config: Config) -> xarray.Dataset:
    """By bias and seed: the test error, the spread of the predictions, dead units."""
    dataset = housing()
    train, test = dataset.train, dataset.test
    assert test is not None
    optimizer = optimizers.adam(RATE, epsilon_position="outside")  # as PyTorch has it
    task, examples = make_task("0"), len(train)
    draws = [training.first_weights(make_task(bias), train) for bias in BIASES]

    def from_start(key: Any, orders: Any, params: Any) -> dict[str, Any]:
        learn = training.make_run(task, optimizer, batch_size=BATCH_SIZE)
        state, _ = learn(key, {"train": train}, orders, learn.init(key, train, params))
        predicted = task.outputs(state.variables, jnp.asarray(test.inputs), train=False)[0][:, 0]
        inputs = jnp.asarray(train.inputs, jnp.float32)
        return {
            "test_mse": jnp.mean((predicted - test.targets[:, 0]) ** 2),
            "spread": predicted.std(),
            "dead": jnp.stack([dead_units(each, inputs) for each in (params, state.params)]),
        }

    def member(key: Any, orders: Any, params: Any) -> dict[str, Any]:
        # All biases share a seed's order, so that it is made once.
        return jax.vmap(from_start, in_axes=(None, None, 0))(key, orders, params)

    return training.sweep(
        member,
        seeds=range(config.seed, config.seed + config.seeds),
        by_seed={
            "orders": lambda key: training.orders(key, config.epochs, examples),
            "params": lambda key: jax.tree.map(
                lambda *leaves: np.stack(leaves), *(draw(key) for draw in draws)
            ),
        },
        dims={"test_mse": ("bias",), "spread": ("bias",), "dead": ("bias", "time", "hidden")},
    ).assign_coords(bias=[*BIASES], time=[*TIMES], hidden=[1, 2])


def died(results: xarray.Dataset) -> xarray.DataArray:
    """By bias and seed: whether the run predicts a constant."""
    return results["spread"] < CONSTANT


def claims(results: xarray.Dataset) -> list[Claim]:
    """Who dies by chance of birth; that positive biases keep networks alive, at no cost."""
    seeds = results.sizes["seed"]
    dead = died(results).astype(float)
    made = [
        about_share(
            f"One network in ten dies with biases that start at {name}: share of {seeds} seeds",
            dead.sel(bias=bias).sum(),
            seeds,
            *ONE_IN_TEN,
        )
        for bias, name in (("PyTorch's", "PyTorch's"), ("0", "zero"))
    ]
    made.append(
        about_mean(
            "With zero biases some units are born dead: share of layer 2's units that are off for "
            f"all examples at the start (all {WIDTHS[0]} weights negative: {BORN_DEAD:.4f}); mean "
            f"of {seeds} seeds",
            results["dead"].sel(bias="0", time="start", hidden=2),
            low=BORN_DEAD,
        )
    )
    for more, fewer in (("0", "0.1"), ("0.1", "1")):
        made.append(
            about_mean(
                f"A bias of {fewer} keeps alive some networks that die with {more}: share of runs "
                f"that die with {more}, less that with {fewer}; mean of {seeds} seeds",
                dead.sel(bias=more) - dead.sel(bias=fewer),
                low=0.0,
            )
        )
    units = results["dead"].sel(time="end").mean("hidden")
    made += [
        about_mean(
            "After training, too, fewer units are dead with a bias of 1 than with zeros: "
            f"difference of their shares; mean of {seeds} seeds",
            units.sel(bias="0") - units.sel(bias="1"),
            low=0.0,
        ),
        about_quantile(
            "A bias of 1 costs nothing: a typical network's test error is Boston's usual one, "
            f"(1000 dollars)^2; median of {seeds} seeds",
            results["test_mse"].sel(bias="1"),
            0.5,
            MEDIAN_LOW,
            MEDIAN_HIGH,
        ),
    ]
    return made


def plot(results: xarray.Dataset) -> Any:
    """The share of runs that die; of units dead at the start and end; the test error."""
    figure = new_figure(12, 4.5)
    left, middle, right = figure.subplots(1, 3)
    seeds, places = results.sizes["seed"], np.arange(len(BIASES))
    dead = died(results).astype(int).transpose("bias", "seed").values
    shares = [about_share("", row.sum(), seeds) for row in dead]
    ends = np.array([claim.interval for claim in shares], float).T * 100
    heights = 100 * dead.mean(axis=1)
    left.bar(places, heights, color="C3", alpha=0.7)
    left.errorbar(places, heights, abs(ends - heights), fmt="none", color="k", capsize=5)
    left.set(ylabel="runs that die (%)", title=f"{seeds} seeds, 95 % interval")
    bars = [(time, hidden) for hidden in (1, 2) for time in TIMES]
    for number, (time, hidden) in enumerate(bars):
        of = results["dead"].sel(time=time, hidden=hidden).transpose("seed", "bias")
        share = interval(100 * of.values)
        middle.bar(
            places + 0.2 * (number - 1.5), share.mean, 0.2, yerr=share.half_width, capsize=2,
            color=f"C{hidden - 1}", alpha=0.45 if time == "start" else 1.0,
            label=f"layer {hidden}, {time}",
        )  # fmt: skip
    middle.axhline(100 * BORN_DEAD, color="k", ls=":", label="layer 2, zeros: at least 1/16")
    middle.set(ylabel="units that are dead (%)", title="At the start, and after training")
    middle.set_ylim(0, 1.5 * middle.get_ylim()[1])
    middle.legend(ncols=2, fontsize=9, frameon=False, columnspacing=0.8)
    for axes in (left, middle):
        axes.set_xticks(places, [*BIASES])
        axes.set_xlabel("biases at the start")
    for number, bias in enumerate(BIASES):
        errors = np.sort(results["test_mse"].sel(bias=bias).values)
        shares_below = np.arange(1, seeds + 1) / seeds
        line = {"color": f"C{number}", "ls": LINES[number], "lw": 1.8}
        right.step(errors, shares_below, where="post", label=bias, **line)
    right.set(
        xscale="log",
        xlabel="test error ((1000 dollars)$^2$)",
        ylabel="share of the seeds at or below",
        title="A dead run gives all houses one price",
        xticks=[13, 20, 30, 50, 80, 120],
    )
    right.xaxis.set_major_formatter("{x:g}")
    right.xaxis.set_minor_formatter("")
    right.legend(title="biases", loc="lower right", bbox_to_anchor=(0.9, 0.05), frameon=False)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
