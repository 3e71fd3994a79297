"""The cut: a partition of the examples, a function of the key alone, and what it refuses."""

import jax
import numpy as np
import pytest

from jaxdl.data import Arrays, Dataset, Streamed, split


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


FRACTIONS = [
    ((0.7, 0.15, 0.15), None),
    ((0.5, 0.25, 0.25), None),
    ((1 / 3, 1 / 3, 1 / 3), None),
    ((0.05, 0.05, 0.9), None),
    ((0.85, 0.15), 7),
    ((0.5, 0.5), 7),
]


def labelled(labels, test=None):
    dataset = numbered(len(labels), test)
    return Dataset("labelled", dataset.train, None, dataset.test)


@pytest.mark.parametrize(("fractions", "test"), FRACTIONS)
@pytest.mark.parametrize("seed", range(5))
def test_each_part_has_its_share_of_each_class_to_less_than_one(fractions, test, seed):
    generator = np.random.default_rng(seed)
    counts = generator.integers(3, 40, 8)
    labels = generator.permutation(np.repeat(np.arange(8), counts))
    dataset = labelled(labels, test)
    key = jax.random.key(seed)
    parts = split(dataset, key=key, fractions=fractions, stratify=labels)
    plain = split(dataset, key=key, fractions=fractions)
    rows = []
    for name, fraction in zip(("train", "validation", "test"), fractions, strict=False):
        arrays = getattr(parts, name)
        np.testing.assert_array_equal(arrays.targets, 2 * arrays.inputs)
        # The size is that of the split without classes.
        assert len(arrays) == len(getattr(plain, name))
        found = np.bincount(labels[ids(arrays)], minlength=8)
        # 1e-9 for the rounding of the fraction itself.
        assert (np.abs(found - fraction * counts) < 1 + 1e-9).all()
        rows += ids(arrays)
    assert sorted(rows) == list(range(len(labels)))


def test_an_exact_share_is_exact():
    labels = np.repeat(["cat", "dog", "owl"], [20, 40, 60])
    parts = split(labelled(labels), key=jax.random.key(0), stratify=labels)
    for arrays, counts in ((parts.train, [14, 28, 42]), (parts.test, [3, 6, 9])):
        assert np.unique(labels[ids(arrays)], return_counts=True)[1].tolist() == counts


def test_chance_decides_who_goes_where_in_a_class(key):
    labels = np.tile([0, 1], 50)
    first, again, other = (
        split(labelled(labels), key=k, stratify=labels)
        for k in (key, jax.random.key(0), jax.random.key(1))
    )
    assert ids(first.train) == ids(again.train)
    # Of 50 examples of a class 35 are taken: two keys agree with probability 5e-13 each.
    assert set(ids(first.train)) != set(ids(other.train))
    assert ids(first.train) != sorted(ids(first.train))


def test_no_class_is_favoured_when_shares_are_rounded():
    # Half of these ten classes of 5 get 3 examples in the training part, and half get 2.
    labels = np.repeat(np.arange(10), 5)
    dataset = labelled(labels, 7)
    taken = np.zeros(10)
    for seed in range(60):
        parts = split(dataset, key=jax.random.key(seed), fractions=(0.5, 0.5), stratify=labels)
        taken += np.bincount(labels[ids(parts.train)], minlength=10) - 2
    assert taken.sum() == 300
    # Binomial(60, 1/2) at most: 5 standard deviations for ten classes, a false alarm in 10^5.
    assert (np.abs(taken - 30) < 5 * np.sqrt(15)).all()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("stratified", [False, True])
def test_groups_stay_whole(seed, stratified):
    generator = np.random.default_rng(seed)
    sizes = generator.integers(1, 12, 80)
    groups = generator.permutation(np.repeat([f"patient {i}" for i in range(80)], sizes))
    labels = generator.integers(0, 2, len(groups)) if stratified else None
    key = jax.random.key(seed)
    parts = split(labelled(groups), key=key, groups=groups, stratify=labels)
    named = [set(groups[ids(arrays)]) for arrays in (parts.train, parts.validation, parts.test)]
    assert sum(map(len, named)) == 80 == len(set.union(*named))
    if not stratified:
        # A group goes where most is missing, so no part ends further from its share than a group.
        for arrays, share in zip(
            (parts.train, parts.validation, parts.test), (0.7, 0.15, 0.15), strict=True
        ):
            assert abs(len(arrays) - share * len(groups)) < sizes.max()
    again = split(labelled(groups), key=key, groups=groups, stratify=labels)
    assert ids(again.train) == ids(parts.train)


