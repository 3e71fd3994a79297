"""What a sweep and a data-parallel step cost on more devices and processes, and a model of it.

Measured are, on 1, 2, 4 and 8 virtual devices of the CPU (a process for each number) and on 1 to 4
worker processes:

    call        one call of a sweep: small networks on digits, m on each device
    all-reduce  the sum of an array over the devices
    step        a step of SGD, the batch divided among the devices
    memory      what a call of m members holds at once, as XLA plans it
    workers     a whole sweep by `training.sweep(executor=ProcessPoolExecutor(W))`, the first one of
                a new pool and one after it

The costs of comparison/costs.py are fitted to the small ones of them and predict the others. Times
are the least of some rounds. Virtual devices share the machine's cores, and each has one of its own
as long as there are enough; the model says so.

Writes scaling_costs.json and scaling.png to --output. docs/scaling.md explains the numbers.

Run: python experiments/benchmarks/scaling.py --output runs/scaling
"""

import argparse
import itertools
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import jax
import numpy as np
from comparison import Row as Compared
from comparison import amount, options_of, result_of, run
from comparison.costs import Measured, draw_costs, fit, predict, show_costs
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdl import data, losses, models, optimizers, training
from jaxdl.compiling import side_by_side_options
from jaxdl.environment import machine
from jaxdl.training.sweep.by_seed import BySeed, checked_by_seed
from jaxdl.training.sweep.program import Program, trace_member

NEEDS, PACKAGE = "digits", "distributed"
DEVICES, WORKERS = (1, 2, 4, 8), (1, 2, 3, 4)
FIT_UP_TO = 2
"""Costs are fitted to so many devices and workers; an all-reduce needs two."""

MEMBERS = (1, 8, 32)
EPOCHS, BATCH, WIDTH = 4, 64, 32
SUMMED = (10_000, 300_000, 4_000_000)  # floats
STEPS = tuple(itertools.product((256, 1024), (256, 1024)))  # widths and batch sizes
SWEEPS, CHUNK = (96, 48, 16), 8  # members of a sweep, and of a call
ROUNDS, SECONDS = 5, 0.1


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def least(call: Callable[[], Any], rounds: int) -> float:
    """Seconds of a call: the least mean of some rounds of a tenth of a second."""
    jax.block_until_ready(call())
    began = time.perf_counter()
    jax.block_until_ready(call())
    times = max(1, int(SECONDS / (time.perf_counter() - began)))
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        for _ in range(times):
            # One at a time: all-reduces of several runs may wait for each other on a CPU.
            jax.block_until_ready(call())
        found.append((time.perf_counter() - began) / times)
    return min(found)


def digits() -> data.Dataset:
    """The data, loaded where the member is traced, so that they are not sent."""
    with jax.ensure_compile_time_eval():
        return data.split(data.load("digits"), key=jax.random.key(0))


def member(key: Any, orders: Any, *, rate: Any) -> Any:
    """A small network on digits: the loss of each epoch."""
    task = training.Task(models.MLP([WIDTH, 10]), losses.cross_entropy)
    run = training.make_run(task, optimizers.adam(rate), batch_size=BATCH)
    return run(key, {"train": digits().train}, orders)[1]["train"]


def orders(key: Any) -> Any:
    """The orders of a member's data."""
    return training.orders(key, EPOCHS, len(digits().train))


def traced() -> tuple[Program, BySeed]:
    """The member's program, and its orders."""
    seeds = np.arange(max(MEMBERS) * max(DEVICES), dtype=np.uint32) % 8
    (made,) = checked_by_seed({"orders": orders}, "own", ["rate", "seed"], seeds)
    return trace_member(member, {"rate": np.dtype(np.float32)}, by_seed=[made]), made


def on_devices(rounds: int) -> Iterator[Measured]:
    """The rows of this process, with all devices that it has."""
    devices = jax.devices()
    base = {"D": float(len(devices)), "C": float(cores())}
    few = len(devices) <= FIT_UP_TO
    program, made = traced()
    for each in MEMBERS:
        size = each * len(devices)
        seeds, rates = made.seeds[:size], np.full(size, 1e-3, np.float32)
        arrays = (seeds, rates, *made.take(np.arange(size)))
        call = program.compile(size, devices, threads=2)  # a core for each device
        taken = least(partial(call, *arrays), rounds)
        yield Measured("call", base | {"m": each}, taken, few and each != MEMBERS[-1])
        if len(devices) == 1:
            yield Measured(
                "memory", base | {"m": each}, planned_bytes(program, each), each <= MEMBERS[1]
            )
    mesh = Mesh(np.array(devices), ("devices",))
    if len(devices) > 1:
        for floats in SUMMED:
            taken = least(all_reduce(mesh, floats), rounds)
            fitted = len(devices) == FIT_UP_TO
            yield Measured("all-reduce", base | {"n": 4.0 * floats}, taken, fitted)
    for width, batch in STEPS:
        call, parameters, sums = step(mesh, width, batch)
        setting = base | {"B": batch, "P": parameters, "sums": sums}
        yield Measured("step", setting, least(call, rounds), few)


def planned_bytes(program: Program, members: int) -> float:
    """The arguments, results and intermediate arrays of a compiled call, without the data."""
    consts = program.jaxpr.consts
    compiled = (
        jax.jit(program.batched, compiler_options=side_by_side_options())
        .lower(consts, *program.arguments(members))
        .compile()
    )
    plan: Any = compiled.memory_analysis()
    held = plan.argument_size_in_bytes + plan.output_size_in_bytes + plan.temp_size_in_bytes
    return float(held - sum(const.nbytes for const in consts))


