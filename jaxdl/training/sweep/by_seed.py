"""What a sweep makes on the host for each seed: orders, data, anything a member takes as arrays."""

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from jaxdl.training.fields import check_held

ORDERS = ("order", "orders")
"""The arguments that all members may share."""

Make = Callable[[Key[Array, ""]], Any]
"""(the key of a seed) -> a pytree of arrays."""

# Made arrays are kept for other settings of the same seed, the first of so many bytes.
KEPT_BYTES = 64_000_000


@dataclass(frozen=True, eq=False)
class BySeed:
    """One argument of the members, made when a call needs it.

    Attributes:
        name: of the argument.
        make: called on the host.
        shared: whether all members get that of the first seed.
        seeds: of the members, in the grid's order.
    """

    name: str
    make: Make
    shared: bool
    seeds: np.ndarray
    _kept: dict[int, list[np.ndarray]] = field(default_factory=dict, repr=False)
    _alone: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def of_seed(self, seed: int) -> list[np.ndarray]:
        """The arrays of a seed, flat. One thread at a time is in `make`, which is the user's."""
        with self._alone:
            if seed in self._kept:
                return self._kept[seed]
            tree = self.make(jax.random.key(seed))
            check_held({f"by_seed[{self.name!r}]": tree}, f"the seed {seed}")
            made = [_on_host(leaf) for leaf in jax.tree.leaves(tree)]
            if _bytes([made, *self._kept.values()]) <= KEPT_BYTES:
                self._kept[seed] = made
            return made

    def digest(self, *, whole_numbers: bool = False) -> str:
        """The digest of what is made for the first seed, or of the whole numbers among it."""
        seen = hashlib.blake2b(str(self.shared).encode(), digest_size=16)
        for leaf in self.of_seed(int(self.seeds[0])):
            seen.update(f"{leaf.dtype} {leaf.shape}".encode())
            if whole_numbers and leaf.dtype.kind not in "biu":
                continue
            seen.update(np.ascontiguousarray(leaf).data)
        return seen.hexdigest()

    def take(self, members: np.ndarray) -> list[np.ndarray]:
        """The arrays of these members, with a leading axis of members unless they are shared."""
        if self.shared:
            return self.of_seed(int(self.seeds[0]))
        rows = [self.of_seed(int(seed)) for seed in self.seeds[members]]
        first = self.of_seed(int(self.seeds[0]))
        for row in rows:
            if [leaf.shape for leaf in row] != [leaf.shape for leaf in first]:
                raise ValueError(
                    f"by_seed[{self.name!r}] must give arrays of one shape for every seed, got "
                    f"{[leaf.shape for leaf in first]} and {[leaf.shape for leaf in row]}; cut or "
                    "pad them"
                )
        return [np.stack(column) for column in zip(*rows, strict=True)]


def checked_by_seed(
    by_seed: Mapping[str, Any], orders: str, taken: Sequence[str], seeds: np.ndarray
) -> list[BySeed]:
    """The arguments that are made by seed.

    Raises:
        ValueError: a name that a setting has, or a value of `orders` that there is not.
        TypeError: what is no function.
    """
    if orders not in ("own", "shared"):
        raise ValueError(f'orders must be "own" or "shared", got {orders!r}; pass one of them')
    for name, make in by_seed.items():
        if name in taken:
            raise ValueError(
                f"by_seed must not name {name!r}, which over or the sweep gives; rename one"
            )
        if not callable(make):
            raise TypeError(
                f"by_seed[{name!r}] must be a function of a seed's key, got {make!r}; pass e.g. "
                "lambda key: training.orders(key, epochs, examples)"
            )
    return [
        BySeed(name, make, orders == "shared" and name in ORDERS, seeds)
        for name, make in by_seed.items()
    ]


def _bytes(kept: Sequence[Sequence[np.ndarray]]) -> int:
    return sum(leaf.nbytes for leaves in kept for leaf in leaves)


def _on_host(leaf: Any) -> np.ndarray:
    """A copy in the device's type: `make` may write to its memory again for the next seed."""
    array = np.array(leaf)
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype), copy=False)
