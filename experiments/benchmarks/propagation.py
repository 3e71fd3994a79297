"""What `diagnostics.propagation` costs beside the gradient that it measures.

Two arms for each network, with BatchNorm or LayerNorm where it has norms:

    gradient      jax.jit(jax.value_and_grad(mean loss)), the model in training
    propagation   diagnostics.propagation with the same loss

Both get the same parameters and batch. First the mean losses, and the norms of the gradients of all
kernels, must agree. A first call is tracing, compiling and one run, in a fresh process for each,
with nothing kept on disk and JAX itself warmed up by another function. Then both run compiled, in
turns, in one process. Seconds are those of the wall clock and of all cores together; the ratios are
those of the medians over rounds. On a busy machine look at the cores' seconds.

What a first call is made of is printed, too: equations of the traced program, instructions of the
program before and after XLA's passes.

Run: python experiments/benchmarks/propagation.py [--preset smoke]
"""

import argparse
import functools
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from comparison import Row, amount, measure, options_of, result_of, run, show

from jaxdl import diagnostics, layers, losses, models, training
from jaxdl.diagnostics.objective import mean_loss
from jaxdl.jaxprs import equations

TARGET = 2.0
ARMS = ("gradient", "propagation")


class Size(NamedTuple):
    """What is measured, and how often."""

    images: int
    sequences: int
    length: int
    first_calls: int


PRESETS = {"default": Size(128, 16, 64, 3), "smoke": Size(4, 2, 8, 1)}


class Network(NamedTuple):
    """A model with its loss and a batch of noise: times do not depend on what is in it."""

    model: Any
    loss: Any
    batch: dict[str, Any]


def mlp(size: Size) -> Network:
    """Eight layers of 512 units on 784 inputs."""
    return Network(models.MLP([512] * 8 + [10]), losses.cross_entropy, images((784,), size))


def resnet(depth: int, size: Size) -> Network:
    """A ResNet with BatchNorm on images of 32 x 32."""
    model = models.ResNet(depth, norm=layers.BatchNorm)
    return Network(model, losses.cross_entropy, images((32, 32, 3), size))


def transformer(size: Size) -> Network:
    """Twelve blocks of 128 features and 4 heads that predict the next of 256 tokens."""
    shape = (size.sequences, size.length + 1)
    tokens = np.random.default_rng(0).integers(0, 256, shape).astype(np.int32)
    model = models.Transformer(vocabulary=256, layers=12, length=size.length)
    return Network(
        model, losses.cross_entropy, {"inputs": tokens[:, :-1], "targets": tokens[:, 1:]}
    )


NETWORKS: dict[str, Callable[[Size], Network]] = {
    "MLP": mlp,
    "ResNet-20": lambda size: resnet(20, size),
    "ResNet-56": lambda size: resnet(56, size),
    "12 transformer blocks": transformer,
}


def images(shape: tuple[int, ...], size: Size) -> dict[str, Any]:
    """Noise with labels of ten classes."""
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(size.images, *shape)).astype(np.float32)
    return {"inputs": inputs, "targets": draw.integers(0, 10, size.images).astype(np.int32)}


class Times(NamedTuple):
    """Seconds of the wall clock, and of all cores together."""

    wall: float
    cores: float


def timed(call: Callable[[], Any]) -> Times:
    """How long a call takes until its results are there."""

    def used() -> float:
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return usage.ru_utime + usage.ru_stime

    wall, cores = time.perf_counter(), used()
    jax.block_until_ready(call())
    return Times(time.perf_counter() - wall, used() - cores)


def functions(network: Network) -> tuple[dict[str, Callable[..., Any]], Any]:
    """Both arms as functions of (variables, batch), and the variables."""
    task = training.Task(network.model, network.loss)
    inputs = jnp.asarray(network.batch["inputs"])
    variables = task.init(jax.random.key(0), inputs)

    def gradient(variables: Any, batch: Any) -> Any:
        objective = mean_loss(task, variables, batch, train=True, key=None)
        return jax.value_and_grad(objective)(variables["params"])

    def propagation(variables: Any, batch: Any) -> Any:
        return diagnostics.propagation(task, variables, batch)

    # `propagation` compiles what it measures by itself.
    return {"propagation": propagation, "gradient": jax.jit(gradient)}, variables


def arms(network: Network) -> dict[str, Callable[[], Any]]:
    """Both arms as calls without arguments; the data are on the device."""
    made, variables = functions(network)
    batch = jax.block_until_ready(jax.tree.map(jnp.asarray, network.batch))
    jax.block_until_ready(variables)
    return {name: functools.partial(arm, variables, batch) for name, arm in made.items()}


