"""Turn a pytree into bytes and back, with the name, dtype, shape and digest of each leaf."""

import dataclasses
import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

Bytes = UInt8[np.ndarray, " _"]

# Small leaves share a part: one file for each would cost more than its bytes. A leaf this large has
# a part of its own, so that parts are written in parallel.
_PART_BYTES = 2**26


@dataclass(frozen=True)
class Leaf:
    """Where a leaf lies among the parts, and what it must be.

    Attributes:
        name: its path in the tree, as `params/dense_0/kernel`.
        dtype: JAX's name of the dtype; `key<fry>` and the like for PRNG keys.
        shape: the array's shape; for PRNG keys that of the keys, not of their words.
        part: the index of the part with its bytes.
        start: its first byte there.
        stop: the byte after its last.
        digest: the SHA-256 of its bytes; empty until `with_digests`.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    part: int
    start: int
    stop: int
    digest: str = ""

    @property
    def kind(self) -> str:
        """Dtype and shape as one word, `float32[784,128]`."""
        return kind(self)


def kind(leaf: Any) -> str:
    """The dtype and shape of any array-like object, as one word.

    Example:
        >>> import jax
        >>> kind(jax.numpy.ones((3, 2))), kind(jax.random.key(0))
        ('float32[3,2]', 'key<fry>[]')
    """
    return f"{leaf.dtype}[{','.join(map(str, leaf.shape))}]"


def describe(tree: Any) -> dict[str, str]:
    """Name and kind of every leaf, in order.

    Arguments:
        tree: a pytree of arrays, or of `jax.ShapeDtypeStruct`.

    Raises:
        TypeError: a leaf is no array; the message names it.
        ValueError: two leaves have one name.

    Example:
        >>> import jax.numpy as jnp
        >>> describe({"kernel": jnp.ones((3, 2)), "bias": jnp.zeros(2)})
        {'bias': 'float32[2]', 'kernel': 'float32[3,2]'}
    """
    described = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
            raise TypeError(
                f"every leaf must be an array, got {type(leaf).__name__} at {name!r}; "
                "wrap it in jnp.asarray"
            )
        if name in described:
            raise ValueError(
                f"every leaf must have a name of its own, got {name!r} twice; rename one"
            )
        described[name] = kind(leaf)
    return described


def pack(*trees: Any) -> tuple[list[list[Leaf]], list[Bytes]]:
    """Copy trees to the host: the leaves of each, without digests, and the parts with their bytes.

    The copy shares no memory with the trees, so their buffers may be donated afterwards.

    Raises:
        TypeError: a leaf is no array, or this process does not hold all of it.
        ValueError: two leaves of a tree have one name.
    """
    packed: list[list[Leaf]] = []
    values: list[Any] = []
    sizes = [0]
    for tree in trees:
        packed.append([])
        for (name, _), leaf in zip(describe(tree).items(), jax.tree.leaves(tree), strict=True):
            value = _data(_local(leaf, name))
            start = 0 if sizes[-1] and sizes[-1] + value.nbytes > _PART_BYTES else sizes[-1]
            stop = start + value.nbytes
            if start == sizes[-1]:
                sizes[-1] = stop
            else:
                sizes.append(stop)
            place = (len(sizes) - 1, start, stop)
            packed[-1].append(Leaf(name, str(leaf.dtype), tuple(leaf.shape), *place))
            values.append(value)
    for value in values:
        if isinstance(value, jax.Array):
            value.copy_to_host_async()  # start all copies before waiting for the first
    parts = [np.empty(size, np.uint8) for size in sizes if size]
    for leaf, value in zip(itertools.chain(*packed), values, strict=True):
        bytes_of(leaf, parts)[:] = _bytes(np.asarray(value))
    return packed, parts


def check_held(tree: Any) -> None:
    """Make every process refuse what `pack` refuses in the one process that calls it.

    Raises:
        TypeError: as in `pack`.
        ValueError: as in `pack`.
    """
    for name, leaf in zip(describe(tree), jax.tree.leaves(tree), strict=True):
        _local(leaf, name)


def with_digests(leaves: Sequence[Leaf], parts: Sequence[Bytes]) -> list[Leaf]:
    """The leaves with the SHA-256 of their bytes."""
    return [dataclasses.replace(leaf, digest=_digest(leaf, parts)) for leaf in leaves]


def damaged(leaves: Sequence[Leaf], parts: Sequence[Bytes]) -> list[str]:
    """The names of the leaves whose bytes are not those that were saved."""
    return [leaf.name for leaf in leaves if _digest(leaf, parts) != leaf.digest]


def unpack(target: Any, leaves: Sequence[Leaf], parts: Sequence[Bytes]) -> Any:
    """A tree like `target` with the stored values, each leaf on the devices of the target's.

    Arguments:
        target: a tree of arrays or `jax.ShapeDtypeStruct` with the leaves that were packed.
        leaves: the target's leaves, in any order.
        parts: their bytes.

    Raises:
        ValueError: the target has 64-bit arrays, and `jax_enable_x64` is off.
    """
    by_name = {leaf.name: leaf for leaf in leaves}
    shaped, structure = jax.tree.flatten(target)
    values = [
        _like(wanted, bytes_of(by_name[name], parts))
        for wanted, name in zip(shaped, describe(target), strict=True)
    ]
    return jax.tree.unflatten(structure, values)


def bytes_of(leaf: Leaf, parts: Sequence[Bytes]) -> Bytes:
    """The bytes of one leaf, a view."""
    if leaf.start == leaf.stop:
        return np.empty(0, np.uint8)
    return parts[leaf.part][leaf.start : leaf.stop]


def _like(wanted: Any, data: Bytes) -> Any:
    if isinstance(wanted, np.ndarray):
        return data.view(wanted.dtype).reshape(wanted.shape).copy()
    sharding = wanted.sharding if getattr(wanted, "committed", True) else None
    if not jnp.issubdtype(wanted.dtype, jax.dtypes.prng_key):
        host = data.view(wanted.dtype).reshape(wanted.shape)
        placed = jax.device_put(host, sharding, may_alias=False)
        if placed.dtype != wanted.dtype:
            raise ValueError(
                f"arrays of {wanted.dtype} must be restored as such, got jax_enable_x64 off, which "
                f"makes them {placed.dtype}; set it as in the run that saved them"
            )
        return placed
    # The words of keys have one axis more than the keys, and 32 bits in every implementation. Words
    # can be put on the devices of other processes; keys cannot.
    host = data.view(np.uint32).reshape(*wanted.shape, -1)
    words = jax.device_put(host, sharding, may_alias=False)
    return jax.random.wrap_key_data(words, impl=_implementation(wanted))


def _implementation(keys: Any) -> Any:
    if isinstance(keys, jax.Array):
        return jax.random.key_impl(keys)
    return jax.random.key_impl(jnp.empty((), keys.dtype))


def _data(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf


def _local(leaf: Any, name: str) -> Any:
    """The whole leaf, from the devices of this process."""
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return leaf
    if not leaf.is_fully_replicated:
        raise TypeError(
            f"every process must hold all of a leaf that is saved, got {name!r} sharded over "
            f"processes ({leaf.sharding}); replicate it first"
        )
    return leaf.addressable_data(0)


def _bytes(array: np.ndarray) -> Bytes:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _digest(leaf: Leaf, parts: Sequence[Bytes]) -> str:
    return hashlib.sha256(bytes_of(leaf, parts).data).hexdigest()
