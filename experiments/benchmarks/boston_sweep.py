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
on each core, from as many threads. One order serves all members: orders of their own would take
five times as long as the training.

Run: python experiments/benchmarks/boston_sweep.py     (needs the extra `parity`)
"""

import argparse
import functools
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1] / "first_network"))

import boston_housing as experiment

from jaxdl import models, training
from jaxdl.compiling import compiler_options
from jaxdl.training.sweep.program import prepare, trace_member

MEMBERS = 256
TARGETS = {"alone / member": 3.0, "torch / member": 200.0, "dataloader / member": 200.0}
COMPARED = 20
"""Epochs over which the arms must agree: later, roundings of 2000 steps have grown."""
INITIALIZER: tuple[Any, Any] = experiment.INITIALIZERS["torch"]


def sweep_of(dataset: Any, epochs: int) -> Callable[[], dict[str, np.ndarray]]:
    """All members, compiled when this returns."""
    run = functools.partial(experiment.make_run(dataset, epochs), initializer=INITIALIZER)
    program = trace_member(run, {}, takes_order=True, shared=True)
    execute = prepare(program, MEMBERS, None)
    seeds = np.arange(MEMBERS, dtype=np.uint32)

    def call() -> dict[str, np.ndarray]:
        columns = {
            name: np.empty((MEMBERS, *out.shape), out.dtype)
            for name, out in program.outputs.items()
        }

        def finished(members: np.ndarray, metrics: list[np.ndarray]) -> None:
            for column, values in zip(columns.values(), metrics, strict=True):
                column[members] = values

        execute((seeds, np.asarray(seeds[0])), np.arange(MEMBERS), finished)
        return columns

    return call


def alone(dataset: Any, epochs: int) -> Callable[[int], dict[str, np.ndarray]]:
    """The run of a seed."""
    run = functools.partial(experiment.make_run(dataset, epochs), initializer=INITIALIZER)
    jitted = jax.jit(
        lambda key, order: run(key, order_key=order), compiler_options=compiler_options()
    )
    return lambda seed: jax.device_get(jitted(jax.random.key(seed), training.order_key(0)))


def torch_network(seed: int) -> Any:
    """The network of a seed in PyTorch, and its Adam."""
    import torch

    model = models.MLP(experiment.WIDTHS, kernel_init=INITIALIZER[0], bias_init=INITIALIZER[1])
    sample = jnp.zeros((1, len(experiment.FEATURES)))
    optimizer = experiment.optimizers.adam(experiment.RATE)
    state = training.init_state(jax.random.key(seed), model, optimizer, sample)
    parts: list[Any] = []
    for layer in range(len(experiment.WIDTHS)):
        values = jax.device_get(state.params[f"dense_{layer}"])
        linear = torch.nn.Linear(*values["kernel"].shape)
        linear.weight.data = torch.tensor(values["kernel"].T.copy())
        linear.bias.data = torch.tensor(values["bias"])
        parts += [linear, torch.nn.ReLU()]
    network = torch.nn.Sequential(*parts[:-1])
    return network, torch.optim.Adam(network.parameters(), experiment.RATE)


def torch_run(dataset: Any, epochs: int, orders: Any = None) -> np.ndarray:
    """Preloaded tensors; the mean loss of each epoch."""
    import torch

    network, adam = torch_network(0)
    inputs, targets = (torch.tensor(part) for part in (dataset.train.inputs, dataset.train.targets))
    means = []
    for epoch in range(epochs):
        order = torch.randperm(len(inputs)) if orders is None else torch.tensor(orders[epoch])
        total = torch.zeros(())
        for rows in order.split(experiment.BATCH_SIZE):
            adam.zero_grad()
            loss = torch.nn.functional.mse_loss(network(inputs[rows]), targets[rows])
            loss.backward()
            adam.step()
            total += len(rows) * loss.detach()
        means.append(total / len(inputs))
    return torch.stack(means).numpy()


def dataloader_run(dataset: Any, epochs: int) -> None:
    """A DataLoader, one example at a time collated to a batch."""
    import torch

    network, adam = torch_network(0)
    examples = torch.utils.data.TensorDataset(
        *(torch.tensor(part) for part in (dataset.train.inputs, dataset.train.targets))
    )
    loader = torch.utils.data.DataLoader(examples, experiment.BATCH_SIZE, shuffle=True)
    for _ in range(epochs):
        for inputs, targets in loader:
            adam.zero_grad()
            loss = torch.nn.functional.mse_loss(network(inputs), targets)
            loss.backward()
            adam.step()


def check_agreement(dataset: Any) -> None:
    """Exit unless the arms train the same networks, over the first epochs."""
    swept = sweep_of(dataset, COMPARED)()["train_mse"]
    one = alone(dataset, COMPARED)
    worst = max(np.abs(swept[seed] / one(seed)["train_mse"] - 1).max() for seed in (0, 100, 255))
    key = training.order_key(0)
    orders = [
        np.array(jax.random.permutation(jax.random.fold_in(key, epoch), len(dataset.train)))
        for epoch in range(COMPARED)
    ]
    torch_worst = np.abs(torch_run(dataset, COMPARED, orders) / swept[0] - 1).max()
    print(
        f"the losses of {COMPARED} epochs agree: members with their solo runs to {worst:.1e}, "
        f"with PyTorch to {torch_worst:.1e}"
    )
    # 80 steps of Adam, sums of 128 terms in another order: some 1e-6 a step at worst.
    if not (worst < 1e-4 and torch_worst < 1e-4):
        raise SystemExit("the arms do not train the same networks")


def timed(call: Callable[[], Any]) -> float:
    """Seconds until the results are on the host."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def compare(rounds: int) -> dict[str, np.ndarray]:
    """Seconds a run, by arm and round."""
    import torch

    torch.set_num_threads(1)  # on tensors this small a second thread only waits, busily
    dataset, _ = experiment.housing()
    check_agreement(dataset)
    epochs = experiment.EPOCHS
    started = time.perf_counter()
    sweep = sweep_of(dataset, epochs)
    compiling = time.perf_counter() - started
    one = alone(dataset, epochs)
    solo, swept = one(7)["test_mse"], sweep()["test_mse"]
    print(f"test error of seed 7 after {epochs} epochs: alone {solo:.4f}, swept {swept[7]:.4f}")
    arms: dict[str, tuple[int, Callable[[], Any]]] = {
        "alone": (1, lambda: one(7)),
        "member": (MEMBERS, sweep),
        "torch": (1, lambda: torch_run(dataset, epochs)),
        "dataloader": (1, functools.partial(dataloader_run, dataset, epochs)),
    }
    torch_run(dataset, 5)
    dataloader_run(dataset, 5)
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(rounds):
        for name, (runs, call) in arms.items():
            seconds[name].append(timed(call) / runs)
    whole = MEMBERS * np.median(seconds["member"])
    print(f"the sweep of {MEMBERS}: {whole:.2f} s, and {compiling:.1f} s to trace and compile")
    return {name: np.array(values) for name, values in seconds.items()}


def main() -> None:
    """Agreement, the interleaved timings, the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    seconds = compare(parser.parse_args().rounds)
    table = Table("arm", "ms a run, median", "least", "greatest")
    for name, values in seconds.items():
        table.add_row(name, *(f"{1e3 * f(values):.2f}" for f in (np.median, np.min, np.max)))
    Console().print(table)
    # PyTorch and the run alone need one core, the sweep all: busy neighbours cost it more. The
    # least times are those that they disturbed least.
    ratios = Table("ratio", "of medians", "of least", "of each round", "target")
    for name, target in TARGETS.items():
        above, below = (seconds[arm] for arm in name.split(" / "))
        by_round = above / below
        ratios.add_row(
            name,
            f"{np.median(above) / np.median(below):.1f}",
            f"{above.min() / below.min():.1f}",
            f"{by_round.min():.1f} to {by_round.max():.1f}",
            f"at least {target:g}",
        )
    Console().print(ratios)


if __name__ == "__main__":
    main()
