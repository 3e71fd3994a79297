"""The members of a sweep in compiled calls: traced once, divided into calls, run on every core."""

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jax.sharding import (
    Mesh,
    NamedSharding,
    PartitionSpec,
    Sharding,
    SingleDeviceSharding,
)
from jaxtyping import Array

from jaxdl.compiling import compiler_options, loops_well, side_by_side_options
from jaxdl.host_loops import with_loops_on_host
from jaxdl.jaxprs import DECOMPOSITIONS, atom_bytes, equations, holds_primitive
from jaxdl.training.sweep.by_seed import BySeed

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


@dataclass(frozen=True)
class Program:
    """A run, traced for one member and not yet compiled.

    Attributes:
        jaxpr: (seed, setting, ...) -> metrics, flat; the arrays that the run closes over are its
            constants.
        settings: the settings' names, in the order of the arguments.
        outputs: names, shapes and dtypes of the metrics, in order.
        given: for each array made by seed, whether all members share it.
    """

    jaxpr: core.ClosedJaxpr
    settings: tuple[str, ...]
    outputs: Mapping[str, jax.ShapeDtypeStruct]
    given: tuple[bool, ...] = ()

    def digest(self) -> str:
        """The digest of the program and its constants; equal in every process."""
        seen = hashlib.blake2b(digest_size=16)
        seen.update(re.sub(r"0x[0-9a-f]+", "", str(self.jaxpr)).encode())
        for const in self.jaxpr.consts:
            if jnp.issubdtype(const.dtype, jax.dtypes.prng_key):
                const = jax.random.key_data(const)
            seen.update(f"{const.dtype} {const.shape}".encode())
            seen.update(np.ascontiguousarray(const).data)
        return seen.hexdigest()

    def batched(self, consts: Sequence[Any], *arguments: Any) -> list[Array]:
        """Compute all members of a call."""
        run = core.jaxpr_as_fun(core.ClosedJaxpr(self.jaxpr.jaxpr, list(consts)))
        metrics: list[Array] = jax.vmap(run, in_axes=self._by_member(0, None))(*arguments)
        return metrics

    def _by_member(self, member: Any, shared: Any) -> tuple[Any, ...]:
        """One entry per argument: `shared` for an argument without an axis of members."""
        own = (member for _ in self.settings)
        made = (shared if is_shared else member for is_shared in self.given)
        return (member, *own, *made)

    def arguments(self, members: int) -> tuple[jax.ShapeDtypeStruct, ...]:
        """The shapes and dtypes of a call's arguments."""
        solo = (jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in self.jaxpr.in_avals)
        axes = self._by_member((members,), ())
        return tuple(
            jax.ShapeDtypeStruct((*axis, *one.shape), one.dtype)
            for axis, one in zip(axes, solo, strict=True)
        )

    def bytes_per_member(self) -> int:
        """The most that one operation of a member reads and writes, in bytes.

        It is the difference between calls of three and of two members. So what members share, such
        as the data, does not count.
        """
        two, three = (
            list(
                _traffic(jax.make_jaxpr(self.batched)(self.jaxpr.consts, *self.arguments(n)).jaxpr)
            )
            for n in (2, 3)
        )
        return max((b - a for a, b in zip(two, three, strict=True)), default=0)

    def compile(
        self, members: int, devices: Sequence[jax.Device], *, threads: int
    ) -> Callable[..., list[np.ndarray]]:
        """Compile a call of this many members, a multiple of the devices; it returns arrays."""
        if not self.loops_well():
            return self._driven(threads)
        alone = threads == 1 and len(devices) == 1
        options = compiler_options() if alone else side_by_side_options()
        if len(devices) == 1:
            everywhere: Sharding = SingleDeviceSharding(devices[0])
            by_member: Sharding = everywhere
            call: Callable[..., Any] = self.batched
        else:
            mesh = Mesh(np.array(devices), ("members",))
            split, whole = PartitionSpec("members"), PartitionSpec()
            everywhere, by_member = NamedSharding(mesh, whole), NamedSharding(mesh, split)
            # Members are independent, so the check has no use. It would refuse a state that starts
            # as a constant.
            call = jax.shard_map(
                self.batched,
                mesh=mesh,
                in_specs=(whole, *self._by_member(split, whole)),
                out_specs=split,
                check_vma=False,
            )
        placement = self._by_member(by_member, everywhere)
        consts = jax.device_put(self.jaxpr.consts, everywhere)
        lowered = jax.jit(call, compiler_options=options).lower(
            [jax.ShapeDtypeStruct(c.shape, c.dtype, sharding=everywhere) for c in consts],
            *(
                jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=place)
                for a, place in zip(self.arguments(members), placement, strict=True)
            ),
        )
        compiled = lowered.compile()

        def on_host(*arguments: np.ndarray) -> list[np.ndarray]:
            placed = [jax.device_put(a, p) for a, p in zip(arguments, placement, strict=True)]
            return [np.asarray(output) for output in compiled(consts, *placed)]

        return on_host

    def loops_well(self) -> bool:
        """Whether the members' loops may be compiled: not with convolutions on a CPU."""
        return loops_well(self.jaxpr)

    def _driven(self, threads: int) -> Callable[..., list[np.ndarray]]:
        """A call whose loops are driven from the host, on the default device."""
        chosen = side_by_side_options if threads > 1 else compiler_options
        options = chosen(convolutional=True)
        driven = with_loops_on_host(self.batched, options)

        def on_host(*arguments: np.ndarray) -> list[np.ndarray]:
            return [np.asarray(output) for output in driven(self.jaxpr.consts, *arguments)]

        return on_host


