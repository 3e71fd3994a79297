"""The copying task: remember symbols over a gap, then say them again."""

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from jaxdl.checks import Count, require_key, whole_number
from jaxdl.data.distinct import distinct_rows
from jaxdl.data.types import IGNORED, Arrays, Dataset


def copying(
    key: Key[Array, ""],
    *,
    symbols: Count = 8,
    copied: Count = 10,
    gap: Count = 10,
    examples: Count = 1000,
    test_examples: Count = 1000,
) -> Dataset:
    r"""Random symbols, a gap of blanks, a signal to go, and blanks in which to say the symbols.

    $$x = (s_1, \dots, s_m, \underbrace{\_, \dots, \_}_{\text{gap}}, \text{go},
      \underbrace{\_, \dots, \_}_{m}), \qquad
      y = (\underbrace{-100, \dots, -100}_{m + \text{gap} + 1}, s_1, \dots, s_m)$$

    with m = `copied`. The symbols are uniform, and no two examples are equal. Pass
    `losses.cross_entropy` with `ignored=data.IGNORED`: it counts the last m positions alone. There
    a model that remembers nothing has a loss of at least log(symbols).

    Tokens: 0 to symbols - 1 are the symbols, `symbols` is the blank, `symbols + 1` is go. So a
    `models.Transformer` has vocabulary = symbols + 2 and outputs = symbols.

    Arguments:
        key: a `jax.random.key`; the same key gives the same data.
        symbols: how many there are, at least 2.
        copied: m, how many are to be copied, at least 1.
        gap: the number of blanks between the symbols and go, at least 0.
        examples: of the training split, at least 1.
        test_examples: of the test split, at least 1; none of them is a training example.

    Returns:
        A `Dataset` "copying": inputs and targets (n, 2 copied + gap + 1), int32.

    Raises:
        TypeError: a key that is no `jax.random.key`, a number that is not whole.
        ValueError: a number that is too small, or fewer different strings than examples.

    Example:
        >>> made = copying(jax.random.key(0), symbols=3, copied=2, gap=1, examples=4,
        ...                test_examples=2)
        >>> inputs, targets = made.train.inputs[0], made.train.targets[0]
        >>> inputs[2:].tolist(), targets[:4].tolist(), bool((inputs[:2] == targets[4:]).all())
        ([3, 4, 3, 3], [-100, -100, -100, -100], True)

    Source: Hochreiter and Schmidhuber (1997), section 5; in this form Arjovsky, Shah and Bengio
    (2016), section 5.1, who count the blanks before go in the loss, too.
    """
    require_key(key)
    symbols, copied = whole_number("symbols", symbols, 2), whole_number("copied", copied)
    gap, examples = whole_number("gap", gap, 0), whole_number("examples", examples)
    test_examples = whole_number("test_examples", test_examples)
    blank, go = symbols, symbols + 1

    def draw(key: Any, count: int) -> Any:
        return jax.random.randint(key, (count, copied), 0, symbols)

    strings = distinct_rows(draw, key, examples + test_examples, symbols**copied)
    before = copied + gap + 1
    inputs = np.full((len(strings), before + copied), blank, np.int32)
    inputs[:, :copied] = strings
    inputs[:, before - 1] = go
    targets = np.full_like(inputs, IGNORED)
    targets[:, before:] = strings
    return Dataset(
        "copying",
        train=Arrays(inputs[:examples], targets[:examples]),
        validation=None,
        test=Arrays(inputs[examples:], targets[examples:]),
        classes=tuple(f"symbol {number}" for number in range(symbols)),
    )
