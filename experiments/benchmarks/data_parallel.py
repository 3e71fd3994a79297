"""What it costs that devices share a batch: `fit`'s two layouts beside devices that never speak.

1, 2, 4 and 8 virtual devices of one CPU, each number in a process of its own. Every device has its
share of the batch, of the same size for any number of devices. Arms, in turns:

    alone   each device steps its own copy of the model on its share; nothing is communicated
    mesh    `fit`'s layout over a mesh: the compiler inserts the sums over devices
    pmap    `fit`'s layout under pmap: the step averages over the axis by itself
    sums    the mean of a gradient over the devices, and nothing else

All are compiled as `fit` compiles them, the MLP in its loop over steps, the ConvNets step by step.
The first three have the same arithmetic a device, so what a ratio has above 1 is the sums of
gradients and metrics, the waiting for each other, and the layout. The ConvNet with BatchNorm
averages its statistics, too, in the mesh and under pmap; alone a device takes its own. First the
losses of the three must agree.

With 8 devices the gradient of one step on a batch of 256 is compared with that of one device: the
largest difference as a share of the largest entry. With thousands of examples and ReLU, some value
lies so near to 0 that a rounding moves it over the kink, and the gradient of its example changes:
1e-4 of the largest entry was seen. So the whole batch is compared with tanh, which has no kink.

The devices share the cores that there are, and more devices than cores take turns. What bounds the
overhead of the MLP is the sum over devices (the row `sums`): 2.7 MB of gradient a step, whatever
the share. So it falls with the share of a device: at a quarter of it the mesh took 20 to 32 % more.
BatchNorm has six sums a norm where a step without it has one in all. It had nine, for its
derivative took its moments twice; the compiler joins the two on one device, and not across devices.
Taken once, the mesh went from 12 to 16 % above `alone` to 4 to 7 %. pmap takes none of the
compiler's options, which a step with convolutions needs.

Run: python experiments/benchmarks/data_parallel.py
"""

import argparse
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from comparison import Row, amount, measure, options_of, result_of, run, show
from jax.sharding import NamedSharding, PartitionSpec

from jaxdl import data, layers, losses, models, optimizers, training
from jaxdl.compiling import compiler_options, side_by_side_options
from jaxdl.training.fit.layouts import AXIS, ONE_DEVICE, Layout, resolve
from jaxdl.training.fit.programs import compile_programs
from jaxdl.training.loops import make_loop, make_single

DEVICES = (1, 2, 4, 8)
COMPARED = 256
"""Examples in the batch whose gradient is compared."""
OVERHEAD, APART = 0.05, 1e-5
"""Targets: what communication adds, a share of a step; and the distance of gradients."""


class Network(NamedTuple):
    """A model, the examples of a device in a step, and the steps of a timing."""

    model: Any
    shape: tuple[int, ...]
    share: int
    steps: int

    @property
    def looped(self) -> bool:
        """Whether `fit` loops over its steps in one call on a CPU."""
        return isinstance(self.model, models.MLP)


NETWORKS = {
    "MLP 784-512-512-10": Network(models.MLP([512, 512, 10]), (784,), 1024, 5),
    "ConvNet": Network(models.ConvNet([32, 64], [128, 10]), (32, 32, 3), 128, 2),
    "ConvNet, BatchNorm": Network(
        models.ConvNet([32, 64], [128, 10], norm=layers.BatchNorm), (32, 32, 3), 128, 2
    ),
}


def task_of(network: Network) -> training.Task:
    """The network with its loss."""
    return training.Task(network.model, losses.cross_entropy)


def batches(network: Network, devices: int) -> tuple[data.Arrays, np.ndarray]:
    """Noise, and the order of its steps: (steps, devices * share)."""
    draw, size = np.random.default_rng(0), devices * network.share
    inputs = draw.normal(size=(network.steps * size, *network.shape)).astype(np.float32)
    targets = draw.integers(0, 10, len(inputs)).astype(np.int32)
    return data.Arrays(inputs, targets), np.arange(len(inputs)).reshape(network.steps, size)


def first_state(network: Network, optimizer: Any) -> training.TrainState:
    """The state from which every arm starts."""
    sample = np.zeros((1, *network.shape), np.float32)
    return compile_programs(task_of(network), optimizer).init(jax.random.key(0), sample)