def trace_member(
    run: Callable[..., Any],
    settings: Mapping[str, np.dtype],
    *,
    by_seed: Sequence[BySeed] = (),
) -> Program:
    """Trace `run(key, **settings)` once, for one member. What is made by seed is an argument too.

    Raises:
        TypeError: a metric is no array of numbers.
    """
    names: list[str] = []
    first = [each.make(jax.random.key(int(each.seeds[0]))) for each in by_seed]
    leaves, structure = jax.tree.flatten(first)
    flags = [
        each.shared
        for each, tree in zip(by_seed, first, strict=True)
        for _ in jax.tree.leaves(tree)
    ]

    def solo(seed: Array, *values: Array) -> list[Array]:
        moving = dict(zip(settings, values[: len(settings)], strict=True))
        trees = jax.tree.unflatten(structure, values[len(settings) :])
        made = {each.name: tree for each, tree in zip(by_seed, trees, strict=True)}
        metrics = run(jax.random.key(seed), **moving, **made)
        paths = jax.tree_util.tree_flatten_with_path(metrics, is_leaf=lambda leaf: leaf is None)[0]
        names[:] = [
            jax.tree_util.keystr(path, simple=True, separator="/") or "result" for path, _ in paths
        ]
        for name, (_, leaf) in zip(names, paths, strict=True):
            _check_metric(name, leaf)
        return [jnp.asarray(leaf) for _, leaf in paths]

    word = jax.ShapeDtypeStruct((), np.uint32)
    values = [jax.ShapeDtypeStruct((), dtype) for dtype in settings.values()]
    values += [
        jax.ShapeDtypeStruct(jnp.shape(leaf), jax.dtypes.canonicalize_dtype(jnp.result_type(leaf)))
        for leaf in leaves
    ]
    try:
        jaxpr, shapes = jax.make_jaxpr(solo, return_shape=True)(word, *values)
    except Exception as error:
        error.add_note(
            f"sweep traced run with {', '.join(settings) or 'nothing'} as arrays; an argument that "
            "decides a shape, or that Python branches on, is to be named in static=(...)"
        )
        raise
    if not names:
        raise TypeError(
            "run must return arrays by name, got none; return e.g. {'loss': loss}, not None"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"metrics must have different names, got {names}; rename one")
    outputs = dict(zip(names, shapes, strict=True))
    return Program(jaxpr, tuple(settings), outputs, tuple(flags))


def _check_metric(name: str, leaf: Any) -> None:
    kinds = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)
    numeric = isinstance(leaf, kinds) and any(
        jnp.issubdtype(jnp.result_type(leaf), kind) for kind in (np.number, np.bool_)
    )
    if not numeric:
        raise TypeError(
            f"metrics must be arrays of numbers, got {name} = {leaf!r}; leave it out of what run "
            "returns"
        )


def _traffic(program: core.Jaxpr) -> Iterator[int]:
    """The bytes that each equation reads and writes, also inside inner functions."""
    for equation in equations(program):
        yield sum(map(atom_bytes, (*equation.invars, *equation.outvars)))


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
    devices = tuple(jax.local_devices())
    if not program.loops_well():
        # Convolutions with a kernel for each member are slow, and the host dispatches each step.
        devices, chunk = devices[:1], chunk or 1
    on_cpu = devices[0].platform == "cpu"
    alone = on_cpu and holds_primitive(program.jaxpr.jaxpr, *DECOMPOSITIONS)
    if alone:  # XLA may wait for ever when two programs with such an operation run at once
        devices = devices[:1]
    threads = max(1, _cores() // len(devices)) if on_cpu and not alone else 1
    if chunk is None:
        each = max(1, _budget(devices[0]) // max(1, program.bytes_per_member()))
        most = min(members, (min(each, CPU_MEMBERS) if on_cpu else each) * len(devices))
        # A multiple of the threads, so that all cores finish at about the same time.
        number = min(members, threads * math.ceil(members / most / threads))
        chunk = math.ceil(members / number / len(devices))
    size = min(chunk, math.ceil(members / len(devices))) * len(devices)
    return Calls(devices, min(threads, math.ceil(members / size)), size)


def _budget(device: jax.Device) -> int:
    if device.platform == "cpu":
        return CPU_BYTES
    limit = (device.memory_stats() or {}).get("bytes_limit", DEVICE_BYTES)
    return int(DEVICE_SHARE * limit)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def prepare(
    program: Program, members: int, chunk: int | None
) -> Callable[[Sequence[np.ndarray | BySeed], np.ndarray, Finished], None]:
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
        def one(start: int) -> None:
            now = todo[start : start + calls.members]
            padded = np.concatenate([now, np.repeat(now[-1:], calls.members - len(now))])
            outputs = call(*(array for each in arguments for array in taken(each, padded)))
            finished(now, [output[: len(now)] for output in outputs])

        with ThreadPoolExecutor(calls.threads) as pool:
            futures = [pool.submit(one, start) for start in range(0, len(todo), calls.members)]
            try:
                for future in as_completed(futures):
                    future.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    return execute
