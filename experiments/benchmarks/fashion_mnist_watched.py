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
from the call of `fit` to its return, when all is on disk. The ratio
of the medians over the rounds is what counts; noise of single runs is a few per cent. A save
costs some 30 ms of one core, in a thread: where an epoch is shorter, its share is reported only.

Run: python experiments/benchmarks/fashion_mnist_watched.py
"""

import argparse
import functools
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from comparison import Row, measure, options_of, run, show

from jaxdl import data, initializers, losses, metrics, models, optimizers, training
from jaxdl.observers import page, tensorboard

NEEDS = "fashion_mnist"
ARMS = ("plain", "checkpoints", "tensorboard", "page")
TARGETS = {
    "short": {"tensorboard": 1.05, "page": 1.03},
    "long": {"checkpoints": 1.03, "page": 1.03},
}


class Size(NamedTuple):
    """A network and its run."""

    units: int
    batch_size: int
    epochs: int


SIZES = {"short": Size(128, 100, 10), "long": Size(512, 50, 5)}
OPTIMIZER = optimizers.adam(1e-3)


def fit(dataset: data.Dataset, size: Size, arm: str) -> tuple[float, Any]:
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


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """Agreement, then the runs of each size, an arm beside the plain one."""
    dataset = data.load("fashion_mnist")
    arms = ("plain", *(arguments.arm or ARMS[1:]))
    for name in arguments.size or SIZES:
        size = SIZES[name]
        first = {arm: fit(dataset, size, arm)[1] for arm in arms}  # compiles, imports
        for arm in arms[1:]:
            jax.tree.map(np.testing.assert_array_equal, first[arm], first["plain"])
        calls = {arm: functools.partial(fit, dataset, size, arm) for arm in arms}
        seconds = measure(calls, arguments.rounds, clock=lambda call: call()[0], warm=False)
        title = f"{name}: {size.epochs} epochs, {size.units} units, batches of {size.batch_size}"
        yield from show(title, seconds, "plain", at_most=TARGETS[name])


if __name__ == "__main__":
    parser = options_of(__doc__, rounds=9)
    parser.add_argument("--size", choices=SIZES, action="append", help="one size; all by default")
    parser.add_argument("--arm", choices=ARMS[1:], action="append", help="one arm beside plain")
    sys.exit(run(rows, parser, __file__))
