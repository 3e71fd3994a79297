"""Balanced brackets of several kinds: which one is open?"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jaxdl.checks import Count, require_key, whole_number
from jaxdl.data.distinct import distinct_rows
from jaxdl.data.types import Arrays, Dataset


def brackets(
    key: Key[Array, ""],
    *,
    kinds: Count = 2,
    length: Count = 24,
    examples: Count = 1000,
    test_examples: Count = 1000,
) -> Dataset:
    r"""Words of the Dyck language: every bracket is closed by one of its kind, inside out.

    $$W = \varepsilon \;\mid\; (_k\, W \,)_k\, W, \qquad k = 1, \dots, K$$

    The target of each position is the kind of the bracket that is innermost and still open after
    it: the only one that may be closed next. It is K where none is open. It depends on earlier
    positions alone, so that a causal model can be right everywhere, and it needs the whole past.

    Each word of this length is drawn with the same probability, of

    $$\frac{K^n}{n+1} \binom{2n}{n}, \qquad n = \tfrac{1}{2}\,\text{length},$$

    and no two examples are equal.

    Tokens: 0 to K - 1 open a bracket of that kind, K to 2K - 1 close it. So a `models.Transformer`
    has vocabulary = 2 kinds and outputs = kinds + 1.

    Arguments:
        key: a `jax.random.key`; the same key gives the same data.
        kinds: K, at least 1.
        length: of every word, even, at least 2.
        examples: of the training split, at least 1.
        test_examples: of the test split, at least 1; none of them is a training example.

    Returns:
        A `Dataset` "brackets": inputs and targets (n, length), int32.

    Raises:
        TypeError: a key that is no `jax.random.key`, a number that is not whole.
        ValueError: a number that is too small, a length that is odd, or fewer words than examples.

    Example:
        >>> made = brackets(jax.random.key(0), kinds=2, length=6, examples=30, test_examples=10)
        >>> word = made.train.inputs[0]
        >>> "".join("([)]"[token] for token in word), made.train.targets[0].tolist()
        ('([]())', [0, 1, 0, 0, 0, 2])

    Source: Chomsky and Schützenberger (1963) for the language; Suzgun et al. (2019) for what may be
    closed next as the target; Dvoretzky and Motzkin (1947) for the rotation that makes it uniform.
    """
    require_key(key)
    kinds, length = whole_number("kinds", kinds), whole_number("length", length, 2)
    examples = whole_number("examples", examples)
    test_examples = whole_number("test_examples", test_examples)
    if length % 2:
        raise ValueError(
            f"length must be even, for brackets stand in pairs, got {length}; pass {length + 1}"
        )
    pairs = length // 2
    words = math.comb(length, pairs) // (pairs + 1) * kinds**pairs

    def draw(key: Any, count: int) -> np.ndarray:
        which, kind = jax.random.split(key)
        opens = _balanced(which, count, pairs)
        return _of_kinds(opens, np.asarray(jax.random.randint(kind, opens.shape, 0, kinds)), kinds)

    tokens = distinct_rows(draw, key, examples + test_examples, words)
    targets = _innermost(tokens, kinds)
    return Dataset(
        "brackets",
        train=Arrays(tokens[:examples], targets[:examples]),
        validation=None,
        test=Arrays(tokens[examples:], targets[examples:]),
        classes=(*(f"kind {number}" for number in range(kinds)), "none"),
    )


def _balanced(key: Any, count: int, pairs: int) -> np.ndarray:
    """Where brackets open, (count, 2 pairs), uniform among balanced words.

    Of a cycle with one closing bracket too many, one rotation alone is a balanced word and that
    bracket: the one after the first minimum of the partial sums.
    """
    cycle = jnp.broadcast_to(jnp.arange(2 * pairs + 1) < pairs, (count, 2 * pairs + 1))
    opens = np.asarray(jax.random.permutation(key, cycle, axis=1, independent=True))
    sums = np.cumsum(np.where(opens, 1, -1), axis=1)
    start = sums.argmin(axis=1)[:, None] + 1
    places = (start + np.arange(2 * pairs)) % (2 * pairs + 1)
    return np.take_along_axis(opens, places, axis=1)


def _of_kinds(opens: np.ndarray, kind: np.ndarray, kinds: int) -> np.ndarray:
    """The tokens of balanced words, where the bracket opened at a place has the kind there."""
    tokens = np.empty(opens.shape, np.int32)
    stack = np.zeros(opens.shape, np.int32)
    depth, rows = np.zeros(len(opens), int), np.arange(len(opens))
    for place in range(opens.shape[1]):
        up = opens[:, place]
        stack[rows[up], depth[up]] = kind[up, place]
        depth += np.where(up, 1, -1)
        closed = stack[rows, np.where(up, 0, depth)]
        tokens[:, place] = np.where(up, kind[:, place], kinds + closed)
    return tokens


def _innermost(tokens: np.ndarray, kinds: int) -> np.ndarray:
    """By place, the kind that is open and innermost after it; `kinds` where none is."""
    found = np.empty(tokens.shape, np.int32)
    # The lowest entry is never closed.
    stack = np.full((len(tokens), tokens.shape[1] + 1), kinds, np.int32)
    depth, rows = np.zeros(len(tokens), int), np.arange(len(tokens))
    for place in range(tokens.shape[1]):
        up = tokens[:, place] < kinds
        depth += np.where(up, 1, -1)
        stack[rows[up], depth[up]] = tokens[up, place]
        found[:, place] = stack[rows, depth]
    return found
