"""How much memory a run takes beyond its data and state: `training.fit` beside PyTorch.

The MLP 784-128-10 on Fashion-MNIST, Adam, batches of 100, and the small ConvNet (32 and 64
channels, 128-10, BatchNorm) on CIFAR-10, momentum, batches of 128. Each run is a process of its
own. Counted is the peak of what it holds (VmHWM of Linux), above the imports and a backend that is
up, less the bytes of the data, as they are stored, and of the state. PyTorch keeps the same bytes
and makes each batch float32 as it comes.

    compiling    the programs are made; what the compiler needs stays with the process
    kept         the programs come from the folder of an earlier run, as in every later start
    given back   the same, where the allocator gives each large buffer back to the system
                 (MALLOC_MMAP_THRESHOLD_=1000000 in the environment); `fit` then leaves it alone,
                 and a convolutional step's memory is not kept for the next (`keep_memory`)
    torch        eager PyTorch

The parts: pages of libraries that the run is the first to touch, which the system may take back;
what is left where the run ends; and the buffers of one step, as XLA plans them. They are held
while a step runs, and with the allocator's holes beside them they bound the ConvNet.

Run: python experiments/benchmarks/memory.py     (needs the extra `parity`; Linux)
"""

import argparse
import functools
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from comparison import Row, amount, options_of, result_of, run

from jaxdl import data, layers, losses, metrics, models, optimizers, training
from jaxdl.compiling import keep_compiled

PACKAGE = "torch"
KEY = jax.random.key
TARGET = 100.0
GIVEN_BACK = {"MALLOC_MMAP_THRESHOLD_": "1000000"}
RUNS: dict[str, tuple[str, int, Any, Any]] = {
    "MLP": ("fashion_mnist", 100, models.MLP([128, 10]), optimizers.adam(1e-3)),
    "ConvNet": (
        "cifar10",
        128,
        models.ConvNet([32, 64], [128, 10], norm=layers.BatchNorm),
        optimizers.momentum(0.01),
    ),
}
"""By network: the data, the batch, the model, the optimizer."""


