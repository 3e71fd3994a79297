"""Wrong labels: as many as asked for, spread evenly over the other classes."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdl.data import mislabel

LABELS = jnp.arange(20_000) % 10


def test_the_share_is_wrong_and_each_other_class_equally_likely():
    wrong = np.asarray(mislabel(jax.random.key(0), LABELS, 0.2, classes=10))
    shift = (wrong - np.asarray(LABELS)) % 10
    counts = np.bincount(shift, minlength=10)
    expected = len(LABELS) * np.array([0.8, *[0.2 / 9] * 9])
    # Binomial: 5 standard deviations for each of ten counts, a false alarm in 10^5.
    assert (np.abs(counts - expected) < 5 * np.sqrt(expected)).all()
    assert wrong.dtype == LABELS.dtype


def test_a_larger_share_keeps_what_was_wrong():
    few, many = (mislabel(jax.random.key(1), LABELS, share, classes=10) for share in (0.1, 0.5))
    is_wrong = few != LABELS
    np.testing.assert_array_equal(few[is_wrong], many[is_wrong])


def test_a_traced_share_gives_the_same_labels():
    traced = jax.jit(lambda share: mislabel(jax.random.key(2), LABELS, share, classes=10))
    np.testing.assert_array_equal(traced(0.3), mislabel(jax.random.key(2), LABELS, 0.3, classes=10))


@pytest.mark.parametrize(
    ("share", "classes"), [(-0.1, 10), (1.1, 10), (float("nan"), 10), (0.0, 1)]
)
def test_shares_and_classes_that_make_no_sense_are_refused(share, classes):
    with pytest.raises(ValueError, match=r"(share|classes) must be"):
        mislabel(jax.random.key(0), LABELS, share, classes=classes)


def test_labels_that_are_no_numbers_of_classes_are_refused():
    with pytest.raises(ValueError, match="labels must be integers, got float32"):
        mislabel(jax.random.key(0), np.zeros(3, np.float32), 0.5, classes=10)


def test_classes_are_a_whole_number_of_any_kind():
    one, other = (mislabel(jax.random.key(0), LABELS, 0.5, classes=k) for k in (10, np.int64(10)))
    np.testing.assert_array_equal(one, other)
    with pytest.raises(TypeError, match=r"classes must be a whole number, got 9\.5"):
        inspect.unwrap(mislabel)(jax.random.key(0), LABELS, 0.5, classes=9.5)
