"""Networks that start without any randomness, or without any diversity, against He's.

Three hidden ReLU layers of 256 units on MNIST digits of 14 x 14 pixels, gradient descent at rate
0.1, batches of 50, 10 epochs. ZerO starts from identities and, where a layer widens (196 to 256),
a Hadamard matrix; with a partial identity there instead, the added units stay at zero for ever.
In the network of identical features the units of a layer are one unit, repeated; only something
that treats them differently, here dropout, can tell them apart.
Source: Zhao, Schäfer and Anandkumar (2022), theorem 1 and algorithm 1; Blumenfeld, Gilboa and
Soudry (2020) for identical features.
Run: python experiments/initialization/zero_initialization.py
Expected: ZerO within half a point of He after 10 epochs, and the same network from any two keys;
the partial identity two points behind, its second layer changing in no more directions than
there are pixels that are ever lit (175), where ZerO's uses all; identical features, told apart by
dropout, two points behind He with dropout. Without dropout they are told apart all the same, by
rounding alone, and later.
Time: 25 s on 2 CPU cores.
"""

import functools
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxdl import data, initializers, losses, metrics, models, optimizers, training
from jaxdl.claims import Claim, Results, about_mean, as_before, main
from jaxdl.compiling import init_options
from jaxdl.plotting import new_figure

SIDE = 14
PIXELS, WIDTH = SIDE * SIDE, 256
DEEP, SHALLOW = (WIDTH, WIDTH, WIDTH, 10), (WIDTH, 10)
BATCH_SIZE = 50
DROPOUT_RATE = 0.5
OPTIMIZERS = {DEEP: optimizers.sgd(0.1), SHALLOW: optimizers.sgd(0.5)}


class Arm(NamedTuple):
    """A network: its label, where it starts from, its widths, its dropout, its line."""

    label: str
    kernel_init: initializers.Initializer
    features: tuple[int, ...]
    dropout_rate: float
    style: str


ARMS: Mapping[str, Arm] = {
    "he": Arm("He", initializers.he_normal(), DEEP, 0.0, "C0o-"),
    "zero": Arm("ZerO (Hadamard)", initializers.zero_hadamard(), DEEP, 0.0, "C1s--"),
    "identity": Arm("partial identity", initializers.identity(), DEEP, 0.0, "C2^:"),
    "he_shallow": Arm("He, dropout", initializers.he_normal(), SHALLOW, DROPOUT_RATE, "C0o-"),
    "identical_dropout": Arm(
        "identical features, dropout",
        initializers.identical_features(),
        SHALLOW,
        DROPOUT_RATE,
        "C1s--",
    ),
    "identical": Arm("identical features", initializers.identical_features(), SHALLOW, 0.0, "C2^:"),
}


NO_DIFFERENCE = 1e-12
"""What stands for a difference of 0, which has no logarithm."""
EXPECTED_EPOCHS, EXPECTED_OVER = 10, 20
EXPECTED_LEAD = {"zero": (0.03, 0.44), "identical_dropout": (2.00, 1.21)}
"""He's lead in points of test accuracy, its deviation: seeds 1000 to 1019, after 10 epochs."""


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


def run(config: Config) -> Results:
    """Test accuracy in percent by seed and epoch; what layer 2 has learned; what keys change."""
    digits = data.split(data.load("mnist_5k"), key=jax.random.key(0))
    assert digits.test is not None
    train, test = (
        {"inputs": halve(part.inputs), "targets": jnp.asarray(part.targets)}
        for part in (digits.train, digits.test)
    )
    keys = jax.vmap(jax.random.key)(config.seed + jnp.arange(config.seeds))
    orders = np.stack(
        [
            [training.epoch_order(key, epoch, len(digits.train)) for key in keys]
            for epoch in range(config.epochs)
        ]
    )
    orders = orders.reshape(config.epochs, config.seeds, -1, BATCH_SIZE)

    results: dict[str, Any] = {"lit_pixels": (np.asarray(train["inputs"]) > 0).any(0).sum()}
    for name, arm in ARMS.items():
        train_epoch, evaluate = compiled(arm.features, arm.dropout_rate)
        start = jax.jit(
            jax.vmap(functools.partial(initial_state, arm)), compiler_options=init_options()
        )(keys)
        state, accuracy = start, []
        for order in orders:
            state, _ = train_epoch(state, train, order)
            accuracy.append(100 * np.asarray(evaluate(state.variables, test)["accuracy"]))
        results[f"{name}_test"] = np.stack(accuracy, axis=1) / len(digits.test)
        if arm.features == DEEP:
            change = state.params["dense_1"]["kernel"] - start.params["dense_1"]["kernel"]
            results[f"{name}_singular_values"] = np.linalg.svd(change, compute_uv=False)
        else:
            results[f"{name}_similarity"] = np.stack(
                [similarity(each.params["dense_0"]["kernel"]) for each in (start, state)], axis=1
            )
        print(f"{arm.label:28} test accuracy {results[f'{name}_test'][:, -1].round(1)} %")
        if name == "zero":
            own_order, _ = train_epoch(start, train, orders[0])
            results |= {
                "zero_start_difference": largest_difference(start.params),
                "zero_one_order_difference": largest_difference(
                    one_epoch_in_one_order(start, train, orders[0, 0]).params
                ),
                "zero_own_order_difference": largest_difference(own_order.params),
            }
    return results


