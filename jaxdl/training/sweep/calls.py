"""The members of a sweep divided into calls of equal size, and the calls run on every core."""

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import NamedTuple

import jax
import numpy as np

from jaxdl.jaxprs import CONVOLUTION, DECOMPOSITIONS, holds_primitive
from jaxdl.training.sweep.by_seed import BySeed
from jaxdl.training.sweep.program import Program

# On a CPU, what a step reads and writes for all members of a call should stay near the size of a
# core's cache. A 784-128-10 network with Adam (3 MB a member) is fastest with 4 to 8 members in a
# call, and a fifth slower with 32. Above 64 members a call saves nothing more: 2-4-3-1 takes the
# same time per member with 128.
CPU_BYTES, CPU_MEMBERS = 16_000_000, 64

# On other devices memory is the limit. One operation reads and writes about half of a member's
# memory. The rest is for the data, the compiler and the user.
DEVICE_SHARE = 0.25
DEVICE_BYTES = 4_000_000_000
"""The memory assumed for a device that does not report it."""


Finished = Callable[[np.ndarray, list[np.ndarray]], None]
"""(members of a call, their metrics) -> None, called after each call."""

Execute = Callable[[Sequence[np.ndarray | BySeed], np.ndarray, Finished], None]
"""(arguments, members, finished) -> None, which computes these members."""

Prepare = Callable[[Program, int, int | None], Execute]
"""(program, number of members, chunk) -> what computes some of them."""


class Room(NamedTuple):
    """What a process has for calls.

    Attributes:
        platform: of its devices, "cpu" or another.
        devices: how many it has.
        cores: how many it may use.
        budget: what one operation may read and write on a device, in bytes.
    """

    platform: str
    devices: int
    cores: int
    budget: int


def room_here() -> Room:
    """What this process has."""
    devices = jax.local_devices()
    return Room(devices[0].platform, len(devices), _cores(), _budget(devices[0]))


@dataclass(frozen=True)
class Calls:
    """How members are divided into calls.

    Attributes:
        devices: they share each call.
        threads: calls that run at the same time.
        members: members in a call. If the last call has fewer, it repeats its last member.
    """

    devices: tuple[jax.Device, ...]
    threads: int
    members: int


def plan_calls(program: Program, members: int, chunk: int | None) -> Calls:
    """Calls of equal size that keep all cores and devices busy; `chunk` members on each device."""
    room = room_here()
    devices = usable_devices(program, room)
    threads = 1 if must_run_alone(program, room.platform) else max(1, room.cores // devices)
    size = members_of_a_call(program, members, chunk, room, threads)
    local = tuple(jax.local_devices()[:devices])
    return Calls(local, min(threads, math.ceil(members / size)), size)


def usable_devices(program: Program, room: Room) -> int:
    """How many devices of a process share a call: one CPU device if the program asks for it."""
    # Convolutions with a kernel for each member are slow, and the host dispatches each step.
    one_at_a_time = (CONVOLUTION, *DECOMPOSITIONS)
    if room.platform == "cpu" and holds_primitive(program.jaxpr.jaxpr, *one_at_a_time):
        return 1
    return room.devices


def must_run_alone(program: Program, platform: str) -> bool:
    """Whether a process must run one call after another.

    An accelerator is given one call at a time. On a CPU XLA may wait for ever when two programs
    with a decomposition run at once.
    """
    return platform != "cpu" or holds_primitive(program.jaxpr.jaxpr, *DECOMPOSITIONS)


def members_of_a_call(
    program: Program, members: int, chunk: int | None, room: Room, at_once: int
) -> int:
    """How many members a call has: as many as fit, in a multiple of `at_once` calls."""
    devices, on_cpu = usable_devices(program, room), room.platform == "cpu"
    if chunk is None and on_cpu and holds_primitive(program.jaxpr.jaxpr, CONVOLUTION):
        chunk = 1
    if chunk is None:
        each = max(1, room.budget // max(1, program.bytes_per_member()))
        most = min(members, (min(each, CPU_MEMBERS) if on_cpu else each) * devices)
        # A multiple of the calls at once, so that all cores finish at about the same time.
        number = min(members, at_once * math.ceil(members / most / at_once))
        chunk = math.ceil(members / number / devices)
    return min(chunk, math.ceil(members / devices)) * devices


def padded_calls(todo: np.ndarray, size: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(members, the same padded to `size` with the last one) for each call."""
    cut = [todo[start : start + size] for start in range(0, len(todo), size)]
    return [(now, np.concatenate([now, np.repeat(now[-1:], size - len(now))])) for now in cut]


def _budget(device: jax.Device) -> int:
    if device.platform == "cpu":
        return CPU_BYTES
    limit = (device.memory_stats() or {}).get("bytes_limit", DEVICE_BYTES)
    return int(DEVICE_SHARE * limit)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def prepare(program: Program, members: int, chunk: int | None) -> Execute:
    """Compile for this many members; the result (arguments, members, finished) -> None runs some.

    A compiled call keeps one CPU core busy, so calls run in threads: JAX releases the interpreter's
    lock while it computes. Each thread calls `finished(members, metrics)` after its call.
    """
    calls = plan_calls(program, members, chunk)
    call = program.compile(calls.members, calls.devices, threads=calls.threads)

    def taken(argument: np.ndarray | BySeed, members: np.ndarray) -> list[np.ndarray]:
        if isinstance(argument, BySeed):
            return argument.take(members)
        return [argument[members] if argument.ndim else argument]

    def execute(
        arguments: Sequence[np.ndarray | BySeed], todo: np.ndarray, finished: Finished
    ) -> None:
        def one(now: np.ndarray, padded: np.ndarray) -> None:
            outputs = call(*(array for each in arguments for array in taken(each, padded)))
            finished(now, [output[: len(now)] for output in outputs])

        with ThreadPoolExecutor(calls.threads) as pool:
            futures = [pool.submit(one, *each) for each in padded_calls(todo, calls.members)]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    return execute
