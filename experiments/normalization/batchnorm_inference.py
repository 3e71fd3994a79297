"""Which statistics to evaluate a batch-normalised network with.

784-128-128-10, ReLU, BatchNorm before each, gradient descent at rate 0.1 on Fashion-MNIST, in
batches of 64 and of 8. At several lengths of training the test split is evaluated with running
averages of several momenta (the weight of the OLD value), with the equal average over all batches
(cumulative), and with the statistics of the whole training split, recalibrated. A momentum that
near 1 still holds, after t steps, momentum^t of the zeros and ones it began with. The averages do
not act on training, so that one run serves them all.

Source: Ioffe and Szegedy (2015), algorithm 2; Wu and Johnson (2021), section 3.
Run: python experiments/normalization/batchnorm_inference.py
Expected: after 100 steps momentum 0.999 costs 18 +- 3 points of accuracy in batches of 64 and 22 +-
4 in batches of 8. After 2000, momentum 0.9 costs 0.9 +- 0.3 and 1.0 +- 0.7 points: recalibration is
hardly worth its pass over the data. The cumulative average is behind the weights: 0.05 +- 0.02 and
0.12 +- 0.05 nats of loss over those of momentum 0.9 (all from 12 seeds, 95 % intervals).
Time: 2 min on 2 CPU cores.
"""

import functools
import sys
from collections.abc import Callable
from dataclasses import dataclass
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
    optimizers,
    training,
)
from jaxdl.claims import Claim, Results, about_mean, interval, main
from jaxdl.plotting import new_figure

LONG = 1000
"""Steps below which nothing is said of long training."""
SMALL = 2.0
"""Points of accuracy: a tenth of what the momentum too near 1 costs."""
FEATURES, RATE = (128, 128, 10), 0.1
MARKERS, LINES = "os^Dv*", ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 3)))


@dataclass(frozen=True)
class Config:
    """The knobs."""

    seeds: int = 10
    """Runs at each batch size; at least 3."""
    seed: int = 0
    """First seed; the others follow. A seed gives the first weights and the order."""
    lengths: tuple[int, ...] = (10, 30, 100, 300, 1000, 2000)
    """Steps after which the network is evaluated, ascending."""
    momenta: tuple[float, ...] = (0.5, 0.9, 0.99, 0.999)
    """Weights of the old running value."""
    batch_sizes: tuple[int, ...] = (64, 8)
    """Examples of a training batch."""
    dataset: str | None = None
    """By default fashion_mnist where it is on this machine, else mnist_5k."""
    data_dir: str | None = None
    """Where prepared data are kept; by default where `jaxdl data` keeps them."""
    raw_dir: str | None = None
    """A folder with the four IDX files, plain or gzipped."""


PRESETS = {
    "default": Config(),
    "smoke": Config(seeds=6, lengths=(10, 100), batch_sizes=(64,), dataset="mnist_5k"),
    "full": Config(seeds=20, lengths=(10, 30, 100, 300, 1000, 3000, 10_000, 30_000)),
}


def load(name: str | None, data_dir: str | None, raw_dir: str | None) -> data.Dataset:
    """The named set; without a name fashion_mnist where it is on this machine, else mnist_5k."""
    dataset = data.load_or_small("fashion_mnist", name, data_dir=data_dir, raw_dir=raw_dir)
    if dataset.test is None:
        dataset = data.split(dataset, key=jax.random.key(0))
    print(dataset, flush=True)
    return dataset


def network(norm: Any = layers.BatchNorm) -> models.MLP:
    """The dense network."""
    return models.MLP(FEATURES, norm=norm, kernel_init=initializers.he_normal())