def shared(network: Network, layout: Layout, optimizer: Any) -> Callable[[], Any]:
    """The steps of a timing as `fit` takes them in this layout; the metrics of the last call."""
    programs = compile_programs(task_of(network), optimizer, layout)
    source = layout.put_stack(*batches(network, layout.devices), mapped=layout.mapped)
    step = (programs.loops if network.looped else programs.singles)[True]
    return stepped(network, step, layout.replicate(first_state(network, optimizer)), source)


def alone(network: Network, layout: Layout, optimizer: Any) -> Callable[[], Any]:
    """The same where no device waits for another: as many states as devices."""
    assert layout.mesh is not None
    train_step = training.make_train_step(task_of(network), optimizer)
    steps: Any = make_loop(train_step) if network.looped else make_single(train_step)
    own, whole = PartitionSpec(AXIS), PartitionSpec()
    positions = (whole,) * (2 if network.looped else 1)

    @functools.partial(
        jax.shard_map,
        mesh=layout.mesh,
        in_specs=(own, PartitionSpec(None, AXIS), *positions),
        out_specs=own,
        check_vma=False,
    )
    def each(state: Any, source: Any, *positions: Any) -> Any:
        after = steps(jax.tree.map(lambda leaf: leaf[0], state), source, *positions)
        return jax.tree.map(lambda leaf: leaf[None], after)

    choose = compiler_options if layout.devices == 1 else side_by_side_options
    options = choose(convolutional=not network.looped)
    donated = () if network.looped else (0,)
    compiled = jax.jit(each, donate_argnums=donated, compiler_options=options)
    source = layout.put_stack(*batches(network, layout.devices))
    return stepped(network, compiled, on_each(first_state(network, optimizer), layout), source)


def stepped(network: Network, step: Any, state: Any, source: Any) -> Callable[[], Any]:
    """A call that takes the steps from where the last call ended, and gives its first loss."""
    held = [state]

    def call() -> Any:
        if network.looped:
            held[0], metrics = step(held[0], source, 0, network.steps)
            measured = [metrics["loss"]]
        else:
            measured = []
            for index in range(network.steps):
                held[0], metrics = step(held[0], source, index)
                measured.append(metrics["loss"])
        return jax.block_until_ready((held[0], measured))[1][0]

    return call


def seconds(network: Network, rounds: int) -> dict[str, list[float]]:
    """Of a step, by arm and round, on all devices of this process."""
    optimizer = optimizers.momentum(0.01)
    layouts = {name: layout_of(name, network) for name in ("mesh", "pmap")}
    arms = {"alone": alone(network, layouts["mesh"], optimizer)}
    arms |= {name: shared(network, layout, optimizer) for name, layout in layouts.items()}
    # A looped arm gives a loss a step, and alone each device its own.
    first = {
        name: float(np.mean(np.asarray(arm())[..., 0] if network.looped else arm()))
        for name, arm in arms.items()
    }
    # BatchNorm of a share is another function: alone, its loss is near the others', not the same.
    rtol = 1e-4 if getattr(network.model, "norm", None) is None else 0.2
    np.testing.assert_allclose(list(first.values()), first["mesh"], rtol=rtol)
    arms["sums"] = sums(network, layouts["mesh"])
    taken = measure(arms, rounds)
    return {name: (values / network.steps).tolist() for name, values in taken.items()}


def sums(network: Network, layout: Layout) -> Callable[[], Any]:
    """As many means of a gradient over the devices as a timing has steps."""
    params = first_state(network, optimizers.sgd(0.01)).params
    own = PartitionSpec(AXIS)

    @functools.partial(
        jax.shard_map, mesh=layout.mesh, in_specs=own, out_specs=own, check_vma=False
    )
    def mean(gradient: Any) -> Any:
        return jax.tree.map(lambda leaf: jax.lax.pmean(leaf, AXIS), gradient)

    compiled, gradient = jax.jit(mean), on_each(params, layout)
    return lambda: jax.block_until_ready([compiled(gradient) for _ in range(network.steps)])


def on_each(tree: Any, layout: Layout) -> Any:
    """A copy on every device, along a new first axis."""
    assert layout.mesh is not None
    own = NamedSharding(layout.mesh, PartitionSpec(AXIS))
    return jax.tree.map(lambda leaf: jax.device_put(jnp.stack([leaf] * layout.devices), own), tree)


