"""House prices in Boston from two features, 800 seeds x 2 initialisers in one sweep.

RM (rooms a dwelling) and LSTAT (share of lower-status people), standardised on the training split;
404 examples to train on, 102 to test, as scikit-learn's `train_test_split(random_state=5)` cuts
them. MLP 2-4-3-1, ReLU, Adam at rate 0.01, batches of 128 with a remainder of 20, 500 epochs. A
single run is one draw of a wide distribution: one network in ten dies, its few ReLUs all off, and
predicts a constant. Each seed has its own weights and its own order of the data, in which both
initialisers see them. One order shared by all seeds would move their median by up to 0.2: over five
orders, from 14.4 to 14.8.

Meaning: The curves are the training error of hundreds of small networks and the distribution of
their test errors; the map is the price that those which learned predict. One run is one draw from a
wide distribution: most networks end near a test error of 14.6, well below that of least squares,
but one in ten dies and predicts the same price for every house.

Data: boston_housing, 506 examples (404 to train on, 102 to test), 2 of the 13 features; Harrison
and Rubinfeld (1978), from the package mlxtend.
Source: the lecture's notebooks on Boston housing; data of Harrison and Rubinfeld (1978), of which
the variable B, a function of race, is not used.
Run: python experiments/first_network/boston_housing.py
Expected: test mean squared error, in (1000 dollars)^2: median over the seeds 14.6, most from 14 to
16 (lecture: 15.39 and 15.35, one seed each), where least squares has 26.39. The dead have about
118, worse than the 79 of the mean price: 2000 steps of at most 0.01 do not reach it from zero.
Time: 20 s on 2 CPU cores.
"""

import sys
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray

from jaxdl import data, initializers, losses, models, optimizers, training
from jaxdl.claims import Claim, about_quantile, about_share, main
from jaxdl.plotting import band, new_figure

FEATURES = ("RM", "LSTAT")
COLUMNS = (5, 12)
WIDTHS, RATE, BATCH_SIZE, EPOCHS = (4, 3, 1), 0.01, 128, 500
LECTURE_TEST = {"torch": 15.39, "glorot_normal": 15.35}
"""One seed each; (1000 dollars)^2, as all errors here."""
LEAST_SQUARES_TEST = 26.39
MEDIAN_LOW, MEDIAN_HIGH = 13.8, 15.6
CONSTANT = 3.0
"""A run has died whose test predictions have a smaller standard deviation; prices have 9. Of 1600
earlier runs none was between 1.6 and 7.3."""
DIED, OF = {"torch": 75, "glorot_normal": 77}, 800
"""How many died of so many earlier runs, from other seeds."""
ONE_IN_TEN = 0.05, 0.15
GRID = 40
"""Points a side of the plane that the figure shows."""
STYLES = {"torch": "C0-", "glorot_normal": "C1--"}

INITIALIZERS: dict[str, tuple[Any, Any]] = {
    "torch": (initializers.torch_kernel(), initializers.torch_bias),
    "glorot_normal": (initializers.glorot_normal(), initializers.zeros()),
}
LABELS = {"torch": "PyTorch's default", "glorot_normal": "Glorot normal"}


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seed: int = 0
    """The first seed; the others follow it."""
    seeds: int = 800
    """Runs of each initialiser; at least 20."""
    epochs: int = EPOCHS
    """Passes over the training split."""


PRESETS = {"default": Config(), "smoke": Config(seeds=100), "full": Config(seeds=2000)}


def housing() -> tuple[data.Dataset, data.Scaler]:
    """The lecture's split, its inputs standardised on the training part."""
    from sklearn.model_selection import train_test_split

    whole = data.load("boston_housing").train
    x_train, x_test, y_train, y_test = train_test_split(
        whole.inputs[:, COLUMNS], whole.targets, test_size=0.2, random_state=5
    )
    cut = data.Dataset(
        "boston_housing", data.Arrays(x_train, y_train), None, data.Arrays(x_test, y_test)
    )
    return data.standardize(cut)


