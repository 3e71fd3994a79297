"""256 networks on Boston housing as one sweep, one of them alone, and PyTorch one after another.

RM and LSTAT, 2-4-3-1, ReLU, Adam at 0.01, 500 epochs of 3 batches of 128 and one of 20. Arms:

    alone        one run, jitted: 2000 steps in a loop
    sweep        256 seeds by `training.sweep`, compilation apart: one order for all
    torch        PyTorch, preloaded tensors indexed by `randperm`; Adam as it comes; one thread
    dataloader   PyTorch, a shuffling DataLoader over a TensorDataset, as a tutorial has it

They are interleaved, after an agreement of sweep, run alone and PyTorch from the same weights in
the same order. The time of 256 runs in PyTorch is 256 times that of one.

What bounds it: alone, a step is 25 us, nearly all of it the overhead of its small operations. In a
sweep that is shared by the members of a call, and what is left is arithmetic that a core does
slowly: 3.1 us a member and step for 14,000 floating-point operations, in passes over the
activations of 128 examples that are 4, 3 and 1 wide. (The same written by hand with the members in
the last axis, along the vectors, takes 2.1 us.) So it is the cores: 64 members a call, and a call
on each core, from as many threads. One order serves all members: orders of their own
would take as long again as the training.

Run: python experiments/benchmarks/boston_sweep.py     (needs the extra `parity`)
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from comparison import Row, measure, options_of, run, show

from jaxdl import data, initializers, losses, models, optimizers, training
from jaxdl.training.sweep.by_seed import checked_by_seed
from jaxdl.training.sweep.calls import prepare
from jaxdl.training.sweep.program import trace_member

COLUMNS, EXAMPLES = (5, 12), 404
WIDTHS, RATE, BATCH_SIZE, EPOCHS = (4, 3, 1), 0.01, 128, 500
MEMBERS = 256
NEEDS, PACKAGE = "boston_housing", "torch"
TARGETS = {"alone": 3.0, "torch": 200.0, "dataloader": 200.0}
"""Times a member's time, at least."""
COMPARED = 20
"""Epochs over which the arms must agree: later, roundings of 2000 steps have grown."""
TASK = training.Task(
    models.MLP(WIDTHS, kernel_init=initializers.torch_kernel(), bias_init=initializers.torch_bias),
    losses.mean_squared_error,
)
RUN = training.make_run(
    TASK, optimizers.adam(RATE, epsilon_position="outside"), batch_size=BATCH_SIZE
)


def housing() -> data.Arrays:
    """The two features of so many dwellings, standardised, and their prices."""
    whole = data.load("boston_housing").train
    cut = data.Arrays(whole.inputs[:EXAMPLES, COLUMNS], whole.targets[:EXAMPLES])
    return data.standardize(data.Dataset("boston_housing", cut, None, None))[0].train


def losses_of(train: data.Arrays, key: Any, orders: Any) -> Any:
    """The pure function of a sweep: the loss of every step, (epochs, 4)."""
    return RUN(key, {"train": train}, orders)[1]["train"]["loss"]


def orders_of(seed: int, epochs: int) -> np.ndarray:
    """One row an epoch."""
    return training.orders(jax.random.key(seed), epochs, EXAMPLES)


def sweep_of(train: data.Arrays, epochs: int) -> Callable[[], np.ndarray]:
    """All members, compiled when this returns."""
    seeds = np.arange(MEMBERS, dtype=np.uint32)
    shared = checked_by_seed({"orders": lambda _: orders_of(0, epochs)}, "shared", (), seeds)
    run = functools.partial(losses_of, train)
    program = trace_member(run, {}, by_seed=shared)
    execute = prepare(program, MEMBERS, None)

    def call() -> np.ndarray:
        (shape,) = program.outputs.values()
        rows = np.empty((MEMBERS, *shape.shape), shape.dtype)

        def finished(members: np.ndarray, metrics: list[np.ndarray]) -> None:
            rows[members] = metrics[0]

        execute((seeds, *shared), np.arange(MEMBERS), finished)
        return rows

    return call


def alone(train: data.Arrays, epochs: int) -> Callable[[int], np.ndarray]:
    """The run of a seed, in the order of seed 0."""
    orders = orders_of(0, epochs)
    return lambda seed: np.asarray(losses_of(train, jax.random.key(seed), orders))