def make_step(momenta: tuple[float, ...]) -> Callable[..., Any]:
    """(arrays, state, averages, indices) -> state and averages after a step, compiled.

    The averages hold one row for each momentum and a last one for the cumulative average.
    """
    # With momentum 0 the running value is the last batch's own.
    model = network(functools.partial(layers.BatchNorm, momentum=0.0))
    train_step = training.make_train_step(model, optimizers.sgd(RATE), losses.cross_entropy)

    @jax.jit
    def step(arrays: Any, state: Any, averages: Any, indices: Any) -> Any:
        state, _ = train_step(state, {name: array[indices] for name, array in arrays.items()})
        weights = jnp.append(1 - jnp.array(momenta), 1 / state.step)[:, None]
        moved = jax.tree.map(
            lambda old, new: old + weights * (new - old), averages, state.batch_stats
        )
        return state, moved

    return step


def repeated(stats: Any, times: int) -> Any:
    """The statistics, so many times over."""
    return jax.tree.map(lambda leaf: jnp.repeat(leaf[None], times, axis=0), stats)


def run(config: Config) -> Results:
    """By batch size, length, seed and statistics: test accuracy in percent and loss in nats."""
    dataset = load(config.dataset, config.data_dir, config.raw_dir)
    assert dataset.test is not None
    arrays, test = (
        {"inputs": jnp.asarray(part.inputs), "targets": jnp.asarray(part.targets)}
        for part in (dataset.train, dataset.test)
    )
    model, count = network(), len(config.momenta) + 1
    sample = jnp.zeros((1, *dataset.train.inputs.shape[1:]))
    step = make_step(config.momenta)
    evaluate = jax.jit(
        jax.vmap(
            training.make_eval_step(model, losses.cross_entropy, [metrics.accuracy]),
            ({"params": None, "batch_stats": 0}, None),
        )
    )
    sizes, lengths = config.batch_sizes, config.lengths
    measured = np.zeros((2, len(sizes), len(lengths), config.seeds, count + 1))
    for b, size in enumerate(sizes):
        for seed in range(config.seeds):
            key = jax.random.key(config.seed + seed)
            rows = batches(key, len(dataset.train), lengths[-1], size)
            state = training.init_state(key, model, optimizers.sgd(RATE), sample)
            averages = repeated(state.batch_stats, count)
            for taken, indices in enumerate(rows, 1):
                state, averages = step(arrays, state, averages, indices)
                if taken in lengths:
                    exact = recalibrated(model, state.variables, dataset.train.inputs)
                    stats = jax.tree.map(
                        lambda many, one: jnp.append(many, one[None], axis=0),
                        averages,
                        exact["batch_stats"],
                    )
                    sums = evaluate({"params": state.params, "batch_stats": stats}, test)
                    measured[:, b, lengths.index(taken), seed] = sums["accuracy"], sums["loss"]
        print(f"batches of {size}: done", flush=True)
    measured /= len(dataset.test)
    return {
        "dataset": np.array(dataset.name),
        "lengths": np.array(lengths),
        "momenta": np.array(config.momenta),
        "batch_sizes": np.array(sizes),
        "accuracy": 100 * measured[0],
        "loss": measured[1],
    }


