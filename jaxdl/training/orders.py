"""In which order an epoch visits the examples."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from jaxdl.training.state import ORDER_STREAM


def epoch_order(key: Key[Array, ""], epoch: int, examples: int) -> Int[np.ndarray, " examples"]:
    """A uniform permutation of the examples, a function of (key, epoch) alone.

    The indices are sorted by 64 random bits each: those of NumPy's Philox generator, seeded with
    the words of the key, the purpose and the epoch. On the host this takes 1.5 ms for 60,000
    examples, where `jax.random.permutation`, two sorts on the device, takes 25 ms of a CPU; and a
    process that only reads data can do it. Two equal words, one chance in 10^10 at that size,
    would keep the order that the sort gives them.

    Arguments:
        key: the run's key.
        epoch: counted from 0.
        examples: how many there are.

    Example:
        >>> import jax
        >>> sorted(epoch_order(jax.random.key(0), 3, 5).tolist())
        [0, 1, 2, 3, 4]
    """
    entropy = [*np.asarray(jax.random.key_data(key)).tolist(), ORDER_STREAM, epoch]
    words = np.random.Philox(np.random.SeedSequence(entropy)).random_raw(examples)
    return np.argsort(words).astype(np.int32)


def order_key(seed: Any) -> Key[Array, ""]:
    """The key of the order of the data that goes with a seed."""
    return jax.random.fold_in(jax.random.key(seed), ORDER_STREAM)
