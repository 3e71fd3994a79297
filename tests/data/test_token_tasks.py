"""Sequences that are made here: each is what its language says, by other means."""

import functools
import itertools
import math
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl import data, losses, metrics, models, optimizers, training

KEY = jax.random.key(0)


def innermost(text, opening, closing):
    """The bracket that is open after a text, by taking pairs away; None where none is."""
    pairs = [a + b for a, b in zip(opening, closing, strict=True)]
    while any(pair in text for pair in pairs):
        for pair in pairs:
            text = text.replace(pair, "")
    assert not set(text) & set(closing), "one is closed that was not open"
    return text[-1] if text else None


@pytest.mark.parametrize(("kinds", "length"), [(1, 12), (3, 24)])
def test_words_are_balanced_and_targets_are_what_is_open(kinds, length):
    made = data.brackets(KEY, kinds=kinds, length=length, examples=100, test_examples=20)
    opening, closing = "([{"[:kinds], ")]}"[:kinds]
    for split in (made.train, made.test):
        assert split.inputs.dtype == split.targets.dtype == np.int32
        for word, targets in zip(split.inputs, split.targets, strict=True):
            text = "".join((opening + closing)[token] for token in word)
            for place, target in enumerate(targets):
                found = innermost(text[: place + 1], opening, closing)
                assert target == (kinds if found is None else opening.index(found))
            assert targets[-1] == kinds
    assert len(made.classes) == kinds + 1


def catalan(pairs):
    return math.comb(2 * pairs, pairs) // (pairs + 1)


def test_all_words_are_found_once_and_no_more():
    """Catalan(3) 2^3 = 40; the test split has those that training leaves."""
    made = data.brackets(KEY, kinds=2, length=6, examples=33, test_examples=7)
    words = {tuple(word) for word in (*made.train.inputs, *made.test.inputs)}
    assert len(words) == catalan(3) * 2**3 == 40
    with pytest.raises(ValueError, match="there are 40 different ones, got 41"):
        data.brackets(KEY, kinds=2, length=6, examples=33, test_examples=8)


def test_every_word_is_equally_likely():
    """The first of each of 500 draws, over 8 words: chi-square of 7 degrees of freedom."""
    first = [
        tuple(data.brackets(key, kinds=2, length=4, examples=1, test_examples=1).train.inputs[0])
        for key in jax.random.split(KEY, 500)
    ]
    counts = Counter(first)
    assert len(counts) == catalan(2) * 2**2 == 8
    expected = len(first) / 8
    # It is above 36.2 once in 150,000 times.
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 36.2


def test_copying_says_the_symbols_again_and_nothing_else():
    made = data.copying(KEY, symbols=5, copied=4, gap=3, examples=50, test_examples=30)
    for split, count in ((made.train, 50), (made.test, 30)):
        assert split.inputs.shape == split.targets.shape == (count, 12)
        assert split.inputs.dtype == split.targets.dtype == np.int32
        said, asked = split.inputs[:, :4], split.targets[:, 8:]
        np.testing.assert_array_equal(said, asked)
        assert set(said.ravel()) == set(range(5))
        assert (split.inputs[:, 4:] == [5, 5, 5, 6, 5, 5, 5, 5]).all()
        assert (split.targets[:, :8] == data.IGNORED).all()
    strings = {tuple(word[:4]) for word in (*made.train.inputs, *made.test.inputs)}
    assert len(strings) == 80
    assert len(made.classes) == 5


INVERSES = np.array([0, 1, 4, 5, 2, 3, 6])
"""Modulo 7, and 0 for 0."""


@pytest.mark.parametrize(
    ("operation", "by_hand"),
    [
        (np.add, lambda a, b: a + b),
        (np.subtract, lambda a, b: a - b),
        (lambda a, b: a**2 + a * b, lambda a, b: a * a + a * b),
        (lambda a, b: a * INVERSES[b], lambda a, b: a * b**5),  # Fermat's little theorem
    ],
)
def test_equations_are_true_and_all_there(operation, by_hand):
    made = data.modular_arithmetic(KEY, modulus=7, operation=operation, share=0.6)
    assert (len(made.train), len(made.test)) == (29, 20)
    inputs = np.concatenate([made.train.inputs, made.test.inputs]).tolist()
    targets = np.concatenate([made.train.targets, made.test.targets]).tolist()
    for (a, sign, b, equals), answer in zip(inputs, targets, strict=True):
        assert (sign, equals) == (7, 8)
        assert answer == [-100, -100, -100, by_hand(a, b) % 7]
    pairs = {(a, b) for a, _, b, _ in inputs}
    assert pairs == set(itertools.product(range(7), repeat=2))
    assert made.train.inputs.dtype == made.test.targets.dtype == np.int32