def batches(key: Any, examples: int, steps: int, size: int) -> np.ndarray:
    """The examples of every step, (steps, size); no incomplete batch."""
    full = examples // size * size
    epochs = -(-steps * size // full)
    orders = [training.epoch_order(key, epoch, examples) for epoch in range(epochs)]
    return np.concatenate([order[:full] for order in orders]).reshape(-1, size)[:steps]


def recalibrated(model: Any, variables: Any, inputs: np.ndarray) -> Any:
    """With the statistics of all inputs, in parts of at most 10,000."""
    return training.recalibrate(model, variables, np.array_split(inputs, -(-len(inputs) // 10_000)))


def gains(results: Results, measured: str = "accuracy") -> np.ndarray:
    """What recalibration gains over each running average: points of accuracy, or nats of loss."""
    values = results[measured]
    gained = values[..., -1:] - values[..., :-1]
    return np.asarray(gained if measured == "accuracy" else -gained)


def claims(results: Results) -> list[Claim]:
    """What recalibration gains, and when; what falls behind."""
    lengths, momenta, seeds = results["lengths"], results["momenta"], results["accuracy"].shape[2]
    short, far = np.abs(np.log(lengths / 100)).argmin(), momenta.argmax()
    usual = np.abs(momenta - 0.9).argmin()
    made = []
    for b, size in enumerate(results["batch_sizes"]):
        where = f"{results['dataset']}, batches of {size}, mean of {seeds} seeds"
        points, nats = gains(results)[b], gains(results, "loss")[b]
        made.append(
            about_mean(
                f"A momentum near 1 still remembers the start: with {momenta[far]:g}, after "
                f"{lengths[short]} steps {100 * momenta[far] ** lengths[short]:.0f} % of the "
                f"statistics are those of init, and recalibration gains points of accuracy; "
                f"{where}",
                points[short, :, far],
                0.0,
            )
        )
        if lengths[-1] < LONG:
            continue
        made += [
            about_mean(
                f"The usual momentum needs no recalibration after long training: with "
                f"{momenta[usual]:g}, after {lengths[-1]} steps, it gains next to nothing, points "
                f"of accuracy; {where}",
                points[-1, :, usual],
                -SMALL,
                SMALL,
            ),
            about_mean(
                f"The average of all batches falls behind the weights: after {lengths[-1]} steps "
                f"nats of loss over those of momentum {momenta[usual]:g}; {where}",
                nats[-1, :, -1] - nats[-1, :, usual],
                0.0,
            ),
        ]
    return made


def plot(results: Results) -> Any:
    """What recalibration gains by length and by momentum."""
    figure = new_figure(12, 7.5)
    lengths, momenta, sizes = results["lengths"], results["momenta"], results["batch_sizes"]
    top, bottom = figure.subfigures(2, 1)
    labels = [*(f"momentum {momentum:g}" for momentum in momenta), "cumulative"]
    panels = np.atleast_1d(top.subplots(1, len(sizes), sharey=True))
    for axes, size, gained in zip(panels, sizes, gains(results), strict=True):
        for k, label in enumerate(labels):
            mean, half_width = interval(gained[..., k], axis=1)
            axes.errorbar(
                lengths * 1.03 ** (k - len(momenta) / 2), mean, half_width, capsize=2, ms=5,
                color=f"C{k}", marker=MARKERS[k % len(MARKERS)], ls=LINES[k % len(LINES)],
                label=label,
            )  # fmt: skip
        axes.axhline(0, color="k", lw=0.7)
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(-10, 100)
        axes.set(xscale="log", xlabel="steps of training", title=f"Batches of {size}")
        axes.grid(lw=0.3)
    panels[0].set_ylabel(f"points gained by recalibration\n({results['dataset']}, test)")
    panels[0].legend(
        fontsize=8, loc="lower left", ncols=2, title=f"{gained.shape[1]} seeds, 95 % intervals"
    )
    by_momentum = bottom.subplots(1, 1)
    for k, (size, gained) in enumerate(zip(sizes, gains(results, "loss"), strict=True)):
        mean, half_width = interval(gained[-1], axis=0)
        by_momentum.errorbar(
            np.arange(len(labels)) + 0.06 * k, mean, half_width, fmt=MARKERS[k], color=f"C{k}",
            ls=LINES[k], capsize=3, label=f"batches of {size}",
        )  # fmt: skip
    by_momentum.axhline(0, color="k", lw=0.7)
    by_momentum.set_xticks(np.arange(len(labels)), [*(f"{each:g}" for each in momenta), "cumul."])
    by_momentum.set(
        xlabel="momentum: weight of the old value",
        ylabel="loss gained by recalibration (nats)",
        title=f"After {lengths[-1]} steps",
    )
    by_momentum.legend(fontsize=8)
    by_momentum.grid(lw=0.3)
    return figure


if __name__ == "__main__":
    sys.exit(main(sys.modules[__name__]))