def held(field: str) -> float:
    """Megabytes of this process: a field of Linux's /proc/self/status."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) * 1024 / 1e6


def megabytes(tree: Any) -> float:
    """The size of the arrays of a tree."""
    return float(sum(leaf.nbytes for leaf in jax.tree.leaves(tree))) / 1e6


def with_fit(network: str, dataset: data.Dataset, epochs: int) -> float:
    """The run; gives the megabytes of its state."""
    _, batch, model, optimizer = RUNS[network]
    goal: dict[str, Any] = {"loss": losses.cross_entropy, "metrics": [metrics.accuracy]}
    result = training.fit(
        model, dataset, optimizer, **goal, epochs=epochs, batch_size=batch, key=KEY(0)
    )
    return megabytes((result.state.variables, result.state.opt_state))


def with_torch(network: str, dataset: data.Dataset, epochs: int) -> float:
    """The same in PyTorch; its memory is the same array."""
    import warnings

    import torch

    warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
    train, batch = dataset.train, RUNS[network][1]
    images, labels = torch.from_numpy(train.inputs), torch.from_numpy(train.targets)
    net = torch_net(network)
    optimizer: torch.optim.Optimizer
    if network == "MLP":
        optimizer = torch.optim.Adam(net.parameters(), 1e-3, fused=True)
    else:
        net = net.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9)
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(batch):
            optimizer.zero_grad()
            x = (images[rows].float() / 255).permute(0, 3, 1, 2)
            loss = torch.nn.functional.cross_entropy(net(x), labels[rows].long())
            loss.backward()
            optimizer.step()
    kept = [each for entry in optimizer.state.values() for each in entry.values()]
    tensors = [*net.state_dict().values(), *(each for each in kept if torch.is_tensor(each))]
    return float(sum(each.nbytes for each in tensors)) / 1e6


def torch_net(network: str) -> Any:
    """The same layers in PyTorch."""
    from torch import nn

    if network == "MLP":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))

    def block(before: int, after: int) -> list[nn.Module]:
        convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
        return [convolution, nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)]

    dense = [nn.Linear(4096, 128, bias=False), nn.BatchNorm1d(128), nn.ReLU(), nn.Linear(128, 10)]
    return nn.Sequential(*block(3, 32), *block(32, 64), nn.Flatten(), *dense)


def measured(network: str, arm: str, epochs: int, examples: int | None) -> dict[str, float]:
    """Megabytes of this process, which runs one arm."""
    if arm == "torch":
        import torch

        torch.ones(2, requires_grad=True).sum().backward()
    else:
        keep_compiled()
    jax.block_until_ready(jnp.zeros(()))  # the backend is up
    before, pages = held("VmRSS"), held("RssFile")
    dataset = data.load(RUNS[network][0])
    of_data = megabytes((dataset.train, dataset.test))  # all of it, whatever is trained on
    if examples is not None:
        first = data.Arrays(dataset.train.inputs[:examples], dataset.train.targets[:examples])
        dataset = data.Dataset(dataset.name, first, None, None, dataset.classes)
    state = (with_torch if arm == "torch" else with_fit)(network, dataset, epochs)
    beside = before + of_data + state
    return {
        "data": of_data,
        "state": state,
        "above": held("VmHWM") - beside,
        "left": held("VmRSS") - beside,
        "pages": held("RssFile") - pages,
    }


def step_megabytes(network: str) -> float:
    """The buffers that XLA plans for one step, beyond its arguments and results."""
    name, batch, model, optimizer = RUNS[network]
    shape = (batch, *data.load(name).train.inputs.shape[1:])
    task = training.Task(model, losses.cross_entropy)
    state = training.init_state(KEY(0), task, optimizer, jnp.zeros((1, *shape[1:])))
    step = jax.jit(
        training.make_train_step(task, optimizer),
        compiler_options=training.compiler_options(convolutional=network == "ConvNet"),
    )
    given = {"inputs": np.zeros(shape, np.uint8), "targets": np.zeros(batch, np.int32)}
    planned = step.lower(state, given).compile().memory_analysis()
    assert planned is not None
    return float(planned.temp_size_in_bytes) / 1e6


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """By network and arm: the peak above data and state, and its parts."""
    if arguments.arm:
        settings = (arguments.network, arguments.arm, arguments.epochs, arguments.examples)
        print(json.dumps(measured(*settings)))
        return
    for network in RUNS:
        planned = step_megabytes(network)
        yield amount(f"{network}: planned by XLA", "buffers of a step", planned, "MB")
    for network in RUNS:
        found: dict[str, list[dict[str, float]]] = {}
        for _ in range(arguments.rounds):
            with tempfile.TemporaryDirectory() as cache:
                for arm in ("compiling", "kept", "given back", "torch"):
                    options = ["--network", network, "--arm", arm]
                    options += ["--epochs", str(arguments.epochs)]
                    if arguments.examples:
                        options += ["--examples", str(arguments.examples)]
                    changed = GIVEN_BACK if arm == "given back" else {}
                    each = functools.partial(result_of, __file__, *options)
                    taken = each(JAX_COMPILATION_CACHE_DIR=cache, **changed)
                    found.setdefault(arm, []).append(taken)
        for arm, several in found.items():
            above = [each["above"] for each in several]
            medians = {name: np.median([each[name] for each in several]) for name in several[0]}
            note = (
                f"{min(above):.0f} to {max(above):.0f}; at the end {medians['left']:.0f}, pages of "
                f"libraries {medians['pages']:.0f}; data {medians['data']:.0f}, state "
                f"{medians['state']:.1f}"
            )
            target = TARGET if arm == "kept" else None
            yield amount(
                f"{network}: peak memory above data and state", arm, float(np.median(above)), "MB",
                at_most=target, note=note,
            )  # fmt: skip


if __name__ == "__main__":
    parser = options_of(__doc__, rounds=3)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--examples", type=int, help="training examples; by default all")
    parser.add_argument("--network", choices=list(RUNS), help="of one arm")
    parser.add_argument("--arm", help="measure one arm in this process")
    sys.exit(run(rows, parser, __file__))
