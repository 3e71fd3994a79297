"""Where the train step runs: on one device, on a mesh of devices and processes, or under pmap.

On a mesh the batch is sharded, the state is replicated, and the compiler inserts the communication.
Under pmap each device runs the step on its share of the batch, and the step averages by itself
(`make_train_step(axis_name=...)`). Both agree with one device to the rounding of sums. A mesh draws
the dropout masks of one device; pmap draws others.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from jaxdl.data.types import Arrays
from jaxdl.training.state import copied
from jaxdl.training.task import as_batch

Parallel = Literal["auto", "jit", "pmap"] | Mesh

AXIS = "batch"
"""The axis of the meshes made here, and of pmap."""


@dataclass(frozen=True)
class Layout:
    """Where a run's state and batches lie.

    Attributes:
        mesh: the devices; None for the default device alone.
        mapped: whether the step is mapped over the mesh's only axis by pmap.
    """

    mesh: Mesh | None
    mapped: bool = False

    @property
    def devices(self) -> int:
        """The number of devices that share a batch."""
        return 1 if self.mesh is None else self.mesh.size

    @property
    def replicated(self) -> NamedSharding:
        """The sharding that puts a whole array on every device."""
        assert self.mesh is not None
        return NamedSharding(self.mesh, PartitionSpec())

    def divides(self, batch: int) -> bool:
        """Whether the devices can share a batch of this size evenly."""
        return batch % self.devices == 0

    def batch_sharding(self) -> NamedSharding:
        """The sharding that divides a batch's examples among the devices."""
        assert self.mesh is not None
        return NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))

    def describe(self) -> str:
        """The layout in words, for a checkpoint: the last bits of a run depend on it."""
        if self.mesh is None:
            return "jit"
        return f"{'pmap' if self.mapped else 'mesh'} of {self.mesh.devices.shape}"

    def replicate(self, tree: Any) -> Any:
        """A copy of the tree on every device. Every process must pass the same values."""
        if self.mesh is None:
            return copied(tree)
        return jax.tree.map(self._replicate_leaf, tree)

    def _replicate_leaf(self, leaf: Any) -> Any:
        if jnp.issubdtype(jnp.asarray(leaf).dtype, jax.dtypes.prng_key):
            data = self._replicate_leaf(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        host = np.array(leaf, jnp.asarray(leaf).dtype)
        return jax.make_array_from_callback(host.shape, self.replicated, lambda at: host[at])

    def put_stack(
        self, arrays: Arrays, order: np.ndarray, *, mapped: bool = False
    ) -> dict[str, Any]:
        """The batches whose examples are `order`, (steps, batch), as a `Source`.

        A process reads and holds only the share of each batch that its own devices use.

        Arguments:
            mapped: for pmap, whose batches are (devices, batch / devices, ...).
        """
        assert self.mesh is not None
        sharding = self.replicated
        if self.divides(order.shape[1]):
            sharding = NamedSharding(self.mesh, PartitionSpec(None, self.mesh.axis_names))
            if mapped:
                order = order.reshape(len(order), self.devices, -1)

        def put(values: np.ndarray) -> Any:
            dtype = jax.dtypes.canonicalize_dtype(values.dtype)

            def part(place: tuple[slice, ...] | None) -> np.ndarray:
                assert place is not None
                return np.asarray(values[order[place[: order.ndim]]], dtype)

            shape = (*order.shape, *values.shape[1:])
            return jax.make_array_from_callback(shape, sharding, part)

        return {"batches": jax.tree.map(put, as_batch(arrays))}

    def compile(
        self,
        function: Callable[..., Any],
        options: dict[str, Any],
        *,
        positions: int,
        donate: bool,
        mapped: bool = False,
    ) -> Callable[..., Any]:
        """Compile (state, source, *positions) -> (state, metrics).

        Arguments:
            function: a pure function.
            options: the compiler's options.
            positions: the number of arguments after the source.
            donate: whether the new state may overwrite the old one.
            mapped: whether to use pmap over the axis.
        """
        donated = (0,) if donate else ()
        if mapped:
            compiled: Callable[..., Any] = jax.pmap(
                function,
                axis_name=AXIS,
                in_axes=(None, 1, *[None] * positions),
                out_axes=None,
                donate_argnums=donated,
                devices=list(self.mesh.devices.flat) if self.mesh is not None else None,
            )
            return compiled
        placed: dict[str, Any] = {}
        if self.mesh is not None:
            placed["out_shardings"] = self.replicated
        return jax.jit(function, donate_argnums=donated, compiler_options=options, **placed)


ONE_DEVICE = Layout(None)


def resolve(parallel: Parallel, batch_size: int) -> Layout:
    """The layout for `fit`'s argument `parallel`.

    Raises:
        ValueError: an unknown word; a mesh with axes that are not Auto; devices that do not divide
            the batch; one device or pmap in several processes.

    Example:
        >>> resolve("jit", 100)
        Layout(mesh=None, mapped=False)
    """
    if isinstance(parallel, Mesh):
        if any(kind != AxisType.Auto for kind in parallel.axis_types):
            raise ValueError(
                f"parallel must be a mesh of Auto axes, got {parallel.axis_types}; "
                "make it with jax.make_mesh(..., axis_types=(jax.sharding.AxisType.Auto,))"
            )
        layout = Layout(parallel)
    elif parallel in ("auto", "jit", "pmap"):
        several = jax.process_count() > 1
        if several and parallel != "auto":
            raise ValueError(
                f'parallel must be "auto" or a mesh in {jax.process_count()} processes, '
                f"got {parallel!r}, which runs in one"
            )
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
        mesh = Mesh(np.array(devices), (AXIS,))
        single = parallel == "jit" or (parallel == "auto" and len(devices) == 1)
        layout = Layout(None if single else mesh, mapped=parallel == "pmap")
    else:
        raise ValueError(f'parallel must be "auto", "jit", "pmap" or a mesh, got {parallel!r}')
    check_batch(layout.devices, batch_size)
    return layout


def check_batch(devices: int, batch_size: int) -> None:
    """Refuse a batch that the devices cannot share evenly."""
    below = batch_size - batch_size % devices
    if below != batch_size:
        fits = f"{below + devices} or {below}" if below else f"{devices}"
        raise ValueError(
            f"batch_size must be a multiple of the {devices} devices that share a batch, "
            f'got {batch_size}; pass {fits}, or parallel="jit" for one device'
        )


def initialize(
    coordinator: str | None = None,
    *,
    processes: int | None = None,
    process: int | None = None,
    **options: Any,
) -> None:
    """Join this process to the others of its run. Call it before any other use of JAX.

    On SLURM, GKE, Open MPI and TPU pods JAX finds all three arguments. Elsewhere pass all three.

    Arguments:
        coordinator: "host:port" where process 0 listens.
        processes: the number of processes.
        process: the number of this process, from 0.
        options: further options of `jax.distributed.initialize`, e.g. `heartbeat_timeout_seconds`.

    Raises:
        ValueError: only some of the three are given.
    """
    given = [coordinator is not None, processes is not None, process is not None]
    if any(given) and not all(given):
        raise ValueError(
            "coordinator, processes and process must be given together, or none of them where a "
            f"cluster tells, got {coordinator=}, {processes=}, {process=}"
        )
    jax.distributed.initialize(coordinator, processes, process, **options)


def local(leaf: Any) -> Any:
    """This process's first copy of an array that lies on every device.

    Example:
        >>> local(jnp.ones(2)).tolist()
        [1.0, 1.0]
    """
    return leaf.addressable_data(0) if isinstance(leaf, jax.Array) else leaf


def any_process(flag: int) -> int:
    """The largest flag of all processes."""
    if jax.process_count() == 1:
        return flag
    return int(np.max(multihost_utils.process_allgather(np.int32(flag))))
