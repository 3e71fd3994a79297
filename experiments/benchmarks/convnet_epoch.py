"""What an epoch of a small ConvNet costs: `training.fit` and a loop over a jitted step by hand.

28 x 28 images, convolutions of 8 and 16 channels, 784-10, momentum, batches of 100. Inside a loop
of the compiler such a step is many times slower on a CPU, so `fit` dispatches it step by step
there; the benchmark shows what everything around the step adds. Also what `on_nonfinite="skip"`
costs beside "raise", for this network and for 784-128-10 with Adam, where nothing is skipped.
Arms are interleaved in one process.

Run: python experiments/benchmarks/convnet_epoch.py
"""

import argparse
import functools
import sys
import time
from collections.abc import Iterator
from typing import Any

import flax.linen as nn
import jax
import numpy as np
import optax
from comparison import Row, measure, options_of, run, show

from jaxdl import data, losses, models, optimizers, training

BATCH = 100
KEY = jax.random.key(0)
CONVNET = models.ConvNet([8, 16], [10])
MLP = models.MLP([128, 10])


def examples(count: int) -> data.Dataset:
    """Noise: what it costs does not depend on what is in the images."""
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (count, 28, 28, 1)).astype(np.uint8)
    return data.Dataset(
        "noise", data.Arrays(images, draw.integers(0, 10, count).astype(np.int32)), None, None
    )


def by_hand(dataset: data.Dataset, epochs: int) -> float:
    """The seconds of the fastest epoch of the loop that one would write."""
    optimizer = optimizers.momentum(0.01)
    images, labels = map(jax.device_put, (dataset.train.inputs, dataset.train.targets))
    variables = jax.jit(functools.partial(CONVNET.init, train=False))(KEY, images[:1] / 255)

    def loss_of(params: Any, x: Any, y: Any) -> Any:
        outputs = CONVNET.apply({"params": params}, x, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(outputs, y).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, opt_state: Any, images: Any, labels: Any, indices: Any) -> Any:
        x = images[indices].astype(np.float32) / 255
        loss, gradients = jax.value_and_grad(loss_of)(params, x, labels[indices])
        updates, opt_state = optimizer.update(gradients, opt_state, params)
        return optax.apply_updates(params, updates), opt_state, loss

    params = variables["params"]
    opt_state = optimizer.init(params)
    seconds = []
    for epoch in range(epochs):
        started = time.perf_counter()
        order = np.random.default_rng(epoch).permutation(len(labels)).astype(np.int32)
        measured = []
        for indices in order.reshape(-1, BATCH):
            params, opt_state, loss = step(params, opt_state, images, labels, indices)
            measured.append(loss)
        jax.device_get(measured)
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def by_fit(
    model: nn.Module, optimizer: Any, dataset: data.Dataset, epochs: int, **settings: Any
) -> float:
    """The seconds of the fastest epoch of `fit`, from one epoch's end to the next."""
    ends: list[float] = []
    training.fit(
        model,
        dataset,
        optimizer,
        loss=losses.cross_entropy,
        epochs=epochs,
        batch_size=BATCH,
        key=KEY,
        parallel="jit",
        observers=[lambda event: ends.append(time.perf_counter())],
        **settings,
    )
    return float(np.diff(ends).min())


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """`fit` beside the loop by hand, and what skipping costs."""
    few, many = examples(arguments.examples), examples(10 * arguments.examples)
    epochs = 2 if arguments.quick else arguments.epochs
    momentum, adam = optimizers.momentum(0.01), optimizers.adam(1e-3)
    arms = {
        "by hand": lambda: by_hand(few, epochs),
        "fit": lambda: by_fit(CONVNET, momentum, few, epochs),
        "fit, skip": lambda: by_fit(CONVNET, momentum, few, epochs, on_nonfinite="skip"),
        "mlp": lambda: by_fit(MLP, adam, many, epochs),
        "mlp, skip": lambda: by_fit(MLP, adam, many, epochs, on_nonfinite="skip"),
    }
    seconds = measure(arms, arguments.rounds, clock=lambda arm: arm(), warm=False)
    for title, pair, target in (
        ("an epoch of the ConvNet", ("by hand", "fit"), {"fit": 1.05}),
        ("an epoch of the ConvNet", ("fit", "fit, skip"), {}),
        ("an epoch of the MLP", ("mlp", "mlp, skip"), {}),
    ):
        yield from show(title, {arm: seconds[arm] for arm in pair}, pair[0], at_most=target)


if __name__ == "__main__":
    parser = options_of(__doc__, rounds=5)
    parser.add_argument("--epochs", type=int, default=4, help="of which the fastest counts")
    parser.add_argument("--examples", type=int, default=6_000)
    sys.exit(run(rows, parser, __file__))