def test_groups_keep_the_balance_of_classes_where_they_can():
    # Forty groups, each of one class: without the classes, chance alone would balance them.
    groups = np.repeat(np.arange(40), 5)
    labels = groups % 4
    parts = split(labelled(groups), key=jax.random.key(0), groups=groups, stratify=labels)
    assert np.bincount(labels[ids(parts.train)]).tolist() == [35] * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"stratify": np.zeros(9)}, r"stratify must hold one label .* the 10 .* shape \(9,\)"),
        ({"stratify": np.zeros((10, 1))}, r"stratify must .* shape \(10, 1\); pass .* \(10,\)"),
        ({"stratify": True}, r"stratify must .* shape \(\)"),
        ({"stratify": [0] * 8 + [1] * 2}, "at least 3 examples, .* got 2 of class 1; leave"),
        ({"stratify": np.linspace(0, 1, 10)}, r"got 1 of class 0\.0; .* target into ranges"),
        ({"stratify": [0.0] * 9 + [np.nan]}, "stratify must not hold NaN"),
        ({"stratify": [None, "a"] * 5}, "stratify must hold labels of one kind"),
        ({"groups": np.zeros(11)}, r"groups must hold one label .* the 10 .* shape \(11,\)"),
        ({"groups": [0] * 5 + [1] * 5}, "at least 3 groups, one for each split, got 2"),
        ({"groups": [np.nan] * 10}, "groups must not hold NaN"),
        (
            {"groups": [0] * 4 + [1] * 3 + [2] * 3, "fractions": (0.9, 0.05, 0.05)},
            "none for validation",
        ),
    ],
)
def test_classes_and_groups_that_make_no_split_are_refused(key, arguments, message):
    fractions = {"fractions": (0.6, 0.2, 0.2)} | arguments
    with pytest.raises(ValueError, match=message):
        split(numbered(10), key=key, **fractions)


def test_fractions_may_be_an_array(key):
    one, other = (
        split(numbered(20), key=key, fractions=f)
        for f in ((0.5, 0.3, 0.2), np.array([0.5, 0.3, 0.2]))
    )
    assert ids(one.train) == ids(other.train)


class Unread:
    """A source that counts what is read of it."""

    def __init__(self, count):
        self.count, self.read = count, []

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        self.read.append(index)
        return np.float32(index), np.float32(2 * index)


def streamed_ids(streamed):
    read = streamed.read(np.arange(len(streamed)))
    np.testing.assert_array_equal(read["targets"], 2 * read["inputs"])
    return read["inputs"].ravel().astype(int).tolist()


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_source_is_cut_as_arrays_are_and_nothing_is_read(key, wrapped):
    pytest.importorskip("grain")
    source, labels = Unread(100), np.arange(100) % 3
    train = Streamed(source, prefetch=3, threads=2) if wrapped else source
    parts = split(Dataset("unread", train, None, None), key=key, stratify=labels)
    assert source.read == []
    expected = split(numbered(100), key=key, stratify=labels)
    for name in ("train", "validation", "test"):
        part = getattr(parts, name)
        assert (part.prefetch, part.threads) == ((3, 2) if wrapped else (2, 1))
        assert streamed_ids(part) == ids(getattr(expected, name))
    assert sorted(source.read) == list(range(100))


def test_a_memory_map_larger_than_memory_is_cut(key, tmp_path):
    pytest.importorskip("grain")
    # 80 GB: a sparse file, of which one batch is read.
    shape = (200_000, 100_000)
    np.lib.format.open_memmap(tmp_path / "i.npy", mode="w+", dtype=np.float32, shape=shape)
    targets = np.arange(shape[0], dtype=np.int32)
    mapped = Arrays(np.load(tmp_path / "i.npy", mmap_mode="r"), targets)
    parts = split(Dataset("large", Streamed(mapped), None, None), key=key)
    assert [len(parts.train), len(parts.validation), len(parts.test)] == [140_000, 30_000, 30_000]
    rows = parts.test.read(np.array([29_999, 0]))["targets"]
    np.testing.assert_array_equal(rows, parts.test.targets[[29_999, 0]])
    whole = split(Dataset("rows", Arrays(targets, targets), None, None), key=key)
    np.testing.assert_array_equal(parts.test.targets, whole.test.targets)
    (tmp_path / "i.npy").unlink()


def test_memory_maps_in_arrays_are_copied(key, tmp_path):
    np.save(tmp_path / "i.npy", np.arange(20.0)[:, None])
    mapped = Arrays(np.load(tmp_path / "i.npy", mmap_mode="r"), 2 * np.arange(20.0)[:, None])
    parts = split(Dataset("mapped", mapped, None, None), key=key)
    assert type(parts.train.inputs) is np.ndarray
    assert ids(parts.train) == ids(split(numbered(20), key=key).train)


def test_pytrees_of_arrays_are_cut(key):
    inputs = np.arange(20.0)
    arrays = Arrays({"a": inputs, "b": inputs[:, None]}, (3 * inputs,), inputs)
    parts = split(Dataset("tree", arrays, None, None), key=key)
    for part in (parts.train, parts.validation, parts.test):
        np.testing.assert_array_equal(part.inputs["a"], part.inputs["b"][:, 0])
        np.testing.assert_array_equal(part.targets[0], 3 * part.inputs["a"])
        np.testing.assert_array_equal(part.weights, part.inputs["a"])


@pytest.mark.parametrize("train", [None, {"inputs": [0.0]}, np.zeros((9, 2)), (np.zeros(9),)])
def test_what_is_no_list_of_examples_is_refused(key, train):
    with pytest.raises(TypeError, match=r"train split of odd must be data\.Arrays .* pass Arrays"):
        split(Dataset("odd", train, None, None), key=key)


def test_pairs_and_lists_are_cut_as_their_arrays_are(key):
    inputs = np.arange(20.0)
    expected = split(Dataset("data", Arrays(inputs, inputs), None, None), key=key)
    for given in ((inputs, inputs), (inputs.tolist(), inputs), {"train": (inputs, inputs)}):
        found = split(given, key=key)
        np.testing.assert_array_equal(found.test.inputs, expected.test.inputs)
    with pytest.raises(ValueError, match="as many targets as inputs, got 20 inputs and 3 targets"):
        split((inputs, inputs[:3]), key=key)
