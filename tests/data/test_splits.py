"""The cut: a partition of the examples, a function of the key alone, and what it refuses."""

import jax
import numpy as np
import pytest

from jaxdl.data import Arrays, Dataset, split


def numbered(count, test=None):
    """A data set whose targets are twice its inputs, so that a torn pair shows."""

    def arrays(n, start):
        inputs = np.arange(start, start + n, dtype=np.float32)[:, None]
        return Arrays(inputs=inputs, targets=2 * inputs)

    return Dataset(
        "numbered", arrays(count, 0), None, None if test is None else arrays(test, count)
    )


def ids(arrays):
    return arrays.inputs[:, 0].astype(int).tolist()


def test_three_way_split_is_a_partition_that_keeps_pairs(key):
    parts = split(numbered(506), key=key)
    # floor(0.7 * 506), floor(0.85 * 506), 506
    assert [len(parts.train), len(parts.validation), len(parts.test)] == [354, 76, 76]
    assert sorted(ids(parts.train) + ids(parts.validation) + ids(parts.test)) == list(range(506))
    for arrays in (parts.train, parts.validation, parts.test):
        np.testing.assert_array_equal(arrays.targets, 2 * arrays.inputs)


def test_a_published_test_split_is_left_alone(key):
    dataset = numbered(100, test=20)
    parts = split(dataset, key=key)
    assert parts.test is dataset.test
    assert [len(parts.train), len(parts.validation)] == [85, 15]
    assert sorted(ids(parts.train) + ids(parts.validation)) == list(range(100))


def test_the_same_key_gives_the_same_split_and_another_key_another(key):
    first, again, other = (
        split(numbered(100), key=k) for k in (key, jax.random.key(0), jax.random.key(1))
    )
    assert ids(first.train) == ids(again.train)
    assert ids(first.train) != ids(other.train)
    # Sorted order by chance has probability 1/100!.
    assert ids(first.train) != sorted(ids(first.train))


@pytest.mark.parametrize("count", [10, 20, 100, 506, 60_000])
def test_fractions_are_exact_where_the_count_allows(key, count):
    # 0.7 + 0.1 in float64 is just below 0.8: rounding must not lose an example.
    parts = split(numbered(count), key=key, fractions=(0.7, 0.1, 0.2))
    sizes = [len(parts.train), len(parts.validation), len(parts.test)]
    assert sizes == [count * 7 // 10, count * 8 // 10 - count * 7 // 10, count - count * 8 // 10]


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ((0.7, 0.2, 0.2), r"whose sum is 1\.1;"),
        ((0.5, 0.2, 0.2), r"whose sum is 0\.9;"),
        ((1.2, -0.4, 0.2), "must not be negative"),
        ((float("nan"), 0.5, 0.5), "must not be negative or NaN"),
        ((0.5, 0.5), "train, validation, test, got 2"),
        ((1.0, 0.0, 0.0), "none for validation"),
        ((0.0, 0.5, 0.5), "none for train"),
        ((0.98, 0.01, 0.01), "none for validation"),
    ],
)
def test_bad_fractions_are_refused(key, fractions, message):
    with pytest.raises(ValueError, match=message):
        split(numbered(10), key=key, fractions=fractions)


def test_two_fractions_are_wanted_where_a_test_split_is_published(key):
    with pytest.raises(ValueError, match="train, validation, got 3"):
        split(numbered(10, test=5), key=key, fractions=(0.7, 0.15, 0.15))


def test_a_split_data_set_is_refused(key):
    with pytest.raises(ValueError, match="without a validation split"):
        split(split(numbered(20), key=key), key=key)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (jax.random.PRNGKey(0), r"must be made by jax\.random\.key"),
        (jax.random.split(jax.random.key(0), 2), "must be a single key"),
    ],
)
def test_only_one_typed_key_is_taken(bad, message):
    with pytest.raises(TypeError, match=message):
        split(numbered(20), key=bad)
