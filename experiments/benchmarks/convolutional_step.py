"""What a train step of convolutions and batch norms costs beside PyTorch's.

The small ConvNet (32, 64 channels, 128-10) and ResNet-20 on 128 images of 32 x 32, momentum, with
BatchNorm; PyTorch in channels_last from the same weights, whose losses must agree first. Each arm
is a process of its own, as its users run it, and they take their steps in turns; on a CPU with
AVX-512 once more with AVX2 alone. Evaluation with the norms folded.

"memory kept" is what `fit` does (`training.keep_memory`): the pages of a step's intermediate
results are not given back to the system and taken anew. PyTorch, whose pieces are smaller, gains
less by it. What else was tried is in `convolution_forms.py`.

What bounds ResNet-20: XLA's convolution writes out the patches of an image for a matrix product.
That takes 24 % of the step's processor time; the products take 33 %, loops over memory (norms,
activations, sums, transposed copies for the kernels' gradients) 17 %, the norms' sums 7 %.
PyTorch's kernels write out no patches. With 16 channels a patch is used 16 times only.

Run: python experiments/benchmarks/convolutional_step.py   (needs the extra `parity`)
"""

import argparse
import contextlib
import functools
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import torch
from comparison import Row, Served, measure, options_of, run, serve, show
from comparison.machine import describe
from torch.nn import functional

from jaxdl import layers, losses, models, optimizers, training

PACKAGE = "torch"
BATCH, RATE, DECAY = 128, 0.01, 0.9
SETTLE = 0.2
"""Seconds before a timed call, in which the threads of the arm before come to rest."""
STEPS = 7
"""Steps of an arm in a round."""
CHANNELS_LAST = torch.channels_last
jit = functools.partial(jax.jit, compiler_options=training.compiler_options(convolutional=True))
ARMS = ("PyTorch", "PyTorch, memory kept", "jaxdl", "jaxdl, memory given back")
TARGETS = {"ConvNet": 1.0, "ResNet-20": 1.25}
AVX2 = {
    "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_max_isa=AVX2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}
"""Variables with which XLA, PyTorch and its kernels do as if the CPU had no more."""


def images(seed: int = 0) -> dict[str, Any]:
    """Noise: what a step costs does not depend on what is in the images."""
    draw = np.random.default_rng(seed)
    inputs = draw.normal(size=(BATCH, 32, 32, 3)).astype(np.float32)
    return {"inputs": inputs, "targets": draw.integers(0, 10, BATCH).astype(np.int32)}


def torch_convnet() -> torch.nn.Module:
    """The ConvNet; its layers in the order of ours."""
    nn_ = torch.nn
    return nn_.Sequential(
        nn_.Conv2d(3, 32, 3, padding=1, bias=False), nn_.BatchNorm2d(32), nn_.ReLU(),
        nn_.MaxPool2d(2),
        nn_.Conv2d(32, 64, 3, padding=1, bias=False), nn_.BatchNorm2d(64), nn_.ReLU(),
        nn_.MaxPool2d(2), Flatten(),
        nn_.Linear(4096, 128, bias=False), nn_.BatchNorm1d(128), nn_.ReLU(), nn_.Linear(128, 10),
    )  # fmt: skip


class Flatten(torch.nn.Module):
    """Height, width, channels, as ours: in channels_last the permutation is free."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, features)."""
        return x.permute(0, 2, 3, 1).flatten(1)


class Block(torch.nn.Module):
    """Two convolutions beside a shortcut without parameters."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride, self.new = stride, channels - before
        self.path = torch.nn.Sequential(
            torch.nn.Conv2d(before, channels, 3, stride, padding=1, bias=False),
            torch.nn.BatchNorm2d(channels),
            torch.nn.ReLU(),
            torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            torch.nn.BatchNorm2d(channels),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The activation of the sum."""
        y = self.path(x)
        if self.new:
            x = functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new))
        return functional.relu(x + y)


class Mean(torch.nn.Module):
    """The mean over positions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels)."""
        return x.mean((2, 3))


def torch_resnet() -> torch.nn.Module:
    """ResNet-20; its layers in the order of ours."""
    blocks, before = [], 16
    for channels in (16, 32, 64):
        for _ in range(3):
            blocks.append(Block(before, channels, 2 if channels > before else 1))
            before = channels
    first = torch.nn.Conv2d(3, 16, 3, padding=1, bias=False)
    return torch.nn.Sequential(
        first, torch.nn.BatchNorm2d(16), torch.nn.ReLU(), *blocks, Mean(), torch.nn.Linear(64, 10)
    )


def in_order(params: Any) -> list[np.ndarray]:
    """Kernels and the outputs' bias as PyTorch has them, in the order of execution."""
    order = {"conv": 0, "stage": 1, "head": 2, "dense": 3}
    found = []
    for name in sorted(params, key=lambda name: (order.get(name.split("_")[0], 9), name)):
        if name == "kernel":
            value = np.asarray(params[name])
            found.append(value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T)
        elif hasattr(params[name], "items") and not name.startswith("norm"):
            found += in_order(params[name])
    return found