def layout_of(name: str, network: Network) -> Layout:
    """`fit`'s layout on all devices; on one device a mesh of one."""
    if name == "pmap":
        return resolve("pmap", jax.device_count() * network.share)
    mesh = jax.make_mesh((jax.device_count(),), (AXIS,), axis_types=(jax.sharding.AxisType.Auto,))
    return Layout(mesh)


def keep_gradient() -> optax.GradientTransformation:
    """An optimizer that moves nothing; its state is the last gradient."""
    return optax.GradientTransformation(
        lambda params: jax.tree.map(jnp.zeros_like, params),
        lambda gradients, state, params: (jax.tree.map(jnp.zeros_like, gradients), gradients),
    )


def compared() -> dict[str, Network]:
    """The networks whose gradients are compared, by what is said of them."""
    few = {
        f"{name}, gradient of {COMPARED} examples": network._replace(
            share=COMPARED // jax.device_count()
        )
        for name, network in NETWORKS.items()
    }
    whole = next(iter(NETWORKS.values()))
    smooth = whole._replace(model=models.MLP([512, 512, 10], activation=jnp.tanh))
    count = smooth.share * jax.device_count()
    return {**few, f"MLP 784-512-512-10, tanh, gradient of {count} examples": smooth}


def apart(network: Network) -> dict[str, float]:
    """How far the gradient of all devices is from that of one, by layout."""
    optimizer = keep_gradient()
    arrays, order = batches(network, jax.device_count())

    def gradient(layout: Layout) -> np.ndarray:
        programs = compile_programs(task_of(network), optimizer, layout)
        source: Any = {"arrays": data_of(arrays), "order": jnp.asarray(order)}
        if layout.mesh is not None:
            source = layout.put_stack(arrays, order, mapped=layout.mapped)
        state = layout.replicate(first_state(network, optimizer))
        after, _ = programs.singles[True](state, source, 0)
        leaves = jax.tree.leaves(jax.device_get(after.opt_state))
        return np.concatenate([leaf.ravel() for leaf in leaves]).astype(np.float64)

    one = gradient(ONE_DEVICE)
    return {
        name: float(np.abs(gradient(layout_of(name, network)) - one).max() / np.abs(one).max())
        for name in ("mesh", "pmap")
    }


def data_of(arrays: data.Arrays) -> dict[str, Any]:
    """All examples on the device, by name."""
    return {"inputs": jnp.asarray(arrays.inputs), "targets": jnp.asarray(arrays.targets)}


def in_this_process(arguments: argparse.Namespace) -> dict[str, Any]:
    """What one number of devices gives: seconds of every network, or distances of gradients."""
    assert jax.device_count() == arguments.devices
    training.keep_memory()  # as `fit` does
    if arguments.gradients:
        return {name: apart(network) for name, network in compared().items()}
    return {name: seconds(network, arguments.rounds) for name, network in NETWORKS.items()}


def rows(arguments: argparse.Namespace) -> Iterator[Row]:
    """The ratios on 2, 4 and 8 devices, the times on one, and the gradients on 8."""
    if arguments.devices:
        print(json.dumps(in_this_process(arguments)))
        return
    for devices in DEVICES:
        flags = (
            f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        )
        child = functools.partial(
            result_of, __file__, "--devices", str(devices), XLA_FLAGS=flags, JAX_PLATFORMS="cpu"
        )
        for name, taken in child("--rounds", str(arguments.rounds)).items():
            by_arm = {arm: np.array(values) for arm, values in taken.items()}
            examples = devices * NETWORKS[name].share
            where = f"{devices} device{'s' * (devices > 1)}"
            title = f"{name}, a step of {examples} examples on {where}"
            target = {"mesh": 1 + OVERHEAD, "pmap": 1 + OVERHEAD} if devices > 1 else {}
            yield from show(title, by_arm, "alone", at_most=target)
        if devices == DEVICES[-1]:
            for name, distances in child("--gradients").items():
                for layout, distance in distances.items():
                    title = f"{name}, {devices} devices beside one, largest difference"
                    yield amount(title, layout, distance, "", at_most=APART)


if __name__ == "__main__":
    parser = options_of(__doc__, rounds=9)
    parser.add_argument("--devices", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--gradients", action="store_true", help=argparse.SUPPRESS)
    sys.exit(run(rows, parser, __file__))
