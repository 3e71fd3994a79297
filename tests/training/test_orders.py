"""The order of an epoch is a uniform permutation and a function of (key, epoch)."""

import jax
import numpy as np
import pytest
from scipy import stats

from jaxdl.training import alternating_flip_orders, epoch_order, orders, step_orders
from jaxdl.training.state import ORDER_STREAM


def test_is_a_permutation(key):
    for examples in (1, 2, 7, 1000):
        np.testing.assert_array_equal(np.sort(epoch_order(key, 0, examples)), np.arange(examples))


def test_is_a_function_of_key_and_epoch(key):
    first = epoch_order(key, 3, 100)
    np.testing.assert_array_equal(first, epoch_order(key, 3, 100))
    assert (first != epoch_order(key, 4, 100)).any()
    assert (first != epoch_order(jax.random.key(1), 3, 100)).any()


def test_every_permutation_is_equally_likely(key):
    # All 24 orders of four examples; the key is fixed, the false-alarm rate of the bound 1e-6.
    epochs = 2400
    seen = [tuple(epoch_order(key, epoch, 4)) for epoch in range(epochs)]
    _, counts = np.unique(seen, axis=0, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 1e-6


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_all_epochs_at_once_are_numpys_own_one_by_one(impl):
    key = jax.random.key(2**31 + 7, impl=impl)
    words = np.asarray(jax.random.key_data(jax.random.split(key)[1])).tolist()
    for epoch, order in enumerate(orders(key, 4, 30, first=250), start=250):
        seed = np.random.SeedSequence([*words, ORDER_STREAM, epoch])
        bits = np.random.Philox(seed).random_raw(30)
        np.testing.assert_array_equal(order, np.argsort(bits))
        np.testing.assert_array_equal(order, epoch_order(jax.random.split(key)[1], epoch, 30))


def test_the_steps_are_the_full_batches_of_the_orders(key):
    epochs, rows = orders(key, 3, 14), step_orders(key, 7, 14, batch_size=4)
    assert rows.shape == (7, 4)
    for epoch, order in enumerate(epochs):
        expected = order[:12].reshape(3, 4)[: 7 - 3 * epoch]
        np.testing.assert_array_equal(rows[3 * epoch : 3 * epoch + 3], expected)


@pytest.mark.parametrize(("steps", "batch_size"), [(0, 4), (7, 0), (7, 15)])
def test_steps_that_there_are_not_are_refused(key, steps, batch_size):
    with pytest.raises(ValueError, match=r"(steps|batch_size) must be"):
        step_orders(key, steps, 14, batch_size=batch_size)


def test_a_pass_shows_every_image_once_as_it_is_and_once_mirrored(key):
    rows = alternating_flip_orders(key, passes=3, examples=50)
    assert rows.shape == (3, 100)
    np.testing.assert_array_equal(np.sort(rows, 1), np.tile(np.arange(100), (3, 1)))
    # Its halves are epochs of the images, in the orders that every run of this key has.
    np.testing.assert_array_equal(rows.reshape(6, 50) % 50, orders(key, 6, 50))


def test_an_image_is_mirrored_in_every_second_epoch(key):
    epochs = alternating_flip_orders(key, passes=3, examples=50).reshape(6, 50)
    mirrored = np.array([np.isin(np.arange(50) + 50, epoch) for epoch in epochs])
    np.testing.assert_array_equal(mirrored[1:], ~mirrored[:-1])


def test_the_first_flips_are_those_of_fair_coins():
    # Of 40 keys with 100 images each; both bounds have a false-alarm rate of 1e-6.
    first = [alternating_flip_orders(jax.random.key(k), 1, 100)[0, :100] for k in range(40)]
    heads = np.array([np.isin(np.arange(100) + 100, row) for row in first])
    assert stats.binomtest(int(heads.sum()), heads.size).pvalue > 1e-6
    of_images = heads.sum(0)
    spread = (of_images - 20) ** 2 / 10
    assert stats.chi2(100).sf(spread.sum()) > 1e-6


def test_passes_that_there_are_not_are_refused(key):
    with pytest.raises(ValueError, match="passes must be"):
        alternating_flip_orders(key, 0, 5)
