"""What an epoch of Fashion-MNIST costs: `training.fit`, a hand-written scan, and PyTorch.

784-128-10, ReLU, Adam at 1e-3, batches of 100. Arms, in turns, each in a process of its own (beside
PyTorch's threads in one process, XLA's come to share a core, and an epoch takes twice as long):

    fit          `training.fit`, from one epoch's end to the next: order, steps, history, all
    run          a run of `training.make_run`, jitted, its order made before
    scan         the same arithmetic as a jitted `lax.scan` written by hand, `random.permutation`
    torch        PyTorch, the whole set preloaded as float32 tensors, fused Adam
    dataloader   PyTorch, a DataLoader over examples that are PIL images, each made a tensor

All arms start from the same weights; before anything is timed, the losses of an epoch in the same
order are compared. Then the roofline: an epoch's share of the rate of a large product, and of the
time that its own five products take, which are small. And what the progress bar adds to a run.

Run: python experiments/benchmarks/fashion_mnist_epoch.py     (needs the extra `parity`)
"""

import argparse
import contextlib
import functools
import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from comparison import Row, Served, amount, measure, options_of, result_of, run, serve, show

from jaxdl import data, initializers, losses, metrics, models, optimizers, training

NEEDS, PACKAGE = "fashion_mnist", "torch"
BATCH, STEPS, RATE = 100, 600, 1e-3
SQUARE = 2048
"""The side of the product whose rate is the roofline."""
SETTLE = 0.2
"""Seconds before an epoch that is not timed and one that is: the arm before comes to rest."""
SMALL = 1e-9
"""What keeps a product in the program without a change that matters."""
KEY = jax.random.key(0)
MODEL = models.MLP(
    [128, 10], kernel_init=initializers.torch_kernel(), bias_init=initializers.torch_bias
)
OPTIMIZER = optimizers.adam(RATE, epsilon_position="outside")

Epochs = Iterator[tuple[float, np.ndarray]]
"""Yields (seconds, losses of each step) of one epoch after another, the first in a given order."""


def timed(epoch: Callable[[], Any]) -> tuple[float, np.ndarray]:
    """The seconds that `epoch` takes until its losses are there, and the losses."""
    started = time.perf_counter()
    step_losses = np.asarray(jax.block_until_ready(epoch()))
    return time.perf_counter() - started, step_losses


def fit_epochs(dataset: data.Dataset) -> Epochs:
    """`training.fit`, as often as asked; it must be called anew for each pair of epochs."""
    state = None
    while True:
        ends: list[float] = []

        def note(event: training.Event, ends: list[float] = ends) -> None:
            ends.append(time.perf_counter())

        result = training.fit(
            MODEL,
            dataset,
            OPTIMIZER,
            loss=losses.cross_entropy,
            metrics=[metrics.accuracy],
            epochs=1 if state is None else 2,
            batch_size=BATCH,
            key=KEY,
            state=state,
            observers=[note],
        )
        state = result.state
        # The second epoch of a call: what `fit` does once a run is not part of an epoch.
        seconds = np.nan if len(ends) < 2 else ends[1] - ends[0]
        yield seconds, result.history.steps["loss"][-600:]


def run_epochs(dataset: data.Dataset, state: training.TrainState, order: np.ndarray) -> Epochs:
    """`training.make_run`, one epoch a call."""
    task = training.Task(MODEL, losses.cross_entropy, [metrics.accuracy])
    run = training.make_run(task, OPTIMIZER, batch_size=BATCH)
    train = {"train": jax.tree.map(jnp.asarray, dataset.train)}
    compiled = jax.jit(run.__call__, compiler_options=training.compiler_options())
    state, measured = compiled(KEY, train, jnp.asarray(order[None]), state)
    yield np.nan, np.asarray(measured["train"]["loss"][0])
    for number in range(1, sys.maxsize):
        orders = training.orders(KEY, 1, len(order), first=number)

        def one_epoch(orders: np.ndarray = orders) -> Any:
            nonlocal state
            state, measured = compiled(KEY, train, orders, state)
            return measured["train"]["loss"][0]

        yield timed(one_epoch)


