"""The run of a sweep as a program: traced for one member, compiled for the members of a call."""

import hashlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from jaxdl.jaxprs import atom_bytes, equations
from jaxdl.training.sweep.by_seed import BySeed


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
