"""Arithmetic with remainders: all pairs of two numbers, some of them to learn from."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from jaxdl.checks import Count, require_key, whole_number
from jaxdl.data.types import IGNORED, Arrays, Dataset


def modular_arithmetic(
    key: Key[Array, ""],
    *,
    modulus: Count = 97,
    operation: Any = np.add,
    share: Any = 0.5,
) -> Dataset:
    r"""All equations of an operation modulo p: a share of them to train on, the others to test.

    $$x = (a, \circ, b, =), \qquad y = (-100, -100, -100, (a \circ b) \bmod p), \qquad
      a, b = 0, \dots, p - 1$$

    Pass `losses.cross_entropy` with `ignored=data.IGNORED`: it counts the last position alone.
    Networks learn the training equations by heart long before they are right about the others.

    Tokens: 0 to p - 1 are the numbers, p is the operation, p + 1 the equals sign. So a
    `models.Transformer` has vocabulary = modulus + 2 and outputs = modulus.

    Arguments:
        key: a `jax.random.key`, which decides the split and the order; the same key gives the same
            data.
        modulus: p, at least 2.
        operation: of two arrays, entry by entry, to whole numbers: `np.add`, `np.subtract`,
            `np.multiply`, `lambda a, b: a**2 + a * b`. The arrays hold Python's integers, so that
            a large result is exact: also of `lambda a, b: a**b`. One that cannot use these, as
            `lambda a, b: table[a, b]`, is given int64 and must stay within it.
        share: of the p^2 equations that are trained on, above 0 and below 1; at least one stays on
            either side.

    Returns:
        A `Dataset` "modular_arithmetic": inputs and targets (n, 4), int32.

    Raises:
        TypeError: a key that is no `jax.random.key`, a modulus that is not whole, a share that is
            no number, an operation that cannot be called.
        ValueError: a modulus below 2, a share outside (0, 1) or one that leaves a split empty, an
            operation that gives no whole number for each pair.

    Example:
        >>> made = modular_arithmetic(jax.random.key(0), modulus=5)
        >>> len(made.train), len(made.test)
        (12, 13)
        >>> a, b, answer = *made.test.inputs[0, [0, 2]], made.test.targets[0, -1]
        >>> bool(answer == (a + b) % 5), made.test.inputs[0, [1, 3]].tolist()
        (True, [5, 6])

    Source: Power et al. (2022), section 3 and appendix A.1.
    """
    require_key(key)
    modulus = whole_number("modulus", modulus, 2)
    if not callable(operation):
        raise TypeError(
            f"operation must be a function of two arrays, got {operation!r}; pass e.g. np.add"
        )
    if isinstance(share, bool) or not isinstance(share, (int, float, np.number)):
        raise TypeError(f"share must be a number above 0 and below 1, got {share!r}; pass e.g. 0.5")
    count = modulus**2
    trained = int(np.floor(share * count)) if 0 < share < 1 else 0
    if not 0 < trained < count:
        raise ValueError(
            f"share must leave at least one of {count:,} equations on either side, got {share}; "
            "0.5 is usual"
        )
    a, b = (each.ravel() for each in np.mgrid[:modulus, :modulus])
    answers = _remainders(operation, a, b, modulus)
    inputs = np.stack([a, np.full(count, modulus), b, np.full(count, modulus + 1)], axis=1)
    targets = np.full(inputs.shape, IGNORED, np.int32)
    targets[:, -1] = answers
    order = np.asarray(jax.random.permutation(key, count))
    train, test = order[:trained], order[trained:]
    inputs = inputs.astype(np.int32)
    return Dataset(
        "modular_arithmetic",
        train=Arrays(inputs[train], targets[train]),
        validation=None,
        test=Arrays(inputs[test], targets[test]),
        classes=tuple(str(number) for number in range(modulus)),
    )


def _remainders(operation: Any, a: np.ndarray, b: np.ndarray, modulus: int) -> np.ndarray:
    """Of each pair's answer, which Python's integers hold whatever its size."""
    try:
        made = np.asarray(operation(a.astype(object), b.astype(object)))
    except (TypeError, AttributeError, IndexError, ArithmeticError):  # e.g. as an index of a table
        made = np.asarray(operation(a, b))
    kind = "numbers"
    if made.shape == a.shape:
        kinds = {type(each) for each in made.ravel()}
        if all(issubclass(each, (int, np.integer)) for each in kinds) and bool not in kinds:
            return np.array([int(each) % modulus for each in made.ravel()], np.int64)
        kind = ", ".join(sorted(each.__name__ for each in kinds))
    raise ValueError(
        f"operation must give a whole number for each pair, got {kind} of shape {made.shape} for "
        f"{a.size:,} pairs; pass e.g. np.add"
    )