def test_answers_beyond_64_bits_are_exact():
    made = data.modular_arithmetic(KEY, modulus=29, operation=lambda a, b: a**b)
    for split in (made.train, made.test):
        for (a, _, b, _), answer in zip(split.inputs.tolist(), split.targets[:, -1], strict=True):
            assert answer == pow(a, b, 29)


@pytest.mark.parametrize("make", [data.brackets, data.copying, data.modular_arithmetic])
def test_the_key_decides_and_nothing_else(make):
    one, same, other = (make(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.train.inputs, same.train.inputs)
    assert not np.array_equal(one.train.inputs, other.train.inputs)


@pytest.mark.parametrize(
    ("make", "settings", "error", "said"),
    [
        (data.brackets, {"length": 5}, ValueError, "length must be even, .* got 5; pass 6"),
        (data.brackets, {"kinds": 0}, ValueError, "kinds must be at least 1, got 0"),
        (data.brackets, {"examples": None}, TypeError, "examples must be a whole number"),
        (data.copying, {"symbols": 1}, ValueError, "symbols must be at least 2, got 1"),
        (data.copying, {"gap": -1}, ValueError, "gap must be at least 0, got -1"),
        (data.copying, {"symbols": 2, "copied": 3}, ValueError, "there are 8 different ones"),
        (data.modular_arithmetic, {"modulus": 1}, ValueError, "modulus must be at least 2, got 1"),
        (data.modular_arithmetic, {"share": 1.0}, ValueError, "on either side, got 1.0"),
        (data.modular_arithmetic, {"share": None}, TypeError, "share must be .* got None; pass"),
        (data.modular_arithmetic, {"operation": lambda a, b: a[:2]}, ValueError, r"shape \(2,\)"),
        (data.modular_arithmetic, {"operation": "+"}, TypeError, r"two arrays, got '\+'"),
        (
            data.modular_arithmetic,
            {"operation": lambda a, b: a / 2},
            ValueError,
            "whole number for each",
        ),
    ],
)
def test_what_makes_no_data_is_refused(make, settings, error, said):
    with pytest.raises(error, match=said):
        make(KEY, **settings)
    with pytest.raises(TypeError, match="key"):
        make(0)


IGNORING = functools.partial(losses.cross_entropy, ignored=data.IGNORED)
RIGHT = functools.partial(metrics.accuracy, ignored=data.IGNORED)


def test_positions_that_do_not_count_have_no_part_in_loss_and_accuracy():
    """By hand: the last of three positions counts; of the second example none does."""
    logits = jnp.log(jnp.array([[[0.9, 0.1], [0.5, 0.5], [0.2, 0.8]], [[0.3, 0.7]] * 3]))
    targets = jnp.array([[-100, -100, 1], [-100] * 3])
    for measure, expected in ((IGNORING, -np.log(0.8)), (RIGHT, 1.0)):
        values, weights = measure(logits, targets)
        np.testing.assert_allclose(values, [expected, 0.0], rtol=1e-6)
        assert weights.tolist() == [1.0, 0.0]
    with pytest.raises(ValueError, match="ignored must go with labels, got -100"):
        RIGHT(logits, jnp.zeros((2, 3, 2)))
    with pytest.raises(ValueError, match="ignored must go with labels, got -100"):
        RIGHT(logits[..., :1], targets)


def test_a_transformer_learns_to_copy():
    """Far below log(symbols), the least loss without memory."""
    made = data.copying(KEY, symbols=4, copied=3, gap=2, examples=48, test_examples=16)
    model = models.Transformer(6, features=16, layers=1, heads=2, outputs=4, length=9)
    result = training.fit(
        model, made, optimizers.adam(0.01), epochs=40, batch_size=16, loss=IGNORING,
        metrics={"accuracy": RIGHT}, key=KEY,
    )  # fmt: skip
    measured = result.evaluate(made.test)
    assert measured["loss"] < np.log(4) / 4
    assert measured["accuracy"] > 0.9


def test_an_ignored_label_is_known_inside_of_a_trace_too():
    made = data.copying(KEY, symbols=4, copied=3, gap=2, examples=8, test_examples=4)
    task = training.Task(
        models.Transformer(6, features=8, layers=1, heads=2, outputs=4, length=9), IGNORING
    )
    run = training.make_run(task, optimizers.sgd(0.1), batch_size=4)
    state = run.init(KEY, made.train)
    test = jax.tree.map(jnp.asarray, made.test)
    inside = jax.jit(lambda state: run.evaluate(state, test)["loss"])(state)
    np.testing.assert_allclose(inside, run.evaluate(state, test)["loss"], rtol=1e-6)