def all_reduce(mesh: Mesh, floats: int) -> Callable[[], Any]:
    """The sum over all devices of an array on each."""
    split, whole = PartitionSpec("devices"), PartitionSpec()
    summed = jax.shard_map(
        lambda x: jax.lax.psum(x[0], "devices"), mesh=mesh, in_specs=split, out_specs=whole
    )
    rows = jax.device_put(np.ones((mesh.size, floats), np.float32), NamedSharding(mesh, split))
    return partial(jax.jit(summed), rows)


def step(mesh: Mesh, width: int, batch: int) -> tuple[Callable[[], Any], int, int]:
    """A step of SGD with momentum, its number of parameters, and of all-reduces."""
    model, optimizer = models.MLP([width, width, 10]), optimizers.momentum(0.01)
    one = training.make_train_step(model, optimizer, losses.cross_entropy)
    draw = np.random.default_rng(0)
    inputs = draw.normal(size=(batch, width)).astype(np.float32)
    arrays = {"inputs": inputs, "targets": draw.integers(0, 10, batch)}
    state = training.init_state(jax.random.key(0), model, optimizer, inputs[:1])
    by_example = NamedSharding(mesh, PartitionSpec("devices"))
    state = jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
    arrays = jax.device_put(arrays, by_example)
    options = side_by_side_options()
    compiled = (
        jax.jit(one, donate_argnums=0, compiler_options=options).lower(state, arrays).compile()
    )
    sums = sum("all-reduce(" in line for line in (compiled.as_text() or "").splitlines())
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))

    def call() -> Any:
        nonlocal state
        state, measured = compiled(state, arrays)
        return measured

    return call, parameters, sums


def in_processes(devices: int, rounds: int) -> list[Measured]:
    """The rows of a process whose CPU counts as so many devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    found = result_of(
        __file__, "--here", "--rounds", str(rounds), XLA_FLAGS=flags, JAX_PLATFORMS="cpu"
    )
    return [Measured(*row) for row in found]


def peak_memory(ticket: int) -> tuple[int, int]:
    """Of a worker: its process, and the most memory that it had, in bytes."""
    return os.getpid(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def on_workers(numbers: Sequence[int], rounds: int) -> tuple[list[Measured], dict[str, float]]:
    """Whole sweeps on pools of worker processes, and the memory of a worker."""
    rows: list[Measured] = []
    peaks: dict[int, int] = {}
    for workers in numbers:
        base = {"W": float(workers), "C": float(cores())}
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            for members in SWEEPS:
                over = {"rate": np.geomspace(1e-4, 1e-2, members // 8)}
                swept = partial(
                    training.sweep, member, by_seed={"orders": orders}, chunk=CHUNK, executor=pool,
                    progress=False, over=over, seeds=8,
                )  # fmt: skip
                times = [timed(swept) for _ in range(rounds + 1)]
                setting = base | {"N": members, "m": CHUNK}
                fitted = workers <= FIT_UP_TO
                if members == SWEEPS[0]:
                    rows.append(Measured("workers", setting | {"first": 1.0}, times[0], fitted))
                rows.append(Measured("workers", setting | {"first": 0.0}, min(times[1:]), fitted))
            peaks |= dict(pool.map(peak_memory, range(4 * workers)))
    return rows, {"peak memory of a worker": float(max(peaks.values()))}


def trivial(key: Any) -> Any:
    """A member that takes no time."""
    return {"value": jax.random.normal(key)}


def at_the_driver(rounds: int) -> float:
    """Seconds that this process and Dask's scheduler need for a call, however short it is."""
    from dask.distributed import Client, LocalCluster

    settings = {"n_workers": 1, "threads_per_worker": 1, "dashboard_address": None}
    with LocalCluster(**settings) as cluster, Client(cluster) as client:
        swept = partial(
            training.sweep, trivial, chunk=1, executor=client.get_executor(), progress=False
        )
        few, many = ([timed(partial(swept, seeds=n)) for _ in range(rounds + 1)] for n in (20, 320))
    return (min(many) - min(few)) / 300


def timed(call: Callable[[], Any]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def rows(arguments: argparse.Namespace) -> Iterator[Compared]:
    """Measure, fit, print, and write the costs and the figure to --output."""
    if arguments.here:
        print(json.dumps(list(on_devices(arguments.rounds))))
        return
    few = 3 if arguments.quick else None
    found = [each for count in DEVICES[:few] for each in in_processes(count, arguments.rounds)]
    os.environ.pop("JAX_COMPILATION_CACHE_DIR", None)  # the start of a worker is to compile
    swept, memory = on_workers(WORKERS[:few], max(1, arguments.rounds // 2))
    found += swept
    driver = at_the_driver(max(1, arguments.rounds // 2))
    costs = fit(found)
    show_costs(found, costs)
    for part in dict.fromkeys(each.part for each in found):
        own = [each for each in found if each.part == part and not each.fitted]
        off = [abs(np.log(predict(costs, each) / each.value)) for each in own]
        note = f"{len(own)} predicted, none of them fitted"
        yield amount(
            part, "model off by, at the median", float(np.exp(np.median(off))), "x", note=note
        )
    yield amount("call", "driver and Dask's scheduler", 1e3 * driver, "ms")
    if arguments.output is None:
        return
    arguments.output.mkdir(parents=True, exist_ok=True)
    result = {
        "machine": machine() | {"cores": cores()},
        "costs": costs | memory | {"call at the driver": driver},
        "measured": [each._asdict() | {"model": predict(costs, each)} for each in found],
    }
    (arguments.output / "scaling_costs.json").write_text(json.dumps(result, indent=1) + "\n")
    draw_costs(found, costs, arguments.output / "scaling.png")


if __name__ == "__main__":
    options = options_of(__doc__, rounds=ROUNDS)
    options.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    sys.exit(run(rows, options, __file__))
