"""The order in which an epoch visits the examples, and their mirror images."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int, Key

from jaxdl.checks import Count, is_traced, require_key, whole_number
from jaxdl.training.state import FLIP_STREAM, ORDER_STREAM


def epoch_order(key: Key[Array, ""], epoch: Count, examples: Count) -> Int[np.ndarray, " examples"]:
    """A uniform permutation of the examples, a function of (key, epoch) alone.

    Each index is given 64 random bits, and the indices are sorted by them. The bits come from
    NumPy's Philox generator, seeded with the key, the purpose and the epoch. On the host this takes
    1.5 ms for 60,000 examples; `jax.random.permutation` sorts twice on the device, which takes a
    CPU 25 ms. A process that only reads data can make the order too. Two indices with equal bits
    (probability 1e-10 at that size) would keep the order that the sort leaves them in.

    Arguments:
        key: the run's own key, `state.key`; of `fit(key=key)` it is `jax.random.split(key)[1]`, as
            `orders` takes it.
        epoch: counted from 0.
        examples: the number of examples.

    Example:
        >>> import jax
        >>> sorted(epoch_order(jax.random.key(0), 3, 5).tolist())
        [0, 1, 2, 3, 4]
    """
    epoch, examples = whole_number("epoch", epoch, 0), whole_number("examples", examples)
    words: list[int] = np.asarray(jax.random.key_data(key)).tolist()
    (order,) = _orders(words, np.array([epoch]), examples)
    return np.asarray(order)


def orders(
    key: Key[Array, "..."], epochs: Count, examples: Count, *, first: Count = 0
) -> Int[np.ndarray, "epochs examples"]:
    """The orders of the run of this key, one row an epoch; made on the host.

    `fit(key=key)` visits the examples in these orders. They take 4 bytes an example and epoch: 24
    MB for 100 epochs of 60,000. A longer run goes in pieces: `first` is the epoch of the first row.

    Arguments:
        key: the key of the run, as given to `fit`, `init_state` or a `Run`.

    Raises:
        TypeError: what is no key, or a traced one.
        ValueError: fewer than 1 epoch or example, a negative first epoch.

    Example:
        >>> import jax
        >>> orders(jax.random.key(0), epochs=2, examples=5).shape
        (2, 5)
    """
    if is_traced(key):
        raise TypeError(
            "orders are made on the host, from a key whose value is known, got a traced one; make "
            "them outside jit or vmap and pass them as an argument"
        )
    require_key(key)
    epochs, examples = whole_number("epochs", epochs), whole_number("examples", examples)
    first = whole_number("first", first, 0)
    words: list[int] = np.asarray(jax.random.key_data(jax.random.split(key)[1])).tolist()
    return _orders(words, first + np.arange(epochs), examples)


def step_orders(
    key: Key[Array, "..."], steps: Count, examples: Count, *, batch_size: Count
) -> Int[np.ndarray, "steps batch"]:
    """The examples of every step, one row a step: `orders` cut into batches.

    The incomplete batch of an epoch is left out: a run with `drop_last=True` takes these steps. Cut
    the rows anywhere, to measure more often than once an epoch.

    Arguments:
        key: the key of the run, as for `orders`.
        batch_size: examples in a step, at most `examples`.

    Raises:
        TypeError: as for `orders`.
        ValueError: fewer than 1 step or example, or a batch of more examples than there are.

    Example:
        >>> import jax
        >>> step_orders(jax.random.key(0), steps=5, examples=7, batch_size=3).shape
        (5, 3)
    """
    steps, examples = whole_number("steps", steps), whole_number("examples", examples)
    batch_size = whole_number("batch_size", batch_size)
    in_epoch = examples // batch_size
    if not in_epoch:
        raise ValueError(
            f"batch_size must be at most the {examples} examples, got {batch_size}; pass a smaller "
            "one"
        )
    rows = orders(key, -(-steps // in_epoch), examples)[:, : in_epoch * batch_size]
    return rows.reshape(-1, batch_size)[:steps]


def alternating_flip_orders(
    key: Key[Array, "..."], passes: Count, examples: Count
) -> Int[np.ndarray, "passes twice_examples"]:
    r"""Orders of images and their mirror images, in which each image is flipped every second time.

    $$\pi_{2p + e}(i) + n \cdot \bigl[(f_{\pi(i)} + e) \bmod 2\bigr], \qquad
      e \in \{0, 1\}, \quad f_i \sim \mathcal{U}\{0, 1\}$$

    for data of 2 n examples: n images, then the n mirrored in the same order. Row p is a pass over
    all 2 n of them, which is two epochs of the images: what is flipped in the first, with
    probability 1/2, is not in the second. Independent flips would show half of the images the same
    way in both.

    Arguments:
        key: the key of the run, as for `orders`, whose permutations are those of the epochs.
        passes: rows, each of two epochs.
        examples: n, the images without their mirror images.

    Raises:
        TypeError: as for `orders`.
        ValueError: fewer than 1 pass or example.

    Example:
        >>> import jax
        >>> (row,) = alternating_flip_orders(jax.random.key(0), passes=1, examples=3)
        >>> sorted(row.tolist()), sorted((row[:3] % 3).tolist())
        ([0, 1, 2, 3, 4, 5], [0, 1, 2])

    Source: Jordan (2024), section 3.6.
    """
    passes, examples = whole_number("passes", passes), whole_number("examples", examples)
    visited = orders(key, 2 * passes, examples)
    words: list[int] = np.asarray(jax.random.key_data(jax.random.split(key)[1])).tolist()
    bits = np.random.Philox(np.random.SeedSequence([*words, FLIP_STREAM]))
    flipped = np.random.Generator(bits).integers(0, 2, (examples,))
    epoch = np.arange(2 * passes)[:, None]
    mirrored = (flipped[visited] + epoch) % 2
    rows: np.ndarray = (visited + examples * mirrored).astype(np.int32)
    return rows.reshape(passes, 2 * examples)


def _orders(words_of_key: list[int], epochs: np.ndarray, examples: int) -> np.ndarray:
    """One order an epoch: `argsort` of the bits of `Philox(SeedSequence([*key, stream, epoch]))`.

    One generator makes them all. To set its state takes 1 us; to make a new one takes 20 us.
    """
    keys = _philox_keys([*words_of_key, ORDER_STREAM], epochs)
    generator = np.random.Philox(0)
    start = generator.state
    made = np.empty((len(epochs), examples), np.int32)
    for row, key in zip(made, keys, strict=True):
        start["state"]["key"] = key
        generator.state = start
        row[:] = np.argsort(generator.random_raw(examples))
    return made


def _philox_keys(words: list[int], epochs: np.ndarray) -> np.ndarray:
    """`SeedSequence([*words, epoch]).generate_state(2, uint64)` of each epoch, (epochs, 2).

    NumPy's own arithmetic, on all epochs at once (on a little-endian machine).
    """
    entropy = [np.full(len(epochs), word, np.uint32) for word in words]
    entropy.append(epochs.astype(np.uint32))
    entropy += [np.zeros_like(entropy[0])] * (4 - len(entropy))
    hashed = _hasher(0x43B0D7E5, 0x931E8875)
    pool: list[Any] = [hashed(word) for word in entropy[:4]]

    def mix(x: Any, y: Any) -> Any:
        mixed = x * np.uint32(0xCA01F9DD) - y * np.uint32(0x4973F715)
        return mixed ^ (mixed >> np.uint32(16))

    for source in range(4):
        for target in range(4):
            if source != target:
                pool[target] = mix(pool[target], hashed(pool[source]))
    for word in entropy[4:]:
        pool = [mix(each, hashed(word)) for each in pool]
    output = _hasher(0x8B51F9DD, 0x58F38DED)
    state: np.ndarray = np.stack([output(each) for each in pool], axis=1)
    return state.view(np.uint64)


def _hasher(start: int, factor: int) -> Callable[[Any], Any]:
    """The hash of `SeedSequence`, whose constant moves on with each call."""
    constant = start

    def hashed(values: Any) -> Any:
        nonlocal constant
        before, constant = constant, constant * factor % 2**32
        values = (values ^ np.uint32(before)) * np.uint32(constant)
        return values ^ (values >> np.uint32(16))

    return hashed
