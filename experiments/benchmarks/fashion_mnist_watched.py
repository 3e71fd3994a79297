"""What keeping and watching a Fashion-MNIST run costs: checkpoints, TensorBoard, a page.

Adam at 1e-3 on an MLP with one hidden layer of ReLU, in two sizes: 128 units in batches of 100,
whose epochs take a fraction of a second on two cores, and 512 units in batches of 50, whose epochs
take more than one. Arms, interleaved in one process, each a whole `training.fit` whose programs are
compiled before:

    plain         nothing but the run
    checkpoints   one at each epoch's end, verified files of the whole state (1.2 and 4.9 MB)
    tensorboard   scalars, histograms of weights, gradients and activations, pictures, every epoch
    page          curves, signal and gradient, distributions, as often as its share of 3 % allows

All arms take the same steps: their last parameters are compared to the bit first. A run's time is
from the call of `fit` to its return, when all is on disk. The median over the rounds of the ratio
to the plain run of the same round is what counts; noise of single runs is a few per cent. A save
costs some 30 ms of one core, in a thread: where an epoch is shorter, its share is reported only.

Run: python experiments/benchmarks/fashion_mnist_watched.py
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from jaxdl import data, initializers, losses, metrics, models, optimizers, training
from jaxdl.observers import page, tensorboard

ARMS = ("plain", "checkpoints", "tensorboard", "page")
TARGETS = {
    ("long", "checkpoints"): 1.03,
    ("short", "tensorboard"): 1.05,
    ("short", "page"): 1.03,
    ("long", "page"): 1.03,
}


class Size(NamedTuple):
    """A network and its run."""

    units: int
    batch_size: int
    epochs: int


SIZES = {"short": Size(128, 100, 10), "long": Size(512, 50, 5)}
OPTIMIZER = optimizers.adam(1e-3)


def run(dataset: data.Dataset, size: Size, arm: str) -> tuple[float, Any]:
    """The seconds of a run, and its last parameters."""
    model = models.MLP(
        [size.units, 10], kernel_init=initializers.torch_kernel(), bias_init=initializers.torch_bias
    )
    with tempfile.TemporaryDirectory() as folder:
        extra: dict[str, Any] = {}
        if arm == "checkpoints":
            extra = {"checkpoint_dir": Path(folder)}
        elif arm == "tensorboard":
            extra = {"observers": [tensorboard(folder)]}
        elif arm == "page":
            extra = {"observers": [page(folder)]}
        started = time.perf_counter()
        result = training.fit(
            model, dataset, OPTIMIZER, loss=losses.cross_entropy, metrics=[metrics.accuracy],
            epochs=size.epochs, batch_size=size.batch_size, key=jax.random.key(0), progress=False,
            **extra,
        )  # fmt: skip
        jax.block_until_ready(result.state.params)
        return time.perf_counter() - started, jax.device_get(result.state.params)


def main() -> None:
    """Print a row an arm, and exit with 1 if one is over its target."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="runs of each arm, in turns")
    parser.add_argument("--size", choices=SIZES, action="append", help="one size; all by default")
    parser.add_argument("--arm", choices=ARMS[1:], action="append", help="one arm beside plain")
    arguments = parser.parse_args()
    dataset = data.load("fashion_mnist")
    over, arms = [], ("plain", *(arguments.arm or ARMS[1:]))
    for name in arguments.size or SIZES:
        size = SIZES[name]
        first = {arm: run(dataset, size, arm)[1] for arm in arms}  # compiles, imports
        for arm in arms[1:]:
            jax.tree.map(np.testing.assert_array_equal, first[arm], first["plain"])
        seconds: dict[str, list[float]] = {arm: [] for arm in arms}
        for turn in range(arguments.rounds):
            for arm in np.roll(arms, turn).tolist():
                seconds[arm].append(run(dataset, size, arm)[0])
        table = Table(name, "seconds an epoch", "ratio to plain, median", "range", "target")
        for arm, times in seconds.items():
            ratios = np.array(times) / np.array(seconds["plain"])
            ratio, target = float(np.median(ratios)), TARGETS.get((name, arm))
            table.add_row(
                arm,
                f"{np.median(times) / size.epochs:.3f}",
                f"{ratio:.3f}",
                f"{ratios.min():.3f} to {ratios.max():.3f}",
                "" if target is None else f"at most {target}",
            )
            if target is not None and ratio > target:
                over.append(f"{name} {arm}")
        Console().print(table)
    if over:
        sys.exit(f"over the target: {', '.join(over)}")


if __name__ == "__main__":
    main()