def plane() -> Any:
    """(GRID * GRID, 2): the plane of the standardised features, -4 to 4 on each axis."""
    axis = jnp.linspace(-4.0, 4.0, GRID)
    return jnp.stack(jnp.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)


def make_task(initializer: str) -> training.Task:
    """The network, with one of the initialisers, and squared error."""
    kernel_init, bias_init = INITIALIZERS[initializer]
    model = models.MLP(WIDTHS, kernel_init=kernel_init, bias_init=bias_init)
    return training.Task(model, losses.mean_squared_error)


def run(config: Config) -> xarray.Dataset:
    """By initialiser and seed: the training curve, the test error, what is predicted."""
    dataset, scaler = housing()
    train, test = dataset.train, dataset.test
    assert test is not None
    optimizer = optimizers.adam(RATE, epsilon_position="outside")  # as PyTorch has it
    task, examples = make_task("torch"), len(train)
    draws = [training.first_weights(make_task(name), train) for name in INITIALIZERS]
    batch_sizes = np.diff([*range(0, examples, BATCH_SIZE), examples])

    def from_start(key: Any, orders: Any, params: Any) -> dict[str, Any]:
        learn = training.make_run(task, optimizer, batch_size=BATCH_SIZE)
        state, measured = learn(key, {"train": train}, orders, learn.init(key, train, params))
        predicted, grid = (
            task.outputs(state.variables, inputs, train=False)[0][:, 0]
            for inputs in (jnp.asarray(test.inputs), plane())
        )
        return {
            "train_mse": jnp.average(measured["train"]["loss"], axis=1, weights=batch_sizes),
            "test_mse": jnp.mean((predicted - test.targets[:, 0]) ** 2),
            "spread": predicted.std(),
            "plane": grid.reshape(GRID, GRID),
        }

    def member(key: Any, orders: Any, params: Any) -> dict[str, Any]:
        # The initialisers share a seed's order, so that it is made once.
        return jax.vmap(from_start, in_axes=(None, None, 0))(key, orders, params)

    result = training.sweep(
        member,
        seeds=range(config.seed, config.seed + config.seeds),
        by_seed={
            "orders": lambda key: training.orders(key, config.epochs, examples),
            "params": lambda key: jax.tree.map(
                lambda *leaves: np.stack(leaves), *(draw(key) for draw in draws)
            ),
        },
        dims={
            "train_mse": ("initializer", "epoch"),
            "test_mse": ("initializer",),
            "spread": ("initializer",),
            "plane": ("initializer", *FEATURES),
        },
    )
    ones = [np.c_[part.inputs, np.ones(len(part))] for part in (train, test)]
    weights = np.linalg.lstsq(ones[0], train.targets, rcond=None)[0]
    axes = scaler.inverse(np.stack([np.linspace(-4.0, 4.0, GRID)] * 2, axis=1)).T
    return result.assign(
        least_squares_mse=np.mean((ones[1] @ weights - test.targets) ** 2),
        constant_mse=np.mean((test.targets - train.targets.mean()) ** 2),
        inputs=(("example", "feature"), scaler.inverse(train.inputs)),
        prices=("example", train.targets[:, 0]),
    ).assign_coords(
        initializer=[*INITIALIZERS],
        epoch=np.arange(1, config.epochs + 1),
        feature=[*FEATURES],
        **dict(zip(FEATURES, axes, strict=True)),
    )


