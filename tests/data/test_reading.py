"""What examples may look like, and the batch that is made of them."""

from collections import namedtuple

import chex
import numpy as np
import pytest

from jaxdl.data import Arrays, DataError, Streamed
from jaxdl.data.reading import Subset, reader

IMAGES = np.arange(24, dtype=np.uint8).reshape(6, 2, 2)
AGES = np.arange(6, dtype=np.float32)
LABELS = np.array([3, 1, 4, 1, 5, 9], np.int32)
Patient = namedtuple("Patient", ["image", "age"])


def batch(source, decode=None, rows=(4, 0)):
    return reader(source, decode)(np.array(rows))


def test_pairs_triples_and_names_are_the_same_examples():
    triples = list(zip(IMAGES, LABELS, AGES, strict=True))
    expected = {"inputs": IMAGES[[4, 0]], "targets": LABELS[[4, 0]], "weights": AGES[[4, 0]]}
    named = [dict(zip(expected, triple, strict=True)) for triple in triples]
    whole = Arrays(IMAGES, LABELS, AGES)
    for source in (triples, [list(t) for t in triples], named, [Arrays(*t) for t in triples]):
        found = batch(source)
        chex.assert_trees_all_equal(found, expected, batch(whole))
        chex.assert_trees_all_equal_dtypes(found, expected)
    del expected["weights"]
    chex.assert_trees_all_equal(batch([triple[:2] for triple in triples]), expected)
    chex.assert_trees_all_equal(batch([{**e, "weights": None} for e in named]), expected)
    found = batch(LABELS.tolist(), decode=lambda label: (np.full((2, 2), label), label))
    assert found["inputs"][:, 0, 0].tolist() == found["targets"].tolist() == [5, 3]


def test_parts_are_stacked_leaf_by_leaf():
    inputs = {"image": IMAGES, "age": AGES}
    targets = (LABELS, {"survives": AGES > 2})
    examples = [
        ({"image": IMAGES[i], "age": AGES[i]}, (LABELS[i], {"survives": AGES[i] > 2}))
        for i in range(6)
    ]
    expected = batch(Arrays(inputs, targets))
    chex.assert_trees_all_equal(batch(examples), expected)
    chex.assert_trees_all_equal_dtypes(batch(examples), expected)
    assert expected["targets"][1]["survives"].tolist() == [True, False]
    # A named tuple is a pytree, a list of arrays too; a list of numbers is one array.
    people = [(Patient(IMAGES[i], AGES[i]), [float(i), [0.0, 1.0][i % 2]]) for i in range(6)]
    found = batch(people)
    np.testing.assert_array_equal(found["inputs"].image, IMAGES[[4, 0]])
    assert found["targets"].tolist() == [[4.0, 0.0], [0.0, 0.0]]
    several = batch([([IMAGES[i], AGES[i]], LABELS[i]) for i in range(6)])
    chex.assert_trees_all_equal(several["inputs"], [IMAGES[[4, 0]], AGES[[4, 0]]])


def test_data_sets_of_torch_are_sources():
    torch = pytest.importorskip("torch")
    dataset = torch.utils.data.TensorDataset(torch.tensor(IMAGES), torch.tensor(LABELS))
    for source in (dataset, Subset(dataset, np.array([5, 0, 4]))):
        rows = (4, 0) if source is dataset else (2, 1)
        found = batch(source, rows=rows)
        chex.assert_trees_all_equal(found, {"inputs": IMAGES[[4, 0]], "targets": LABELS[[4, 0]]})
    # It reads several at a time.
    part = torch.utils.data.Subset(dataset, [4, 0, 1])
    assert batch(part, rows=[0, 1])["targets"].tolist() == [5, 3]


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (
            {"image": 0, "label": 0},
            "example 1 must have inputs .* got the names image, label; .*de",
        ),
        (7, r"example 1 must be a pair \(inputs, targets\) .* got int; make a pair"),
        ((0,), "example 1 must be a pair .* got tuple of 1"),
        (({"a": 0.0}, 0), "alike, .* as example 0, got .* from example 1"),
        ((0.0, 0, 1.0), "alike, .*'weights'"),
        ((0.0, "cat"), "targets must be numbers, got <U3 from example 1; convert"),
        ((0.0, 0.0), "targets must be alike, int64 .* example 0, got float64 .* example 1"),
        (([[0.0], [0.0, 1.0]], 0), "example 1 of the source .* got ValueError"),
    ],
)
def test_an_example_of_another_form_is_named(odd, message):
    with pytest.raises(DataError, match=message):
        batch([(0.0, 0), odd], rows=(0, 1))


def test_a_part_of_a_part_that_differs_is_named():
    examples = [({"scan": np.zeros(size)}, 0) for size in (2, 3)]
    with pytest.raises(DataError, match=r"inputs\['scan'\] must be alike"):
        batch(examples, rows=(0, 1))


def test_a_source_explains_its_own_errors():
    class Explains(list):
        def __getitem__(self, index):
            raise DataError("cat.png must be whole; copy it again")

    with pytest.raises(DataError, match=r"^cat\.png must be whole") as raised:
        batch(Explains([0, 1]), rows=(0, 1))
    assert raised.value.__cause__ is None


def test_a_subset_is_a_source():
    examples = list(zip(AGES, LABELS, strict=True))
    for source in (examples, Arrays(AGES, LABELS)):
        subset = Subset(source, np.array([5, 2, 0]))
        assert len(subset) == 3
        again = Subset(subset, np.array([2, 0]))
        chex.assert_trees_all_equal(batch(again, rows=(0, 1)), batch(source, rows=(0, 5)))
    assert Subset(Arrays(AGES, LABELS), np.array([5, 2, 0]))[1] == {"inputs": 2.0, "targets": 4}
    # A broken example has its place in the source.
    with pytest.raises(DataError, match="example 5 must"):
        batch(Subset([*examples[:5], 0], np.array([0, 5])), rows=(0, 1))


def test_targets_that_a_source_knows_are_not_read():
    class Known(list):
        targets = LABELS.tolist()

        def __getitem__(self, index):
            raise AssertionError

    streamed = Streamed(Known(AGES))
    assert streamed.targets == LABELS.tolist()
    part = Streamed(Subset(streamed.source, np.array([5, 0])))
    assert part.targets.tolist() == [9, 3]
    for source in ([(0.0, 1)], Subset([(0.0, 1)], np.array([0]))):
        with pytest.raises(AttributeError, match=r"must have targets .* without; read"):
            _ = Streamed(source).targets
