"""Turn a pytree into NumPy arrays and back, with the name, dtype, shape and digest of each leaf."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import UInt8

Bytes = UInt8[np.ndarray, " _"]

# Orbax cannot write these, or reads them back as another type: they are stored as their bytes.
_AS_BYTES = tuple(
    np.dtype(getattr(ml_dtypes, name)) for name in ("uint2", "uint4", "float8_e8m0fnu")
)


@dataclass(frozen=True)
class Leaf:
    """What a leaf must be.

    Attributes:
        dtype: JAX's name of the dtype; `key<fry>` and the like for PRNG keys.
        shape: the array's shape; for PRNG keys that of the keys, not of their words.
        digest: the SHA-256 of its bytes in row-major order.
    """

    dtype: str
    shape: tuple[int, ...]
    digest: str

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
    return {name: kind(leaf) for name, leaf in named(tree).items()}


def named(tree: Any) -> dict[str, Any]:
    """The leaves of a pytree by their names, `params/dense_0/kernel`, in order.

    Raises:
        TypeError: a leaf is no array; the message names it.
        ValueError: two leaves have one name.
    """
    leaves: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not isinstance(leaf, jax.Array | np.ndarray | jax.ShapeDtypeStruct):
            raise TypeError(
                f"every leaf must be an array, got {type(leaf).__name__} at {name!r}; "
                "wrap it in jnp.asarray"
            )
        if name in leaves:
            raise ValueError(
                f"every leaf must have a name of its own, got {name!r} twice; rename one"
            )
        leaves[name] = leaf
    return leaves


def pack(tree: Any) -> Any:
    """The tree as dicts and lists of NumPy arrays in memory of their own, as orbax can store them.

    Keys become their words, 32-bit integers with one axis more. Orbax stores no array without
    elements: None takes its place. A named tuple or another class becomes a dict.

    Raises:
        TypeError: a leaf is no array, or this process does not hold all of it.
        ValueError: two leaves of a tree have one name.
    """
    leaves = [_words(_local(leaf, name)) for name, leaf in named(tree).items()]
    for leaf in leaves:
        if isinstance(leaf, jax.Array):
            leaf.copy_to_host_async()  # start all copies before waiting for the first
    arrays = [_storable(np.array(leaf, order="C")) if leaf.size else None for leaf in leaves]
    return _plain(tree, iter(arrays))


def check_held(tree: Any) -> None:
    """Make every process refuse what `pack` refuses in the one process that calls it.

    Raises:
        TypeError: as in `pack`.
        ValueError: as in `pack`.
    """
    for name, leaf in named(tree).items():
        _local(leaf, name)


def digest(array: np.ndarray) -> str:
    """The SHA-256 of an array's bytes in row-major order.

    Example:
        >>> digest(np.zeros(0)) == hashlib.sha256().hexdigest()
        True
    """
    return hashlib.sha256(bytes_of(array).data).hexdigest()


def bytes_of(array: np.ndarray) -> Bytes:
    """The bytes of an array in row-major order."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def unpack(target: Any, stored: Mapping[str, Bytes]) -> Any:
    """A tree like `target` with the stored values, each leaf on the devices of the target's.

    Arguments:
        target: a tree of arrays or `jax.ShapeDtypeStruct` with the leaves that were packed.
        stored: the bytes of each leaf by name; a leaf without elements may be missing.

    Raises:
        ValueError: the target has 64-bit arrays, and `jax_enable_x64` is off.
    """
    empty = np.empty(0, np.uint8)
    values = [_like(leaf, stored.get(name, empty)) for name, leaf in named(target).items()]
    return jax.tree.unflatten(jax.tree.structure(target), values)


def _plain(node: Any, arrays: Iterator[np.ndarray | None]) -> Any:
    """The containers of a tree as dicts and lists, around the next arrays."""
    children = jax.tree_util.tree_leaves_with_path(node, is_leaf=lambda each: each is not node)
    if children and not children[0][0]:
        return next(arrays)
    if not children:
        return {} if isinstance(node, Mapping) else () if type(node) in (tuple, list) else None
    names = [jax.tree_util.keystr(path, simple=True) for path, _ in children]
    plain = [_plain(child, arrays) for _, child in children]
    indexed = isinstance(children[0][0][0], jax.tree_util.SequenceKey)
    return plain if indexed else dict(zip(names, plain, strict=True))


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


def _words(leaf: Any) -> Any:
    if isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.key_data(leaf)
    return leaf


def _storable(array: np.ndarray) -> np.ndarray:
    return array.view(np.uint8) if array.dtype in _AS_BYTES else array


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