def halve(images: np.ndarray) -> Array:
    """28 x 28 grey levels to 14 x 14 in [0, 1], flat: the mean of each square of four."""
    squares = images.reshape(-1, SIDE, 2, SIDE, 2)
    return jnp.asarray(squares.mean((2, 4), dtype=np.float32).reshape(-1, PIXELS) / 255)


def initial_state(arm: Arm, key: Key[Array, ""]) -> training.TrainState:
    """The state before the first step."""
    model = models.MLP(arm.features, kernel_init=arm.kernel_init)
    return training.init_state(key, model, OPTIMIZERS[arm.features], np.zeros((1, PIXELS), "f"))


@functools.cache
def compiled(features: tuple[int, ...], dropout_rate: float) -> tuple[Any, Any]:
    """An epoch of all seeds, each in its own order, and their sums over a split."""
    model = models.MLP(features, dropout_rate=dropout_rate)
    evaluate = training.make_eval_step(model, losses.cross_entropy, [metrics.accuracy])
    return (
        jax.jit(jax.vmap(train_epoch_of(features, dropout_rate), in_axes=(0, None, 0))),
        jax.jit(jax.vmap(evaluate, in_axes=(0, None))),
    )


def train_epoch_of(features: tuple[int, ...], dropout_rate: float) -> Any:
    """An epoch of one seed."""
    model = models.MLP(features, dropout_rate=dropout_rate)
    step = training.make_train_step(model, OPTIMIZERS[features], losses.cross_entropy)
    return training.make_train_epoch(step)


@jax.jit
def one_epoch_in_one_order(
    start: training.TrainState, train: Any, order: Int[Array, "steps batch"]
) -> training.TrainState:
    """Every seed in the same order of the data: what is left is what its key does.

    One seed after another, so that all pass through the same instructions. ZerO leaves units on
    ReLU's kink: a rounding in another order would switch some on, and an epoch makes that 0.2.
    """
    train_epoch = train_epoch_of(DEEP, 0.0)
    trained: training.TrainState = jax.lax.map(
        lambda state: train_epoch(state, train, order)[0], start
    )
    return trained


def similarity(kernels: Float[Array, "seeds inputs units"]) -> Float[np.ndarray, " seeds"]:
    """The mean cosine between the incoming weights of two units of a layer."""
    columns = np.asarray(kernels, np.float64)
    columns = columns / np.linalg.norm(columns, axis=1, keepdims=True)
    units = columns.shape[2]
    return np.asarray((np.square(columns.sum(2)).sum(1) - units) / (units * (units - 1)))


def largest_difference(params: Any) -> Float[np.ndarray, " others"]:
    """Between any weight of a seed and the same of the first, for each seed after the first."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(params)]
    by_leaf = [np.abs(leaf[1:] - leaf[:1]).reshape(len(leaf) - 1, -1).max(1) for leaf in leaves]
    return np.asarray(np.max(by_leaf, axis=0))


def rank(singular_values: np.ndarray) -> np.ndarray:
    """By seed: directions above float32's noise, 1e-5 of the largest."""
    return np.asarray((singular_values > 1e-5 * singular_values.max(1, keepdims=True)).sum(1))