def first_call(network: Network, arm: str) -> Times:
    """The first call of one arm in this process."""
    calls = arms(network)
    jax.block_until_ready(jax.jit(jax.grad(lambda x: jnp.tanh(x).sum()))(jnp.ones(3)))
    return timed(calls[arm])


def first_calls(name: str, preset: str) -> dict[str, np.ndarray]:
    """The times of first calls, each in a fresh process, the arms in turns."""
    calls = {
        arm: functools.partial(
            result_of, __file__, "--preset", preset, "--first", name, arm,
            JAX_COMPILATION_CACHE_DIR=None,
        )
        for arm in ARMS
    }  # fmt: skip
    times: dict[str, np.ndarray] = measure(
        calls, PRESETS[preset].first_calls, clock=lambda call: call(), warm=False
    )
    return times


def compare(measured: Any, value: Any, gradients: Any) -> None:
    """Stop unless both arms computed the same loss and gradients, to rounding.

    The squared norms of all rows' kernels together are those of all kernels of the model.
    """
    np.testing.assert_allclose(measured.loss, value, rtol=1e-5)
    ours = np.sqrt(np.nansum(np.square(np.asarray(measured.weight_gradient_norm, np.float64))))
    sums = [
        np.square(np.asarray(leaf, np.float64)).sum()
        for layer in layers_of(gradients)
        for leaf in ([each for each in layer if each.ndim > 1] or layer)
    ]
    np.testing.assert_allclose(ours, np.sqrt(sum(sums)), rtol=1e-3)


def layers_of(params: Any) -> list[list[Any]]:
    """The parameters of each module."""
    found: dict[Any, list[Any]] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        found.setdefault(path[:-1], []).append(leaf)
    return list(found.values())


class Program(NamedTuple):
    """How large an arm's program is."""

    equations: int
    before_passes: int
    after_passes: int


def program_of(arm: Callable[..., Any], variables: Any, batch: Any) -> Program:
    """The sizes of the program that an arm compiles to."""
    traced = jax.jit(arm).trace(variables, batch)
    lowered = traced.lower()
    text = lowered.as_text(dialect="hlo")
    compiled = lowered.compile().as_text()
    return Program(
        sum(1 for _ in equations(traced.jaxpr.jaxpr)), text.count(" = "), compiled.count(" = ")
    )


def compiled(network: Network, rounds: int) -> dict[str, np.ndarray]:
    """Of each arm, compiled, the times of each round."""
    calls = arms(network)
    measured, (value, gradients) = calls["propagation"](), calls["gradient"]()
    compare(measured, value, gradients)
    times: dict[str, np.ndarray] = measure(calls, rounds, clock=timed)
    return times


def sizes(network: Network) -> dict[str, Program]:
    """How large both arms' programs are."""
    made, variables = functions(network)
    return {arm: program_of(made[arm], variables, network.batch) for arm in ARMS}


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """A row a network, call and clock; the sizes of the programs are only printed."""
    preset = "smoke" if arguments.quick else arguments.preset
    size = PRESETS[preset]
    if arguments.first:
        name, arm = arguments.first
        print(json.dumps(first_call(NETWORKS[name](size), arm)))
        return
    for name in arguments.network or NETWORKS:
        network = NETWORKS[name](size)
        for call, times in (
            ("first call", first_calls(name, preset)),
            ("compiled", compiled(network, arguments.rounds)),
        ):
            for column, clock in enumerate(Times._fields):
                seconds = {arm: times[arm][:, column] for arm in ARMS}
                title = f"{name}, {call}, {clock}"
                yield from show(title, seconds, "gradient", at_most={"propagation": TARGET})
        programs = sizes(network)
        for what in Program._fields:
            pair = [getattr(programs[arm], what) for arm in reversed(ARMS)]
            amount(
                f"{name}, {what.replace('_', ' ')}", "propagation / gradient", pair[0] / pair[1],
                "", note=f"{pair[0]} / {pair[1]}",
            )  # fmt: skip


if __name__ == "__main__":
    parser = options_of(__doc__, rounds=9)
    parser.add_argument("--preset", choices=PRESETS, default="default")
    parser.add_argument("--network", choices=NETWORKS, action="append", help="all by default")
    parser.add_argument("--first", nargs=2, metavar=("NETWORK", "ARM"), help=argparse.SUPPRESS)
    sys.exit(run(rows, parser, __file__))