def torch_step(net: Any, params: Any, batch: dict[str, Any]) -> Callable[[], float]:
    """The step of PyTorch, from the same kernels; biases and norms start at 0 and 1 in both."""
    kernels = iter(in_order(params))
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                module.weight.copy_(torch.tensor(next(kernels)))
                if module.bias is not None:
                    module.bias.zero_()
    net = net.to(memory_format=CHANNELS_LAST)
    optimizer = torch.optim.SGD(net.parameters(), RATE, momentum=DECAY, foreach=True)
    inputs = torch.tensor(batch["inputs"]).permute(0, 3, 1, 2).contiguous(
        memory_format=CHANNELS_LAST
    )  # fmt: skip
    targets = torch.tensor(batch["targets"]).long()

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(net(inputs), targets)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def our_step(
    model: nn.Module, batch: dict[str, Any], compile_with: Any = jit
) -> tuple[Callable[[], float], Any]:
    """The step that `fit` compiles, and the parameters it starts from."""
    optimizer = optimizers.momentum(RATE, decay=DECAY)
    state = training.init_state(jax.random.key(0), model, optimizer, batch["inputs"])
    params = jax.device_get(state.params)
    step = compile_with(
        training.make_train_step(model, optimizer, losses.cross_entropy), donate_argnums=0
    )
    on_device = jax.device_put(batch)
    held = [state]

    def call() -> float:
        held[0], metrics = step(held[0], on_device)
        jax.block_until_ready(held[0])
        return float(metrics["loss"])

    return call, params


def evaluation_arm(model: nn.Module, variables: Any, batch: dict[str, Any]) -> Callable[[], Any]:
    """The outputs in evaluation."""
    apply, inputs = jit(functools.partial(model.apply, train=False)), jnp.asarray(batch["inputs"])
    return lambda: jax.block_until_ready(apply(variables, inputs))


NETWORKS = {
    "ConvNet": (models.ConvNet([32, 64], [128, 10], norm=layers.BatchNorm), torch_convnet),
    "ResNet-20": (models.ResNet(20, norm=layers.BatchNorm), torch_resnet),
}


def serve_arm(network: str, arm: str) -> None:
    """Take steps of one arm when told; the losses of the first three come first."""
    if arm in ("PyTorch, memory kept", "jaxdl"):
        training.keep_memory()
    (model, make), batch = NETWORKS[network], images()
    step, params = our_step(model, batch)
    if arm.startswith("PyTorch"):
        step = torch_step(make(), params, batch)
    serve(step, [step() for _ in range(3)])


def of_a_few(arm: Callable[[], float]) -> float:
    """The median of steps in a row, as in training: caches are warm from the third step on."""
    return float(np.median([arm() for _ in range(STEPS)]))


def train_steps(network: str, where: str, rounds: int, **changed: str) -> list[Row]:
    """The rows of one network on one instruction set."""
    with contextlib.ExitStack() as running:
        arms = {}
        for arm in ARMS:
            arms[arm] = Served(__file__, "--serve", network, arm, **changed)
            running.callback(arms[arm].close)
        agreed = np.array([arm.first for arm in arms.values()])
        np.testing.assert_allclose(agreed, agreed[:1].repeat(len(ARMS), 0), rtol=1e-3)
        print(f"losses of three steps agree: {agreed[0].round(5)} {agreed[2].round(5)}")
        seconds = measure(arms, rounds, clock=of_a_few, settle=SETTLE)
    target = {"jaxdl": TARGETS[network]}
    made: list[Row] = show(f"{network}, train step, {where}", seconds, "PyTorch", at_most=target)
    return made


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """Train steps and evaluation, on the CPU's own instructions and on AVX2."""
    own = describe()["vector instructions"]
    for network, (model, _) in NETWORKS.items():
        yield from train_steps(network, own, arguments.rounds)
        if own == "AVX-512":
            yield from train_steps(network, "AVX2", arguments.rounds, **AVX2)
        batch = images()
        state = training.init_state(
            jax.random.key(0), model, optimizers.momentum(RATE), batch["inputs"]
        )
        arms = {
            "as trained": evaluation_arm(model, state.variables, batch),
            "folded": evaluation_arm(*training.fold(model, state.variables), batch),
        }
        np.testing.assert_allclose(arms["folded"](), arms["as trained"](), rtol=1e-3, atol=1e-4)
        seconds = measure(arms, arguments.rounds, settle=SETTLE)
        yield from show(f"{network}, evaluation", seconds, "as trained")


if __name__ == "__main__":
    parser = options_of(__doc__, rounds=11)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    served = parser.parse_args().serve
    if served:
        serve_arm(*served)
    else:
        sys.exit(run(rows, parser, __file__))