def claims(results: xarray.Dataset) -> list[Claim]:
    """The split is the lecture's; the errors; how many die."""
    seeds = results.sizes["seed"]
    made = [
        Claim(
            "The split of the data is the lecture's: test error of least squares on "
            f"{' and '.join(FEATURES)} (lecture: {LEAST_SQUARES_TEST})",
            results["least_squares_mse"],
            LEAST_SQUARES_TEST - 0.01,
            LEAST_SQUARES_TEST + 0.01,
        )
    ]
    for name, label in LABELS.items():
        lecture = LECTURE_TEST[name]
        errors, spread = (
            results[what].sel(initializer=name).values for what in ("test_mse", "spread")
        )
        dead = spread < CONSTANT
        living = errors[~dead]
        made += [
            about_quantile(
                f"With {label} a typical network is well ahead of least squares: its test error, "
                f"(1000 dollars)^2 (least squares {LEAST_SQUARES_TEST}); median of {seeds} seeds",
                errors,
                0.5,
                MEDIAN_LOW,
                MEDIAN_HIGH,
            ),
            about_share(
                f"With {label} the lecture's run is an ordinary one: share of the runs whose test "
                f"error is at most its {lecture}; {seeds} seeds",
                np.sum(errors <= lecture),
                seeds,
                0.05,
                0.95,
            ),
            about_share(
                f"With {label} a network that lives beats least squares: share of the "
                f"{len(living)} that do (the worst of them has {living.max(initial=-np.inf):.1f}, "
                f"least squares {LEAST_SQUARES_TEST})",
                np.sum(living <= LEAST_SQUARES_TEST),
                max(len(living), 1),  # none lives: nothing to tell
                low=0.95,
            ),
            about_share(
                f"With {label} one network in ten dies: share of the seeds (of {OF} others "
                f"{DIED[name] / OF:.3f}); {seeds} seeds",
                np.sum(dead),
                seeds,
                *ONE_IN_TEN,
            ),
        ]
    return made


def plot(results: xarray.Dataset) -> Any:
    """Training; the distribution of the test error; what the living networks predict."""
    figure = new_figure(12, 5)
    left, middle, right = figure.subplots(1, 3)
    seeds = results.sizes["seed"]
    for name, label in LABELS.items():
        style, of = STYLES[name], results.sel(initializer=name)
        dead = of["spread"].values < CONSTANT
        curves, errors = of["train_mse"].values, np.sort(of["test_mse"])
        if (~dead).any():
            label_living = f"{label}, {np.sum(~dead)} that live"
            band(
                left, of["epoch"], curves[~dead], style, spread=(0.1, 0.9), lw=2, label=label_living
            )
        left.plot(of["epoch"], curves[dead].T, ":", color=style[:2], lw=0.7)
        middle.step(
            errors, np.arange(1, seeds + 1) / seeds, style, lw=2, where="post",
            label=f"{label}: {np.mean(dead):.0%} die",
        )  # fmt: skip
    left.set(
        yscale="log",
        xlabel="epoch",
        ylabel="training error ((1000 dollars)$^2$)",
        title="Median, 10 to 90 %; dotted: dead runs",
        yticks=[15, 20, 30, 50, 100, 200, 500],
    )
    left.legend(loc="lower right", bbox_to_anchor=(1.0, 0.15), fontsize=9)
    for error, line, label in (
        (LECTURE_TEST["torch"], "-", "lecture, one seed"),
        (float(results["least_squares_mse"]), "--", "least squares"),
        (float(results["constant_mse"]), ":", "the mean price"),
    ):
        middle.axvline(error, color="k", ls=line, lw=1, label=f"{label}: {error:.1f}")
    middle.set(
        xscale="log",
        xlabel="test error ((1000 dollars)$^2$)",
        ylabel="share of the seeds at or below",
        title=f"{seeds} seeds of each initialiser",
        ylim=(0, 1.01),
        xticks=[13, 20, 30, 50, 80, 120],
    )
    for axis in (left.yaxis, middle.xaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("")
    middle.legend(loc="center right", fontsize=9)

    prices = results["plane"].where(results["spread"] >= CONSTANT).mean(("initializer", "seed"))
    levels = np.arange(0, 65, 5)
    colours = {"cmap": "cividis", "vmin": levels[0], "vmax": levels[-1]}
    shading = right.contourf(
        *(results[name] for name in FEATURES), prices.T, levels=levels, extend="both", **colours
    )
    right.scatter(
        *results["inputs"].values.T, c=results["prices"], s=16, edgecolors="w", linewidths=0.4,
        **colours,
    )  # fmt: skip
    figure.colorbar(shading, ax=right, label="price (1000 dollars)")
    right.set(
        xlabel="RM (rooms a dwelling)",
        ylabel="LSTAT (%)",
        title="Training prices (dots), predictions",
        xlim=(4, 9),
        ylim=(0, 35),
    )
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