def torch_network(seed: int) -> Any:
    """The network of a seed in PyTorch, and its Adam."""
    import torch

    sample = {"inputs": jnp.zeros((1, len(COLUMNS))), "targets": jnp.zeros((1, 1))}
    params = jax.device_get(training.first_weights(TASK, sample)(jax.random.key(seed)))
    parts: list[Any] = []
    for layer in range(len(WIDTHS)):
        values = params[f"dense_{layer}"]
        linear = torch.nn.Linear(*values["kernel"].shape)
        linear.weight.data = torch.tensor(values["kernel"].T.copy())
        linear.bias.data = torch.tensor(values["bias"])
        parts += [linear, torch.nn.ReLU()]
    network = torch.nn.Sequential(*parts[:-1])
    return network, torch.optim.Adam(network.parameters(), RATE)


def torch_run(train: data.Arrays, epochs: int, orders: Any = None) -> np.ndarray:
    """Preloaded tensors; the loss of each step, (epochs, 4)."""
    import torch

    network, adam = torch_network(0)
    inputs, targets = (torch.tensor(part) for part in (train.inputs, train.targets))
    measured = []
    for epoch in range(epochs):
        order = torch.randperm(len(inputs)) if orders is None else torch.tensor(orders[epoch])
        for rows in order.split(BATCH_SIZE):
            adam.zero_grad()
            loss = torch.nn.functional.mse_loss(network(inputs[rows]), targets[rows])
            loss.backward()
            adam.step()
            measured.append(loss.detach())
    return torch.stack(measured).numpy().reshape(epochs, -1)


def dataloader_run(train: data.Arrays, epochs: int) -> None:
    """A DataLoader, one example at a time collated to a batch."""
    import torch

    network, adam = torch_network(0)
    examples = torch.utils.data.TensorDataset(
        *(torch.tensor(part) for part in (train.inputs, train.targets))
    )
    loader = torch.utils.data.DataLoader(examples, BATCH_SIZE, shuffle=True)
    for _ in range(epochs):
        for inputs, targets in loader:
            adam.zero_grad()
            loss = torch.nn.functional.mse_loss(network(inputs), targets)
            loss.backward()
            adam.step()


def check_agreement(train: data.Arrays) -> None:
    """Exit unless the arms train the same networks, over the first epochs."""
    swept, one = sweep_of(train, COMPARED)(), alone(train, COMPARED)
    worst = max(np.abs(swept[seed] / one(seed) - 1).max() for seed in (0, 100, 255))
    by_torch = torch_run(train, COMPARED, orders_of(0, COMPARED))
    torch_worst = np.abs(by_torch / swept[0] - 1).max()
    print(
        f"the losses of {COMPARED} epochs agree: members with their solo runs to {worst:.1e}, "
        f"with PyTorch to {torch_worst:.1e}"
    )
    # 80 steps of Adam, sums of 128 terms in another order: some 1e-6 a step at worst.
    if not (worst < 1e-4 and torch_worst < 1e-4):
        raise SystemExit("the arms do not train the same networks")


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """Agreement, then the time of one run of each arm beside that of a member of the sweep."""
    import torch

    torch.set_num_threads(1)  # on tensors this small a second thread only waits, busily
    train = housing()
    check_agreement(train)
    started = time.perf_counter()
    sweep = sweep_of(train, EPOCHS)
    compiling = time.perf_counter() - started
    one = alone(train, EPOCHS)
    solo, swept = one(7)[-1].mean(), sweep()[7, -1].mean()
    print(f"training error of seed 7 in epoch {EPOCHS}: alone {solo:.4f}, swept {swept:.4f}")
    torch_run(train, 5)
    dataloader_run(train, 5)
    arms = {
        "member": sweep,
        "alone": lambda: one(7),
        "torch": lambda: torch_run(train, EPOCHS),
        "dataloader": lambda: dataloader_run(train, EPOCHS),
    }
    seconds = measure(arms, arguments.rounds, warm=False)
    whole = np.median(seconds["member"])
    print(f"the sweep of {MEMBERS}: {whole:.2f} s, and {compiling:.1f} s to trace and compile")
    # PyTorch and the run alone need one core, the sweep all: busy neighbours cost it more.
    seconds["member"] = seconds["member"] / MEMBERS
    yield from show(f"a run of {EPOCHS} epochs", seconds, "member", at_least=TARGETS)


if __name__ == "__main__":
    sys.exit(run(rows, options_of(__doc__, rounds=5), __file__))