def claims(results: Results) -> list[Claim]:
    """How near ZerO comes to He, that no key changes it, and what the Hadamard matrix is for."""
    seeds, epochs = results["he_test"].shape
    final = {name: results[f"{name}_test"][:, -1] for name in ARMS}
    lit = int(results["lit_pixels"])
    made = [
        Claim(
            "ZerO draws nothing: largest difference between the weights of two keys, before "
            "training",
            results["zero_start_difference"].max(),
            0.0,
            0.0,
        ),
        Claim(
            "ZerO trains the same network from any key: the same after an epoch in one order of "
            "the data",
            results["zero_one_order_difference"].max(),
            0.0,
            0.0,
        ),
        about_mean(
            "Only the order of the data tells two keys apart: the same after an epoch, each key in "
            f"its own order, power of ten; mean of {seeds - 1} keys against the first",
            np.log10(np.maximum(results["zero_own_order_difference"], NO_DIFFERENCE)),
            low=-3.0,
        ),
        Claim(
            f"From a partial identity layer 2 learns in no more directions than the {lit} pixels "
            f"that are ever lit: rank of its change, the largest of {seeds} seeds",
            rank(results["identity_singular_values"]).max(),
            1,
            lit,
        ),
        about_mean(
            f"From ZerO's Hadamard matrix it learns in more, of {WIDTH}: rank of its change; mean "
            f"of {seeds} seeds",
            rank(results["zero_singular_values"]),
            lit + 1,
            WIDTH,
        ),
        Claim(
            "Identical features start as one unit, repeated: least mean cosine between two units "
            "of layer 1, before training",
            results["identical_similarity"][:, 0].min(),
            1 - 1e-6,
            1 + 1e-6,
        ),
    ]
    if epochs != EXPECTED_EPOCHS:
        return made
    made.append(
        about_mean(
            "The partial identity pays for it: points of test accuracy that He is ahead; mean of "
            f"{seeds} seeds",
            final["he"] - final["identity"],
            low=0.0,
        )
    )
    for reference, name in (("he", "zero"), ("he_shallow", "identical_dropout")):
        mean, deviation = EXPECTED_LEAD[name]
        made.append(
            as_before(
                f"{ARMS[name].label} comes as near to {ARMS[reference].label} as before: points of "
                f"test accuracy behind ({EXPECTED_OVER} earlier seeds: {mean:.2f}); mean of "
                f"{seeds} seeds",
                final[reference] - final[name],
                mean,
                deviation,
                over=EXPECTED_OVER,
                comparisons=len(EXPECTED_LEAD),
            )
        )
    return made


def plot(results: Results) -> Any:
    """Accuracy by epoch of the deep and of the shallow networks; what layer 2 has learned."""
    figure = new_figure(12, 5.5)
    (deep, spectrum, shallow) = figure.subplots(1, 3)
    epochs = np.arange(1, results["he_test"].shape[1] + 1)
    for name, arm in ARMS.items():
        axes = deep if arm.features == DEEP else shallow
        values = results[f"{name}_test"]
        axes.plot(epochs, values.mean(0), arm.style, ms=4, label=arm.label)
        low, high = values.min(0), values.max(0)
        axes.fill_between(epochs, low, high, color=arm.style[:2], alpha=0.2, lw=0)
        if arm.features == DEEP:
            values = results[f"{name}_singular_values"]
            line = arm.style[:2] + arm.style[3:]
            indices = np.arange(1, values.shape[1] + 1)
            spectrum.plot(indices, np.median(values, 0), line, label=arm.label)
    for axes, title in (
        (deep, "3 hidden layers: mean, range"),
        (shallow, "1 hidden layer: mean, range"),
    ):
        axes.set(
            xlabel="epoch",
            ylabel="test accuracy (%)",
            ylim=(max(0, axes.get_ylim()[0]), 100),
            title=title,
        )
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.15))
    spectrum.axvline(results["lit_pixels"], color="k", lw=0.8)
    spectrum.text(
        results["lit_pixels"] + 4, 2e-7, "pixels ever lit", rotation=90, ha="left", va="bottom"
    )
    spectrum.set(
        yscale="log",
        ylim=(1e-7, None),
        xlabel="singular value, in order",
        ylabel="size",
        title="What layer 2 has learned",
    )
    spectrum.legend(loc="lower left", fontsize=9)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
