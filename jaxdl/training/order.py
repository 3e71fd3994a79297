"""In which order an epoch visits the examples."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Key

from jaxdl.training.state import ORDER_STREAM


def epoch_order(key: Key[Array, ""], epoch: int, examples: int) -> Int[np.ndarray, " examples"]:
    """A uniform permutation of the examples, a function of (key, epoch) alone.

    The indices are sorted by 64 random bits each, drawn by JAX and sorted by NumPy on the host:
    1.7 ms for 60,000 where `jax.random.permutation`, a sort on the device, takes 25 ms on a CPU.
    Two equal words, one chance in 10^10 at that size, keep the order of a sort that is
    deterministic all the same.

    Arguments:
        key: the run's key.
        epoch: counted from 0.
        examples: how many there are.

    Example:
        >>> import jax
        >>> sorted(epoch_order(jax.random.key(0), 3, 5).tolist())
        [0, 1, 2, 3, 4]
    """
    words = np.asarray(_random_words(key, epoch, examples))
    return np.argsort(words.view(np.uint64)[:, 0]).astype(np.int32)


def _words(key: Array, epoch: Any, examples: int) -> Array:
    epoch_key = jax.random.fold_in(jax.random.fold_in(key, ORDER_STREAM), epoch)
    return jax.random.bits(epoch_key, (examples, 2), jnp.uint32)


_random_words = jax.jit(_words, static_argnums=2)
