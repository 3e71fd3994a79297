"""What keeping and watching a Fashion-MNIST run costs: checkpoints, TensorBoard.

784-128-10, ReLU, Adam at 1e-3, batches of 100, ten epochs. Arms, interleaved in one process, each a
whole `training.fit` whose programs are compiled before:

    plain         nothing but the run
    checkpoints   one at each epoch's end, verified files of the whole state (1.2 MB)
    tensorboard   scalars, histograms of weights, gradients and activations, pictures, every epoch

All arms take the same steps: their last parameters are compared to the bit first. A run's time is
from the call of `fit` to its return, when all is on disk. The median over the rounds of the ratio
to the plain run of the same round is what counts; noise of single runs is a few per cent.

Run: python experiments/benchmarks/fashion_mnist_watched.py
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from jaxdl import data, initializers, losses, metrics, models, optimizers, training
from jaxdl.observers import tensorboard

EPOCHS = 10
TARGETS = {"checkpoints": 1.02, "tensorboard": 1.05}
MODEL = models.MLP(
    [128, 10], kernel_init=initializers.torch_kernel(), bias_init=initializers.torch_bias
)
OPTIMIZER = optimizers.adam(1e-3)


def run(dataset: data.Dataset, arm: str) -> tuple[float, Any]:
    """The seconds of a run, and its last parameters."""
    with tempfile.TemporaryDirectory() as folder:
        extra: dict[str, Any] = {}
        if arm == "checkpoints":
            extra = {"checkpoint_dir": Path(folder)}
        elif arm == "tensorboard":
            extra = {"observers": [tensorboard(folder)]}
        started = time.perf_counter()
        result = training.fit(
            MODEL, dataset, OPTIMIZER, loss=losses.cross_entropy, metrics=[metrics.accuracy],
            epochs=EPOCHS, batch_size=100, key=jax.random.key(0), progress=False, **extra,
        )  # fmt: skip
        jax.block_until_ready(result.state.params)
        return time.perf_counter() - started, jax.device_get(result.state.params)


def main() -> None:
    """Print a row an arm, and exit with 1 if one is over its target."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9, help="runs of each arm, in turns")
    rounds = parser.parse_args().rounds
    dataset = data.load("fashion_mnist")
    arms = ("plain", *TARGETS)
    first = {arm: run(dataset, arm)[1] for arm in arms}  # compiles, imports
    for arm in TARGETS:
        jax.tree.map(np.testing.assert_array_equal, first[arm], first["plain"])
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    for turn in range(rounds):
        for arm in np.roll(arms, turn).tolist():
            seconds[arm].append(run(dataset, arm)[0])
    table = Table(
        f"{EPOCHS} epochs", "seconds, median", "ratio to plain, median", "range", "target"
    )
    over = []
    for arm, times in seconds.items():
        ratios = np.array(times) / np.array(seconds["plain"])
        ratio, target = float(np.median(ratios)), TARGETS.get(arm)
        table.add_row(
            arm,
            f"{np.median(times):.3f}",
            f"{ratio:.3f}",
            f"{ratios.min():.3f} to {ratios.max():.3f}",
            "" if target is None else f"at most {target}",
        )
        if target is not None and ratio > target:
            over.append(arm)
    Console().print(table)
    if over:
        sys.exit(f"over the target: {', '.join(over)}")


if __name__ == "__main__":
    main()