def scan_epochs(dataset: data.Dataset, state: training.TrainState, order: np.ndarray) -> Epochs:
    """The epoch that one would write by hand in JAX."""
    images = jnp.asarray(dataset.train.inputs.reshape(-1, 784))
    labels = jnp.asarray(dataset.train.targets)
    params = {
        name: (layer["kernel"], layer["bias"])
        for name, layer in jax.device_get(state.params).items()
    }
    adam = optimizers.adam(RATE, epsilon_position="outside")

    def loss_of(params: Any, x: Any, y: Any) -> tuple[Any, Any]:
        (w0, b0), (w1, b1) = params["dense_0"], params["dense_1"]
        logits = jax.nn.relu(x @ w0 + b0) @ w1 + b1
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
        return loss, jnp.mean(logits.argmax(-1) == y)

    def step(carry: Any, indices: Any) -> tuple[Any, Any]:
        params, opt_state = carry
        x = images_of(indices)
        (loss, accuracy), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            params, x, labels[indices]
        )
        updates, opt_state = adam.update(gradients, opt_state)
        return (optax.apply_updates(params, updates), opt_state), (loss, accuracy)

    def images_of(indices: Any) -> Any:
        return images[indices].astype(jnp.float32) / 255

    def epoch(carry: Any, order: Any) -> Any:
        return jax.lax.scan(step, carry, order.reshape(-1, BATCH))

    in_order = jax.jit(epoch, donate_argnums=0)
    shuffled = jax.jit(
        lambda carry, key: epoch(carry, jax.random.permutation(key, len(labels))), donate_argnums=0
    )
    carry = (params, adam.init(params))
    carry, (step_losses, _) = in_order(carry, order)
    yield np.nan, np.asarray(step_losses)
    for number in range(1, sys.maxsize):

        def one_epoch(number: int = number) -> Any:
            nonlocal carry
            carry, (step_losses, _) = shuffled(carry, jax.random.fold_in(KEY, number))
            return step_losses

        yield timed(one_epoch)


def torch_network(state: training.TrainState) -> Any:
    """The same network with the same weights in PyTorch, and its fused Adam."""
    import torch

    network = torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(784, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10)
    )
    for linear, name in ((network[1], "dense_0"), (network[3], "dense_1")):
        layer = jax.device_get(state.params[name])
        linear.weight.data = torch.tensor(layer["kernel"].T.copy())
        linear.bias.data = torch.tensor(layer["bias"])
    return network, torch.optim.Adam(network.parameters(), RATE, fused=True)


def torch_epochs(dataset: data.Dataset, state: training.TrainState, order: np.ndarray) -> Epochs:
    """PyTorch over preloaded tensors."""
    import torch

    network, adam = torch_network(state)
    images = torch.tensor(dataset.train.inputs.reshape(-1, 784)).float() / 255
    labels = torch.tensor(dataset.train.targets).long()

    def epoch(order: Any) -> np.ndarray:
        seen = []
        for indices in order.split(BATCH):
            adam.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(images[indices]), labels[indices])
            loss.backward()
            adam.step()
            seen.append(loss.detach())
        return torch.stack(seen).numpy()

    yield np.nan, epoch(torch.tensor(order))
    while True:
        yield timed(lambda: epoch(torch.randperm(len(labels))))


def dataloader_epochs(
    dataset: data.Dataset, state: training.TrainState, order: np.ndarray
) -> Epochs:
    """PyTorch as its tutorials have it: one PIL image and one `ToTensor` an example."""
    import torch
    from PIL import Image

    network, adam = torch_network(state)

    class Examples(torch.utils.data.Dataset[Any]):
        def __len__(self) -> int:
            return len(dataset.train)

        def __getitem__(self, index: int) -> Any:
            image = Image.fromarray(dataset.train.inputs[index, ..., 0])
            tensor = torch.from_numpy(np.array(image, copy=True)).view(28, 28, 1)
            tensor = tensor.permute(2, 0, 1).contiguous().float().div(255)
            return tensor, int(dataset.train.targets[index])

    def epoch(loader: Any) -> np.ndarray:
        seen = []
        for images, labels in loader:
            adam.zero_grad()
            loss = torch.nn.functional.cross_entropy(network(images), labels)
            loss.backward()
            adam.step()
            seen.append(loss.detach())
        return torch.stack(seen).numpy()

    load = torch.utils.data.DataLoader
    yield np.nan, epoch(load(Examples(), BATCH, sampler=order.tolist()))
    shuffled = load(Examples(), BATCH, shuffle=True)
    while True:
        yield timed(lambda: epoch(shuffled))


ARMS = ("fit", "run", "scan", "torch", "dataloader")


def serve_arm(name: str) -> None:
    """Train an epoch of one arm when told; the first epoch's last losses come first."""
    dataset = data.load("fashion_mnist")
    init = jax.jit(lambda key: training.init_state(key, MODEL, OPTIMIZER, jnp.zeros((1, 784))))
    state = init(KEY)
    order = training.epoch_order(state.key, 0, len(dataset.train))
    arm = {
        "fit": lambda: fit_epochs(dataset),
        "run": lambda: run_epochs(dataset, state, order),
        "scan": lambda: scan_epochs(dataset, state, order),
        "torch": lambda: torch_epochs(dataset, state, order),
        "dataloader": lambda: dataloader_epochs(dataset, state, order),
    }[name]()
    last = float(next(arm)[1][-100:].mean())
    serve(functools.partial(next, arm), last, clock=lambda epoch: float(epoch()[0]))


def epochs(rounds: int) -> dict[str, np.ndarray]:
    """The seconds of `rounds` epochs of each arm, in turns after an agreement of the losses."""
    with contextlib.ExitStack() as running:
        arms = {}
        for name in ARMS:
            arms[name] = Served(__file__, "--serve", name)
            running.callback(arms[name].close)
        for name, arm in arms.items():
            difference = abs(arm.first / arms["scan"].first - 1)
            print(f"{name:>10}: loss of the first epoch's last 100 steps {arm.first:.6f}")
            if not difference < 1e-3:
                raise SystemExit(f"{name} does not train as the others do: {difference:.1e} apart")
        # A warm-up first: what is compiled or allocated at the second epoch.
        seconds: dict[str, np.ndarray] = measure(arms, rounds, clock=Served.__call__, settle=SETTLE)
    return seconds


def products_of_an_epoch(state: training.TrainState) -> Callable[[], Any]:
    """The five matrix products of a step, 600 times: all that an epoch cannot do without."""
    layers = jax.device_get(state.params)
    kernels = layers["dense_0"]["kernel"], layers["dense_1"]["kernel"]
    draw = np.random.default_rng(0)
    inputs, hidden, upstream = (
        jnp.asarray(draw.normal(size=(BATCH, width)), jnp.float32) for width in (784, 128, 10)
    )

    def step(kernels: Any, _: None) -> tuple[Any, None]:
        first, second = kernels
        # Each product waits for the one before, and none may be left out.
        forward = inputs @ first
        back = (hidden + SMALL * forward) @ second + upstream
        gradients = inputs.T @ (back @ second.T), hidden.T @ back
        return jax.tree.map(lambda k, g: k - SMALL * g, kernels, gradients), None

    run = jax.jit(
        lambda kernels: jax.lax.scan(step, kernels, None, length=STEPS)[0],
        compiler_options=training.compiler_options(),
    )
    return lambda: run(kernels)


def roofline(fit_seconds: float, rounds: int) -> Iterator[Row]:
    """How near an epoch comes to a large product's rate, and where the rest is."""
    state = training.init_state(KEY, MODEL, OPTIMIZER, jnp.zeros((1, 784)))
    square = jnp.ones((SQUARE, SQUARE))
    product = jax.jit(jnp.matmul)
    arms = {"products": products_of_an_epoch(state), "square": lambda: product(square, square)}
    taken = {name: np.median(each) for name, each in measure(arms, rounds).items()}
    # The first layer's inputs need no gradient.
    work = STEPS * BATCH * (4 * 784 * 128 + 6 * 128 * 10)
    rate = 2 * SQUARE**3 / taken["square"]
    note = f"{work / 1e9:.1f} GFLOP at {rate / 1e9:.0f} GFLOP/s take {1e3 * work / rate:.0f} ms"
    share = 100 * work / rate / fit_seconds
    yield amount("an epoch's share of the roofline", "fit", share, "%", note=note)
    alone = 100 * taken["products"] / fit_seconds
    note = f"{1e3 * taken['products']:.0f} ms for the five products of each step, without the rest"
    yield amount("an epoch's share in its products", "fit", alone, "%", note=note)


def fit_for(epochs: int, dataset: data.Dataset, **settings: Any) -> Any:
    """A whole run of so many epochs."""
    return training.fit(
        MODEL,
        dataset,
        OPTIMIZER,
        loss=losses.cross_entropy,
        metrics=[metrics.accuracy],
        epochs=epochs,
        batch_size=BATCH,
        key=KEY,
        **settings,
    )


def bar(rounds: int) -> dict[str, list[float]]:
    """Seconds of ten epochs without the progress bar, and with it drawn to a terminal's codes."""
    dataset = data.load("fashion_mnist")
    arms = {
        name: functools.partial(fit_for, 10, dataset, progress=shown)
        for name, shown in (("without", False), ("with the progress bar", True))
    }
    return {name: seconds.tolist() for name, seconds in measure(arms, rounds).items()}


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """The epochs, the roofline, and the bar, which has a process of its own."""
    if arguments.bar:
        print(json.dumps(bar(arguments.rounds)))
        return
    seconds = epochs(arguments.rounds)
    by_hand = {name: seconds[name] for name in ("scan", "fit", "run")}
    yield from show("an epoch", by_hand, "scan", at_most={"fit": 1.0, "run": 1.05})
    peers = {name: seconds[name] for name in ("fit", "torch", "dataloader")}
    yield from show("an epoch", peers, "fit", at_least={"torch": 3.0, "dataloader": 8.0})
    yield from roofline(float(np.median(seconds["fit"])), arguments.rounds)
    # The bar is drawn for a terminal, wherever standard error goes.
    taken = result_of(
        __file__, "--bar", "--rounds", str(arguments.rounds),
        FORCE_COLOR="1", TERM="xterm-256color",
    )  # fmt: skip
    both = {name: np.array(values) for name, values in taken.items()}
    yield from show("a run of 10 epochs", both, "without", at_most={"with the progress bar": 1.01})


if __name__ == "__main__":
    parser = options_of(__doc__, rounds=7)
    parser.add_argument("--bar", action="store_true", help="the progress bar alone")
    parser.add_argument("--serve", choices=ARMS, help=argparse.SUPPRESS)
    served = parser.parse_args().serve
    if served:
        serve_arm(served)
    else:
        sys.exit(run(rows, parser, __file__))
